"""TransitionReplay: the latest steps of N environments, each observation kept once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlcore.checkpoint import restored, restored_number
from rlcore.distributed import largest
from rlcore.errors import CheckpointError, InputError
from rlcore.memory import require_memory
from rlcore.normalization import CLIP
from rlcore.replay.sum_tree import SumTree
from rlcore.returns import n_step_returns
from rlcore.rollout import Rollout, Transition
from rlcore.trees import Tree, concat, describe, difference, leaves, num_rows, take, tree_map

REFILLED = 10_000
"""Steps, at most, after which a replay that was not saved counts as filled again."""
LARGEST = 1e30
"""Bound of a priority in a checkpoint."""
SMALLEST = 1e-6
"""Added to the absolute error of a step, so that each can be drawn again."""
FIRST_FINAL = 64
"""Room for successors of cut steps at first; it doubles."""
CHECKED = 100
"""Rollouts at first in which stacks of images are compared with what is kept of them."""


@dataclass
class Rows:
    """What is kept of R rows of N environments."""

    obs: Tree  # [R, N, *O]; of stacks of images the newest
    action: Tensor  # [R, N, *A]
    reward: Tensor  # [R, N] float32
    terminated: Tensor  # [R, N] bool
    final: Tensor  # [R, N] int32, where the successor of a step that was cut is kept; -1: it is in the next row
    age: Tensor | None  # [R, N] uint8, steps since the episode began, at most one less than the images of a stack


class TransitionReplay:
    """Keeps the latest steps of N environments, and draws n-step transitions from them, uniformly or by priority.

    Steps lie in a ring of rows, in the order in which they were made. The successor of a step is the observation in the
    next row; only where an episode was cut is it kept apart. So each observation is kept once, in its own dtype, and
    any n can be drawn. A window of n steps ends early with its episode, and with the newest row.

    By priority (Schaul et al. 2016, "Prioritized experience replay", proportional variant): a step is drawn with
    probability p_i^alpha / sum p^alpha, p_i = |error| + 1e-6; a new one has the largest p so far. Its weight
    (num P(i))^-beta, divided by the largest one of the batch, makes up for that.

    Args:
        capacity: steps kept, over all environments.
        num_envs: N.
        n: steps from an observation to its successor.
        gamma: discount.
        alpha: how much priorities matter, in [0, 1]; None: draw uniformly.
        frames: of observations that are stacks of images [F, ...], each of which the next one repeats but for its
            newest: F, and only the newest is kept. The first stack of an episode must be F times the same image, or one
            behind black ones.
        device: of what is kept; None: where it comes from. What is drawn goes back there.

    Raises:
        InputError: there is no room for two steps of each environment.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        n: int = 1,
        gamma: float = 0.99,
        alpha: float | None = None,
        frames: int | None = None,
        device: torch.device | str | None = None,
    ):
        self.num_rows = capacity // num_envs + 1  # the newest observation takes a row, and is no step yet
        if self.num_rows < 3 + (frames or 0):
            raise InputError(f"agent.replay_size: {capacity:,} is too small for {num_envs:,} environments")
        self.capacity, self.num_envs, self.n, self.gamma = capacity, num_envs, n, gamma
        self.alpha, self.frames, self.device = alpha, frames, device
        self.saves_steps = True
        """Whether `state_dict` has the steps."""
        self.head = 0
        """The row of the newest observation, into which the next step is written."""
        self.size = 0
        """Rows of steps, those before the head."""
        self.num_added = 0
        """Rows added so far."""
        self.to_refill = 0
        """Steps to add again after a resume without those of before."""
        self._rows: Rows | None = None
        self._final: Tree = None  # [F, *O], the successors of steps that were cut
        self._num_final = 0  # of these in use
        self._tree: SumTree | None = None
        self._begins_black: bool | None = None  # whether black images fill up the first stacks of an episode
        self._largest: Tensor | None = None  # 0-d float64, priority so far, to the power alpha
        self._home: torch.device | None = None  # where rollouts come from

    def __len__(self) -> int:
        """Steps kept."""
        return self.size * self.num_envs

    def add(self, rollout: Rollout) -> None:
        """Adds the steps of a rollout; beyond the capacity, the oldest are dropped.

        Raises:
            InputError: they have other dtypes or shapes than those before, or are more than there is room for.
        """
        T = len(rollout)
        if rollout.ragged or self.num_rows <= T:
            raise InputError(f"agent.replay_size: {self.capacity:,} takes no rollout of {T:,} rows")
        obs, last_obs, final_obs = rollout.obs, tree_map(lambda x: x[None], rollout.last_obs), rollout.final_obs
        ages = None
        if self.frames is not None:
            _check_shape(obs, self.frames)
            ages = self._ages(rollout)
            if self.num_added < CHECKED:
                self._check_stacks(torch.cat([obs, last_obs]), ages)
            obs, last_obs = obs[:, :, -1], last_obs[:, :, -1]
            final_obs = final_obs[:, -1]
        rows = self._rows_for(obs, rollout.action)
        final = torch.full(rollout.reward.shape, -1, dtype=torch.int32, device=rollout.reward.device)
        if len(rollout.cut_places[0]):
            final[rollout.cut_places] = self._keep(final_obs).to(final.device)
        self._write(rows.action, rollout.action)
        self._write(rows.reward, rollout.reward)
        self._write(rows.terminated, rollout.terminated)
        self._write(rows.final, final)
        tree_map(self._write, rows.obs, concat([obs, last_obs]))
        if rows.age is not None and ages is not None:
            self._write(rows.age, ages)
        self.head = (self.head + T) % self.num_rows
        self.size = min(self.size + T, self.num_rows - 1)
        self.num_added += T
        self._prioritise(T)

    def end_episodes(self) -> None:
        """The episodes in progress were abandoned: the next observations do not follow from the steps before."""
        if self._rows is None or not self.size:
            return
        last = (self.head - 1) % self.num_rows
        going_on = ((self._rows.final[last] < 0) & ~self._rows.terminated[last]).nonzero().squeeze(1)
        self._rows.final[last, going_on] = self._keep(take(self._rows.obs, (self.head, going_on)))
        if self._rows.age is not None:
            self._rows.age[self.head] = 0

    def sample(self, size: int, beta: float = 1.0, reward_scale: Tensor | None = None) -> Transition:
        """Transitions, drawn with replacement by torch's global generator of the device that holds them.

        Args:
            size: B.
            beta: of their weights, if they are drawn by priority.
            reward_scale: 0-d, factor of each step's reward, which is then clipped to [-10, 10].

        Raises:
            InputError: there are none.
        """
        rows, R, N = self._rows, self.num_rows, self.num_envs
        if rows is None or self.size <= self._num_unreadable:
            raise InputError("TransitionReplay.sample: the replay is empty; add rollouts first")
        oldest, weight = (self.head - self.size) % R, None
        if self._tree is None:
            first = self._num_unreadable * N
            age = torch.randint(first, self.size * N, (size,), device=rows.reward.device)  # since the oldest step
            place = (age + oldest * N) % (R * N) if oldest else age
        else:
            total = self._tree.total
            draws = torch.arange(size, device=total.device) + torch.rand(size, device=total.device, dtype=total.dtype)
            place = self._tree.find(draws * (total / size))  # one from each of B equal parts
            age = (place - oldest * N) % (R * N)
            weight = (self._tree[place] * len(self) / total) ** -beta
            weight = (weight / largest(weight.amax())).float()
        drawn = self._transitions(rows, place, age, self.n, reward_scale)
        if weight is not None:
            drawn = drawn._replace(weight=weight, place=place)
        if self._home in (None, rows.reward.device):
            return drawn
        return tree_map(lambda x: x.to(self._home, non_blocking=True), drawn)

    def steps(self) -> Iterator[tuple[Transition, Tensor]]:
        """Every step that can be drawn, the oldest first: of N environments, one step each, and whether it was cut [N].

        Successors are those one step later, rewards undiscounted; the newest step is followed by what is seen now.
        """
        rows, N = self._rows, self.num_envs
        for age in range(self._num_unreadable, self.size if rows is not None else 0):
            assert rows is not None
            row = (self.head - self.size + age) % self.num_rows
            place = torch.arange(row * N, (row + 1) * N, device=rows.reward.device)
            yield self._transitions(rows, place, age * N + place - row * N), rows.final[row] >= 0

    def _transitions(
        self, rows: Rows, place: Tensor, age: Tensor, n: int = 1, reward_scale: Tensor | None = None
    ) -> Transition:
        """Those of n steps that begin at places [B], ``age`` steps after the oldest."""
        reward, last, discount = self._window(rows, place, age, n, reward_scale)
        followed = (last + self.num_envs) % (self.num_rows * self.num_envs)
        obs, next_obs = tree_map(lambda x: _flat(x)[place], rows.obs), tree_map(lambda x: _flat(x)[followed], rows.obs)
        if self._num_final:
            next_obs = self._replaced(next_obs, _flat(rows.final)[last])
        if rows.age is not None:
            obs, next_obs = self._stacks(rows, place, obs, 1), self._stacks(rows, last, next_obs, 0)
        return Transition(obs, _flat(rows.action)[place], reward, next_obs, _flat(rows.terminated)[last], discount)

    def update(self, place: Tensor, error: Tensor) -> None:
        """Sets the priorities of transitions that were drawn.

        Args:
            place: [B] int64, their places.
            error: [B], how wrong their values were, e.g. the temporal-difference error.

        Raises:
            InputError: they are drawn uniformly; or an error is not a number (found on the CPU alone).
        """
        if self._tree is None or self._largest is None or self.alpha is None:
            raise InputError("TransitionReplay.update: transitions are drawn uniformly; set alpha")
        place, error = place.to(self._largest.device), error.to(self._largest.device)
        if error.device.type == "cpu" and not error.isfinite().all():
            raise InputError("TransitionReplay.update: a priority is no finite number; the loss has diverged")
        priority = (error.abs().double() + SMALLEST) ** self.alpha
        self._largest = torch.maximum(self._largest, priority.amax())
        self._tree.update(place, priority)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs; without the steps if they are not to be saved."""
        rows = self._rows if self.saves_steps else None
        if rows is None:
            begins_black = self._begins_black
            return {"rows": None, "num_added": self.num_added, "size": self.size, "begins_black": begins_black}
        used = slice(None) if self.size == self.num_rows - 1 else slice(self.size + 1)
        priorities = None
        if self._tree is not None:
            priorities = self._tree.levels[0].view(-1)[: rows.reward.numel()].view_as(rows.reward)
        return {
            "rows": {name: tree_map(lambda x: _part(x, used), kept) for name, kept in vars(rows).items()},
            "final": tree_map(lambda x: x[: self._num_final].clone(), self._final),
            "priorities": None if priorities is None else _part(priorities, used),
            "alpha": self.alpha,
            "largest": self._largest,
            "num_rows": self.num_rows,
            "head": self.head,
            "size": self.size,
            "num_added": self.num_added,
            "begins_black": self._begins_black,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; with another capacity, the latest steps.

        Steps of another number of environments are left out: those of now do not follow from them.

        Raises:
            CheckpointError: it is not what `state_dict` returned.
        """
        self.num_added = restored_number(saved["num_added"], "replay.num_added")
        self.head, self.size, self._rows, self._final, self._num_final = 0, 0, None, None, 0
        self._tree, self._largest, self.to_refill = None, None, 0
        begins_black = saved.get("begins_black")
        self._begins_black = begins_black if isinstance(begins_black, bool) else None
        if saved["rows"] is None or num_rows(saved["rows"]["reward"][0]) != self.num_envs:  # of others: not followed
            size = restored_number(saved.get("size", 0), "replay.size")
            rows_before = min(size, self.num_rows - 1, -(-REFILLED // self.num_envs))
            self.to_refill = max(rows_before, self.frames or 0) * self.num_envs  # the first ones may be unreadable
            return
        old_rows = restored_number(saved["num_rows"], "replay.num_rows", low=1)
        size = restored_number(saved["size"], "replay.size", high=old_rows - 1)
        head = restored_number(saved["head"], "replay.head", high=old_rows - 1)
        rows = self._restored_rows(saved, old_rows if size == old_rows - 1 else size + 1)
        priorities = saved["priorities"]
        if priorities is not None:
            like = torch.zeros_like(rows.reward, dtype=torch.float64)
            priorities = restored(priorities, like, "replay.priorities", low=0.0, high=LARGEST)
            priorities = self._as_now(priorities, saved.get("alpha", self.alpha))
        if old_rows != self.num_rows:  # in order of time, the latest that there is room for
            order = (head - size + torch.arange(size + 1, device=rows.reward.device)) % old_rows
            order = order[max(0, len(order) - self.num_rows) :]
            rows, priorities = Rows(**take(vars(rows), order)), take(priorities, order)
            size = head = len(order) - 1
            if self.frames is not None and priorities is not None and self.num_added > size:
                priorities[: self.frames - 1] = 0  # whose images are not all there
        self._rows, self.head, self.size = self._allocated(rows), head, size
        tree_map(lambda kept, old: kept[: len(old)].copy_(old), vars(self._rows), vars(rows))
        if self._tree is not None and priorities is not None:
            largest = restored(saved["largest"], self._largest, "replay.largest", low=0.0, high=LARGEST)
            self._largest = self._as_now(largest, saved.get("alpha", self.alpha))
            places = torch.arange(priorities.numel(), device=self._largest.device)
            self._tree.update(places, priorities.flatten().to(places.device))

    def _as_now(self, priorities: Tensor, alpha: Any) -> Tensor:
        """Priorities to the power of another alpha, to the power of this one."""
        before = restored_number(alpha, "replay.alpha", low=0, high=1, whole=False)
        assert self.alpha is not None
        if before == self.alpha:
            return priorities
        return (priorities > 0).double() if before == 0 else priorities ** (self.alpha / before)

    def _restored_rows(self, saved: dict[str, Any], used: int) -> Rows:
        """The rows of a checkpoint and the successors that they point to, once both have been checked."""
        kept, N = Rows(**saved["rows"]), self.num_envs
        if (kept.age is None) != (self.frames is None) or (saved["priorities"] is None) != (self.alpha is None):
            raise CheckpointError(
                "the checkpoint does not fit: its replay keeps stacks or priorities, or this one does"
            )
        if not isinstance(kept.action, Tensor) or next(leaves(kept.obs), None) is None:
            raise CheckpointError("the checkpoint does not fit: its replay has no actions, or no observations")
        like = tree_map(lambda x: x.new_zeros(used, N, *x.shape[2:]), vars(kept))
        for name, dtype in (("reward", torch.float32), ("terminated", torch.bool), ("final", torch.int32)):
            like[name] = torch.zeros(used, N, dtype=dtype, device=next(leaves(kept.obs)).device)
        rows = restored(vars(kept), like, "replay.rows")
        if saved["final"] is not None:
            final = tree_map(lambda x: x[0, :1], rows["obs"])
            final = restored(saved["final"], final, "replay.final", free=0)
            self._num_final = num_rows(final)
            self._final = tree_map(lambda x: x.to(self.device or x.device), final)
        restored(rows["final"], like["final"], "replay.final", low=-1, high=self._num_final - 1)
        if self.frames is not None:
            restored(rows["age"], like["age"], "replay.age", low=0, high=self.frames - 1)
        return Rows(**rows)

    def _rows_for(self, obs: Tree, action: Tensor) -> Rows:
        """Where such observations and actions, [T, N, ...], are kept.

        Raises:
            InputError: they are not as those before.
        """
        self._home = action.device
        if self._rows is None:
            numbers = torch.zeros(action.shape[:2])
            final, age = numbers.int(), None if self.frames is None else numbers.byte()
            self._rows = self._allocated(Rows(obs, action, numbers, numbers.bool(), final, age))
        kept = self._rows.obs, self._rows.action
        for here, new in zip(leaves(kept), leaves((obs, action)), strict=True):
            if here.dtype != new.dtype or here.shape[1:] != new.shape[1:]:
                found = difference((obs, action), kept, free=0)
                raise InputError(f"TransitionReplay.add: (observations, actions){found} as before")
        return self._rows

    def _allocated(self, like: Rows) -> Rows:
        """Rows for as much as is kept, and the tree, where they are to be."""
        R, N, device = self.num_rows, self.num_envs, self.device
        every = list(leaves(vars(like)))
        num_bytes = R * sum(x[0].numel() * x.element_size() for x in every)
        require_memory(num_bytes, f"agent.replay_size: a replay of {self.capacity:,} steps")
        if self.alpha is not None:
            self._tree = SumTree(R * N, device or like.action.device)
            self._largest = torch.ones((), dtype=torch.float64, device=device or like.action.device)
        made = tree_map(lambda x: torch.zeros(R, *x.shape[1:], dtype=x.dtype, device=device or x.device), vars(like))
        made["final"].fill_(-1)
        return Rows(**made)

    def _write(self, kept: Tensor, new: Tensor) -> None:
        """Writes rows [T, ...] from the head on, around the end of the ring."""
        room = len(kept) - self.head
        kept[self.head : self.head + len(new)].copy_(new[:room])
        if len(new) > room:
            kept[: len(new) - room].copy_(new[room:])

    def _keep(self, obs: Tree) -> Tensor:
        """Keeps successors [K, *O] apart; where, [K] int32."""
        assert self._rows is not None
        K = num_rows(obs)
        if self._final is None:
            room = max(FIRST_FINAL, 2 * K)
            self._final = tree_map(
                lambda x: torch.zeros(room, *x.shape[2:], dtype=x.dtype, device=x.device), self._rows.obs
            )
        if self._num_final + K > num_rows(self._final):
            self._compact(K)
        places = slice(self._num_final, self._num_final + K)
        tree_map(lambda kept, new: kept[places].copy_(new), self._final, obs)
        self._num_final += K
        return torch.arange(places.start, places.stop, dtype=torch.int32, device=self._rows.final.device)

    def _compact(self, more: int) -> None:
        """Drops the successors of steps that are no longer kept, and makes room for ``more`` and as many again."""
        assert self._rows is not None
        pointed = (self._rows.final >= 0).nonzero(as_tuple=True)
        used = take(self._final, self._rows.final[pointed].long())
        count = len(pointed[0])
        room = max(FIRST_FINAL, 2 * (count + more))

        def moved(x: Tensor) -> Tensor:
            new = torch.zeros(room, *x.shape[1:], dtype=x.dtype, device=x.device)
            new[:count] = x
            return new

        self._final, self._num_final = tree_map(moved, used), count
        self._rows.final[pointed] = torch.arange(count, dtype=torch.int32, device=self._rows.final.device)

    def _window(
        self, rows: Rows, place: Tensor, age: Tensor, n: int, scale: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the windows that begin at places [B], ``age`` steps after the oldest: reward, last step, discount, [B]."""
        if n == 1:
            reward = _scaled(_flat(rows.reward)[place], scale)
            return reward, place, torch.full_like(place, self.gamma, dtype=torch.float32)
        N, RN = self.num_envs, self.num_rows * self.num_envs
        k = torch.arange(n, device=place.device)[:, None]
        window = (place + k * N) % RN  # [n, B]
        newest = age // N + k >= self.size - 1
        done = _flat(rows.terminated)[window] | (_flat(rows.final)[window] >= 0) | newest
        total, steps = n_step_returns(_scaled(_flat(rows.reward)[window], scale), done, n, self.gamma)
        last = window.gather(0, steps[:1] - 1).squeeze(0)
        return total[0], last, self.gamma ** steps[0].float()

    def _replaced(self, next_obs: Tree, final: Tensor) -> Tree:
        """Successors [B, *O], those of cut steps by what is kept at ``final`` [B] int32, unless it is -1."""
        cut = final >= 0
        if final.device.type == "cpu" and not cut.any():
            return next_obs
        chosen = final.clamp_min(0).long()

        def replaced(x: Tensor, kept: Tensor) -> Tensor:
            return torch.where(cut.view(-1, *[1] * (x.ndim - 1)), kept[chosen], x)

        return tree_map(replaced, next_obs, self._final)

    def _ages(self, rollout: Rollout) -> Tensor:
        """Steps since the episode began of each observation, and of the one after the last row, [T + 1, N] uint8."""
        assert self.frames is not None
        begun = self.frames - 1 if self.num_added else 0  # perhaps in steps that were not saved, of which none is read
        age = torch.full_like(rollout.done[0], begun, dtype=torch.uint8)
        if self._rows is not None and self._rows.age is not None:
            age = self._rows.age[self.head].to(age.device)
        ages = [age]
        for done in rollout.done:
            ages.append((ages[-1] + 1).clamp_max(self.frames - 1) * ~done)
        return torch.stack(ages)

    def _stacks(self, rows: Rows, place: Tensor, newest: Tensor, before: int) -> Tensor:
        """Stacks [B, F, ...] of a newest image [B, ...] and those up to ``before`` steps before places [B]."""
        assert self.frames is not None
        assert rows.age is not None
        N, age = self.num_envs, _flat(rows.age)[place][:, None]
        back = torch.arange(self.frames - 1, 0, -1, device=place.device) - 1 + before
        older = _flat(rows.obs)[(place[:, None] - torch.minimum(back, age) * N) % (self.num_rows * N)]
        if self._begins_black:
            older.masked_fill_((back > age).view(*older.shape[:2], *[1] * (older.ndim - 2)), 0)
        return torch.cat([older, newest[:, None]], 1)

    def _check_stacks(self, obs: Tensor, ages: Tensor) -> None:
        """Raises an InputError unless each stack [T, N, F, ...] can be made of the newest images of those before."""
        first = ages == 0
        older, newest = obs[:, :, :-1][first], obs[:, :, -1:][first]
        black, same = bool((older == 0).all()), bool((older == newest).all())
        if black != same and self._begins_black is None:
            self._begins_black = black
        follows = (obs[1:, :, :-1] == obs[:-1, :, 1:]).flatten(2).all(2)
        if not (black if self._begins_black else same) or not follows[~first[1:]].all():
            raise InputError(
                "agent.frames: an observation must be a stack whose images but the newest are those of the one before, "
                "and at the beginning of an episode all the same, or black but the newest; leave it null"
            )

    @property
    def _num_unreadable(self) -> int:
        """The oldest rows, some of whose stacks' images are no longer there."""
        return 0 if self.frames is None or self.num_added == self.size else self.frames - 1

    def _prioritise(self, num: int) -> None:
        """Gives the newest rows the largest priority so far, and those that cannot be drawn none."""
        if self._tree is None or self._largest is None:
            return
        device, oldest = self._largest.device, self.head - self.size
        readable = min(oldest + self._num_unreadable, self.head)
        parts = (max(self.head - num, readable), self.head), (oldest, readable), (self.head, self.head + 1)
        rows = torch.cat([torch.arange(*part, device=device) for part in parts]) % self.num_rows
        numbers = torch.zeros(len(rows), self.num_envs, dtype=torch.float64, device=device)
        numbers[: parts[0][1] - parts[0][0]] = self._largest
        places = rows[:, None] * self.num_envs + torch.arange(self.num_envs, device=device)
        self._tree.update(places.flatten(), numbers.flatten())


def _part(x: Tensor, rows: slice) -> Tensor:
    """Rows of a tensor, a copy if they are not all: whoever copies a view copies the whole of what it is of."""
    part = x[rows]
    return part if len(part) == len(x) else part.clone()


def _scaled(reward: Tensor, scale: Tensor | None) -> Tensor:
    return reward if scale is None else (reward * scale.to(reward.device)).clamp(-CLIP, CLIP)


def _flat(x: Tensor) -> Tensor:
    """[R, N, ...] to [R N, ...]."""
    return x.flatten(0, 1)


def _check_shape(obs: Tree, frames: int) -> None:
    """Raises an InputError unless an observation is a stack of that many images."""
    if not isinstance(obs, Tensor) or obs.ndim < 4 or obs.shape[2] != frames:
        seen = describe(obs) if not isinstance(obs, Tensor) else f"shape {list(obs.shape[2:])}"
        raise InputError(
            f"agent.frames: {frames} images of a stack are the first dimension of an observation, got {seen}"
        )
