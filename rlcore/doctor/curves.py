"""The figures of a run over its steps: read from its events, or kept while it trains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlcore import settings
from rlcore.errors import InputError
from rlcore.loggers import Logger
from rlcore.loggers.csv import FILE, STEP

EVENTS = "events.out.tfevents*"
MOST_POINTS = 2000
"""Points of a figure that are kept while a run trains; then every second one is dropped."""


class Curve(NamedTuple):
    """A figure over the steps of a run; NaN and infinities are left out."""

    steps: NDArray[np.float64]  # [n]
    values: NDArray[np.float64]  # [n], n >= 1

    @property
    def first(self) -> float:
        """The median over the first twentieth of its steps."""
        return float(np.median(self.values[self.steps <= self.steps[0] + np.ptp(self.steps) / 20]))

    @property
    def last(self) -> float:
        """The median over the last third of its steps."""
        return float(np.median(self.values[self.steps >= self.steps[-1] - np.ptp(self.steps) / 3]))

    @property
    def highest(self) -> float:
        """The largest value."""
        return float(self.values.max())


class Curves(Logger):
    """Keeps the figures of a run that trains: a logger in memory, whose content a checkpoint can hold."""

    def __init__(self) -> None:
        super().__init__(settings.Settings(), Path())
        self.points: dict[str, list[tuple[float, float]]] = {}

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each figure but the times, which no other run repeats."""
        for tag, value in values.items():
            if tag.startswith("time/"):
                continue
            points = self.points.setdefault(tag, [])
            points.append((float(step), float(value)))
            if len(points) > MOST_POINTS:
                self.points[tag] = points[::2]

    def curves(self) -> dict[str, Curve]:
        """Every figure by tag."""
        return curves_of(self.points)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs."""
        return {"points": self.points}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.points = {str(tag): [(float(x), float(y)) for x, y in points] for tag, points in saved["points"].items()}


def read_curves(folder: Path) -> dict[str, Curve]:
    """The figures of a run by tag, from TensorBoard's events or else the table of the logger csv.

    Raises:
        InputError: the run has neither, or they hold no figures.
    """
    if any(folder.glob(EVENTS)):
        points = _from_events(folder)
    elif (folder / FILE).is_file():
        points = _from_table(folder / FILE)
    else:
        raise InputError(
            f"{folder} has no events: neither {EVENTS} nor {FILE}; train it with trainer.loggers=[tensorboard] or [csv]"
        )
    if not points:
        raise InputError(f"the events in {folder} hold no figures: it logged nothing; train it longer")
    return curves_of(points)


def curves_of(points: Mapping[str, list[tuple[float, float]]]) -> dict[str, Curve]:
    """Points (step, value) by tag as curves; a tag without a finite value is left out."""
    finite = {tag: [point for point in found if np.isfinite(point[1])] for tag, found in points.items()}
    return {tag: Curve(*np.array(sorted(found)).T) for tag, found in finite.items() if found}


def _from_events(folder: Path) -> dict[str, list[tuple[float, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sizes = {"scalars": 0, "tensors": 1, "images": 1, "histograms": 1, "compressedHistograms": 1, "audio": 1}
    events: Any = EventAccumulator(str(folder), size_guidance=sizes).Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def _from_table(path: Path) -> dict[str, list[tuple[float, float]]]:
    import csv

    points: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for tag, value in row.items():
                if tag != STEP and value:
                    points.setdefault(tag, []).append((float(row[STEP]), float(value)))
    return points
