"""Spaces whose numbers have a meaning that an agent may use, and elements of spaces as tensors."""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Dict, MultiBinary
from numpy.typing import ArrayLike

from rlcore import registry
from rlcore.errors import InputError
from rlcore.trees import Tree

ACTION_MASK = "action_mask"
"""The part of a dict observation that says which actions are allowed: bool, whatever dtype its space has."""


Channels = Literal["first", "last"]
"""Where the channels of images are: [C, H, W] or [H, W, C]."""


class Image(Box):
    """Images whose layout is known; others are read as `rlcore.observations` guesses.

    Args:
        box: the numbers.
        channels: where its channels are; of frames, which have one more dimension in front, those of each.
    """

    def __init__(self, box: Box, channels: Channels):
        super().__init__(box.low, box.high, box.shape, box.dtype)
        self.bounded_below, self.bounded_above = box.bounded_below, box.bounded_above  # integers have no infinity
        self.channels: Channels = channels


class Column(NamedTuple):
    """A column of a table, and what it becomes: one number, or a one-hot vector of its categories."""

    name: str
    categories: tuple[str, ...] | None = None
    """In the order of the vector, which is all zeros for any other; None: the column has numbers."""
    fill: float | str | None = None
    """What a missing value counts as, a number or a category; None: it is refused."""


class Inputs(Box):
    """Inputs of a data set as it has them, and what is done to them before a network: (x - shift) / scale.

    Args:
        shape: of one input.
        dtype: uint8, 0 to 255; float32; or float64.
        shift: what is subtracted, in the units of the inputs; broadcastable to the shape.
        scale: what the difference is divided by, not 0; broadcastable to the shape.
        channels: where the channels of images are; None: these are no images, or it is not known.
        columns: of the table whose rows these are, in order; None: it is no table.

    Raises:
        InputError: shift or scale does not fit the shape, is not finite, or the scale is 0.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        shift: ArrayLike = 0.0,
        scale: ArrayLike = 1.0,
        channels: Channels | None = None,
        columns: tuple[Column, ...] | None = None,
    ):
        low, high = (0, 255) if np.dtype(dtype) == np.uint8 else (-np.inf, np.inf)
        super().__init__(low, high, tuple(shape), dtype)
        self.shift, self.scale = np.asarray(shift, np.float64), np.asarray(scale, np.float64)
        self.channels: Channels | None = channels
        self.columns = columns
        for name, numbers in (("shift", self.shift), ("scale", self.scale)):
            fits = numbers.ndim <= len(self.shape) and all(
                size in (1, whole) for size, whole in zip(numbers.shape[::-1], self.shape[::-1], strict=False)
            )
            if not fits or not np.isfinite(numbers).all() or (name == "scale" and not numbers.all()):
                raise InputError(
                    f"the {name} of inputs {self.shape} must be finite numbers that broadcast to that shape"
                    f"{', not 0' if name == 'scale' else ''}; got shape {numbers.shape}"
                )

    @property
    def scaled(self) -> Box:
        """The space of what a network sees: float32, and images [C, H, W]."""
        shape = (*self.shape[-1:], *self.shape[:-1]) if self.channels == "last" else self.shape
        box: Box = Box(-np.inf, np.inf, shape, np.float32)
        return box if self.channels is None else Image(box, "first")

    def of_dtype(self, dtype: Any) -> "Inputs":
        """The same inputs in another dtype."""
        return Inputs(self.shape, dtype, self.shift, self.scale, self.channels, self.columns)

    def __eq__(self, other: object) -> bool:
        """Whether an agent of one reads the other: of the same shape, and both bytes or both floats."""
        return isinstance(other, Inputs) and (self.shape, self.dtype.kind) == (other.shape, other.dtype.kind)

    def __repr__(self) -> str:
        """``Inputs((28, 28, 1), uint8)``."""
        return f"Inputs({self.shape}, {self.dtype})"


def scaled_space(space: Space[Any]) -> Space[Any]:
    """The space of observations once the inputs of a data set are scaled; others are as they are."""
    return space.scaled if isinstance(space, Inputs) else space


def with_channels(space: Space[Any], channels: Channels) -> Space[Any]:
    """The space with every part of three or four dimensions as an `Image`."""
    if isinstance(space, Dict):
        return Dict({key: with_channels(part, channels) for key, part in space.items()})
    if isinstance(space, MultiBinary):
        space = Box(0, 1, space.shape, np.int8)
    return Image(space, channels) if isinstance(space, Box) and len(space.shape) in (3, 4) else space


class Positions(Box):
    """Positions of a game, its states as the mover sees them; int64.

    Args:
        name: the game's registered name.
    """

    def __init__(self, name: str):
        self.name, self.game = name, registry.games[name]()
        whole = np.iinfo(np.int64)
        super().__init__(whole.min, whole.max, (self.game.state_size,), np.int64)


class Planes(Image):
    """Positions of a game as images, [C, H, W] in [0, 1]; float32.

    Args:
        name: the game's registered name.
    """

    def __init__(self, name: str):
        self.name, self.game = name, registry.games[name]()
        super().__init__(Box(0, 1, self.game.planes_shape, np.float32), "first")


class Logits(Box):
    """K unnormalised log-probabilities, one per class, any real numbers; float32.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int):
        super().__init__(-np.inf, np.inf, (num_classes,), np.float32)

    def __repr__(self) -> str:
        """``Logits(10)``."""
        return f"Logits({self.shape[0]})"


class LogOdds(Box):
    """Log-odds of outcomes that are 0 or 1, any real numbers; float32.

    Args:
        shape: of the outcomes.
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__(-np.inf, np.inf, shape, np.float32)

    def __repr__(self) -> str:
        """``LogOdds(1,)``."""
        return f"LogOdds{self.shape}"


class Means(Box):
    """Means of normal distributions with a known standard deviation, any real numbers; float32.

    Args:
        shape: of the outcomes.
        std: their standard deviation, > 0.
    """

    def __init__(self, shape: tuple[int, ...], std: float):
        super().__init__(-np.inf, np.inf, shape, np.float32)
        self.std = std

    def __repr__(self) -> str:
        """``Means((1,), std=0.1)``."""
        return f"Means({self.shape}, std={self.std:g})"


class Values(Box):
    """Numbers in the units of targets, any real ones; float32. Networks say them standardised: (x - shift) / scale.

    Args:
        shape: of the targets, D.
        shift: in the units of the targets; broadcastable to D.
        scale: > 0; broadcastable to D.
    """

    per_target: tuple[int, ...] = ()
    """The shape of what is said of each target."""

    def __init__(self, shape: tuple[int, ...], shift: ArrayLike = 0.0, scale: ArrayLike = 1.0):
        super().__init__(-np.inf, np.inf, (*self.per_target, *shape), np.float32)
        self.shift, self.scale = (np.broadcast_to(np.asarray(x, np.float64), shape) for x in (shift, scale))

    def __repr__(self) -> str:
        """``Values(1,)``."""
        return f"Values{self.shift.shape}"


class Normals(Values):
    """Normal distributions of targets: their means and the logarithms of their variances, [2, *D]; float32.

    The arguments are those of `Values`.
    """

    per_target = (2,)

    def __repr__(self) -> str:
        """``Normals(1,)``."""
        return f"Normals{self.shift.shape}"


def dtype_of_tensor(dtype: np.dtype[Any], float64: bool = False) -> np.dtype[Any]:
    """The dtype of an array as a tensor: float32 for floats, int64 for integers other than bytes, bool unchanged.

    Args:
        dtype: of the array.
        float64: whether float64, and longer floats, become float64 instead.
    """
    if dtype.kind == "f":
        return np.dtype(np.float64 if float64 and dtype.itemsize >= 8 else np.float32)
    return np.dtype(np.int64) if dtype.kind in "iu" and dtype != np.uint8 else dtype


def zeros(space: Space[Any], batch: tuple[int, ...], device: torch.device) -> Tree:
    """Zeros [*batch, *O] like the elements of a space, a dict or a tensor; floats are float32."""
    if isinstance(space, Dict):
        parts = {key: zeros(part, batch, device) for key, part in space.items()}
        if ACTION_MASK in parts:
            parts[ACTION_MASK] = parts[ACTION_MASK].bool()
        return parts
    assert space.dtype is not None
    assert space.shape is not None
    dtype = torch.from_numpy(np.empty(0, dtype_of_tensor(space.dtype))).dtype
    return torch.zeros((*batch, *space.shape), dtype=dtype, device=device)  # made there: to copy them would wait
