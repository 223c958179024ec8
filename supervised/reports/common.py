"""What reports on data sets have in common."""

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.spaces import scaled_space
from rlcore.supervised.environment import SupervisedEnv

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
