"""Observations drawn from their space, to try an agent with where there is no environment."""

from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from numpy.typing import NDArray

from rlcore.distributions import WIDEST
from rlcore.errors import InputError
from rlcore.game import openings
from rlcore.spaces import ACTION_MASK, Inputs, Planes, Positions


def examples(space: Space[Any], num: int, seed: int) -> Any:
    """Observations of a space, as an environment gives them: arrays [num, *O], or a dict of them.

    Numbers are uniform between bounds, and standard normal where there are none; inputs of a data set are normal around
    its mean; positions are of games of random moves. A mask allows at least one action.

    Args:
        space: of one observation.
        num: rows.
        seed: of all that is drawn.

    Raises:
        InputError: the space is none that agents read.
    """
    rng = np.random.default_rng(seed)
    if not isinstance(space, Dict):
        return _drawn(space, num, rng)
    drawn = {key: _drawn(part, num, rng) for key, part in space.items()}
    if ACTION_MASK in drawn:
        mask = drawn[ACTION_MASK].astype(bool)
        mask[~mask.any(axis=1), 0] = True
        drawn[ACTION_MASK] = mask
    return drawn


def _drawn(space: Space[Any], num: int, rng: np.random.Generator) -> NDArray[Any]:
    if isinstance(space, (Positions, Planes)):
        game = space.game
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        moves = torch.as_tensor(rng.integers(min(game.max_moves, 100), size=num))
        state = openings(game, moves, int(moves.max()), generator)
        return (state if isinstance(space, Positions) else game.observe(state)).numpy()
    if space.shape is None or space.dtype is None:
        raise InputError(f"no observations can be drawn from {space}")
    shape = (num, *space.shape)
    if isinstance(space, Inputs) and space.dtype.kind == "f":
        return (rng.normal(size=shape) * space.scale + space.shift).astype(space.dtype)
    if isinstance(space, Discrete):
        return rng.integers(space.start, space.start + space.n, shape)
    if isinstance(space, MultiDiscrete):
        return rng.integers(space.start, space.start + space.nvec, shape)
    if not isinstance(space, Box):
        return rng.integers(2, size=shape).astype(space.dtype)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        bounded = high - low <= WIDEST
        between = low + np.where(bounded, high - low, 0.0) * rng.random(shape)
    numbers = np.where(bounded, between, rng.normal(size=shape).clip(low, high))
    return (numbers if space.dtype.kind == "f" else numbers.round()).astype(space.dtype)
