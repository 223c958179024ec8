"""Which of several sides is better, and how sure one can be: `compare`, what ``rlcore compare`` prints.

A side is a run, or a folder of runs that differ in their seeds; in several environments, if all sides are.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid

from rlcore.errors import InputError
from rlcore.registry import did_you_mean
from rlcore.runs.aggregates import (
    MOST_SEEDS,
    POWER,
    Interval,
    difference,
    iqm_interval,
    probability_of_improvement,
    seeds_needed,
)
from rlcore.runs.curves import SPEED, Curve, read_curves, seconds_of
from rlcore.runs.status import Status, differences, environment_of, is_less_better, runs_of, settings_of, status_of
from rlcore.settings import flatten

Of = Literal["last", "best", "area"]
FEWEST = 4
"""Seeds a side with which a winner may be named: three are all on one side of three others once in ten times."""
NO_CURVE = Curve(np.empty(0, np.int64), np.empty(0))


class Scored(NamedTuple):
    """A run, and the figure that it is compared by."""

    path: Path
    environment: str
    seed: int
    score: float
    curve: Curve
    """The figure over the steps, as far as it is compared; empty of a run that logged nothing."""
    seconds: NDArray[np.float64] | None
    """[K], of collecting and learning until each point of the curve; None if the run logged no speed."""


@dataclass(frozen=True)
class Side:
    """Runs that differ in their seeds."""

    name: str
    runs: list[Scored]
    """By environment, then by seed."""

    def scores(self, environment: str) -> NDArray[np.float64]:
        """The scores of its runs in an environment, [n] by seed."""
        return np.array([run.score for run in self.runs if run.environment == environment])

    def seeds(self, environment: str) -> list[int]:
        """Their seeds, ascending."""
        return [run.seed for run in self.runs if run.environment == environment]

    @property
    def environments(self) -> list[str]:
        """Those of its runs, in order, each once."""
        return list(dict.fromkeys(run.environment for run in self.runs))


@dataclass(frozen=True)
class Against:
    """A side beside the first one."""

    name: str
    difference: Interval
    """Its interquartile mean less that of the first side."""
    improvement: Interval
    """The probability that a run of it is better than one of the first side."""
    paired: bool
    """Whether runs of one seed were compared."""
    correlation: float | None
    """Of the scores of pairs: pairs help if it is well above 0; None where there are none, or no spread."""
    winner: str | None
    """The name of the better side; None if the interval of the difference holds 0, or the seeds are too few."""
    more_seeds: int | None
    """Without a winner: how many more each side would need, by `seeds_needed`; None if that is too many to say."""


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds."""

    figure: str
    """Tag of the figure."""
    of: Of
    """What of it: see `compare`."""
    at: str | None
    """Where it was cut: see `compare`."""
    less_is_better: bool
    """Of the figure."""
    scaled: bool
    """Whether scores of several environments were put on one scale each, from 0, the lowest run's, to 1."""
    sides: list[Side]
    iqm: list[Interval]
    """The interquartile mean of each side, with its interval."""
    against: list[Against]
    """Each side but the first, beside that one."""
    notes: list[str] = field(default_factory=list)
    """What one should know of the runs, a line each."""

    def verdict(self, other: Against) -> str:
        """The line about a side beside the first one."""
        first, what = self.sides[0], f"in {self.figure}"
        if other.winner is not None:
            return f"winner of {first.name} and {other.name}: {other.winner}, {what}"
        few = min(len(side.scores(one)) for side in self.sides for one in side.environments)
        start = f"no winner between {first.name} and {other.name} {what}"
        if few < 2:
            return f"{start}: one seed says nothing of the spread; train more of them: --seeds 5"
        if other.more_seeds is None:
            return f"{start}: the difference is about zero; even {MOST_SEEDS:,} seeds each would not tell it from that"
        sure = f"if the difference is what it seems ({POWER:.0%} power)"
        return f"{start}: about {other.more_seeds:,} more seeds of each would be needed, {sure}"


def compare(
    *sides: str | Path,
    by: str | None = None,
    of: Of = "last",
    at: str | int | None = None,
    better: Literal["less", "more"] | None = None,
    paired: bool = True,
) -> Comparison:
    """Compares runs, or folders of runs of several seeds, with the first of them.

    Args:
        sides: two or more: a run's folder, a folder that holds runs, or a pattern of these.
        by: tag of the figure; None: the one that the runs are judged by, as ``eval/return``.
        of: the figure's ``last`` value; its ``best``, which favours noise; or ``area``, its mean over the steps, by
            trapezoids, up to the step that all runs reached.
        at: only what came until then counts: environment steps, or with an ``s`` seconds of collecting and learning,
            as ``"60s"``.
        better: whether ``less`` or ``more`` of the figure is; None: as the runs say.
        paired: compare runs of one seed, where both sides have the same seeds and environments.

    Raises:
        InputError: a side holds no runs, a run has no such figure, the sides are of different environments, or it is
            not known whether less is better.
    """
    if len(sides) < 2:
        raise InputError("compare: needs two sides or more: runs, or folders of runs")
    if len({Path(side).resolve() for side in sides}) < len(sides):
        raise InputError("compare: a side is named twice")
    found = [[(path, status_of(path), settings_of(path)) for path in runs_of(side)] for side in sides]
    tag = by or _judged_by([run for side in found for run in side])
    less = better == "less" if better else _direction(tag, [run for side in found for run in side])
    names, notes = _names(sides), []
    limit = _limit(at)
    made = [[_read(*run, tag, limit, by is None) for run in side] for side in found]
    ends = [int(run.curve.step[-1]) for side in made for run in side if len(run.curve.step)]
    scored = []
    for name, runs, read in zip(names, found, made, strict=True):
        notes += _notes(name, runs)
        one = [run._replace(score=_score(run, of, min(ends, default=0), less)) for run in read]
        scored.append(Side(name, sorted(one, key=lambda run: (run.environment, run.seed, run.path))))
    _require_same_environments(scored)
    in_seconds = limit is not None and limit[1]
    if of != "area" and not in_seconds and len(ends) and max(ends) > 1.05 * min(ends):
        remedy = "; --at compares them at the same step" if at is None else ", up to --at"
        notes.append(f"the runs end between step {min(ends):,} and {max(ends):,}{remedy}")
    settings = [[one for _, _, one in runs] for runs in found]
    return _compared(tag, of, None if at is None else str(at), less, scored, settings, paired, notes)


def _compared(
    tag: str,
    of: Of,
    at: str | None,
    less: bool,
    sides: list[Side],
    settings: list[list[dict[str, Any]]],
    paired: bool,
    notes: list[str],
) -> Comparison:
    environments = sides[0].environments
    scores = [[side.scores(environment) for environment in environments] for side in sides]
    scaled = len(environments) > 1
    if scaled:
        lows = [min(side[k].min() for side in scores) for k in range(len(environments))]
        ranges = [max(side[k].max() for side in scores) - low or 1.0 for k, low in enumerate(lows)]
        scores = [[(one - low) / size for one, low, size in zip(side, lows, ranges, strict=True)] for side in scores]
    first, sign = scores[0], -1 if less else 1
    against = []
    for other, theirs, given in zip(sides[1:], scores[1:], settings[1:], strict=True):
        alike = _environments_alike(settings[0], given)
        if not alike:
            notes.append(f"{sides[0].name} and {other.name} have other settings of the environment: not paired")
        is_paired = paired and alike and _can_pair(sides[0], other)
        estimate = difference(theirs, first, is_paired)
        improvement = probability_of_improvement([sign * one for one in theirs], [sign * one for one in first])
        sizes = [len(one) for side in (first, theirs) for one in side]
        apart = estimate.interval.low > 0 or estimate.interval.high < 0
        winner = more = None
        if apart and min(sizes) >= FEWEST:
            winner = other.name if sign * estimate.interval.value > 0 else sides[0].name
        else:
            num_seeds = len(sizes) / sum(1 / size for size in sizes)
            needed = seeds_needed(estimate.interval.value, estimate.standard_error, num_seeds)
            more = None if needed is None else max(needed, FEWEST) - math.floor(num_seeds)
            more = more if more is None else max(more, 1)
        correlation = _correlation(first, theirs) if is_paired else None
        against.append(Against(other.name, estimate.interval, improvement, is_paired, correlation, winner, more))
    few = min(len(one) for side in scores for one in side)
    if 1 < few <= FEWEST:
        notes.append(f"with {few} seeds the intervals hold the truth less often than 95 %; five or more are better")
    return Comparison(tag, of, at, less, scaled, sides, [iqm_interval(side) for side in scores], against, notes)


def _judged_by(runs: list[tuple[Path, Status, dict[str, Any]]]) -> str:
    """The figure that all runs say they are judged by."""
    for path, status, settings in runs:
        trainer = settings.get("trainer")
        if isinstance(trainer, dict) and trainer.get("eval_every", "auto") is None:
            raise InputError(
                f"{path} has no evaluations (trainer.eval_every: null); name a figure: --by rollout/return"
            )
        if status.figure is None:
            raise InputError(f"{path} does not say what it is judged by; name a figure: --by eval/accuracy")
    figures = {status.figure: path for path, status, _ in runs}
    if len(figures) > 1:
        (tag, path), (other, beside), *_ = figures.items()
        raise InputError(f"{path} is judged by {tag}, {beside} by {other}; name a figure: --by {tag}")
    return str(next(iter(figures)))


def _direction(tag: str, runs: list[tuple[Path, Status, dict[str, Any]]]) -> bool:
    """Whether less of a figure is better, as the runs say it."""
    said = {is_less_better(tag, status, settings) for _, status, settings in runs} - {None}
    if len(said) != 1:
        what = "do not say whether" if not said else "do not agree whether"
        raise InputError(f"the runs {what} less of {tag} is better; say it: --better less, or --better more")
    return bool(said.pop())


def _limit(at: str | int | None) -> tuple[float, bool] | None:
    """A number of steps, or of seconds, and whether it is seconds."""
    if at is None:
        return None
    text = str(at).strip().replace("_", "")
    try:
        limit = float(text.removesuffix("s"))
    except ValueError:
        limit = math.nan
    if not 0 < limit < math.inf:
        raise InputError(f"--at: expected steps, as 50_000, or seconds, as 60s; got {at!r}")
    return limit, text.endswith("s")


def _read(
    run: Path, status: Status, settings: dict[str, Any], tag: str, limit: tuple[float, bool] | None, is_default: bool
) -> Scored:
    """A run with its figure over the steps, cut at the limit, and the last value as its score."""
    curves = read_curves(run, lambda one: one in (tag, SPEED))
    scored = Scored(run, environment_of(settings), _seed(settings), math.nan, NO_CURVE, None)
    if tag not in curves:
        if (last := status.figures.get(tag)) is not None and limit is None:
            return scored._replace(score=last)
        if is_default:
            raise InputError(f"{run} has no evaluations yet ({status.state}): it logged no {tag}")
        names = sorted({*read_curves(run), *status.figures})
        raise InputError(f"{run} has no figure {tag!r}{did_you_mean(tag, names)}; it has {', '.join(names) or 'none'}")
    curve = curves[tag]
    seconds = seconds_of(curves[SPEED], curve.step) if SPEED in curves else None
    most, in_seconds = limit or (math.inf, False)
    if in_seconds and seconds is None:
        raise InputError(f"{run} logged no {SPEED}, by which seconds are known; give --at in steps")
    x = seconds if in_seconds and seconds is not None else curve.step
    end = int(np.searchsorted(x, most, side="right"))
    if not end:
        raise InputError(f"{run} has its first {tag} at step {curve.step[0]:,}, after --at")
    cut = Curve(curve.step[:end], curve.value[:end])
    return scored._replace(score=float(cut.value[-1]), curve=cut, seconds=None if seconds is None else seconds[:end])


def _score(run: Scored, of: Of, end: int, less: bool) -> float:
    """The number that a run is compared by; areas are those until the step ``end``."""
    curve, score = run.curve.until(end) if of == "area" else run.curve, run.score
    if of != "last" and not len(curve.step):
        raise InputError(f"{run.path} has no curve of which to take the {of}: it logged none, or begins too late")
    if of == "best":
        score = float(curve.value.min() if less else curve.value.max())
    elif of == "area":
        span = int(curve.step[-1] - curve.step[0])
        score = float(trapezoid(curve.value, curve.step)) / span if span else float(curve.value[0])
    if not math.isfinite(score):
        raise InputError(f"{run.path}: the figure is {score}; leave the run out, or compare earlier: --at STEPS")
    return score


def _names(sides: Sequence[str | Path]) -> list[str]:
    """What tells the sides apart: their paths without the folders that they have in common."""
    parts = [Path(os.path.normpath(side)).parts for side in sides]
    levels = zip(*(one[:-1] for one in parts), strict=False)
    common = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    return ["/".join(one[common:]) for one in parts]


def _seed(settings: dict[str, Any]) -> int:
    seed = settings.get("seed", 1)
    return seed if isinstance(seed, int) else 1


def _notes(name: str, runs: list[tuple[Path, Status, dict[str, Any]]]) -> list[str]:
    """Lines about runs that are not done, and about settings in which runs of one environment differ."""
    notes = []
    undone = [status for _, status, _ in runs if status.state != "done"]
    if undone:
        which = ", ".join(f"{status.path.name} {status.state}" for status in undone)
        notes.append(f"{name}: {len(undone)} of {len(runs)} runs are not done: {which}")
    by_environment: dict[str, list[dict[str, Any]]] = {}
    for _, _, settings in runs:
        by_environment.setdefault(environment_of(settings), []).append(settings)
    changed = dict.fromkeys(key for settings in by_environment.values() for key in differences(settings))
    if changed:
        notes.append(f"{name}: its runs differ in {', '.join(changed)}")
    return notes


def _require_same_environments(sides: list[Side]) -> None:
    first = sides[0]
    for side in sides[1:]:
        if set(side.environments) != set(first.environments):
            both = f"{first.name} is of {', '.join(first.environments)}, {side.name} of {', '.join(side.environments)}"
            raise InputError(f"different environments: {both}; compare runs of the same ones")


def _environments_alike(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> bool:
    """Whether two sides have the same settings of their environments, but for how many there are."""
    kinds = []
    for side in (first, second):
        flats = [flatten({key: one.get(key) for key in ("env", "eval_env")}) for one in side]
        kinds.append({repr(sorted((k, v) for k, v in flat.items() if k != "env.num_envs")) for flat in flats})
    return kinds[0] == kinds[1]


def _can_pair(first: Side, second: Side) -> bool:
    """Whether both have one run of each of the same seeds, two or more, in every environment."""
    seeds = [(first.seeds(one), second.seeds(one)) for one in first.environments]
    return all(a == b and len(a) == len(set(a)) > 1 for a, b in seeds)


def _correlation(first: list[NDArray[np.float64]], second: list[NDArray[np.float64]]) -> float | None:
    """Of pairs within their environments."""
    a, b = (np.concatenate([one - one.mean() for one in side]) for side in (first, second))
    size = math.sqrt(float((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size > 0 else None
