"""What several seeds say together: means that withstand outliers, with intervals that hold for few seeds.

After Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice", with other intervals:
those of the percentile bootstrap are too narrow for few seeds, and have no width where one side won throughout.
docs/compare.md says how often each holds the truth, as `benchmarks/coverage.py` simulates it.

Scores are given by strata, one for each environment: arrays of the figures of its runs, [n_1], ..., [n_K].
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Scores = Sequence[Array]
"""[n_k] for each of K environments."""

DRAWS = 9_999
LEVEL = 0.95
"""Of every interval."""
POWER = 0.8
"""Probability with which as many seeds as are asked for would find a difference, if it is what it seems."""
MOST_SEEDS = 1_000
"""More are not asked for: the difference is about zero."""


class Interval(NamedTuple):
    """An estimate and its 95 % interval; the bounds are NaN where there is a single seed."""

    value: float
    low: float
    high: float


class Estimate(NamedTuple):
    """An interval, and the standard error by which more seeds are planned."""

    interval: Interval
    standard_error: float


def iqm(scores: Array, axis: int = -1) -> Array:
    """The interquartile mean: that of what is left without the lowest and the highest quarter, rounded down.

    Args:
        scores: [..., n, ...], n >= 1.
        axis: the one of the runs.
    """
    mean: Array = stats.trim_mean(scores, 0.25, axis=axis)
    return mean


def iqm_interval(scores: Scores, draws: int = DRAWS) -> Interval:
    """The interquartile mean of all runs, and its interval by the stratified bootstrap; see `_expanded`."""
    drawn = _drawn_iqm(scores, draws, np.random.default_rng(1))
    sizes = [len(one) for one in scores]
    return _expanded(float(iqm(np.concatenate(scores))), drawn, _inflation(sizes), sum(sizes) - len(sizes))


def curve_interval(scores: Scores, draws: int = 1_000) -> tuple[Array, Array, Array]:
    """The same at each of M points, each for itself.

    Args:
        scores: [n_k, M] for each of K environments.
        draws: resamples, of whole runs.

    Returns:
        Means, lower and upper bounds, [M] each.
    """
    drawn = _drawn_iqm(scores, draws, np.random.default_rng(1))
    sizes = [len(one) for one in scores]
    low, high = _quantiles(drawn, _inflation(sizes), sum(sizes) - len(sizes))
    return iqm(np.concatenate(scores), axis=0), low, high


def difference(scores: Scores, others: Scores, paired: bool = False, draws: int = DRAWS) -> Estimate:
    """The interquartile mean of ``scores`` less that of ``others``; see `_expanded`.

    Args:
        scores: of the one side.
        others: of the other side, in the same environments.
        paired: run i of an environment belongs to run i of the other side: pairs are resampled.
        draws: resamples.
    """
    value = float(iqm(np.concatenate(scores)) - iqm(np.concatenate(others)))
    generator = np.random.default_rng(1)
    sizes = [[len(one) for one in side] for side in (scores, others)]
    if paired:
        both = [np.stack(pair, 1) for pair in zip(scores, others, strict=True)]
        drawn_both = _drawn_iqm(both, draws, generator)
        drawn, inflation = drawn_both[:, 0] - drawn_both[:, 1], _inflation(sizes[0])
        freedom = float(sum(sizes[0]) - len(sizes[0]))
    else:
        means = [_drawn_iqm(side, draws, generator) for side in (scores, others)]
        drawn = means[0] - means[1]
        # Welch 1947, with the variances of the means as they were drawn
        inflations, freedoms = [_inflation(one) for one in sizes], [sum(one) - len(one) for one in sizes]
        if min(freedoms) < 1:
            return Estimate(Interval(value, math.nan, math.nan), math.inf)
        variances = [inflation**2 * mean.var() for inflation, mean in zip(inflations, means, strict=True)]
        inflation = math.sqrt(sum(variances) / drawn.var()) if drawn.var() > 0 else max(inflations)
        weights = sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
        freedom = sum(variances) ** 2 / weights if weights > 0 else float(min(freedoms))
    error = float(inflation * drawn.std())
    return Estimate(_expanded(value, drawn, inflation, freedom), error)


def probability_of_improvement(scores: Scores, others: Scores) -> Interval:
    """How probably a run of ``scores`` is better than one of ``others``: Mann-Whitney's U, ties a half, by strata.

    Of several strata it is the mean. The interval is Newcombe's (2006, method 5), a score interval of the area under a
    ROC curve: it holds the p that are at most 1.96 of their own standard errors from what was seen, so that it is wide
    also where one side won throughout.

    Args:
        scores: of the one side; more is better.
        others: of the other side, in the same environments.
    """
    pairs = list(zip(scores, others, strict=True))
    wins = [(a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean() for a, b in pairs]
    value = float(np.mean(wins))
    p = np.linspace(0, 1, 10_001)
    spread = np.zeros_like(p)
    for a, b in pairs:
        more = (len(a) + len(b)) / 2 - 1
        spread += (1 + more * ((1 - p) / (2 - p) + p / (1 + p))) / (len(a) * len(b))
    z = stats.norm.ppf(0.5 + LEVEL / 2)
    inside = p[(p - value) ** 2 <= z**2 * p * (1 - p) * spread / len(pairs) ** 2 + 1e-12]
    return Interval(value, float(inside[0]), float(inside[-1]))


def performance_profile(scores: Array, thresholds: Array) -> tuple[Array, Array, Array]:
    """The share of runs that score more than each threshold, with Wilson's interval (1927), each for itself.

    Args:
        scores: [n].
        thresholds: [M].

    Returns:
        Shares, lower and upper bounds, [M] each.
    """
    n = len(scores)
    above = (scores[:, None] > thresholds).sum(0)
    bounds = [stats.binomtest(k, n).proportion_ci(LEVEL, "wilson") for k in range(n + 1)]
    low, high = (np.array([getattr(bound, side) for bound in bounds]) for side in ("low", "high"))
    return above / n, low[above], high[above]


def seeds_needed(value: float, standard_error: float, num_seeds: float) -> int | None:
    """The number of seeds on each side by which a difference would be told from zero with probability `POWER`.

    As in the t test, n = (t_0.975 + t_0.8)^2 s^2 / d^2, where s^2 / n is the variance of the difference. It is as good
    as the difference and the spread that were seen: with few seeds, within a factor of several.

    Args:
        value: the difference, d.
        standard_error: of it, with as many seeds as there are.
        num_seeds: n of each side now; their harmonic mean, where they differ.

    Returns:
        The number, or None if it is more than `MOST_SEEDS`.
    """
    if not value or not math.isfinite(standard_error):
        return None
    sides = (0.5 + LEVEL / 2, POWER)
    for n in range(2, MOST_SEEDS + 1):
        needed = sum(stats.t.ppf(sides, 2 * n - 2)) * standard_error * math.sqrt(num_seeds / n)
        if abs(value) >= needed:
            return n
    return None


def _drawn_iqm(scores: Scores, draws: int, generator: np.random.Generator) -> Array:
    """Interquartile means of runs drawn anew in each stratum, [draws, ...]; the scores are [n_k, ...]."""
    return iqm(np.concatenate([one[generator.integers(len(one), size=(draws, len(one)))] for one in scores], 1), axis=1)


def _inflation(sizes: Sequence[int]) -> float:
    """By how much a standard error is larger than that of the bootstrap, which divides by n instead of n - 1."""
    mean = sum(sizes) / len(sizes)
    return math.sqrt(mean / (mean - 1)) if mean > 1 else math.inf


def _expanded(value: float, drawn: Array, inflation: float, freedom: float) -> Interval:
    """The expanded percentile interval (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 5.3).

    Its quantiles lie as far out as those of a t interval with the standard deviation of n - 1: those of the plain
    percentile bootstrap are those of a normal one with n, which is too narrow for few runs.
    """
    low, high = _quantiles(drawn, inflation, freedom)
    return Interval(value, float(low), float(high))


def _quantiles(drawn: Array, inflation: float, freedom: float) -> tuple[Array, Array]:
    if freedom < 1 or not math.isfinite(inflation):
        return np.full(drawn.shape[1:], math.nan), np.full(drawn.shape[1:], math.nan)
    tail = stats.norm.cdf(inflation * stats.t.ppf(0.5 - LEVEL / 2, freedom))
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return low, high
