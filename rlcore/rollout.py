"""Step, Rollout, collect: from ``env.step`` to what an agent learns from.

Legend: T time, N environments, B valid rows, A action shape, O observation shape. Time-major [T, N, ...].
"""

import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from rlcore.errors import ContractError
from rlcore.returns import n_step_returns
from rlcore.trees import Tree, concat, leaves, num_rows, stack, take, tree_map, where

if TYPE_CHECKING:
    from rlcore.agent import Agent
    from rlcore.environment import Environment

OF_EACH_ENV = "final_obs", "example"
"""What of ``info`` has a row for each of the N environments."""
Rows = TypeVar("Rows", bound=tuple[Any, ...])


class Step(NamedTuple):
    """An agent's answer to one observation of each environment."""

    action: Tensor
    """[N, *A], for ``env.step``."""
    memory: Tree = None
    """What ``learn`` needs to know of this step; fields [N, ...]."""
    state: Tree = None
    """Recurrent agents only: passed to ``act`` with the next observation; fields [N, ...]."""


class Row(NamedTuple):
    """One step of N environments; see the properties of `Rollout`."""

    obs: Tree
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    memory: Tree


class Transition(NamedTuple):
    """B steps, and what had come of each some steps later: Q(obs, action) is to be reward + discount V(next_obs)."""

    obs: Tree  # [B, *O]
    action: Tensor  # [B, *A]
    reward: Tensor  # [B] float32, discounted and summed over the steps
    next_obs: Tree  # [B, *O], the true one after them, also where a time limit cut the episode
    terminated: Tensor  # [B] bool, the episode reached its end: nothing follows, V counts as 0
    discount: Tensor  # [B] float32, gamma to the number of steps
    weight: Tensor | None = None  # [B] float32 in (0, 1], of a row that was not drawn uniformly
    place: Tensor | None = None  # [B] int64, in the replay that it was drawn from


class Rollout:
    """T steps of N environments. Each field is stacked when first read.

    If an episode ended in row t, row t + 1 has the first observation of the next one. Its true last observation matters
    only if it was truncated, and is in `final_obs`.

    Args:
        progress: share of the run's steps done before this rollout, [0, 1].
        initial_state: recurrent agents only, the state before row 0.
    """

    def __init__(self, progress: float = 0.0, initial_state: Tree = None):
        self.progress = progress
        self.initial_state = initial_state
        self.last_obs: Tree = None
        """[N, *O], the observations after row T - 1."""
        self.last_state: Tree = None
        self.env_seconds = 0.0
        """Seconds spent in ``env.step``."""
        self.infos: list[dict[str, Any]] = []
        """T, what ``env.step`` returned as ``info``."""
        self._rows: list[Row] = []
        self._valid: list[Tensor] = []

    @cached_property
    def obs(self) -> Tree:
        """[T, N, *O]."""
        return self._column("obs")

    @cached_property
    def action(self) -> Tensor:
        """[T, N, *A], as the agent gave it."""
        return self._column("action")

    @cached_property
    def reward(self) -> Tensor:
        """[T, N] float32."""
        return self._column("reward")

    @cached_property
    def terminated(self) -> Tensor:
        """[T, N] bool: the episode reached its end in this row."""
        return self._column("terminated")

    @cached_property
    def truncated(self) -> Tensor:
        """[T, N] bool: the episode was cut short in this row, e.g. by a time limit."""
        return self._column("truncated")

    @cached_property
    def memory(self) -> Tree:
        """What ``act`` recorded; fields [T, N, ...]."""
        return self._column("memory")

    @cached_property
    def done(self) -> Tensor:
        """[T, N] bool: terminated or truncated; the trace of returns is cut here."""
        return self.terminated | self.truncated

    @property
    def episode_starts(self) -> Tensor:
        """[T, N] bool: the previous row ended an episode; False in row 0, which `initial_state` and the like cover."""
        return torch.cat([torch.zeros_like(self.done[:1]), self.done[:-1]])

    @property
    def ragged(self) -> bool:
        """Whether this is a rollout of whole episodes, some rows of which may not be valid."""
        return bool(self._valid)

    @cached_property
    def valid(self) -> Tensor:
        """[T, N] bool: False after the end in a rollout of whole episodes; such rows are neither data nor steps."""
        return torch.stack(self._valid) if self.ragged else torch.ones_like(self.terminated)

    @cached_property
    def cut(self) -> Tensor:
        """[T, N] bool: valid rows, truncated and not terminated; the value of their successor still counts."""
        cut = self.truncated & ~self.terminated
        return cut & self.valid if self.ragged else cut

    @cached_property
    def cut_places(self) -> tuple[Tensor, ...]:
        """Times and environments [K] int64 of the K rows of `cut`, in order of time: ``x[cut_places]`` is ``x[cut]``.

        Computed once: finding K, as indexing by a mask must, waits for the device.
        """
        return self.cut.nonzero(as_tuple=True)

    @cached_property
    def final_obs(self) -> Tree:
        """[K, *O]: the true successors of the K rows of `cut`, in the order of `cut_places`.

        Raises:
            ContractError: the environment did not give them.
        """
        times, envs = self.cut_places
        if not len(times):
            return take(self.last_obs, slice(0))
        distinct, rows = times.unique(return_inverse=True)
        kept = [self.infos[t].get("final_obs") for t in distinct.tolist()]
        if any(obs is None for obs in kept):
            raise ContractError(
                "an episode was truncated, but info has no final_obs: put the true last observations [N, *O] there"
            )
        return take(stack(kept), (rows, envs))

    @cached_property
    def next_obs(self) -> Tree:
        """[T, N, *O]: each row's true successor; where an episode terminated, the first observation of the next."""
        if len(self) == 1 and "final_obs" in self.infos[0]:
            # without finding the rows that were cut, for which the host would wait
            return tree_map(lambda x: x[None], where(self.cut[0], self.infos[0]["final_obs"], self.last_obs))

        def successor(obs: Tensor, last: Tensor, final: Tensor) -> Tensor:
            next_obs = torch.cat([obs[1:], last[None]])
            next_obs[self.cut_places] = final
            return next_obs

        return tree_map(successor, self.obs, self.last_obs, self.final_obs)

    def transitions(self, n: int = 1, gamma: float = 0.99) -> Transition:
        """Each valid row, and what had come of it n steps later, or when its episode or the rollout ended before.

        Args:
            n: 1 or more.
            gamma: discount.
        """
        reward, steps = n_step_returns(self.reward, self.done, n, gamma)
        T, N = reward.shape
        row = torch.arange(T * N, device=reward.device).view(T, N) + (steps - 1) * N  # where the window ends

        def then(x: Tensor) -> Tensor:
            return x.flatten(0, 1)[row]

        after = self.next_obs, self.terminated
        after = after if n == 1 else tree_map(then, after)
        return Transition(*map(self.rows, (self.obs, self.action, reward, *after, gamma ** steps.float())))

    @cached_property
    def num_steps(self) -> int:
        """Environment steps, summed over environments."""
        return len(self._places[0]) if self.ragged else len(self) * self._rows[0].reward.numel()

    @cached_property
    def _places(self) -> tuple[Tensor, ...]:
        """Times and environments [B] of the valid rows; computed once, like `cut_places`."""
        return self.valid.nonzero(as_tuple=True)

    def __len__(self) -> int:
        """T."""
        return len(self._rows)

    def __getitem__(self, t: int) -> Row:
        """Row t, not stacked: fields [N, ...]."""
        return self._rows[t]

    def rows(self, field: Tree) -> Tree:
        """A field [T, N, ...] as the valid rows [B, ...], B = `num_steps`."""
        return tree_map(lambda x: x[self._places] if self.ragged else x.flatten(0, 1), field)

    def spread(self, rows: Tree) -> Tree:
        """The inverse of `rows`: [B, ...] as [T, N, ...]; 0 in rows that are not valid, NaN of floats."""

        def spread(x: Tensor) -> Tensor:
            empty = x.new_full((*self.valid.shape, *x.shape[1:]), float("nan") if x.is_floating_point() else 0)
            empty[self._places] = x
            return empty

        return tree_map(spread if self.ragged else lambda x: x.unflatten(0, (len(self), -1)), rows)

    def append(
        self,
        obs: Tree,
        step: Step,
        reward: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        info: dict[str, Any],
        valid: Tensor | None = None,
    ) -> None:
        """Adds a row of N transitions.

        Args:
            obs: [N, *O], before the step.
            step: the agent's answer.
            reward: [N] float32.
            terminated: [N] bool.
            truncated: [N] bool.
            info: of the step; its ``final_obs`` [N, *O] are the true successors, needed if anything was truncated.
            valid: [N] bool, which of them count; None in every row if all do.
        """
        self._rows.append(Row(obs, step.action, reward, terminated, truncated, step.memory))
        self.infos.append(info)
        if valid is not None:
            self._valid.append(valid)

    def part(self, envs: slice, rows: list[Row]) -> "Rollout":
        """The rollout of some of the environments.

        Args:
            envs: which ones.
            rows: the T rows of these environments.
        """
        part = Rollout(self.progress, take(self.initial_state, envs))
        part.last_obs, part.last_state = take(self.last_obs, envs), take(self.last_state, envs)
        part._rows = rows
        part.infos = [{key: take(info.get(key), envs) for key in OF_EACH_ENV} for info in self.infos]
        part._valid = [valid[envs] for valid in self._valid]
        return part

    def __iter__(self) -> Iterator[Row]:
        """The rows, not stacked."""
        return iter(self._rows)

    def _column(self, name: str) -> Tree:
        return stack([getattr(row, name) for row in self._rows])


def collect(
    agent: "Agent", env: "Environment", obs: Tree, horizon: int | None, state: Tree = None, progress: float = 0.0
) -> Rollout:
    """Plays a rollout.

    Args:
        agent: the agent that acts.
        env: the environment.
        obs: [N, *O], the current observation. A horizon of None needs that of a reset.
        horizon: T, steps in each environment; None: whole episodes, see `collect_episodes`.
        state: recurrent agents only: the current state.
        progress: see `Rollout`.
    """
    if horizon is None:
        return collect_episodes(agent, env, obs, state, progress)
    rollout = Rollout(progress, state)
    initial_state = None if state is None else agent.initial_state(env.num_envs)
    with torch.set_grad_enabled(agent.differentiable):
        for _ in range(horizon):
            step = agent.act(obs, state)
            start = time.perf_counter()
            next_obs, reward, terminated, truncated, info = env.step(step.action)
            rollout.env_seconds += time.perf_counter() - start
            rollout.append(obs, step, reward, terminated, truncated, info)
            obs = next_obs
            if initial_state is not None:
                state = where(terminated | truncated, initial_state, step.state)
    rollout.last_obs, rollout.last_state = obs, state
    return rollout


def collect_episodes(
    agent: "Agent",
    env: "Environment",
    obs: Tree,
    state: Tree = None,
    progress: float = 0.0,
    deterministic: bool = False,
) -> Rollout:
    """Plays one episode in every environment to its end, or to ``env.max_episode_steps``.

    Leaving out the episodes that a fixed number of steps cuts would favour short ones. Rows after an episode's end are
    not `Rollout.valid`.

    Args:
        agent: the agent that acts.
        env: the environment.
        obs: [N, *O], of a reset.
        state: recurrent agents only: the state of a reset.
        progress: see `Rollout`.
        deterministic: it acts by `Agent.predict`, as in evaluation.
    """
    answer = agent.predict if deterministic else agent.act
    rollout = Rollout(progress, state)
    initial_state = None if state is None else agent.initial_state(env.num_envs)
    running = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    with torch.set_grad_enabled(agent.differentiable):
        while True:
            step = answer(obs, state)
            start = time.perf_counter()
            next_obs, reward, terminated, truncated, info = env.step(step.action)
            rollout.env_seconds += time.perf_counter() - start
            if len(rollout) + 1 == env.max_episode_steps:
                truncated = truncated | (running & ~terminated)
                info = {"final_obs": next_obs, **info}
            rollout.append(obs, step, reward, terminated, truncated, info, running)
            obs, done = next_obs, terminated | truncated
            if initial_state is not None:
                state = where(done, initial_state, step.state)
            running = running & ~done
            if not running.any():  # one sync per step, and only for whole episodes
                break
    if not done.all():  # else every environment has just begun an episode, which a reset would discard
        obs, _ = env.reset()
        state = initial_state
    rollout.last_obs, rollout.last_state = obs, state
    return rollout


def state_values(rollout: Rollout, value: Callable[[Tree], Tensor]) -> tuple[Tensor, Tensor]:
    """V of each row's observation and of its true successor, [T, N] both; where an episode terminated, of any.

    Args:
        rollout: T steps of N environments.
        value: observations [B, *O] to V [B].
    """
    V = value(tree_map(lambda x: x.flatten(0, 1), rollout.obs)).view_as(rollout.reward)
    successors = value(concat([rollout.last_obs, rollout.final_obs]))
    N = V.shape[1]
    next_V = torch.cat([V[1:], successors[None, :N]])
    next_V[rollout.cut_places] = successors[N:]
    return V, next_V


def minibatches(rows: Rows, size: int | None) -> Iterator[Rows]:
    """The rows in a new random order, cut into minibatches.

    Args:
        rows: a NamedTuple of trees [B, ...].
        size: rows per minibatch; None means all of them.
    """
    num = num_rows(rows)
    shuffled = take(rows, torch.randperm(num, device=next(leaves(rows)).device))
    for start in range(0, num, size or num):
        yield take(shuffled, slice(start, start + (size or num)))
