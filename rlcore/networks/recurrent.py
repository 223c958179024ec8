"""Networks with a memory: gated recurrent units and long short-term memory after any body."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from gymnasium import Space
from pydantic import PositiveInt
from torch import Tensor, nn

from rlcore.errors import InputError
from rlcore.networks import NetworkChoice
from rlcore.networks.base import Network
from rlcore.trees import Tree, tree_map


class Sequence(NamedTuple):
    """The observations of N environments in T steps, and the state before them."""

    obs: Tree  # [T, N, *O]
    episode_starts: Tensor  # [T, N] bool, an episode begins in this row
    state: Tree  # fields [N, H], before row 0


class Recurrent(Network, ABC):
    """A body and a memory of what it read; itself a body. `step` reads one step, `forward` many."""

    class Settings(Network.Settings):
        """Settings of a network with a memory."""

        body: NetworkChoice = NetworkChoice.model_validate({"name": "mlp", "hidden": [64]})
        """Network that reads the observations."""

    observation_space: Space[Any]
    """The space of the observations that `step` reads; set by `build_body`."""

    def __init__(self, in_shape: Any, out_features: int | None, settings: Settings):
        super().__init__()
        if out_features is not None:
            raise InputError("a network with a memory has no output layer; it is a body")
        self.reader: nn.Module = nn.Identity()
        """Turns observations into the body's inputs; set by `build_body`."""
        self.body = settings.body.build(in_shape)
        if isinstance(self.body, Recurrent):
            raise InputError("agent.network.body: must be a network without a memory")

    @abstractmethod
    def initial_state(self, num_envs: int) -> Tree:
        """The empty memory; fields [num_envs, ...]."""

    @abstractmethod
    def step(self, obs: Tree, state: Tree) -> tuple[Tensor, Tree]:
        """One observation [N, *O] after a state; features [N, F] and the next state."""

    def remember(self, obs: Tree, state: Tree) -> Tree:
        """The state after an observation [N, *O], if its features are not needed."""
        return self.step(obs, state)[1]

    @abstractmethod
    def unroll(self, sequence: Sequence, after: list[int] | None = None) -> tuple[Tensor, dict[int, Tree]]:
        """Features [T, N, F]; the memory is emptied where an episode begins.

        Args:
            sequence: the observations.
            after: rows after which the state is needed.

        Returns:
            The features, and the state after each of those rows, and after the last.
        """

    def forward(self, sequence: Sequence) -> Tensor:
        """Features of a `Sequence`, [T * N, F], time-major."""
        return self.unroll(sequence)[0].flatten(0, 1)


class Gated(Recurrent, ABC):
    """A cell after a body."""

    class Settings(Recurrent.Settings):
        """Settings of a network with a cell."""

        size: PositiveInt = 64
        """H, numbers remembered."""

    cell_type: type[nn.GRU] | type[nn.LSTM]
    num_fields: int
    """Number of fields of the state."""

    def __init__(self, in_shape: tuple[int, ...], out_features: int | None, settings: Settings):
        super().__init__(in_shape, out_features, settings)
        self.cell = self.cell_type(self.body.num_features, settings.size)
        for name, parameter in self.cell.named_parameters():
            if "weight" in name:
                nn.init.orthogonal_(parameter)
            else:
                nn.init.zeros_(parameter)
        self.num_features = settings.size

    def initial_state(self, num_envs: int) -> tuple[Tensor, ...]:
        """The empty memory, [num_envs, H] zeros each."""
        weight = next(self.cell.parameters())
        return tuple(weight.new_zeros(num_envs, self.num_features) for _ in range(self.num_fields))

    def step(self, obs: Tree, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One observation [N, *O] after a state; features [N, H] and the next state."""
        features, state = self._run(self.body(self.reader(obs))[None], state)
        return features[0], state

    def unroll(self, sequence: Sequence, after: list[int] | None = None) -> tuple[Tensor, dict[int, Tree]]:
        """Features [T, N, H]; see `Recurrent`."""
        T, N = sequence.episode_starts.shape
        x = self.body(self.reader(tree_map(lambda leaf: leaf.flatten(0, 1), sequence.obs))).view(T, N, -1)
        # one call of the cell runs from each row where an episode begins, or whose state is needed, to the next one
        borders = set(sequence.episode_starts.any(1).nonzero().flatten().tolist()) | {t + 1 for t in after or []} | {T}
        first, state, features, states = 0, sequence.state, [], {}
        for border in sorted(borders - {0}):
            keep = (~sequence.episode_starts[first])[:, None]
            piece, state = self._run(x[first:border], tuple(field * keep for field in state))
            features.append(piece)
            states[border - 1] = state
            first = border
        return torch.cat(features), states

    @abstractmethod
    def _run(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """[T, N, F] to [T, N, H] and the state after it, [N, H] each."""


class GRU(Gated):
    """Gated recurrent units (Cho et al. 2014)."""

    class Settings(Gated.Settings):
        """Settings of gated recurrent units."""

    cell_type, num_fields = nn.GRU, 1

    def _run(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        features, h = self.cell(x, state[0][None])
        return features, (h[0],)


class LSTM(Gated):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000)."""

    class Settings(Gated.Settings):
        """Settings of long short-term memory."""

    cell_type, num_fields = nn.LSTM, 2

    def __init__(self, in_shape: tuple[int, ...], out_features: int | None, settings: Gated.Settings):
        super().__init__(in_shape, out_features, settings)
        H = settings.size
        with torch.no_grad():  # the forget gates begin open (Jozefowicz et al. 2015, section 2.2)
            dict(self.cell.named_parameters())["bias_ih_l0"][H : 2 * H] = 1.0

    def _run(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        features, (h, c) = self.cell(x, (state[0][None], state[1][None]))
        return features, (h[0], c[0])
