"""GameReplay: positions of games, to learn from once their outcome is known."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlcore.checkpoint import restored
from rlcore.game import Game
from rlcore.replay import Replay
from rlcore.returns import discounted_sum
from rlcore.rollout import Rollout
from rlcore.trees import concat, take, tree_map


class Position(NamedTuple):
    """Rows of the replay."""

    state: Tensor  # [B, S] int64
    policy: Tensor | None  # [B, A], the target for the mover's
    outcome: Tensor  # [B] in [-1, 1], z, for the mover


class Waiting(NamedTuple):
    """Positions of games that have not ended, W rows of N games."""

    state: Tensor  # [W, N, S] int64
    policy: Tensor | None  # [W, N, A]
    valid: Tensor  # [W, N] bool; the others are in the replay
    reward: Tensor | None = None  # [W, N]; None in a file of 0.1, where only the end of a game had one
    value: Tensor | None = None  # [W, N], the search's
    copies: Tensor | None = None  # [W, N] int64


class Batch(NamedTuple):
    """A batch for a network to learn from."""

    planes: Tensor  # [B, C, H, W]
    legal: Tensor  # [B, A] bool
    policy: Tensor | None  # [B, A]
    outcome: Tensor  # [B]


class GameReplay:
    """Keeps the latest positions of games that have ended; those of unfinished games wait.

    Args:
        game: the rules.
        capacity: positions kept.
        symmetries: transform each position that is drawn by a random symmetry of the game.
        policies: whether policies are added.
        device: of the positions.
    """

    def __init__(
        self,
        game: Game,
        capacity: int,
        symmetries: bool,
        policies: bool = True,
        device: torch.device | str = "cpu",
    ):
        self.game, self.symmetries, self.policies, self.device = game, symmetries, policies, torch.device(device)
        self.replay: Replay[Position] = Replay(capacity, Position)
        self.waiting: Waiting | None = None
        self.cells, self.moves = (x.to(self.device) for x in game.symmetries())
        """The symmetries, [K, H * W] and [K, A] int64."""

    def __len__(self) -> int:
        """Positions kept."""
        return len(self.replay)

    def add(
        self,
        rollout: Rollout,
        policy: Tensor | None = None,
        value: Tensor | None = None,
        value_weight: float = 0.0,
        copies: Tensor | None = None,
    ) -> None:
        """Adds a rollout of `SelfPlayEnv`.

        Args:
            rollout: of T moves in N games.
            policy: targets of its rows, [T, N, A], if they are to be learned.
            value: of a search from its rows, [T, N].
            value_weight: w, [0, 1]: an outcome z becomes (1 - w) z + w value.
            copies: of each row, [T, N] int64; rows of 0 are not learned from. None: one of each.
        """
        state, reward, done, valid = rollout.obs, rollout.reward, rollout.done, torch.ones_like(rollout.done)
        if self.waiting is not None:
            old = self.waiting
            state, policy = torch.cat([old.state, state]), concat([old.policy, policy])
            reward = torch.cat([reward.new_zeros(old.valid.shape) if old.reward is None else old.reward, reward])
            value, copies = concat([old.value, value]), concat([old.copies, copies])
            done, valid = torch.cat([torch.zeros_like(old.valid), done]), torch.cat([old.valid, valid])
        following = torch.cat([state[1:], state[-1:]])  # the last row's is of no account
        discount = self.game.discount(state.flatten(0, 1), following.flatten(0, 1))
        outcome = discounted_sum(reward, (discount * ~done.flatten()).view(done.shape))
        if value is not None:
            outcome = torch.lerp(outcome, value, value_weight)
        ended = done.flip(0).cummax(0).values.flip(0)  # in this row or a later one
        ready = (ended & valid).nonzero(as_tuple=True)
        if copies is not None:
            ready = tuple(place.repeat_interleave(copies[ready]) for place in ready)
        self.replay.add(Position(*take((state, policy, outcome), ready)))
        still = valid & ~ended
        first = int((~still.any(1)).cumprod(0).sum())  # no game needs the rows before it
        self.waiting = Waiting(*take((state, policy, still, reward, value, copies), slice(first, None)))

    def sample(self, size: int) -> Batch:
        """``size`` positions, drawn with replacement by torch's global generator of their device."""
        return self.turned(self.replay.sample(size))

    def turned(self, rows: Position) -> Batch:
        """Rows as inputs of a network, each transformed by a random symmetry."""
        planes, legal = self.game.observe(rows.state), self.game.legal(rows.state)
        K = len(self.cells) if self.symmetries else 1
        if K == 1:
            return Batch(planes, legal, rows.policy, rows.outcome)
        k = torch.randint(K, (len(planes),), device=planes.device)
        cells = self.cells[k][:, None].expand(-1, planes.shape[1], -1)
        moves = self.moves[k]
        turned = planes.flatten(2).gather(2, cells).view_as(planes)
        policy = None if rows.policy is None else rows.policy.gather(1, moves)
        return Batch(turned, legal.gather(1, moves), policy, rows.outcome)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs."""
        return {"replay": self.replay.state_dict(), "waiting": self.waiting and tuple(self.waiting)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, on this device.

        Raises:
            CheckpointError: it is not what `state_dict` returned, or has other policies than are added.
        """
        state = self.game.initial(1, self.device)
        outcome = torch.zeros(1, device=self.device)
        policy = outcome.expand(1, self.game.num_actions) if self.policies else None
        self.replay.restore(saved["replay"], Position, like=Position(state, policy, outcome))
        self.waiting = None
        if saved["waiting"] is not None:
            waiting = Waiting(*saved["waiting"])
            games = waiting.valid.shape[1]
            rewards, values = (None if x is None else outcome for x in (waiting.reward, waiting.value))
            copies = None if waiting.copies is None else outcome.long()
            row = Waiting(state, policy, outcome.bool(), rewards, values, copies)
            row = tree_map(lambda x: x[None].expand(1, games, *x.shape[1:]), row)
            self.waiting = restored(waiting, row, "the waiting positions", free=0)
