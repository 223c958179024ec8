"""The figures of a run over its steps: read from its events, or kept while it trains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlcore import settings
from rlcore.errors import InputError
from rlcore.loggers import Logger
from rlcore.runs.curves import Curve, curve_of, read_curves

MOST_POINTS = 2000
"""Points of a figure that are kept while a run trains; then every second one is dropped."""


class Curves(Logger):
    """Keeps the figures of a run that trains: a logger in memory, whose content a checkpoint can hold."""

    def __init__(self) -> None:
        super().__init__(settings.Settings(), Path())
        self.points: dict[str, list[tuple[int, float]]] = {}

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each figure but the times, which no other run repeats."""
        for tag, value in values.items():
            if tag.startswith("time/"):
                continue
            points = self.points.setdefault(tag, [])
            points.append((step, float(value)))
            if len(points) > MOST_POINTS:
                self.points[tag] = points[::2]

    def curves(self) -> dict[str, Curve]:
        """The figures by tag."""
        return finite({tag: curve_of(points) for tag, points in self.points.items()})

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs."""
        return {"points": self.points}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.points = {str(tag): [(int(x), float(y)) for x, y in points] for tag, points in saved["points"].items()}


def read_figures(run: Path) -> dict[str, Curve]:
    """The figures of a run by tag, from TensorBoard's events or else the table of the logger csv.

    Raises:
        InputError: the run has logged none, or they cannot be read.
    """
    if not (found := read_curves(run)):
        raise InputError(
            f"{run} has no events: it logged no figures; train it longer, with trainer.loggers=[tensorboard] or [csv]"
        )
    return finite(found)


def finite(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """The curves without NaN and infinities; those that have nothing else are left out."""
    return {tag: curve.finite for tag, curve in curves.items() if np.isfinite(curve.value).any()}
