"""Random generators: a seed for each purpose, and the state of all of them."""

import contextlib
import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlcore.checkpoint import restored, restored_number

MT19937_WORDS = 624
"""In the state of numpy's generator."""
TRAINING, EVALUATION, CLOSING, ACTING, WORKER = range(5)
"""Purposes of a seed, whose random streams are independent.

An agent draws from the global generators, an environment from its own. Two torch generators with the same seed give the
same numbers, and an environment that draws at the agent's rate would show it its own exploration noise: hence ACTING.
Initial weights are drawn once, with TRAINING's seed. WORKER is for the global generators of worker processes.
"""


def derive_seed(seed: int, *purpose: int) -> int:
    """A seed for one purpose, in [0, 2^31), independent of those for other purposes and of neighbouring seeds."""
    return int(np.random.SeedSequence([seed, *purpose]).generate_state(1)[0] >> 1)


def seed_everything(seed: int) -> None:
    """Seeds every global random generator."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """The state of every global random generator: Python's, numpy's, torch's on each device."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 (users' environments may draw from it)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore_rng_state(saved: dict[str, Any]) -> None:
    """Restores what `rng_state` returned."""
    random.setstate(saved["python"])
    name, keys, position, has_gauss, gauss = saved["numpy"]
    keys = restored(
        keys.cpu(), torch.zeros(MT19937_WORDS, dtype=torch.int64), "numpy's generator", low=0, high=2**32 - 1
    )
    restored_number(position, "numpy's generator", high=MT19937_WORDS)  # numpy reads there, wherever that is
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    torch.set_rng_state(saved["torch"].cpu())
    for index, state in enumerate(saved["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state.cpu(), index)


def rewinder(generators: Iterable[torch.Generator]) -> Callable[[], None]:
    """Notes where every global generator is, and some others; called, it puts all of them back there."""
    rng, states = rng_state(), [(generator, generator.get_state()) for generator in generators]

    def rewind() -> None:
        restore_rng_state(rng)
        for generator, state in states:
            generator.set_state(state)

    return rewind


def restore_generator(generator: torch.Generator, state: Tensor) -> None:
    """Restores a generator; one on another type of device, which the state does not fit, is seeded by it."""
    here = generator.get_state()
    state = restored(state, here, "the state of a generator", free=0)
    if state.shape == here.shape:
        generator.set_state(state)
    else:
        generator.manual_seed(zlib.crc32(state.numpy().tobytes()))


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's global generator of one device, then restores it; takes 15 us, ``fork_rng`` 200."""
    generator = torch.default_generator
    if device.type == "cuda":
        generator = torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)
