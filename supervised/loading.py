"""Examples that are not one tensor: they stay where they are, and are fetched by rows, ahead of time."""

import atexit
import copy
import functools
import math
import mmap
import random
import signal
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import data

from rlcore.errors import InputError, one_line
from rlcore.interruption import ending_signals
from rlcore.seeding import derive_seed

S = TypeVar("S", bound="Source")
Batch = tuple[Tensor, Tensor | None]
"""Inputs [B, *shape] and, if they come with them, targets [B, ...]."""

LARGE = 2**26
"""Bytes of inputs that are not copied, but stay where they are."""
PIECE = 2**20
"""Numbers that are looked at at once, at most, unless an example has more."""
GRACE = 60
"""Seconds in which the main process may end a worker that was asked to end."""
NUMPY_DTYPES: dict[torch.dtype, Any] = {torch.uint8: np.uint8, torch.float32: np.float32, torch.float64: np.float64}


class Source(ABC):
    """Numbers [n, *shape] that stay where they are; rows of them are read as those of a tensor are.

    Args:
        rows: where its examples are among all that are there, [n] int64.
        shape: of one example.
        dtype: of what is read.
    """

    workers = 0
    """Processes that fetch what comes next."""

    def __init__(self, rows: Tensor, shape: tuple[int, ...], dtype: torch.dtype):
        self.rows, self.example_shape, self.dtype = rows, shape, dtype

    @abstractmethod
    def fetch(self, request: Tensor) -> Batch:
        """Some examples, on the CPU.

        Args:
            request: [B, 2] int64, rows from 0 to n - 1, and seeds of what is drawn to make these examples.
        """

    def taken(self: S, rows: Tensor) -> S:
        """Only these rows, [m] int64."""
        part = copy.copy(self)
        part.rows = self.rows[rows]
        return part

    def of_dtype(self: S, dtype: torch.dtype) -> S:
        """The same numbers, read in another dtype."""
        same = copy.copy(self)
        same.dtype = dtype
        return same

    def split(self, size: int) -> Iterator[Tensor]:
        """All in order, [size, *shape] at a time, the last ones perhaps fewer."""
        return (numbers for numbers, _ in fetched(self, in_order(len(self), size)))

    @property
    def shape(self) -> torch.Size:
        """(n, *shape)."""
        return torch.Size((len(self.rows), *self.example_shape))

    @property
    def ndim(self) -> int:
        """Dimensions, of which the first counts the examples."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return self.fetch(unseeded(rows, len(self)))[0]


class Kept(Source):
    """Examples of an array, in memory or mapped from a file.

    Args:
        array: [n, *shape], real numbers of any dtype and layout.
        dtype: uint8, float32 or float64, in which they are read.
    """

    is_finite = False
    """Whether all numbers are known to be finite."""

    def __init__(self, array: NDArray[Any], dtype: torch.dtype):
        super().__init__(torch.arange(len(array)), array.shape[1:], dtype)
        self.array = np.asarray(array)

    def fetch(self, request: Tensor) -> Batch:
        """See `Source.fetch`; there are no targets."""
        taken = self.array[self.rows[request[:, 0]].numpy()]
        with np.errstate(over="ignore"):  # numbers that are too large are looked for elsewhere
            return torch.from_numpy(taken.astype(NUMPY_DTYPES[self.dtype], copy=False)), None

    def split(self, size: int) -> Iterator[Tensor]:
        """See `Source.split`; memory into which a file was mapped is given back."""
        for numbers in super().split(size):
            yield numbers
            _give_back(self.array)


@dataclass(frozen=True)
class Recipe:
    """How the examples of a map-style torch Dataset become batches."""

    dataset: data.Dataset[Any]
    has_targets: bool = True
    """Whether an example is a pair: inputs, and their target."""
    num_classes: int | None = None
    """If targets are classes."""
    collate: Callable[[list[Any]], Any] = data.default_collate
    """From a list of examples to tensors."""
    workers: int = 0
    """Processes that fetch what comes next; 0: it is fetched when it is needed."""
    prefetch_factor: int | None = None
    """Batches that each of them fetches ahead; None: 2."""
    on_start: Callable[[int], None] | None = None
    """Called first in each of them, with its number."""
    context: Any = None
    """How they are started; None: as usual on this system."""


class Loaded(Source):
    """Examples of a map-style torch Dataset, each made when it is asked for, and its target with it.

    The global generators of Python, numpy and torch are seeded before each, so that neither the process that makes it
    nor what was made before matters.

    Args:
        recipe: how they are made.

    Raises:
        InputError: there are none, or the first is not made of numbers.
    """

    def __init__(self, recipe: Recipe):
        num = len(recipe.dataset)  # type: ignore[arg-type]
        if not num:
            raise InputError("the data set is empty")
        self.recipe, self.workers, self.rows = recipe, recipe.workers, torch.arange(num)
        self._first = self._made(unseeded(slice(0, 1), num))
        super().__init__(self.rows, tuple(self._first[0].shape[1:]), self._first[0].dtype)

    @property
    def targets(self) -> "LoadedTargets":
        """Those of these examples."""
        assert self._first[1] is not None
        return LoadedTargets(self, self._first[1])

    def fetch(self, request: Tensor) -> Batch:
        """See `Source.fetch`.

        Raises:
            InputError: an example cannot be made, is not finite, or is not as the first.
        """
        batch = self._made(request)
        for kind, found, first in zip(("inputs", "targets"), batch, self._first, strict=True):
            if found is None or first is None:
                continue
            if found.dtype != first.dtype or found.shape != (len(request), *first.shape[1:]):
                message = f"are {_described(found)}, those of the first {_described(first)}"
                raise InputError(f"{kind} of {self._names(request)} {message}; they must be equal")
            if not found.isfinite().all():
                raise InputError(f"{kind} of {self._names(request)} are NaN, infinite or too large for float32")
        inputs, targets = batch
        if targets is not None and (num := self.recipe.num_classes) is not None:
            low, high = map(int, targets.aminmax())
            if low < 0 or high >= num:
                wrong = f"a label among {self._names(request)} is {low if low < 0 else high}"
                raise InputError(f"{wrong}; with {num} classes, labels run from 0 to {num - 1}")
        return inputs.to(self.dtype), targets

    def _made(self, request: Tensor) -> Batch:
        examples = []
        with _generators_restored():
            for row, seed in request.tolist():
                number = int(self.rows[row])
                _seed(derive_seed(seed, number))
                try:
                    examples.append(self.recipe.dataset[number])
                except InputError:
                    raise
                except Exception as error:
                    raise InputError(
                        f"example {number} cannot be loaded: {type(error).__name__}: {one_line(error)}"
                    ) from error
            try:
                batch = self.recipe.collate(examples)
            except Exception as error:
                raise InputError(
                    f"{self._names(request)} are no batch: {type(error).__name__}: {one_line(error)}"
                ) from error
        if not self.recipe.has_targets:
            return _numbers(batch, torch.uint8), None
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise InputError(f"an example must be a pair, inputs and target; a batch of them is a {_described(batch)}")
        return _numbers(batch[0], torch.uint8), _numbers(batch[1], torch.int64)

    def _names(self, request: Tensor) -> str:
        numbers = self.rows[request[:, 0]].tolist()
        return f"examples {', '.join(map(str, numbers[:5]))}{', ...' if len(numbers) > 5 else ''}"


class LoadedTargets(Source):
    """The targets of examples that are loaded, [n, ...] int64 or float32.

    Args:
        examples: whose targets they are.
        first: the first of them, [1, ...].
    """

    def __init__(self, examples: Loaded, first: Tensor):
        super().__init__(examples.rows, tuple(first.shape[1:]), first.dtype)
        self.examples, self.workers = examples, examples.workers

    def taken(self, rows: Tensor) -> "LoadedTargets":
        """See `Source.taken`."""
        return self.examples.taken(rows).targets

    def fetch(self, request: Tensor) -> Batch:
        """See `Source.fetch`."""
        targets = self.examples.fetch(request)[1]
        assert targets is not None
        return targets, None


class Stream:
    """Examples of a source, on a device; those that are shown in a planned order come ahead of time.

    Args:
        source: of the examples.
        device: where they are needed.
    """

    def __init__(self, source: Source, device: torch.device):
        self.source, self.device = source, device
        self._planned: Iterator[Batch] = iter(())
        _open_streams.add(self)
        self._asked: tuple[Tensor | slice | None, Batch] = None, (torch.empty(0), None)

    def follow(self, requests: Iterable[Tensor]) -> None:
        """Begins a plan: batches that `show` takes, one after another.

        Args:
            requests: of the batches; see `Source.fetch`.
        """
        self._planned = fetched(self.source, requests)  # what was planned before is closed with its last reference

    def show(self, rows: Tensor) -> None:
        """Takes the next batch of the plan, which is of these rows, [B] int64: `batch` returns it."""
        self._asked = rows, self._moved(next(self._planned))

    def batch(self, rows: Tensor | slice) -> Batch:
        """The batch of these rows that was shown last, or another one, which is fetched now."""
        if rows is not self._asked[0]:
            self._asked = rows, self._moved(self.source.fetch(unseeded(rows, len(self.source))))
        return self._asked[1]

    def close(self) -> None:
        """Ends the processes."""
        self._planned = iter(())

    def _moved(self, batch: Batch) -> Batch:
        inputs, targets = batch
        return self._on_device(inputs), None if targets is None else self._on_device(targets)

    def _on_device(self, numbers: Tensor) -> Tensor:
        if self.device.type == "cuda":  # the copy then does not wait
            numbers = numbers.pin_memory()
        return numbers.to(self.device, non_blocking=True)


_open_streams: "weakref.WeakSet[Stream]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Ends the processes of streams that nobody closed, before multiprocessing waits for them."""
    for stream in list(_open_streams):
        stream.close()


def fetched(source: Source, requests: Iterable[Tensor]) -> Iterator[Batch]:
    """Batches, fetched ahead by the workers of the source, if it has any; these end with the iterator.

    Args:
        source: of the examples.
        requests: see `Source.fetch`; perhaps endless.

    Raises:
        InputError: a batch cannot be made, or a worker died.
    """
    if not source.workers:
        for request in requests:
            yield source.fetch(request)
        return
    assert isinstance(source, Loaded | LoadedTargets)
    recipe = source.recipe if isinstance(source, Loaded) else source.examples.recipe
    loader = data.DataLoader(
        _Batches(source),
        batch_size=None,
        sampler=requests,
        num_workers=source.workers,
        prefetch_factor=recipe.prefetch_factor,
        collate_fn=_as_it_is,
        worker_init_fn=functools.partial(_begin_worker, recipe.on_start),
        multiprocessing_context=recipe.context,
        generator=torch.Generator(),  # else it would draw from the global one
    )
    with _children_unwatched():
        batches = iter(loader)
    try:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, EOFError, OSError) as error:  # the last two: it died as it passed a batch on
                what = f"a process that loads examples has ended: {type(error).__name__}: {one_line(error)}"
                raise InputError(f"{what}; it may have run out of memory, try fewer workers, or none") from None
            if isinstance(batch, str):
                raise InputError(batch)
            yield batch
    finally:
        del batches  # ends the processes


class _Batches(data.Dataset[Any]):
    """What a worker process does: it turns requests into batches, or into a message why not."""

    def __init__(self, source: Source):
        self.source = source

    def __getitem__(self, request: Any) -> Batch | str:
        try:
            return self.source.fetch(request)
        except InputError as error:
            return str(error)


def in_order(num: int, size: int) -> Iterator[Tensor]:
    """Requests of n examples in order, ``size`` at a time; see `Source.fetch`."""
    return (unseeded(rows, num) for rows in torch.arange(num).split(size))


def unseeded(rows: Tensor | slice, num: int) -> Tensor:
    """A request of rows out of n, in which what is drawn is always the same."""
    numbers = torch.arange(*rows.indices(num)) if isinstance(rows, slice) else rows.cpu()
    return torch.stack([numbers, torch.zeros_like(numbers)], 1)


def pieces(numbers: Tensor | Source) -> Iterator[Tensor]:
    """All examples [n, *shape] in order, a bounded number at a time."""
    return iter(numbers.split(max(1, PIECE // max(1, math.prod(numbers.shape[1:])))))


def taken(numbers: Tensor | Source, rows: Tensor) -> Tensor | Source:
    """Some rows [m] of examples [n, *shape]; where these are large, they are not copied."""
    source = kept(numbers) if isinstance(numbers, Tensor) else numbers
    return source.taken(rows) if isinstance(source, Source) else source[rows]


def kept(numbers: Tensor) -> "Tensor | Kept":
    """Examples [n, *shape] that are large, as a source of rows, so that nothing copies them."""
    is_large = numbers.nbytes >= LARGE and numbers.device.type == "cpu" and numbers.dtype in NUMPY_DTYPES
    return Kept(numbers.numpy(), numbers.dtype) if is_large else numbers


def gathered(numbers: Tensor | Source, device: torch.device | str = "cpu") -> Tensor:
    """All examples as one tensor on a device."""
    if isinstance(numbers, Tensor):
        return numbers.to(device)
    whole, start = torch.empty(numbers.shape, dtype=numbers.dtype, device=device), 0
    for piece in pieces(numbers):
        whole[start : start + len(piece)] = piece
        start += len(piece)
    return whole


def placed(inputs: Tensor | Source, device: torch.device, in_memory: bool | None) -> Tensor | Source:
    """Inputs on the device; what is kept elsewhere remains there, unless it fits beside as much again on a GPU."""
    if isinstance(inputs, Kept) and device.type == "cuda" and in_memory is not False:
        num_bytes = math.prod(inputs.shape) * inputs.dtype.itemsize
        if in_memory or 2 * num_bytes <= torch.cuda.mem_get_info(device)[0]:
            return gathered(inputs, device)
    return inputs.to(device) if isinstance(inputs, Tensor) else inputs


def _numbers(batch: Any, kept: torch.dtype) -> Tensor:
    """A batch as numbers [B, ...] of one dtype, or else float32; for targets, integers are that dtype."""
    if isinstance(batch, np.ndarray):
        batch = torch.from_numpy(batch)
    if not isinstance(batch, Tensor) or batch.is_complex() or not batch.ndim:
        raise InputError(f"inputs and targets must become tensors of numbers, got {_described(batch)}")
    is_kept = batch.dtype == kept or (kept == torch.int64 and not batch.is_floating_point())
    return batch.detach().to(kept if is_kept else torch.float32)


def _described(thing: Any) -> str:
    return f"{thing.dtype} {tuple(thing.shape[1:])}" if isinstance(thing, Tensor) else type(thing).__name__


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin_worker(on_start: Callable[[int], None] | None, number: int) -> None:
    # Signals reach the whole process group; the parent finishes its update and ends the workers itself.
    for which in ending_signals():
        signal.signal(which, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))  # which ends it
    if on_start is not None:
        on_start(number)


@contextmanager
def _children_unwatched() -> Iterator[None]:
    """Leaves SIGCHLD alone: torch would raise an error wherever the program is when a worker ends."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGCHLD, handler)


def _seed(seed: int) -> None:
    """Seeds the global generators of the CPU."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)


@contextmanager
def _generators_restored() -> Iterator[None]:
    """Puts the global generators of the CPU back where they were."""
    python, numpy, of_torch = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.default_generator.set_state(of_torch)


def _give_back(array: NDArray[Any]) -> None:
    """Lets go of the pages of a file that is mapped for reading; they remain in the system's cache."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and not array.flags.writeable and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
