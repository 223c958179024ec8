"""Frame stacking: the last frames of an episode, joined, as a memory that is not learned."""

from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from rlcore.networks import NetworkChoice
from rlcore.networks.recurrent import Recurrent, Sequence
from rlcore.spaces import zeros
from rlcore.trees import Tree, leaves, tree_map


class FrameStack(Recurrent):
    """A body that reads the last k observations, oldest first; until there are k, the first one replaces the others.

    A rollout keeps each observation once, and the k - 1 before it; stacks are made when they are read. Observations are
    joined along the first dimension of a network's input: k times the numbers, or the channels.
    """

    class Settings(Recurrent.Settings):
        """Settings of a stack of frames."""

        frames: PositiveInt = 4
        """k, observations in a stack."""
        body: NetworkChoice = NetworkChoice.model_validate({"name": "mlp"})
        """Network that reads the k observations."""

    nothing: Tensor  # [0], on the network's device

    def __init__(self, in_shape: Any, out_features: int | None, settings: Settings):
        super().__init__(_times(settings.frames, in_shape), out_features, settings)
        self.frames, self.num_features = settings.frames, self.body.num_features
        self.register_buffer("nothing", torch.zeros(0), persistent=False)

    def initial_state(self, num_envs: int) -> tuple[Tree, Tensor]:
        """The k - 1 previous frames, [num_envs, k - 1, *O], and whether there were any, [num_envs] bool."""
        frames = zeros(self.observation_space, (num_envs, self.frames - 1), self.nothing.device)
        return frames, torch.zeros(num_envs, dtype=torch.bool, device=self.nothing.device)

    def step(self, obs: Tree, state: tuple[Tree, Tensor]) -> tuple[Tensor, tuple[Tree, Tensor]]:
        """One observation [N, *O] after a state; features [N, F] and the next state."""
        stacks = self._stacks(_alone(obs, state))
        return self._features(stacks)[0], _behind(stacks, 0)

    def remember(self, obs: Tree, state: tuple[Tree, Tensor]) -> tuple[Tree, Tensor]:
        """The state after an observation [N, *O]."""
        return _behind(self._stacks(_alone(obs, state)), 0)

    def unroll(self, sequence: Sequence, after: list[int] | None = None) -> tuple[Tensor, dict[int, Tree]]:
        """Features [T, N, F]; see `Recurrent`."""
        stacks = self._stacks(sequence)
        rows = {*(after or []), len(sequence.episode_starts) - 1}
        return self._features(stacks), {t: _behind(stacks, t) for t in rows}

    def _stacks(self, sequence: Sequence) -> Tree:
        """[T, N, k, *O]."""
        (frames, begun), before = sequence.state, self.frames - 1
        T, N = sequence.episode_starts.shape
        rows = torch.arange(T, device=begun.device)[:, None]
        starts = torch.cat([sequence.episode_starts[:1] | ~begun, sequence.episode_starts[1:]])
        first = torch.where(starts, rows, -before)  # [T, N] row of the episode's first frame
        if T > 1:  # not in a step, which may be exported: ONNX has no cummax
            first = first.cummax(0).values
        wanted = rows[:, None] + torch.arange(-before, 1, device=begun.device)  # [T, 1, k]
        places = torch.maximum(wanted, first[:, :, None]) + before, torch.arange(N, device=begun.device)[:, None]
        return tree_map(lambda old, new: torch.cat([old.transpose(0, 1), new])[places], frames, sequence.obs)

    def _features(self, stacks: Tree) -> Tensor:
        """[T, N, k, *O] to [T, N, F]."""
        read = self.reader(tree_map(lambda x: x.flatten(0, 2), stacks))
        joined = tree_map(lambda x: x.unflatten(0, (-1, self.frames)).flatten(1, 2), read)
        return self.body(joined).unflatten(0, next(leaves(stacks)).shape[:2])


def _alone(obs: Tree, state: tuple[Tree, Tensor]) -> Sequence:
    """A sequence of one step, within an episode."""
    return Sequence(tree_map(lambda x: x[None], obs), torch.zeros_like(state[1])[None], state)


def _behind(stacks: Tree, t: int) -> tuple[Tree, Tensor]:
    """The state after row t of stacks [T, N, k, *O]."""
    some = next(leaves(stacks))
    return tree_map(lambda x: x[t, :, 1:], stacks), torch.ones(some.shape[1], dtype=torch.bool, device=some.device)


def _times(k: int, in_shape: Any) -> Any:
    """The shape of k joined observations, of a tensor or of each part of a dict."""
    if isinstance(in_shape, dict):
        return {key: _times(k, shape) for key, shape in in_shape.items()}
    return (k * in_shape[0], *in_shape[1:])
