"""Observations of all kinds as inputs of a network, and the actions that they allow."""

import math
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor, nn

from rlcore.errors import InputError
from rlcore.networks import Network, NetworkChoice
from rlcore.networks.multi_input import MultiInput
from rlcore.networks.recurrent import Recurrent
from rlcore.spaces import ACTION_MASK, Channels, Image, Inputs, dtype_of_tensor
from rlcore.trees import Tree

SERVED = "Box of floats or of pixels, Discrete, MultiDiscrete, MultiBinary, and a Dict of these"
USUAL_CHANNELS = (1, 3, 4)
"""Numbers of channels by which the layout of an image is recognised."""
LARGEST_RANGE = 2**24
"""Bounds further apart do not scale numbers: in [0, 1], float32 would not tell neighbours apart."""


def action_mask(obs: Tree) -> Tensor | None:
    """[B, A] bool, the actions that are allowed; None if observations do not say."""
    return obs[ACTION_MASK] if isinstance(obs, dict) and ACTION_MASK in obs else None


def observation_shape(space: Space[Any], choice: NetworkChoice | None = None) -> tuple[int, ...]:
    """The shape of observations that are one array of floats.

    Args:
        space: of one observation.
        choice: a network that reads them as they are.

    Raises:
        InputError: they are not, or must be scaled first (`input_scaling`); or the network reads images, and the
            channels do not come first.
    """
    if input_scaling(space) is not None:
        raise InputError(f"this agent reads numbers as they are, but {space} must be scaled; see build_body")
    if not (isinstance(space, Box) and space.dtype.kind == "f" and space.shape):
        raise InputError(f"this agent reads a Box of floats with at least one dimension, not {space}")
    if choice is not None and len(space.shape) == 3 and _reads_images(choice) and _channels(space) == "last":
        raise InputError(f"this agent reads images [C, H, W], got channels last: {space}")
    return tuple(space.shape)


def build_body(
    choice: NetworkChoice, space: Space[Any], recurrent: bool = False, setting: str = "agent.network"
) -> Network:
    """A network without an output layer for the observations of a space, ignoring the action mask.

    Inputs of a data set are scaled as their space says. Another Box of floats is read as it is; Discrete and
    MultiDiscrete become one-hot vectors; integers and bits become floats in [0, 1] by the bounds of their space, or
    unchanged where it has none. For a network that reads images (`Network.reads_images`) whatever has three dimensions,
    and bytes or bits of two or four, become [C, H, W].

    Args:
        choice: the network.
        space: of one observation.
        recurrent: whether the network must have a memory.
        setting: which chose it, for messages.

    Raises:
        InputError: no network reads them, or the network has a memory and should not, or the reverse.
    """
    has_memory = isinstance(choice.kind, type) and issubclass(choice.kind, Recurrent)
    if has_memory != recurrent:
        lack = "has no memory; gru, lstm and frame_stack have one"
        excess = "has a memory; choose an agent that keeps one (rlcore list agents), or a network without"
        raise InputError(f"{setting}.name: {choice.name} {lack if recurrent else excess}")
    if not isinstance(choice.settings, Recurrent.Settings):
        reader, shape = _reader_of(space, choice)
        network = choice.build(shape)
        return network if reader is None else Reading(reader, network)
    reader, shape = _reader_of(space, choice.settings.body)
    remembering: Any = choice.build(shape)
    remembering.observation_space = space
    remembering.reader = reader or nn.Identity()
    return remembering


def _reader_of(space: Space[Any], choice: NetworkChoice) -> tuple[nn.Module | None, Any]:
    """The module that turns observations into inputs of a network, if needed, and their shape."""
    if not isinstance(space, Dict):
        return _reader(space, _reads_images(choice))
    parts = {key: part for key, part in space.items() if key != ACTION_MASK}
    if isinstance(choice.settings, MultiInput.Settings):
        chosen = choice.settings.parts
        readers = {
            key: _reader(part, _reads_images(chosen[key]) if key in chosen else _is_image(part))
            for key, part in parts.items()
        }
        return Parts({key: reader for key, (reader, _) in readers.items()}), {
            key: shape for key, (_, shape) in readers.items()
        }
    if len(parts) != 1:
        raise InputError(
            f"agent.network.name: {choice.name} reads one array, but observations have the parts "
            f"{', '.join(parts) or 'none'}; use multi_input"
        )
    ((key, part),) = parts.items()
    reader, shape = _reader(part, _reads_images(choice))
    return nn.Sequential(_Part(key), reader or nn.Identity()), shape


def _reads_images(choice: NetworkChoice) -> bool:
    return bool(getattr(choice.kind, "reads_images", True))


def _is_image(space: Space[Any]) -> bool:
    """Whether a part of an observation counts as an image where no network is chosen for it."""
    if not isinstance(space, Box):
        return False
    return len(space.shape) == 3 if space.dtype.kind == "f" else space.dtype == "uint8" and 2 <= len(space.shape) <= 4


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


class ChannelsFirst(nn.Module):
    """Images [B, H, W], [B, C, H, W], [B, H, W, C] or frames [B, K, H, W, C] to [B, C', H, W], of any dtype.

    Args:
        shape: of one image.
        channels: where the channels are, unless there are only H and W.
    """

    def __init__(self, shape: tuple[int, ...], channels: Channels):
        super().__init__()
        self.channels_last = len(shape) > 2 and channels == "last"
        height, width = shape[-3:-1] if self.channels_last else shape[-2:]
        self.shape = math.prod(shape) // (height * width), height, width

    def forward(self, x: Tensor) -> Tensor:
        """[B, *shape] to [B, C', H, W], with the channels last in memory."""
        if self.channels_last:
            x = x.movedim(-1, -3)
        return x.reshape(x.shape[0], *self.shape).contiguous(memory_format=torch.channels_last)


class Scaled(nn.Module):
    """Integers and bits to floats in [0, 1], (x - low) / (high - low); numbers without bounds stay as they are.

    Args:
        space: of one observation.
    """

    low: Tensor  # 0-d or [*O] float64, 0 without bounds
    range: Tensor  # 0-d or [*O] float32, 1 without bounds

    def __init__(self, space: Box | MultiBinary):
        super().__init__()
        low, high = np.zeros(space.shape), np.ones(space.shape)
        if isinstance(space, Box):
            low, high = space.low.astype(np.float64), space.high.astype(np.float64)
            bounded = space.bounded_below & space.bounded_above & (low < high) & (high - low <= LARGEST_RANGE)
            low, high = np.where(bounded, low, 0.0), np.where(bounded, high, 1.0)
        if (low == low.flat[0]).all() and (high == high.flat[0]).all():
            low, high = low.flat[0], high.flat[0]
        self.register_buffer("low", torch.as_tensor(low, dtype=torch.float64))
        self.register_buffer("range", torch.as_tensor(high - low, dtype=torch.float32))
        self._from_0 = not self.low.any()
        self._range_before = 255.0 if _is_image(space) else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """[B, *O] to float32."""
        if self._from_0:
            return x.float() / self.range
        return ((x.double() - self.low) / self.range).float()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Reads what was saved without a scale (rlcore 0.1) as it was trained: pixels over 255, others unchanged."""
        state_dict.setdefault(f"{prefix}low", torch.zeros_like(self.low))
        state_dict.setdefault(f"{prefix}range", torch.full_like(self.range, self._range_before))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._from_0 = not self.low.any()


class ScaledInputs(nn.Module):
    """Inputs of a data set as a network sees them: (x - shift) / scale, images as [C, H, W].

    The statistics are saved with the agent. Bytes are scaled in float32, which has all of them; floats are subtracted
    in float64, so that numbers beside a large offset keep what varies.

    Args:
        space: of one input.
    """

    shift: Tensor  # broadcastable to [*O], in units of the inputs; float32 for bytes, else float64
    scale: Tensor  # the same

    def __init__(self, space: Inputs):
        super().__init__()
        self.dtype = torch.from_numpy(np.empty(0, dtype_of_tensor(space.dtype, float64=True))).dtype
        self.channels_last = space.channels == "last"
        dtype = torch.float32 if self.dtype == torch.uint8 else torch.float64
        for name, numbers in (("shift", space.shift), ("scale", space.scale)):
            # at least [1]: beside a 0-d tensor of float64, torch would compute in float32
            self.register_buffer(name, torch.tensor(np.atleast_1d(numbers), dtype=dtype))
        self._look()

    def forward(self, x: Tensor) -> Tensor:
        """[..., *O] as the data set has them to float32, images [..., C, H, W].

        Raises:
            InputError: they are floats, and were bytes when the agent was trained.
        """
        if self.dtype == torch.uint8 and x.is_floating_point():
            raise InputError(f"inputs must be bytes from 0 to 255 (torch.uint8), as in training; got {x.dtype}")
        return self.scaled(x)

    def scaled(self, x: Tensor) -> Tensor:
        """As `forward`, of numbers of any dtype, in units of the inputs."""
        if self.dtype == torch.uint8:
            x = x.float()
        if self._shifts:
            x = x - self.shift
        if self._scales:
            x = x / self.scale
        x = x.float()
        return x.movedim(-1, -3).contiguous() if self.channels_last else x

    def unscaled(self, x: Tensor) -> Tensor:
        """The inputs [..., *O], in their dtype, that are scaled to x."""
        if self.channels_last:
            x = x.movedim(-3, -1)
        x = x * self.scale + self.shift
        return (x.round().clamp(0, 255) if self.dtype == torch.uint8 else x).to(self.dtype)

    @property
    def is_identity(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.dtype == torch.uint8 or self._shifts or self._scales or self.channels_last)

    def _look(self) -> None:
        self._shifts, self._scales = bool(self.shift.any()), bool((self.scale != 1).any())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """What was saved before agents had the statistics goes on with those of the environment's space."""
        for name in ("shift", "scale"):
            state_dict.setdefault(f"{prefix}{name}", getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._look()


def input_scaling(space: Space[Any]) -> ScaledInputs | None:
    """What an agent does to observations before all else: it scales the inputs of a data set; None if nothing.

    What follows it reads `rlcore.spaces.scaled_space`.
    """
    if not isinstance(space, Inputs):
        return None
    scaling = ScaledInputs(space)
    return None if scaling.is_identity else scaling


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
        places = x.reshape(x.shape[0], len(self.places)) + self.places
        return torch.zeros(x.shape[0], self.size, device=x.device).scatter_(1, places, 1.0)


class _Part(nn.Module):
    def __init__(self, key: str):
        super().__init__()
        self.key = key

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        return obs[self.key]


def _reader(space: Space[Any], images: bool) -> tuple[nn.Module | None, tuple[int, ...]]:
    """The module that turns observations into floats, None if they are; and their shape, [C, H, W] for images."""
    if isinstance(space, Inputs):
        scaling, (reader, shape) = input_scaling(space), _reader(space.scaled, images)
        if scaling is None or reader is None:
            return scaling or reader, shape
        return nn.Sequential(scaling, reader), shape
    if isinstance(space, Discrete):
        return OneHot([int(space.n)], [int(space.start)]), (int(space.n),)
    if isinstance(space, MultiDiscrete):
        sizes = space.nvec.flatten().tolist()
        return OneHot(sizes, space.start.flatten().tolist()), (sum(sizes),)
    if not isinstance(space, (Box, MultiBinary)) or not space.shape:
        raise InputError(
            f"no network reads the observation space {space}; supported: {SERVED}; "
            "gymnasium's others with env.wrappers=[{name: FlattenObservation}]"
        )
    shape = tuple(space.shape)
    if isinstance(space, Box) and space.dtype.kind == "f":
        first = ChannelsFirst(shape, _channels(space)) if images and len(shape) == 3 else None
        return (first, first.shape) if first is not None and first.channels_last else (None, shape)
    if 2 <= len(shape) <= 4 and (images or _is_image(space)):
        first = ChannelsFirst(shape, _channels(space) if images else _shorter_end(shape))
        scaled = Scaled(space)
        if scaled.low.ndim:  # bounds of each pixel
            scaled.low, scaled.range = (first(x[None])[0] for x in (scaled.low, scaled.range))
        return nn.Sequential(first, scaled), first.shape
    return nn.Sequential(Scaled(space), nn.Flatten()), (math.prod(shape),)


def _channels(space: Box | MultiBinary) -> Channels:
    """Where the channels of images are: as the space says, or at the end whose size is usual, if only one is.

    Raises:
        InputError: neither end's size is usual, or both are.
    """
    if isinstance(space, Image):
        return space.channels
    if len(space.shape) == 2:
        return "first"
    shape = space.shape[-3:]
    channels = usual_channels(shape)
    if channels is None:
        raise unknown_channels(shape)
    return channels


def usual_channels(shape: tuple[int, ...]) -> Channels | None:
    """Where the channels of images of three dimensions are: at the end whose size is usual; None unless just one is."""
    first, last = (shape[end] in USUAL_CHANNELS for end in (0, 2))
    if first == last:
        return None
    return "first" if first else "last"


def unknown_channels(shape: tuple[int, ...]) -> InputError:
    """The error that says how images of three dimensions can be read, and how to choose."""
    a, b, c = shape
    return InputError(
        f"images of shape {a} x {b} x {c} may have {a} channels of {b} x {c} pixels, or {c} channels of {a} x {b}: "
        "set env.channels=first or env.channels=last"
    )


def _shorter_end(shape: tuple[int, ...]) -> Channels:
    """For networks to which the order of the numbers does not matter, as long as it is always the same."""
    return "last" if len(shape) > 2 and shape[-1] < shape[-3] else "first"
