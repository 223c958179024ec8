"""The state of any Python object as plain data: what a checkpoint may hold, and what runs no code when it is read.

Pickle makes objects of whatever classes a file names. Here an object is not made but changed: `put_back` goes through
one that was made as the first one was, and gives its attributes the values that `state_of` found. Arrays and generators
are made anew, and what is one object in two places is so again.
"""

import enum
import functools
import logging
import operator
import pathlib
import random
import re
import sys
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from gymnasium.spaces import Space

from rlcore import mujoco_state
from rlcore.errors import CheckpointError

CONSTANTS: tuple[Any, ...] = (
    type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial,
    operator.attrgetter, operator.itemgetter, np.ufunc, np.dtype, torch.dtype, torch.device, pathlib.PurePath,
    re.Pattern, logging.Logger, EnvSpec, WrapperSpec,
)  # fmt: skip
"""What does not change: it is left as it was made."""
SHOWING = re.compile(r"pygame\b.*\.(Surface|Clock|Font)|gymnasium\.envs\.mujoco\.mujoco_rendering\..*")
"""Classes of what only shows something, likewise."""
BIT_GENERATORS = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}
LEAVES = frozenset((type(None), bool, int, float, str))
"""What is written as it is."""
KINDS = "biufcSUmM"
"""Of arrays that are written as bytes: all but those of objects and of records."""
IS_PYTHON = 1 << 9
"""The flag of a class that is made as those of Python are (``Py_TPFLAGS_HEAPTYPE``)."""
POINTER = 8
"""Bytes."""
NOTHING = object()
"""There is nothing in the place of what was saved."""


class UnsavedError(Exception):
    """Something has a state that cannot be read; the message says what, and where."""


def state_of(thing: Any) -> Any:
    """The state of an object and of everything that it refers to.

    Args:
        thing: the object. What has ``state_dict`` and ``load_state_dict`` is asked; of others the attributes are read.

    Returns:
        Tensors, numbers, strings and None in tuples and lists.

    Raises:
        UnsavedError: it refers to something whose state is not in Python, as a simulator's written in C.
    """
    try:
        return _Writer().write(thing)
    except RecursionError as error:
        raise UnsavedError("its objects refer to each other in too long a chain") from error


def put_back(saved: Any, thing: Any, own: str = "") -> None:
    """Gives an object the state that `state_of` has read from another one that was made alike.

    Args:
        saved: what `state_of` returned.
        thing: the object.
        own: a package; objects of its classes may be made where there are none. No method of theirs is called.

    Raises:
        CheckpointError: it does not fit.
        Exception: as anything may be raised by what is not as it should be; see `rlcore.checkpoint.fitting`.
    """
    _Reader(own).read(saved, thing)


class _Writer:
    """Each object is written once; where it is met again its number stands."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.met: list[Any] = []  # so that none is deleted, and its id given to another one
        self.path: list[Any] = []  # to what is written: names of attributes, keys and numbers of items

    def write(self, x: Any, step: Any = "") -> Any:
        kind: Any = type(x)
        if kind in LEAVES:
            return x
        if _is_constant(kind):
            return ("constant",)
        if (number := self.numbers.get(id(x))) is not None:
            return ("same", number)
        self.numbers[id(x)] = len(self.met)
        self.met.append(x)
        self.path.append(step)
        written = self._write_new(x)
        self.path.pop()
        return written

    def _write_new(self, x: Any) -> tuple[Any, ...]:
        kind: Any = type(x)
        if isinstance(x, enum.Enum):
            return ("enum", _name(kind), x.name)
        if isinstance(x, np.generic):
            is_plain = x.dtype.kind in "biuf" and type(x.item()) in LEAVES  # a longdouble is not
            return ("number", self._dtype(x), x.item()) if is_plain else ("scalar", *self._raw(np.asarray(x)))
        if kind is np.ndarray:
            return self._write_array(x)
        if kind is torch.Tensor:
            return ("tensor", x.detach().clone())
        if kind is bytes:
            return ("bytes", torch.frombuffer(bytearray(x), dtype=torch.uint8) if x else None)
        if kind is range:
            return ("range", x.start, x.stop, x.step)
        if isinstance(x, tuple):
            return ("tuple", _name(kind), self._each(x))
        if kind in (list, set, frozenset):
            return (kind.__name__, self._each(x))
        if kind is deque:
            return ("deque", x.maxlen, self._each(x))
        if kind in (dict, OrderedDict, defaultdict):
            items = [(self.write(key), self.write(value, (key,))) for key, value in x.items()]
            return (kind.__name__, items)
        if kind is np.random.Generator and (name := type(x.bit_generator).__name__) in BIT_GENERATORS:
            return ("generator", name, self.write(x.bit_generator.state))
        if kind is np.random.RandomState:
            return ("random_state", self.write(x.get_state(legacy=False)))
        if kind is random.Random:
            return ("random", self.write(x.getstate()))
        if kind is torch.Generator:
            return ("torch_generator", x.get_state())
        if isinstance(x, Space):
            return ("space", self.write(vars(x).get("_np_random")), self._each(_parts(x)))
        if mujoco_state.is_ours(x):
            return ("mujoco", mujoco_state.read(x))
        if hasattr(kind, "state_dict") and hasattr(kind, "load_state_dict"):
            return ("asked", self.write(x.state_dict(), ".state_dict()"))
        if not _is_python(kind):
            raise UnsavedError(f"{_place(self.path)} is {_article(kind)}, whose state cannot be read")
        attributes = [(name, self.write(value, f".{name}")) for name, value in _attributes(x)]
        return ("object", _name(kind), attributes)

    def _write_array(self, x: np.ndarray[Any, Any]) -> tuple[Any, ...]:
        if x.dtype.hasobject:
            return ("objects", list(x.shape), self._each(x.ravel().tolist()))
        base: Any = x.base
        if base is None or isinstance(base, (bytes, bytearray)):
            return ("array", *self._raw(x))
        if type(base) is np.ndarray and base.flags.forc and not base.dtype.hasobject:
            offset = x.ctypes.data - base.ctypes.data
            return ("view", self.write(base), self._dtype(x), list(x.shape), offset, list(x.strides))
        return ("memory", *self._raw(x))  # of a simulator

    def _each(self, values: Any) -> list[Any]:
        return [value if type(value) in LEAVES else self.write(value, (n,)) for n, value in enumerate(values)]

    def _dtype(self, x: Any) -> str:
        if x.dtype.kind not in KINDS:
            raise UnsavedError(f"{_place(self.path)} is an array of {x.dtype}, which cannot be saved")
        return str(x.dtype.str)

    def _raw(self, x: np.ndarray[Any, Any]) -> tuple[str, list[int], str, Any]:
        """An array's dtype, shape, order and bytes."""
        order: Any = "F" if x.flags.f_contiguous and not x.flags.c_contiguous else "C"
        content = torch.frombuffer(bytearray(x.tobytes(order)), dtype=torch.uint8) if x.size else None
        return self._dtype(x), list(x.shape), order, content


class _Reader:
    """Reads in the order of writing, with what is in the same place here (``here``)."""

    def __init__(self, own: str):
        self.own = own
        self.met: list[Any] = []
        self.path: list[Any] = []
        self.used: set[int] = set()  # objects here that already have a state

    def read(self, saved: Any, here: Any, step: Any = "") -> Any:
        if type(saved) in LEAVES:
            return saved
        tag, *content = saved
        if tag == "constant":
            if here is NOTHING:
                self.path.append(step)
                raise self._unfit("is made as episodes go on, and is neither data nor an object of its package")
            return here
        if tag == "same":
            return self.met[content[0]]
        number = len(self.met)
        self.met.append(None)
        self.path.append(step)
        made: Any = getattr(self, f"_read_{tag}")(number, here, *content)
        self.met[number] = made
        self.path.pop()
        return made

    def _read_enum(self, number: int, here: Any, name: str, member: str) -> Any:
        return self._kind(name, here)[member]

    def _read_number(self, number: int, here: Any, dtype: str, value: Any) -> Any:
        return _safe(dtype).type(value)

    def _read_scalar(self, number: int, here: Any, *raw: Any) -> Any:
        return _array(*raw)[()]

    def _read_array(self, number: int, here: Any, *raw: Any) -> Any:
        return _array(*raw)

    def _read_objects(self, number: int, here: Any, shape: list[int], items: list[Any]) -> Any:
        array = np.empty(len(items), dtype=object)
        there = here.ravel() if isinstance(here, np.ndarray) else ()
        array[:] = self._filled([], there, items)
        return array.reshape(shape)

    def _read_view(
        self, number: int, here: Any, base: Any, dtype: str, shape: list[int], offset: int, strides: list[int]
    ) -> Any:
        buffer = self.read(base, getattr(here, "base", NOTHING))
        return np.ndarray(shape, _safe(dtype), buffer.ravel("K"), offset, strides)

    def _read_memory(self, number: int, here: Any, *raw: Any) -> Any:
        array = _array(*raw)
        if not isinstance(here, np.ndarray) or here.shape != array.shape or here.dtype != array.dtype:
            raise self._unfit("is no array of its shape")
        here[...] = array
        return here

    def _read_tensor(self, number: int, here: Any, tensor: torch.Tensor) -> Any:
        return tensor.to(here.device if isinstance(here, torch.Tensor) else tensor.device, copy=True)

    def _read_bytes(self, number: int, here: Any, content: Any) -> Any:
        return b"" if content is None else content.numpy().tobytes()

    def _read_range(self, number: int, here: Any, start: int, stop: int, step: int) -> Any:
        return range(start, stop, step)

    def _read_tuple(self, number: int, here: Any, name: str, items: list[Any]) -> Any:
        values = self._filled([], here if isinstance(here, tuple) else (), items)
        return tuple(values) if name == "builtins:tuple" else tuple.__new__(self._kind(name, here), values)

    def _read_list(self, number: int, here: Any, items: list[Any]) -> Any:
        made: list[Any] = []
        self.met[number] = made
        return self._filled(made, here if isinstance(here, list) else (), items)

    def _read_set(self, number: int, here: Any, items: list[Any]) -> Any:
        return set(self._filled([], (), items))

    def _read_frozenset(self, number: int, here: Any, items: list[Any]) -> Any:
        return frozenset(self._filled([], (), items))

    def _read_deque(self, number: int, here: Any, maxlen: int | None, items: list[Any]) -> Any:
        made: deque[Any] = deque(maxlen=maxlen)
        self.met[number] = made
        return self._filled(made, here if isinstance(here, deque) else (), items)

    def _read_dict(self, number: int, here: Any, items: list[Any], made: Any = None) -> Any:
        self.met[number] = made = {} if made is None else made
        for key, value in items:
            name = self.read(key, NOTHING)
            there = here.get(name, NOTHING) if isinstance(here, dict) else NOTHING
            made[name] = self.read(value, there, (name,))
        return made

    def _read_OrderedDict(self, number: int, here: Any, items: list[Any]) -> Any:
        return self._read_dict(number, here, items, OrderedDict())

    def _read_defaultdict(self, number: int, here: Any, items: list[Any]) -> Any:
        if not isinstance(here, defaultdict):
            raise self._unfit("is no defaultdict")
        return self._read_dict(number, here, items, defaultdict(here.default_factory))

    def _read_generator(self, number: int, here: Any, name: str, state: Any) -> Any:
        generator = np.random.Generator(BIT_GENERATORS[name]())
        generator.bit_generator.state = self.read(state, NOTHING)
        return generator

    def _read_random_state(self, number: int, here: Any, state: Any) -> Any:
        generator = np.random.RandomState()
        generator.set_state(self.read(state, NOTHING))
        return generator

    def _read_random(self, number: int, here: Any, state: Any) -> Any:
        generator = random.Random()
        generator.setstate(self.read(state, NOTHING))
        return generator

    def _read_torch_generator(self, number: int, here: Any, state: torch.Tensor) -> Any:
        self._same_kind("torch._C:Generator", here)
        here.set_state(state.cpu())
        return here

    def _read_space(self, number: int, here: Any, generator: Any, parts: list[Any]) -> Any:
        if not isinstance(here, Space):
            raise self._unfit("is no space")
        vars(here)["_np_random"] = self.read(generator, NOTHING)
        self._filled([], _parts(here), parts)
        return here

    def _read_mujoco(self, number: int, here: Any, state: Any) -> Any:
        if not mujoco_state.is_ours(here):
            raise self._unfit("is nothing of MuJoCo's")
        mujoco_state.write(state, here)
        return here

    def _read_asked(self, number: int, here: Any, state: Any) -> Any:
        if here is NOTHING or not hasattr(type(here), "load_state_dict"):
            raise self._unfit("has no load_state_dict")
        here.load_state_dict(self.read(state, NOTHING))
        return here

    def _read_object(self, number: int, here: Any, name: str, attributes: list[Any]) -> Any:
        kind = self._kind(name, here)
        fresh = type(here) is not kind or id(here) in self.used
        self.met[number] = made = object.__new__(self._own_kind(name)) if fresh else here
        self.used.add(id(made))
        before = {} if fresh else dict(_attributes(made))
        for key, value in attributes:
            _set(made, key, self.read(value, before.get(key, NOTHING), f".{key}"))
        for key in before.keys() - {key for key, _ in attributes}:
            object.__delattr__(made, key)
        return made

    def _filled(self, made: Any, here: Any, items: list[Any]) -> Any:
        there = list(here)
        for n, item in enumerate(items):
            made.append(self.read(item, there[n] if n < len(there) else NOTHING, (n,)))
        return made

    def _kind(self, name: str, here: Any) -> Any:
        """The class of that name: of what is here, or else of the environment's own package."""
        return type(here) if here is not NOTHING and _name(type(here)) == name else self._own_kind(name)

    def _own_kind(self, name: str) -> Any:
        module, _, qualified = name.partition(":")
        if not self.own or module.partition(".")[0] != self.own or module not in sys.modules:
            raise self._unfit(f"is no {name}")
        kind = operator.attrgetter(qualified)(sys.modules[module])
        if not isinstance(kind, type) or _name(kind) != name:
            raise self._unfit(f"is no {name}")
        return kind

    def _same_kind(self, name: str, here: Any) -> None:
        if here is NOTHING or _name(type(here)) != name:
            raise self._unfit(f"is no {name}")

    def _unfit(self, what: str) -> CheckpointError:
        return CheckpointError(f"{_place(self.path)} {what}")


def _place(path: list[Any]) -> str:
    return "".join(step if isinstance(step, str) else f"[{step[0]!r}]" for step in path).lstrip(".") or "it"


@functools.cache
def _is_constant(kind: type) -> bool:
    return kind is object or issubclass(kind, CONSTANTS) or SHOWING.fullmatch(_name(kind).replace(":", ".")) is not None


@functools.cache
def _is_python(kind: Any) -> bool:
    """Whether its objects have nothing but attributes: no class that it derives from is written in C."""
    bases = kind.__mro__[:-1]
    slots = len(_slots(kind))
    has_attributes = any("__dict__" in vars(base) for base in bases) or all("__slots__" in vars(base) for base in bases)
    size = object.__basicsize__ + POINTER * (slots + 2)  # with those of the attributes and of weak references
    return has_attributes and kind.__basicsize__ <= size and all(base.__flags__ & IS_PYTHON for base in bases)


def _name(kind: type) -> str:
    try:
        return f"{kind.__module__}:{kind.__qualname__}"
    except AttributeError:  # as of some classes of SWIG
        return f":{kind.__name__}"


def _article(kind: type) -> str:
    return f"a {_name(kind).replace(':', '.').lstrip('.')}"


def _parts(space: Any) -> list[Any]:
    """The spaces within a space."""
    parts = getattr(space, "spaces", ())
    return list(parts.values() if isinstance(parts, dict) else parts)


def _attributes(x: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object, those in ``__slots__`` too."""
    yield from getattr(x, "__dict__", {}).items()
    for kind in type(x).__mro__:
        names = vars(kind).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__") and hasattr(x, name):
                yield name, getattr(x, name)


def _set(x: Any, name: str, value: Any) -> None:
    """Sets an attribute past properties and frozen dataclasses."""
    if hasattr(x, "__dict__") and name not in _slots(type(x)):
        vars(x)[name] = value
    else:
        object.__setattr__(x, name, value)


def _slots(kind: type) -> set[str]:
    return {name for base in kind.__mro__ for name in vars(base).get("__slots__", ())}


def _safe(dtype: str) -> np.dtype[Any]:
    found = np.dtype(dtype)
    if found.kind not in KINDS:
        raise CheckpointError(f"the checkpoint does not fit the environment: an array of {dtype}")
    return found


def _array(dtype: str, shape: list[int], order: Any, content: Any) -> np.ndarray[Any, Any]:
    flat = np.frombuffer(b"" if content is None else content.cpu().numpy().tobytes(), _safe(dtype))
    return flat.reshape(shape, order=order).copy(order="K")
