"""How often the intervals of ``rlcore compare`` hold the truth: python benchmarks/coverage.py [--repeats N]

Prints the tables of docs/compare.md: made-up returns of several shapes, for 3, 4, 5, 10 and 20 seeds.
"""

import argparse
import math

import numpy as np

from rlcore.runs import aggregates

SHAPES = {
    "normal": lambda g, size: g.normal(size=size),
    "exponential": lambda g, size: g.exponential(size=size),
    "lognormal": lambda g, size: g.lognormal(size=size),
    "10 % fail": lambda g, size: np.where(g.random(size) < 0.1, g.normal(100, 30, size), g.normal(450, 30, size)),
    "20 % fail": lambda g, size: np.where(g.random(size) < 0.2, g.normal(100, 30, size), g.normal(450, 30, size)),
    "40 % fail": lambda g, size: np.where(g.random(size) < 0.4, g.normal(100, 30, size), g.normal(450, 30, size)),
    "ceiling": lambda g, size: np.minimum(g.normal(480, 40, size=size), 500),
}
"""Returns of runs; ``fail``: that share of the runs learns nothing; ``ceiling``: a third reaches the highest return."""
PAIRS = [("normal", "normal"), ("lognormal", "lognormal"), ("10 % fail", "40 % fail"), ("ceiling", "20 % fail")]
SEEDS = (3, 4, 5, 10, 20)


def truth(shape, generator, size=1_000_000):
    """The interquartile mean of the whole distribution."""
    return float(aggregates.iqm(SHAPES[shape](generator, size)))


def covered(shape, n, repeats, generator):
    """The share of intervals of the IQM that hold the truth."""
    draw, true = SHAPES[shape], truth(shape, generator)
    found = [aggregates.iqm_interval([draw(generator, n)], 2_000) for _ in range(repeats)]
    return np.mean([one.low <= true <= one.high for one in found])


def covered_by_two(shapes, n, repeats, generator):
    """The same of the difference of two sides, and of the probability of improvement."""
    first, second = (SHAPES[shape] for shape in shapes)
    true = truth(shapes[0], generator) - truth(shapes[1], generator)
    a, b = first(generator, 1_000_000), second(generator, 1_000_000)
    better = np.mean(a > b) + 0.5 * np.mean(a == b)
    hits = np.zeros(2)
    for _ in range(repeats):
        one, other = [first(generator, n)], [second(generator, n)]
        low, high = aggregates.difference(one, other, draws=2_000).interval[1:]
        p = aggregates.probability_of_improvement(one, other)
        hits += [low <= true <= high, p.low <= better <= p.high]
    return hits / repeats


def power(distance, n, repeats, generator):
    """Of two normal distributions that far apart: the share of comparisons of n seeds each that find it."""
    found = 0
    for _ in range(repeats):
        one, other = [generator.normal(distance, 1, n)], [generator.normal(0, 1, n)]
        low, high = aggregates.difference(one, other, draws=2_000).interval[1:]
        found += low > 0 or high < 0
    return found / repeats


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2_000)
    repeats, generator = parser.parse_args().repeats, np.random.default_rng(1)
    print("| returns | " + " | ".join(f"{n} seeds" for n in SEEDS) + " |\n|" + "---|" * (1 + len(SEEDS)))
    for shape in SHAPES:
        print(f"| {shape} |", *(f" {covered(shape, n, repeats, generator):.1%} |" for n in SEEDS), flush=True)
    print("\n| two sides | " + " | ".join(f"{n} seeds" for n in SEEDS) + " |\n|" + "---|" * (1 + len(SEEDS)))
    for shapes in PAIRS:
        rows = [covered_by_two(shapes, n, repeats, generator) for n in SEEDS]
        print(f"| {' and '.join(shapes)} |", *(f" {d:.1%}, {p:.1%} |" for d, p in rows), flush=True)
    print()
    for distance in (2.0, 1.0, 0.5):
        error = math.sqrt(2) * np.std([aggregates.iqm(generator.normal(size=10)) for _ in range(20_000)])
        n = aggregates.seeds_needed(distance, error, 10)
        print(
            f"{distance} standard deviations: {n} seeds asked for; found {power(distance, n, repeats, generator):.1%}"
        )


if __name__ == "__main__":
    main()
