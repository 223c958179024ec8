"""The device and the number of threads that torch computes with."""

import re

import torch

from rlcore import distributed
from rlcore.errors import InputError
from rlcore.moved import former_names

NUM_THREADS = torch.get_num_threads()
"""Threads that torch began with: ``OMP_NUM_THREADS``, or one per core."""
SMALL_NETWORK = 200_000
"""Number of parameters up to which one CPU thread is faster than several, or than a GPU."""


def sync_is_costly(device: torch.device) -> bool:
    """Whether reading a number from this device waits for all its pending work."""
    return device.type != "cpu"


def choose_device(name: str) -> tuple[torch.device, str]:
    """The device, and the reason for it.

    Raises:
        InputError: there is no such device.
    """
    if distributed.size() > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        own = torch.device("cuda", distributed.local_rank() % torch.cuda.device_count())
        torch.cuda.set_device(own)
        return own, f"{name}: {torch.cuda.get_device_name(own)}, one for each process as far as there are"
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"auto: {torch.cuda.get_device_name()}"
        return torch.device("cpu"), "auto: no CUDA device"
    if not (found := re.fullmatch(r"cpu|cuda(?::(\d{1,9}))?", name)):
        raise InputError(f"device: must be auto, cpu, cuda or cuda:<number>, got {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name != "cpu" and int(found[1] or 0) >= count:  # before torch reads a number that it has no room for
        raise InputError(f"device: there is no {name}; torch sees {count} CUDA devices; try device=cpu or device=auto")
    return torch.device(name), "as set"


def set_threads(threads: str | int, num_parameters: int) -> str:
    """Sets torch's threads and returns the reason; also flushes denormals, which are slow, to zero."""
    torch.set_flush_denormal(True)
    if isinstance(threads, int):
        torch.set_num_threads(threads)
        return f"torch threads: {threads} (as set)"
    small = num_parameters <= SMALL_NETWORK
    torch.set_num_threads(1 if small else min(8, NUM_THREADS))
    reason = "a network this small is fastest on one" if small else "one per core or OMP_NUM_THREADS, at most 8"
    return f"torch threads: {torch.get_num_threads()} ({num_parameters:,} parameters: {reason})"


__getattr__ = former_names(__name__, {"reading_waits": sync_is_costly})
