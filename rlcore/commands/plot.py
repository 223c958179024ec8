"""``rlcore plot``."""

import fnmatch
from collections.abc import Sequence

import numpy as np

from rlcore.console import make_console
from rlcore.errors import InputError
from rlcore.registry import did_you_mean
from rlcore.runs.curves import SPEED, read_curves, seconds_of
from rlcore.runs.status import runs_of

MOST_PANELS = 12
MOST_LINES = 40


def plot(tag: str, given: Sequence[str], over: str, smoothing: float, out: str) -> int:
    """Draws figures of runs into a file, a panel for each figure and a line for each run.

    Args:
        tag: of the figure, as in TensorBoard, or a pattern: ``eval/*``.
        given: runs, folders of runs, or patterns of these.
        over: ``steps`` or ``seconds``.
        smoothing: weight of what was before, in [0, 1), as in TensorBoard.
        out: the file; its ending says the format.

    Raises:
        InputError: no run has such a figure, there are too many, or the file cannot be written.
    """
    from rlcore.runs.drawing import draw_curves, save

    runs = list(dict.fromkeys(run for one in given for run in runs_of(one)))
    if len(runs) > MOST_LINES:
        raise InputError(f"{len(runs)} runs are too many lines for a figure; name at most {MOST_LINES}")
    read = {run: read_curves(run, lambda one: one == SPEED or fnmatch.fnmatchcase(one, tag)) for run in runs}
    tags = sorted({one for curves in read.values() for one in curves if fnmatch.fnmatchcase(one, tag)})
    if not tags:
        known = sorted({one for run in runs for one in read_curves(run)})
        raise InputError(
            f"no run has a figure {tag!r}{did_you_mean(tag, known)}; they have {', '.join(known) or 'none'}"
        )
    if len(tags) > MOST_PANELS:
        raise InputError(f"{tag!r} matches {len(tags)} figures; at most {MOST_PANELS} fit: {', '.join(tags)}")
    drawn = []
    for one in tags:
        lines = []
        for run, curves in read.items():
            if one in curves:
                curve, x = curves[one], curves[one].step.astype(np.float64)
                if over == "seconds":
                    if SPEED not in curves:
                        raise InputError(f"{run} logged no {SPEED}, by which seconds are known; --over steps")
                    x = seconds_of(curves[SPEED], curve.step)
                lines.append((str(run), curve, x))
        drawn.append((one, lines))
    label = "environment steps" if over == "steps" else "seconds of collecting and learning"
    file = save(draw_curves(drawn, label, smoothing), out, "--out")
    console = make_console()
    for run in (run for run, curves in read.items() if not any(one in curves for one in tags)):
        console.print(f"note: {run} has no figure {tag}", highlight=False)
    console.print(f"file: {file}", highlight=False)
    return 0
