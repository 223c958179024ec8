"""Recorded: the steps of episodes as tensors, and windows of them as rollouts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from gymnasium import Space
from torch import Tensor

from rlcore.errors import InputError
from rlcore.rollout import Rollout, Step
from rlcore.trees import Tree, as_float32, concat, take, tree_map

Judge = Callable[[Tree, Tensor], Tensor]
"""Observations [N, *O] and actions [N, *A] to rewards [N]."""
TENSORS = "obs", "action", "reward", "terminated", "truncated", "lengths", "whole"
"""Fields of `Recorded`."""


class Episode(NamedTuple):
    """T steps of one episode, as tensors or arrays."""

    obs: Tree  # [T + 1, *O], the last one is what followed the last step
    action: Any  # [T, *A], counted from 0
    reward: Any  # [T]
    terminated: Any  # [T] bool
    truncated: Any  # [T] bool


@dataclass(frozen=True)
class Recorded:
    """The S steps of E episodes, one episode after the other; each observation is kept once.

    An episode of T steps has T + 1 observations, so that the true successor of every step is there, of one that ended
    it as well.
    """

    observation_space: Space[Any]
    action_space: Space[Any]
    obs: Tree
    """[S + E, *O]."""
    action: Tensor
    """[S, *A], counted from 0."""
    reward: Tensor
    """[S] float32."""
    terminated: Tensor
    """[S] bool: the episode reached its end in this step."""
    truncated: Tensor
    """[S] bool: the episode was cut short in this step."""
    lengths: Tensor
    """[E] int64, steps of each episode, at least 1."""
    whole: Tensor
    """[E] bool: recorded from its beginning to its end; the return of another one says nothing."""
    name: str = "what was recorded"
    """Where it is from, for messages."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What its file says of itself."""

    @classmethod
    def of(cls, episodes: Sequence[Episode], observation_space: Space[Any], action_space: Space[Any]) -> "Recorded":
        """Those of one or more episodes, each of one step or more."""
        parts = [_as_tensors(episode) for episode in episodes]
        obs, action, reward, terminated, truncated = concat(parts)
        lengths = torch.tensor([len(episode.reward) for episode in parts])
        whole = torch.ones(len(lengths), dtype=torch.bool)
        return cls(observation_space, action_space, obs, action, reward.float(), terminated, truncated, lengths, whole)

    @classmethod
    def joined(cls, parts: "Sequence[Recorded]") -> "Recorded":
        """All of them, one after the other.

        Raises:
            InputError: their spaces differ.
        """
        first, *others = parts
        for part in others:
            part.require_spaces(first.observation_space, first.action_space, "env.dataset", first.name)
        columns = {name: concat([getattr(part, name) for part in parts]) for name in TENSORS}
        metadata = next((part.metadata for part in parts if part.is_relabelled), first.metadata)
        name = ", ".join(part.name for part in parts)
        return replace(first, **columns, name=name, metadata=metadata) if others else first

    @property
    def is_relabelled(self) -> bool:
        """Whether actions are not those that led to rewards and successors, but an expert's, to be imitated."""
        own = self.metadata.get("rlcore")
        return isinstance(own, dict) and bool(own.get("actions_of"))

    def require_causes(self, setting: str) -> None:
        """Raises an InputError about a setting unless the actions are those that led to what followed."""
        if self.is_relabelled:
            raise InputError(
                f"{setting}: in {self.name} actions are an expert's, not those that were done; for bc alone"
            )

    def __len__(self) -> int:
        """S."""
        return len(self.reward)

    @cached_property
    def episode(self) -> Tensor:
        """The number of each step's episode, [S] int64."""
        return torch.arange(len(self.lengths), device=self.lengths.device).repeat_interleave(self.lengths)

    @cached_property
    def place(self) -> Tensor:
        """Where each step's observation is in `obs`, [S] int64; its successor is in the next place."""
        return torch.arange(len(self), device=self.lengths.device) + self.episode

    @cached_property
    def last(self) -> Tensor:
        """The last step of each step's episode, [S] int64; also one in whose middle a flag says that it ended."""
        ends = self.terminated | self.truncated
        ends = ends.index_fill(0, self.lengths.cumsum(0) - 1, True)
        numbers = ends.nonzero().squeeze(1)
        return numbers[torch.searchsorted(numbers, torch.arange(len(self), device=ends.device))]

    @cached_property
    def returns(self) -> Tensor:
        """The sum of each episode's rewards, [E] float64."""
        return torch.zeros(len(self.lengths), dtype=torch.float64, device=self.reward.device).index_add(
            0, self.episode, self.reward.double()
        )

    @property
    def comparable(self) -> Tensor:
        """The numbers of the episodes whose returns can be compared, int64: the whole ones, or all if none is."""
        return (self.whole | ~self.whole.any()).nonzero().squeeze(1)

    def require_spaces(
        self, observation: Space[Any], action: Space[Any], setting: str, of: str = "the environment"
    ) -> None:
        """Raises an InputError about a setting unless the spaces are those of something else."""
        pairs = {
            "observation space": (self.observation_space, observation),
            "action space": (self.action_space, action),
        }
        for name, (there, here) in pairs.items():
            if here != there:
                raise InputError(f"{setting}: {self.name} has the {name} {there}; {of} has {here}")

    def to(self, device: torch.device) -> "Recorded":
        """The same on a device."""
        return replace(self, **{name: tree_map(lambda x: x.to(device), getattr(self, name)) for name in TENSORS})

    def as_float32(self) -> "Recorded":
        """The same, with observations of float64 rounded to float32."""
        return replace(self, obs=as_float32(self.obs))

    def episodes(self, which: Tensor) -> "Recorded":
        """Some of the episodes, in the given order; ``which`` [K] int64, their numbers."""
        first = self.lengths.cumsum(0) - self.lengths

        def ranges(starts: Tensor, sizes: Tensor) -> Tensor:
            offsets = sizes.cumsum(0) - sizes
            return (starts - offsets).repeat_interleave(sizes) + torch.arange(int(sizes.sum()), device=sizes.device)

        lengths = self.lengths[which]
        steps, rows = ranges(first[which], lengths), ranges(first[which] + which, lengths + 1)
        parts = {name: getattr(self, name)[steps] for name in ("action", "reward", "terminated", "truncated")}
        return replace(self, obs=take(self.obs, rows), lengths=lengths, whole=self.whole[which], **parts)

    def rollout(self, first: Tensor, num_steps: int = 1, progress: float = 0.0, judge: Judge | None = None) -> Rollout:
        """N windows of consecutive steps, as a rollout in which nobody acted.

        A window ends early with its episode; rows after that are not valid. Its last row is truncated unless the
        episode terminated there, so that nothing is learned across windows.

        Args:
            first: [N] int64, the first step of each.
            num_steps: T.
            progress: see `Rollout`.
            judge: what gives the rewards; None: those that were recorded.
        """
        rollout = Rollout(progress)
        end = first if num_steps == 1 else self.last[first]
        for t in range(num_steps):
            step = torch.minimum(first + t, end) if t else first
            place = self.place[step]
            obs, next_obs, action = take(self.obs, place), take(self.obs, place + 1), self.action[step]
            reward = self.reward[step] if judge is None else judge(obs, action)
            terminated = self.terminated[step]
            cut = ~terminated if t == num_steps - 1 else ~terminated & (step == end)
            valid = None if num_steps == 1 else first + t <= end
            rollout.append(obs, Step(action), reward, terminated, cut, {"final_obs": next_obs}, valid)
        rollout.last_obs = next_obs
        return rollout

    def columns(self, num_envs: int, num_rows: int, most: int, which: slice = slice(None)) -> Iterator[Rollout]:
        """The latest steps in their order as rollouts of N environments, for a replay.

        Each environment has an equal part of the steps, one after the other; fewer than N are left out at first.

        Args:
            num_envs: N.
            num_rows: of each rollout, at most.
            most: steps of each environment, at most.
            which: of the environments are in the rollouts.
        """
        T = min(len(self) // num_envs, most)
        begins = (len(self) + torch.arange(-num_envs, 0, device=self.reward.device) * T)[which]
        for start in range(0, T, num_rows):
            rollout = Rollout()
            for t in range(start, min(start + num_rows, T)):
                step = begins + t
                place = self.place[step]
                obs, next_obs, terminated = take(self.obs, place), take(self.obs, place + 1), self.terminated[step]
                cut = ~terminated & ((step == self.last[step]) | (t == T - 1))
                info = {"final_obs": next_obs} if cut.any() else {}
                rollout.append(obs, Step(self.action[step]), self.reward[step], terminated, cut, info)
            rollout.last_obs = next_obs
            yield rollout


def _as_tensors(tree: Any) -> Any:
    """An episode of arrays as one of tensors."""
    if isinstance(tree, Episode):
        return Episode(*map(_as_tensors, tree))
    return {key: _as_tensors(part) for key, part in tree.items()} if isinstance(tree, dict) else torch.as_tensor(tree)
