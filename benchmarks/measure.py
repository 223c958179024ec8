"""Timing that is fair on a machine whose speed varies: alternating blocks of the rivals, process CPU time, ratios."""

import statistics
import time
from collections.abc import Callable

Block = Callable[[], int]
"""Does one block of work and returns its number of environment steps, samples or simulations."""


def interleave(
    rivals: dict[str, Block], num_blocks: int = 15, warmup: int = 1, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Steps per second of each rival by a clock, say process CPU time, one figure per block; the rivals alternate."""
    speeds: dict[str, list[float]] = {name: [] for name in rivals}
    for block in range(warmup + num_blocks):
        for name, run in rivals.items():
            start = clock()
            steps = run()
            seconds = clock() - start
            if block >= warmup:
                speeds[name].append(steps / seconds)
    return speeds


def table(speeds: dict[str, list[float]], ours: str, unit: str = "steps/s") -> str:
    """Best and median speed of each, and the ratio of ours to it: of the bests, and the median over the rounds."""
    lines = [f"{'':28s}{'best ' + unit:>16s}{'median':>12s}{'ours/it best':>14s}{'median':>9s}"]
    for name, theirs in speeds.items():
        ratios = [a / b for a, b in zip(speeds[ours], theirs, strict=True)]
        lines.append(
            f"{name:28s}{max(theirs):16,.0f}{statistics.median(theirs):12,.0f}"
            f"{max(speeds[ours]) / max(theirs):14.2f}{statistics.median(ratios):9.2f}"
        )
    return "\n".join(lines)
