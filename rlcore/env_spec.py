"""EnvSpec: all that an agent needs to know of where it acts, and how it is saved with the agent."""

import math
from collections import OrderedDict
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from rlcore.checkpoint import restored_number
from rlcore.errors import InputError
from rlcore.memory import require_memory
from rlcore.spaces import Column, Image, Inputs, Logits, LogOdds, Means, Normals, Planes, Positions, Values


class HasSpaces(Protocol):
    """What `EnvSpec.of` reads: an `rlcore.Environment`, or an `EnvSpec` itself."""

    @property
    def num_envs(self) -> int:
        """N."""

    @property
    def single_observation_space(self) -> Space[Any]:
        """Of one environment."""

    @property
    def single_action_space(self) -> Space[Any]:
        """Of one environment."""

    @property
    def device(self) -> torch.device:
        """Of observations and actions."""


class EnvSpec(NamedTuple):
    """All that an agent needs to know of where it acts, by the names of gymnasium's ``VectorEnv``; saved with it."""

    num_envs: int
    """N."""
    single_observation_space: Space[Any]
    """Of one environment."""
    single_action_space: Space[Any]
    """Of one environment."""
    device: torch.device
    """Of observations and actions."""
    classes: tuple[str, ...] | None = None
    """The names of the classes that answers are about, in the order of their numbers; None if there are none."""
    target_names: tuple[str, ...] | None = None
    """The names of the numbers that an answer has, in order; None if they have none."""

    @classmethod
    def of(cls, env: "HasSpaces") -> "EnvSpec":
        """That of an environment."""
        spaces = env.single_observation_space, env.single_action_space
        names = getattr(env, "classes", None), getattr(env, "target_names", None)
        return cls(env.num_envs, *spaces, env.device, *names)

    def plain(self) -> dict[str, Any] | None:
        """The spec in tensors and plain containers, for a checkpoint; None if a space is of a class not known here."""
        try:
            observation, action = map(plain_of, (self.single_observation_space, self.single_action_space))
        except InputError:
            return None
        spaces = {"observation_space": observation, "action_space": action}
        names = {"classes": self.classes, "target_names": self.target_names}
        return {"num_envs": self.num_envs, **spaces, **names}

    @classmethod
    def from_plain(cls, plain: dict[str, Any], device: torch.device) -> "EnvSpec":
        """What `plain` returned, on a device.

        Raises:
            Exception: of any kind, if it is not what `plain` returned; see `rlcore.checkpoint.fitting`.
        """
        spaces = space_from(plain["observation_space"]), space_from(plain["action_space"])
        held = (plain.get(key) for key in ("classes", "target_names"))
        names = (None if some is None else tuple(map(str, some)) for some in held)
        return cls(restored_number(plain["num_envs"], "num_envs", low=1), *spaces, device, *names)


def plain_of(space: Space[Any]) -> dict[str, Any]:
    """A space in tensors and plain containers.

    Raises:
        InputError: it is of a class that is not known here.
    """
    kind = type(space)
    if isinstance(space, Dict) and kind is Dict:
        return {"kind": "Dict", "parts": {key: plain_of(part) for key, part in space.items()}}
    if isinstance(space, (Positions, Planes)):
        return {"kind": kind.__name__, "name": space.name}
    if isinstance(space, Logits):
        return {"kind": "Logits", "num_classes": space.shape[0]}
    if isinstance(space, LogOdds):
        return {"kind": "LogOdds", "shape": space.shape}
    if isinstance(space, Means):
        return {"kind": "Means", "shape": space.shape, "std": space.std}
    if isinstance(space, Values):
        scaling = {"shift": _plain_array(space.shift), "scale": _plain_array(space.scale)}
        return {"kind": "Normals" if isinstance(space, Normals) else "Values", **scaling}
    if isinstance(space, Inputs):
        scaling = {"shift": _plain_array(space.shift), "scale": _plain_array(space.scale)}
        numbers = {"shape": space.shape, "dtype": space.dtype.name}
        columns = space.columns and [column._asdict() for column in space.columns]
        return {"kind": "Inputs", **numbers, **scaling, "channels": space.channels, "columns": columns}
    if isinstance(space, Image):
        return {"kind": "Image", "channels": space.channels, "box": _plain_box(space)}
    if isinstance(space, Box) and kind is Box:
        return {"kind": "Box", "box": _plain_box(space)}
    if isinstance(space, Discrete) and kind is Discrete:
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, MultiDiscrete) and kind is MultiDiscrete:
        return {"kind": "MultiDiscrete", "nvec": _plain_array(space.nvec), "start": _plain_array(space.start)}
    if isinstance(space, MultiBinary) and kind is MultiBinary:
        return {"kind": "MultiBinary", "n": space.n if isinstance(space.n, int) else space.shape}
    raise InputError(f"the space {space} cannot be saved")


def space_from(plain: dict[str, Any]) -> Space[Any]:
    """What `plain_of` returned as a space."""
    match plain["kind"]:
        case "Dict":
            parts = ((key, space_from(part)) for key, part in plain["parts"].items())
            return Dict(OrderedDict(parts))  # which keeps their order; those of a dict are sorted
        case "Positions":
            return Positions(plain["name"])
        case "Planes":
            return Planes(plain["name"])
        case "Logits":
            return Logits(plain["num_classes"])
        case "LogOdds":
            return LogOdds(plain["shape"])
        case "Means":
            return Means(plain["shape"], plain["std"])
        case "Values" | "Normals":
            shift, scale = _array(plain["shift"]), _array(plain["scale"])
            return (Normals if plain["kind"] == "Normals" else Values)(shift.shape, shift, scale)
        case "Inputs":
            return _inputs(plain)
        case "Image":
            return Image(_box(plain["box"]), plain["channels"])
        case "Box":
            return _box(plain["box"])
        case "Discrete":
            return Discrete(plain["n"], start=plain["start"])
        case "MultiDiscrete":
            return MultiDiscrete(_array(plain["nvec"]), start=_array(plain["start"]))
        case "MultiBinary":
            return MultiBinary(plain["n"])
    raise ValueError(f"{plain['kind']!r} is no kind of space")


def _plain_box(box: Box) -> dict[str, Any]:
    ends = {"low": box.low, "high": box.high, "bounded_below": box.bounded_below, "bounded_above": box.bounded_above}
    return {"dtype": box.dtype.name, "shape": box.shape, **{name: _plain_array(end) for name, end in ends.items()}}


def _inputs(plain: dict[str, Any]) -> Inputs:
    shape, dtype = _size(plain)
    columns = plain.get("columns")
    columns = columns and tuple(map(_column, columns))
    return Inputs(shape, dtype, _array(plain["shift"]), _array(plain["scale"]), plain["channels"], columns)


def _column(plain: dict[str, Any]) -> Column:
    categories = plain["categories"]
    return Column(str(plain["name"]), categories and tuple(map(str, categories)), plain["fill"])


def _size(plain: dict[str, Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of a box; refused if its bounds take more memory than there is."""
    shape, dtype = tuple(plain["shape"]), np.dtype(plain["dtype"])
    require_memory(4 * math.prod(shape) * dtype.itemsize, "the checkpoint's observation space")
    return shape, dtype


def _box(plain: dict[str, Any]) -> Box:
    shape, dtype = _size(plain)
    low, high = (np.broadcast_to(_array(plain[end]), shape).astype(dtype) for end in ("low", "high"))
    box: Box = Box(low, high, shape, dtype)
    below, above = (np.broadcast_to(_array(plain[end]), shape) for end in ("bounded_below", "bounded_above"))
    box.bounded_below, box.bounded_above = below, above  # integers have no infinity, by which Box would know
    return box


def _plain_array(array: Any) -> dict[str, Any]:
    """An array as numbers that a checkpoint holds: one number if all are equal."""
    array = np.asarray(array)
    same = array.size > 0 and (array == array.flat[0]).all()
    return {"dtype": array.dtype.name, "values": array.flat[0].item() if same else array.tolist(), "shape": array.shape}


def _array(plain: dict[str, Any]) -> Any:
    return np.broadcast_to(np.asarray(plain["values"], plain["dtype"]), plain["shape"])
