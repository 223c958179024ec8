"""What reports on data sets have in common."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.spaces import scaled_space
from rlcore.supervised.environment import SupervisedEnv
from rlcore.uncertainty import Answers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Ask = Callable[[Tensor], Answers]
"""Maps observations [B, *O] to all answers, [T, B]."""
ROWS_OF_TWO = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
"""The character for an upper and a lower pixel."""


def classified(report: str, env: Environment) -> tuple[SupervisedEnv, tuple[str, ...]]:
    """The environment as a data set of classes, and the class names.

    Raises:
        InputError: it is not one.
    """
    if not isinstance(env, SupervisedEnv) or env.dataset.classes is None or not env.names_classes:
        raise InputError(f"report {report}: needs a data set of classes (env.name=supervised)")
    return env, env.dataset.classes


def seen_shape(env: Environment) -> tuple[int, ...]:
    """The shape of what a network sees of an observation."""
    return scaled_space(env.single_observation_space).shape or ()


def side_by_side(columns: dict[str, dict[str, float]]) -> str:
    """A table of figures, a column each, with the rows of the last one; "-" where a column lacks a figure."""
    keys = list(list(columns.values())[-1])
    width = max(map(len, keys))
    rows = [" " * width + "".join(f"{name:>14}" for name in columns)]
    for key in keys:
        cells = (f"{figures[key]:.4g}" if key in figures else "-" for figures in columns.values())
        rows.append(f"{key:<{width}}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(rows)


def figure_of(num_panels: int, width: float, height: float) -> "tuple[Figure, list[Any]]":
    """A figure of panels in a grid, at most ten per row; width and height are a panel's, in inches."""
    from matplotlib.figure import Figure

    columns = min(num_panels, 10)
    rows = math.ceil(num_panels / columns)
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in panels[num_panels:]:
        unused.set_axis_off()
    return figure, panels[:num_panels]


def terminal_lines(image: Tensor) -> list[str]:
    """An image [H, W] bool as ceil(H / 2) lines of W characters."""
    rows = image.tolist()
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return ["".join(ROWS_OF_TWO[pair] for pair in zip(a, b, strict=True)) for a, b in pairs]
