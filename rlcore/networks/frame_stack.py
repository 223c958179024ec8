"""The last frames of an episode, side by side: a memory that is not learned."""

from typing import Any

import torch
from gymnasium import Space
from gymnasium.vector.utils import batch_space
from pydantic import PositiveInt
from torch import Tensor

from rlcore.networks import NetworkChoice
from rlcore.networks.recurrent import Recurrent, Sequence
from rlcore.rollout import Tree, tree_map
from rlcore.spaces import zeros


class FrameStack(Recurrent):
    """A body that reads the last k observations, oldest first; before there are k the first one stands for the others.

    What is kept of a rollout is each observation once, and the k - 1 before it; stacks are made when they are read.
    """

    class Settings(Recurrent.Settings):
        """Settings of a stack of frames."""

        frames: PositiveInt = 4
        """k."""
        body: NetworkChoice = NetworkChoice.model_validate({"name": "mlp"})
        """What k observations go through; pixels are read as k images' channels, one after the other."""

        def read_by_body(self, space: Space[Any]) -> Space[Any]:
            """Of k observations."""
            return batch_space(space, self.frames)

    def __init__(self, in_shape: Any, out_features: int | None, settings: Settings):
        super().__init__(in_shape, out_features, settings)
        self.before = settings.frames - 1
        self.num_features = self.body.num_features

    def initial_state(self, num_envs: int) -> tuple[Tree, Tensor]:
        """The k - 1 frames before, [num_envs, k - 1, *O], and whether there were any, [num_envs] bool."""
        device = next(self.parameters()).device
        frames = zeros(self.observation_space, (num_envs, self.before), device)
        return frames, torch.zeros(num_envs, dtype=torch.bool, device=device)

    def step(self, obs: Tree, state: tuple[Tree, Tensor]) -> tuple[Tensor, tuple[Tree, Tensor]]:
        """One observation [N, *O] after a state; features [N, F] and the state then."""
        nothing_begins = torch.zeros_like(state[1])
        features, states = self.unroll(Sequence(tree_map(lambda x: x[None], obs), nothing_begins[None], state))
        return features[0], states[0]

    def unroll(self, sequence: Sequence, after: list[int] | None = None) -> tuple[Tensor, dict[int, Tree]]:
        """Features [T, N, F]; see `Recurrent`."""
        (frames, begun), k = sequence.state, self.before + 1
        T, N = sequence.begins.shape
        rows, device = torch.arange(T, device=begun.device), begun.device
        begins = torch.cat([sequence.begins[:1] | ~begun, sequence.begins[1:]])
        first = torch.where(begins, rows[:, None], -self.before).cummax(0).values  # row of the episode's first frame
        wanted = (rows[:, None] - self.before + torch.arange(k, device=device))[:, None]  # [T, 1, k]
        places = torch.maximum(wanted, first[:, :, None]) + self.before, torch.arange(N, device=device)[:, None]
        stacks = tree_map(lambda old, new: torch.cat([old.transpose(0, 1), new])[places], frames, sequence.obs)
        features = self.body(tree_map(lambda x: x.flatten(0, 1), stacks)).view(T, N, -1)
        seen = torch.ones_like(begun)
        states = {t: (tree_map(lambda x: x[t, :, 1:], stacks), seen) for t in {*(after or []), T - 1}}  # noqa: B023
        return features, states
