"""Comparing checkpoints, and counting waits and calls."""

import sys

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Syncs(TorchDispatchMode):
    """Counts what makes the host wait for a device: numbers that are read, and results whose size depends on values.

    Copies to the CPU are none on the CPU, and not seen.
    """

    WAITING = "_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique", "unique"

    def __init__(self):
        super().__init__()
        self.count = 0
        self._lists = _Lists(self)

    def __enter__(self):
        self._lists.__enter__()
        return super().__enter__()

    def __exit__(self, *raised):
        super().__exit__(*raised)
        self._lists.__exit__(*raised)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.__name__.startswith(self.WAITING)
        if func.__name__.startswith(("index.", "index_put")):
            self.count += any(index is not None and index.dtype == torch.bool for index in args[1])
        return func(*args, **(kwargs or {}))


class _Lists(TorchFunctionMode):
    """Tensor.tolist, which reads the CPU's memory past the dispatcher."""

    def __init__(self, syncs):
        super().__init__()
        self.syncs = syncs

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.syncs.count += func is torch.Tensor.tolist
        return func(*args, **(kwargs or {}))


class Calls:
    """Counts the calls of Python functions, which cost more than the arithmetic of small networks."""

    def __enter__(self):
        self.count = 0
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *raised):
        sys.setprofile(None)

    def _seen(self, frame, event, argument):
        self.count += event == "call"


def same(a, b, path=""):
    """Bit for bit, but for the clocks."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            if key not in ("collect_seconds", "learn_seconds", "env_seconds"):
                same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}[{index}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b or (a != a and b != b), path
