"""Comparing checkpoints, and counting waits."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Syncs(TorchDispatchMode):
    """Counts what makes the host wait for a device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.__name__.startswith(("_local_scalar_dense", "nonzero", "is_nonzero", "equal"))
        return func(*args, **(kwargs or {}))


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
