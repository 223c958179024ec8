"""Several seeds of a config: whether they end alike."""

from collections.abc import Mapping, Sequence

import numpy as np

from rlcore.doctor.examination import Finding, Unseen
from rlcore.runs.curves import Curve

FEWEST = 3
"""Seeds that can be said to disagree."""


def seeds_disagree(runs: Sequence[Mapping[str, Curve]], figure: str) -> Finding | None:
    """Seeds of a config end in two groups rather than around one value.

    The largest gap between neighbours takes more of their range than ends that are drawn evenly would leave in one case
    of twenty (the n - 2 inner ones all lie outside any of the n - 1 gaps); the range is not small, and the gap is
    larger than what evaluations of one run differ by.

    Args:
        runs: the figures of each seed.
        figure: by which they are compared, as ``eval/return``.

    Raises:
        Unseen: fewer than three have it.
    """
    curves = [run[figure] for run in runs if figure in run]
    if len(curves) < FEWEST:
        raise Unseen(f"{len(curves)} runs have {figure}, {FEWEST} are needed")
    ends = np.sort([curve.last for curve in curves])
    noise = float(np.median([np.ptp(curve.value[-max(2, len(curve.value) // 3) :]) for curve in curves]))
    gaps, extent = np.diff(ends), float(np.ptp(ends))
    if extent <= 0.2 * np.abs(ends).max() or gaps.max() < 2 * noise:
        return None
    if len(gaps) * (1 - gaps.max() / extent) ** (len(ends) - 2) > 0.05:
        return None
    groups = np.split(ends, [int(gaps.argmax()) + 1])
    low, high = (f"{len(group)} around {np.median(group):.4g}" for group in groups)
    evidence = f"{figure} of {len(ends)} seeds ends in two groups, {low} and {high}"
    remedy = "more exploration at first (agent.entropy_coefficient, agent.exploration_fraction), and report every seed"
    return Finding(evidence, remedy)
