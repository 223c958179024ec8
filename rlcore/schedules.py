"""Schedules: the factor that a setting is multiplied by, as a function of the share of the run that is done."""

import math
from collections.abc import Callable
from typing import Literal

import torch

INITIAL_RATE = "initial_lr"
"""Key of a parameter group's own rate, before any schedule; torch's schedulers use it too."""

Schedule = Literal["constant", "linear", "cosine"]

SCHEDULES: dict[Schedule, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}
"""Name to factor in [0, 1], as a function of ``Rollout.progress`` in [0, 1]."""


def anneal(
    optimizer: torch.optim.Optimizer, learning_rate: float, schedule: Schedule, progress: float, warmup: float = 0.0
) -> float:
    """Sets the step size of an optimizer to ``learning_rate`` times the factor, and returns it.

    Parameter groups that were made with rates of their own keep their ratio to the optimizer's.

    Args:
        optimizer: whose groups are changed.
        learning_rate: before the schedule.
        schedule: of what follows the warm-up.
        progress: share of the run that is done, [0, 1].
        warmup: share of the run in which the factor first rises from 0 to 1 in proportion (Goyal et al. 2017), [0, 1).
    """
    rising = progress < warmup
    factor = progress / warmup if rising else SCHEDULES[schedule]((progress - warmup) / (1 - warmup))
    annealed = learning_rate * factor
    for group in optimizer.param_groups:
        own = group.setdefault(INITIAL_RATE, group["lr"])
        group["lr"] = annealed if own == optimizer.defaults["lr"] else annealed * own / optimizer.defaults["lr"]
    return annealed
