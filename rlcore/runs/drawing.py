"""Figures of runs: curves over steps and seconds, performance profiles; matplotlib is imported by who asks for one."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter
from numpy.typing import NDArray

from rlcore.errors import InputError
from rlcore.runs.aggregates import curve_interval, performance_profile
from rlcore.runs.comparison import Comparison, Scored
from rlcore.runs.curves import Curve

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's (2008), which the colour-blind tell apart too."""
POINTS = 200
"""At which curves are drawn."""
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#333333",
    "axes.grid": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": "#e6e6e6",
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "legend.frameon": False,
}


def colour(number: int) -> str:
    """The colour of a side or a run."""
    return COLOURS[number % len(COLOURS)]


def draw_comparison(found: Comparison) -> Figure:
    """A row for each environment: the figure over steps, over seconds, and the shares of runs above each score."""
    environments = found.sides[0].environments
    with rc_context(STYLE):
        figure = Figure(figsize=(12, 3.1 * len(environments) + 0.5), layout="constrained")
        panels = figure.subplots(len(environments), 3, squeeze=False)
        for row, environment in zip(panels, environments, strict=True):
            steps, seconds, profile = row
            steps.set(title=environment, xlabel="environment steps", ylabel=found.figure)
            seconds.set(xlabel="seconds of collecting and learning")
            profile.set(xlabel=f"{found.figure}, {found.of}", ylabel="share of runs above")
            pooled = np.concatenate([side.scores(environment) for side in found.sides])
            margin = 0.05 * (pooled.max() - pooled.min()) or 0.05 * abs(pooled[0]) or 1.0
            thresholds = np.linspace(pooled.min() - margin, pooled.max() + margin, POINTS)
            for number, side in enumerate(found.sides):
                runs = [run for run in side.runs if run.environment == environment and len(run.curve.step)]
                if runs:
                    _band(steps, [run.curve.step for run in runs], runs, number)
                timed = [run for run in runs if run.seconds is not None]
                if timed:
                    _band(seconds, [np.asarray(run.seconds) for run in timed], timed, number)
                share, low, high = performance_profile(side.scores(environment), thresholds)
                profile.fill_between(thresholds, low, high, color=colour(number), alpha=0.13, linewidth=0, step="post")
                profile.step(thresholds, share, where="post", color=colour(number), linewidth=1.8)
            profile.set_ylim(-0.02, 1.02)
            profile.yaxis.set_major_formatter(PercentFormatter(1.0))
            steps.xaxis.set_major_formatter(EngFormatter(sep=""))
            steps.set_xlim(left=0)
            seconds.set_xlim(left=0)
        lines = [
            panels[0][2].plot([], [], color=colour(number), linewidth=2.5)[0] for number in range(len(found.sides))
        ]
        labels = [f"{side.name}, {_seeds(len(side.runs))}" for side in found.sides]
        figure.legend(lines, labels, loc="outside lower center", ncols=min(4, len(lines)), fontsize=10)
    return figure


def draw_curves(
    curves: Sequence[tuple[str, Sequence[tuple[str, Curve, NDArray[np.float64]]]]], xlabel: str, smoothing: float
) -> Figure:
    """A panel for each tag, a line for each run.

    Args:
        curves: tags, and of each the runs' names, curves, and what they are drawn over, [K].
        xlabel: what that is.
        smoothing: see `smoothed`; where it is not 0, the values themselves are drawn faintly.
    """
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    names = list(dict.fromkeys(name for _, runs in curves for name, _, _ in runs))
    with rc_context(STYLE):
        width = 8 if columns == 1 else 4.3 * columns
        figure = Figure(figsize=(width, (4 if rows == columns == 1 else 2.7 * rows) + 0.3), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes, (tag, runs) in zip(panels.flat, curves, strict=False):
            axes.set(title=tag)
            for name, curve, x in runs:
                shade = colour(names.index(name))
                if smoothing:
                    axes.plot(x, curve.value, color=shade, alpha=0.25, linewidth=0.8)
                mark = "." if len(x) < 25 else None
                axes.plot(x, smoothed(curve.value, smoothing), color=shade, linewidth=1.5, marker=mark)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        for axes in panels.flat[max(0, len(curves) - columns) : len(curves)]:  # the lowest of each column
            axes.set_xlabel(xlabel)
        for axes in panels.flat[len(curves) :]:
            axes.axis("off")
        lines = [panels[0][0].plot([], [], color=colour(number), linewidth=2.5)[0] for number in range(len(names))]
        figure.legend(lines, names, loc="outside lower center", ncols=2 if columns > 1 else 1)
    return figure


def smoothed(values: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """TensorBoard's smoothing: y_k = m_k / (1 - w^k), m_k = w m_(k-1) + (1 - w) x_k; values that are not finite stay.

    Args:
        values: x, [K].
        weight: w in [0, 1); 0 changes nothing.
    """
    out, mean, count = values.copy(), 0.0, 0
    for k, value in enumerate(values):
        if np.isfinite(value):
            mean, count = weight * mean + (1 - weight) * value, count + 1
            out[k] = mean / (1 - weight**count)
    return out


def save(figure: Figure, path: str, option: str) -> Path:
    """Writes a figure into a file, whose ending says the format.

    Raises:
        InputError: it cannot be written, or there is no such format.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:  # ValueError: of a format that there is not
        raise InputError(f"{option} {path}: {error}") from error
    return Path(path)


def _band(axes: Any, xs: Sequence[NDArray[Any]], runs: Sequence[Scored], number: int) -> None:
    """The interquartile mean of runs, and its interval, where all of them have values; a faint line for each run."""
    for x, run in zip(xs, runs, strict=True):
        axes.plot(x, run.curve.value, color=colour(number), alpha=0.18, linewidth=0.7)
    first, last = max(x[0] for x in xs), min(x[-1] for x in xs)
    if first > last:
        return
    grid = np.linspace(first, last, POINTS)
    values = np.stack([np.interp(grid, x, run.curve.value) for x, run in zip(xs, runs, strict=True)])
    mean, low, high = curve_interval([values])
    axes.fill_between(grid, low, high, color=colour(number), alpha=0.18, linewidth=0)
    axes.plot(grid, mean, color=colour(number), linewidth=1.8)


def _seeds(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"
