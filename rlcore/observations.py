"""Observations of all kinds as inputs of a network, and the actions that they allow."""

import math
from typing import Any

import torch
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor, nn

from rlcore import registry
from rlcore.errors import InputError
from rlcore.networks import Network, NetworkChoice
from rlcore.networks.multi_input import MultiInput
from rlcore.networks.recurrent import Recurrent
from rlcore.spaces import ACTION_MASK
from rlcore.trees import Tree

SERVED = "Box of floats or of pixels, Discrete, MultiDiscrete, MultiBinary, and a Dict of these"


def action_mask(obs: Tree) -> Tensor | None:
    """[B, A] bool, the actions that are allowed; None if observations do not say."""
    return obs[ACTION_MASK] if isinstance(obs, dict) and ACTION_MASK in obs else None


def observation_shape(space: Space[Any]) -> tuple[int, ...]:
    """The shape of observations that are one array of floats.

    Raises:
        InputError: they are not.
    """
    if not (isinstance(space, Box) and space.dtype.kind == "f" and space.shape):
        raise InputError(f"this agent reads a Box of floats with at least one dimension, not {space}")
    return tuple(space.shape)


def build_body(choice: NetworkChoice, space: Space[Any], recurrent: bool = False) -> Network:
    """A network without an output layer for the observations of a space, ignoring the action mask.

    A Box of floats is read as it is. Pixels (a Box of uint8 of two to four dimensions) become floats in [0, 1],
    channels first; Discrete and MultiDiscrete become one-hot vectors, MultiBinary and other Boxes vectors of floats.

    Args:
        choice: the network.
        space: of one observation.
        recurrent: whether the network must have a memory.

    Raises:
        InputError: no network reads them, or the network has a memory and should not, or the reverse.
    """
    kind: Any = registry.networks[choice.name]
    if issubclass(kind, Recurrent) != recurrent:
        raise InputError(
            f"agent.network.name: {choice.name} has no memory; gru, lstm and frame_stack have one"
            if recurrent
            else f"agent.network.name: {choice.name} has a memory, which is for agent.name=recurrent_ppo"
        )
    if not isinstance(choice.settings, Recurrent.Settings):
        reader, shape = _reader_of(space, choice.name)
        network = choice.build(shape)
        return network if reader is None else Reading(reader, network)
    reader, shape = _reader_of(space, choice.settings.body.name)
    remembering: Any = choice.build(shape)
    remembering.observation_space = space
    remembering.reader = reader or nn.Identity()
    return remembering


def _reader_of(space: Space[Any], name: str) -> tuple[nn.Module | None, Any]:
    """The module that turns observations into inputs of the network of that name, if needed, and their shape."""
    if not isinstance(space, Dict):
        return _reader(space)
    parts = {key: _reader(part) for key, part in space.items() if key != ACTION_MASK}
    if issubclass(registry.networks[name], MultiInput):
        return Parts({key: reader for key, (reader, _) in parts.items()}), {
            key: shape for key, (_, shape) in parts.items()
        }
    if len(parts) != 1:
        raise InputError(
            f"agent.network.name: {name} reads one array, but observations have the parts "
            f"{', '.join(parts) or 'none'}; use multi_input"
        )
    ((key, (reader, shape)),) = parts.items()
    return nn.Sequential(_Part(key), reader or nn.Identity()), shape


class Reading(Network):
    """A network after a module that turns observations into its inputs."""

    def __init__(self, reader: nn.Module, network: Network):
        super().__init__()
        self.reader, self.network, self.num_features = reader, network, network.num_features

    def forward(self, obs: Tree) -> Tensor:
        """[B, *O] to [B, num_features]."""
        return self.network(self.reader(obs))


class Parts(nn.Module):
    """Reads each part of a dict by its own reader, or unchanged."""

    def __init__(self, readers: dict[str, nn.Module | None]):
        super().__init__()
        self.keys = list(readers)  # any strings, unlike the names of modules
        self.readers = nn.ModuleList(reader or nn.Identity() for reader in readers.values())

    def forward(self, obs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Observed parts to parts of floats."""
        return {key: reader(obs[key]) for key, reader in zip(self.keys, self.readers, strict=True)}


class Pixels(nn.Module):
    """Bytes to [0, 1], channels first: [B, H, W], [B, C, H, W], [B, H, W, C] or [B, K, H, W, C] to [B, C', H, W].

    Channels count as last if an image's last dimension is smaller than its first.
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        *frames, height, width = shape if len(shape) == 2 else shape[-3:]
        self.channels_last = bool(frames) and width < frames[0]
        if self.channels_last:
            height, width = shape[-3:-1]
        self.shape = math.prod(shape) // (height * width), height, width

    def forward(self, x: Tensor) -> Tensor:
        """To float32."""
        if self.channels_last:
            x = x.movedim(-1, -3)
        x = x.reshape(len(x), *self.shape).contiguous(memory_format=torch.channels_last)  # while still bytes
        return x.float() / 255


class OneHot(nn.Module):
    """Integers [B] or [B, D], of D sizes, to one-hot vectors side by side, [B, sum of the sizes]."""

    places: Tensor  # [D], offset of each vector, minus the start of its integer

    def __init__(self, sizes: list[int], start: list[int]):
        super().__init__()
        before = torch.tensor([0, *sizes[:-1]]).cumsum(0) - torch.tensor(start)
        self.register_buffer("places", before, persistent=False)
        self.size = sum(sizes)

    def forward(self, x: Tensor) -> Tensor:
        """To float32."""
        places = x.reshape(len(x), len(self.places)) + self.places
        return torch.zeros(len(x), self.size, device=x.device).scatter_(1, places, 1.0)


class _Floats(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).float()


class _Part(nn.Module):
    def __init__(self, key: str):
        super().__init__()
        self.key = key

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        return obs[self.key]


def _reader(space: Space[Any]) -> tuple[nn.Module | None, tuple[int, ...]]:
    """The module that turns observations into floats, None if they are floats; and their shape."""
    if isinstance(space, Box) and space.dtype.kind == "f" and space.shape:
        return None, tuple(space.shape)
    if isinstance(space, Box) and space.dtype == "uint8" and 2 <= len(space.shape) <= 4:
        pixels = Pixels(tuple(space.shape))
        return pixels, tuple(pixels(torch.zeros(1, *space.shape)).shape[1:])
    if isinstance(space, Discrete):
        return OneHot([int(space.n)], [int(space.start)]), (int(space.n),)
    if isinstance(space, MultiDiscrete):
        sizes = space.nvec.flatten().tolist()
        return OneHot(sizes, space.start.flatten().tolist()), (sum(sizes),)
    if isinstance(space, MultiBinary) or (isinstance(space, Box) and space.shape):
        return _Floats(), (math.prod(space.shape or ()),)
    raise InputError(
        f"no network reads the observation space {space}; supported: {SERVED}; "
        "gymnasium's others with env.wrappers=[{name: FlattenObservation}]"
    )
