"""Sizes that this machine's memory cannot hold are refused before they are tried."""

import math
import os
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from rlcore.errors import InputError

GIB = 2**30
FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.randperm}
BYTES_PER_NUMBER = 4


def physical_memory() -> float:
    """Bytes of memory of this machine; infinite where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def require_memory(num_bytes: float, what: str) -> None:
    """Raises an InputError if something takes more memory than there is."""
    limit = physical_memory()
    if num_bytes > limit:
        raise InputError(f"{what} takes {num_bytes / GIB:,.4g} GiB of memory; this machine has {limit / GIB:,.4g}")


class BoundedTensors(TorchFunctionMode):
    """A context in which making a tensor that takes more memory than there is raises an InputError at once.

    The system's own answer may come late: it promises memory that it does not have, and ends the process that uses it.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls one of torch's functions."""
        if func in FACTORIES and args:
            sizes = args[0] if isinstance(args[0], (tuple, list)) else args
            numbers = [int(size) for size in sizes if isinstance(size, (int, float)) and math.isfinite(size)]
            require_memory(
                BYTES_PER_NUMBER * math.prod(numbers), f"a tensor of {' x '.join(map(str, numbers))} numbers"
            )
        return func(*args, **(kwargs or {}))
