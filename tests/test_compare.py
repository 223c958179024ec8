"""``rlcore compare``: its statistics, and what it says of runs."""

import json
import math
from itertools import product

import numpy as np
import pytest
from made_runs import make_run, make_seeds
from scipy.stats import norm, trim_mean

import rlcore
from rlcore.errors import InputError
from rlcore.runs import aggregates, drawing
from rlcore.runs.curves import Curve

GOOD, BAD = [10.0, 11.0, 12.0, 13.0, 14.0, 15.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def scores(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def test_the_iqm_is_that_of_scipy_and_of_two_quarters():
    assert aggregates.iqm(np.array([9.0, 1.0, 2.0, 3.0, 4.0, -50.0, 5.0, 6.0])) == pytest.approx((2 + 3 + 4 + 5) / 4)
    x = scores(1, 7, 10)
    assert np.allclose(aggregates.iqm(x), trim_mean(x, 0.25, axis=1))
    found = aggregates.iqm_interval([x[0], x[1]])
    assert found.value == pytest.approx(trim_mean(x[:2].ravel(), 0.25))
    assert found.low < found.value < found.high


def test_the_bootstrap_is_stratified():
    """Where runs of an environment are alike, nothing varies: runs of the one never stand for those of the other."""
    strata = [np.full(5, 0.0), np.full(5, 1.0)]
    assert aggregates.iqm_interval(strata) == (0.5, 0.5, 0.5)
    low, high = aggregates.iqm_interval([np.concatenate(strata)])[1:]
    assert low < 0.5 < high


def test_one_run_has_no_interval():
    assert all(map(math.isnan, aggregates.iqm_interval([np.array([3.0])])[1:]))
    assert all(map(math.isnan, aggregates.difference([np.array([3.0])], [scores(1, 5)]).interval[1:]))


def test_the_interval_is_expanded_to_that_of_few_runs():
    """The quantiles of the bootstrap's means are those of t_(n-1) with the standard deviation of n - 1."""
    x = scores(2, 5)
    drawn = aggregates._drawn_iqm([x], aggregates.DRAWS, np.random.default_rng(1))
    tail = norm.cdf(math.sqrt(5 / 4) * -2.776445)
    assert aggregates.iqm_interval([x])[1:] == pytest.approx(np.quantile(drawn, [tail, 1 - tail]))


def test_improvement_counts_pairs_and_ties_half():
    a, b = np.array([1.0, 2.0, 2.0]), np.array([0.0, 2.0])
    wins = [(x > y) + 0.5 * (x == y) for x, y in product(a, b)]
    found = aggregates.probability_of_improvement([a], [b])
    assert found.value == pytest.approx(sum(wins) / 6)
    turned = aggregates.probability_of_improvement([b], [a])
    assert (turned.value, turned.low, turned.high) == pytest.approx((1 - found.value, 1 - found.high, 1 - found.low))
    both = aggregates.probability_of_improvement([a, a + 9], [b, b])
    assert both.value == pytest.approx((sum(wins) / 6 + 1) / 2)


def test_improvement_where_one_side_won_throughout_is_not_certain():
    """(1 - p)^2 = z^2 V(p), V as of Hanley and McNeil (1982) with (n + m) / 2 of each."""
    value, low, high = aggregates.probability_of_improvement([np.arange(10.0) + 10], [np.arange(10.0)])
    assert (value, high) == (1, 1)
    variance = low * (1 - low) / 100 * (1 + 9 * (1 - low) / (2 - low) + 9 * low / (1 + low))
    assert (1 - low) ** 2 == pytest.approx(1.959964**2 * variance, rel=1e-2)


SHAPES = {
    "normal": lambda generator, size: generator.normal(size=size),
    "lognormal": lambda generator, size: generator.lognormal(size=size),
    "fail": lambda generator, size: np.where(generator.random(size) < 0.2, 100, 450) + generator.normal(0, 30, size),
}
"""Returns of runs; a fifth of the last ones learns nothing."""


@pytest.mark.parametrize(("n", "least", "shape"), [(5, 0.915, "normal"), (10, 0.93, "lognormal"), (10, 0.93, "fail")])
def test_intervals_hold_the_truth_as_often_as_they_say(n, least, shape):
    """The slower and wider simulation is benchmarks/coverage.py."""
    generator, repeats = np.random.default_rng(3), 200
    truth = aggregates.iqm(SHAPES[shape](generator, 400_000))
    hits = np.zeros(2)
    for _ in range(repeats):
        one, other = [SHAPES[shape](generator, n)], [SHAPES[shape](generator, n)]
        alone = aggregates.iqm_interval(one, 1_000)
        apart = aggregates.difference(one, other, draws=1_000).interval
        hits += [alone.low <= truth <= alone.high, apart.low <= 0 <= apart.high]
    assert (hits / repeats >= least).all(), hits / repeats


@pytest.mark.parametrize(("shift", "truth"), [(0.0, 0.5), (2.0, norm.cdf(2 / math.sqrt(2)))])
def test_the_interval_of_improvement_holds_the_truth_as_often_as_it_says(shift, truth):
    generator, repeats, hits = np.random.default_rng(3), 500, 0
    for _ in range(repeats):
        one, other = [generator.normal(shift, 1, 10)], [generator.normal(0, 1, 10)]
        found = aggregates.probability_of_improvement(one, other)
        hits += found.low <= truth <= found.high
    assert hits / repeats >= 0.93


def test_pairs_take_out_what_both_sides_share():
    shared = 10 * scores(4, 8)
    one, other = [shared + 0.1 * scores(5, 8)], [shared + 1 + 0.1 * scores(6, 8)]
    low, high = aggregates.difference(other, one, paired=True).interval[1:]
    assert 0.5 < low < 1 < high < 1.5
    low, high = aggregates.difference(other, one).interval[1:]
    assert low < 0


def test_as_many_seeds_are_asked_for_as_find_the_difference():
    """Of two normal distributions that are one standard deviation apart the t test needs 17 of each."""
    n = aggregates.seeds_needed(1.0, math.sqrt(2 / 10), 10)
    assert n == 17
    assert aggregates.seeds_needed(-1.0, math.sqrt(2 / 10), 10) == n
    assert aggregates.seeds_needed(0.0, 0.0, 10) is None
    assert aggregates.seeds_needed(1e-3, 1.0, 10) is None


def test_a_profile_is_the_share_above():
    share, low, high = aggregates.performance_profile(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 2.0, 4.0]))
    assert share.tolist() == [1.0, 0.5, 0.0]
    assert (low <= share).all()
    assert (share <= high).all()
    assert low[0] < 1
    assert high[2] > 0


def test_a_winner_and_what_was_compared(workdir):
    found = rlcore.compare(make_seeds(workdir / "a", BAD), make_seeds(workdir / "b", GOOD))
    (other,) = found.against
    assert (found.figure, found.less_is_better, other.name, other.winner) == ("eval/return", False, "b", "b")
    assert other.difference.value == pytest.approx(9)
    assert other.paired
    assert other.correlation == pytest.approx(1)
    assert found.iqm[0].value == pytest.approx(trim_mean(BAD, 0.25))
    assert [run.seed for run in found.sides[0].runs] == [1, 2, 3, 4, 5, 6]
    assert found.verdict(other) == "winner of a and b: b, in eval/return"


def test_less_is_better_where_the_evaluation_says_so(workdir):
    less = {"tag": "eval/nll", "less_is_better": ["eval/nll", "train/loss"]}
    found = rlcore.compare(make_seeds(workdir / "a", BAD, **less), make_seeds(workdir / "b", GOOD, **less))
    assert found.less_is_better
    assert found.against[0].winner == "a"
    assert found.against[0].improvement.value == 0
    with pytest.raises(InputError, match="do not say whether less of train/entropy is better"):
        rlcore.compare("a", "b", by="train/entropy")
    assert rlcore.compare("a", "b", by="train/loss").less_is_better


def test_without_a_winner_more_seeds_are_asked_for(workdir):
    a, b = make_seeds(workdir / "a", [1.0, 5, 2, 6, 3]), make_seeds(workdir / "b", [2.0, 3, 7, 5, 3])
    found = rlcore.compare(a, b, paired=False)
    (other,) = found.against
    assert other.winner is None
    assert not other.paired
    assert other.more_seeds is not None
    assert other.more_seeds > 5
    assert f"about {other.more_seeds:,} more seeds of each would be needed" in found.verdict(other)
    same = rlcore.compare(a, make_seeds(workdir / "c", [1.0, 5, 2, 6, 3]), paired=False)
    assert "even 1,000 seeds" in same.verdict(same.against[0])
    few = rlcore.compare(make_seeds(workdir / "d", BAD[:3]), make_seeds(workdir / "e", GOOD[:3]))
    assert few.against[0].winner is None
    assert few.against[0].more_seeds == 1
    one = rlcore.compare(workdir / "a/seed1", workdir / "b/seed2")
    assert "one seed says nothing" in one.verdict(one.against[0])


def test_what_of_a_figure_is_compared(workdir):
    for side, top in (("a", 1.0), ("b", 2.0)):
        for seed in range(1, 6):
            make_run(workdir / side / f"seed{seed}", [top, 4 * top, 2 * top, 3 * top], seed)
    values = {
        "last": (3, {}),
        "best": (4, {"of": "best"}),
        "area": ((1 / 2 + 4 + 2 + 3 / 2) / 3, {"of": "area"}),
        "at steps": (4, {"at": 500}),
        "at seconds": (2, {"at": "15s"}),  # 50 steps per second: at step 750
        "before": (1, {"at": "499"}),
    }
    for expected, given in values.values():
        assert rlcore.compare("a", "b", **given).iqm[0].value == pytest.approx(expected)
    with pytest.raises(InputError, match="has its first eval/return at step 250, after --at"):
        rlcore.compare("a", "b", at=249)
    with pytest.raises(InputError, match="--at: expected steps, as 50_000, or seconds, as 60s; got 'soon'"):
        rlcore.compare("a", "b", at="soon")


def test_environments_are_strata_on_one_scale(workdir):
    envs = {"Acrobot-v1": 1.0, "Ant-v5": 1000.0}
    for name, size in envs.items():
        env = f"{{name: gym, id: {name}}}"
        make_seeds(workdir / "a" / name, [size * x for x in BAD], env=env)
        make_seeds(workdir / "b" / name, [size * x for x in GOOD], env=env)
    found = rlcore.compare("a", "b")
    assert found.scaled
    assert found.sides[0].environments == ["gym Acrobot-v1", "gym Ant-v5"]
    assert found.against[0].difference.value == pytest.approx(9 / 14)  # of both: from 1 to 15
    assert found.against[0].winner == "b"
    with pytest.raises(InputError, match="a/Ant-v5 is of gym Ant-v5, b of gym Acrobot-v1, gym Ant-v5"):
        rlcore.compare("a/Ant-v5", "b")


def test_pairs_need_the_same_seeds_and_environments(workdir):
    make_seeds(workdir / "a", BAD)
    make_seeds(workdir / "b", GOOD[:5])
    assert not rlcore.compare("a", "b").against[0].paired
    make_seeds(workdir / "c", BAD, env="{name: cartpole, num_envs: 2, gravity: 20.0}")
    found = rlcore.compare("a", "c")
    assert not found.against[0].paired
    assert "a and c have other settings of the environment: not paired" in found.notes
    make_seeds(workdir / "d", GOOD, env="{name: cartpole, num_envs: 8}")
    assert rlcore.compare("a", "d").against[0].paired


def test_what_one_should_know_of_the_runs(workdir):
    make_seeds(workdir / "a", BAD)
    make_seeds(workdir / "b", GOOD)
    changed = (workdir / "b/seed2/config.yaml").read_text().replace("0.98", "0.9")
    (workdir / "b/seed2/config.yaml").write_text(changed)
    (workdir / "b/seed3/result.json").unlink()
    notes = rlcore.compare("a", "b").notes
    assert "b: its runs differ in agent.gamma" in notes
    assert "b: 1 of 6 runs are not done: seed3 no checkpoint" in notes


def test_a_run_that_ended_before_at_is_told(workdir):
    make_seeds(workdir / "a", BAD)
    make_seeds(workdir / "b", GOOD)
    table = workdir / "b/seed2/progress.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:2]))
    ends = "the runs end between step 500 and 1,000"
    assert f"{ends}; --at compares them at the same step" in rlcore.compare("a", "b").notes
    assert f"{ends}, up to --at" in rlcore.compare("a", "b", at=1000).notes
    assert not any(ends in note for note in rlcore.compare("a", "b", at=500).notes)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a", "elsewhere"], "there is no folder elsewhere; expected a run, or a folder of runs"),
        (["a", "bb"], "there is no folder bb (did you mean 'b'?); expected a run, or a folder of runs"),
        (["a", "empty"], "empty is no run, and holds none: there is no config.yaml in it"),
        (["a", "none*"], "no run matches none*"),
        (["a"], "compare: needs two sides or more: runs, or folders of runs"),
        (["a", "./a"], "compare: a side is named twice"),
        (["a", "young"], "young/seed1 has no evaluations yet (no checkpoint): it logged no eval/return"),
        (["a", "other"], "different environments: a is of cartpole, other of gym Ant-v5; compare runs of the same"),
        (
            ["a", "b", "--by", "eval/retrun"],
            "a/seed1 has no figure 'eval/retrun' (did you mean 'eval/return'?); it has",
        ),
        (["a", "b", "--by", "train/entropy"], "the runs do not say whether less of train/entropy is better; say it: "),
        (["a", "broken"], "broken/seed1: the figure is nan; leave the run out, or compare earlier: --at STEPS"),
        (["a", "never"], "never has no evaluations (trainer.eval_every: null); name a figure: --by rollout/return"),
    ],
)
def test_bad_input_is_one_line(rlcore_, workdir, words, line):
    make_seeds(workdir / "a", BAD)
    make_seeds(workdir / "b", GOOD)
    make_seeds(workdir / "other", GOOD, env="{name: gym, id: Ant-v5}")
    (workdir / "empty").mkdir()
    make_run(workdir / "broken/seed1", [1.0, math.nan])
    young = make_run(workdir / "young/seed1", [1.0], steps=0, figures={}, finished=None)
    (young / "progress.csv").unlink()
    never = make_run(workdir / "never", [1.0])
    (never / "config.yaml").write_text("env: cartpole\nagent: ppo\ntrainer: {total_steps: 9, eval_every: null}\n")
    status, out, err = rlcore_("compare", *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"rlcore: {line}")


def test_the_table_the_json_and_the_figure(rlcore_, workdir):
    make_seeds(workdir / "runs/a", BAD)
    make_seeds(workdir / "runs/b", GOOD)
    status, out, _ = rlcore_("compare", "runs/a", "runs/b", "--figure", "made/c.png")
    assert status == 0
    assert "9.00 [9.00, 9.00]" in out
    assert "100% [" in out
    assert "pairs, correlation 1.00" in out
    assert "winner of a and b: b, in eval/return" in out
    assert (workdir / "made/c.png").read_bytes().startswith(b"\x89PNG")
    status, out, _ = rlcore_("compare", "runs/a", "runs/b", "runs/b/seed1", "--json", "--unpaired")
    found = json.loads(out)
    assert found["against"]["b"]["winner"] == "b"
    assert found["against"]["b"]["difference"]["value"] == pytest.approx(9)
    assert found["sides"]["a"]["runs"][0] == {"run": "runs/a/seed1", "environment": "cartpole", "seed": 1, "score": 1.0}
    assert found["sides"]["b/seed1"]["iqm"] == {"value": 10.0, "low": None, "high": None}
    status, _, err = rlcore_("compare", "runs/a", "runs/b", "--figure", "c.poem")
    assert (status, err.startswith("rlcore: --figure c.poem: ")) == (2, True)


@pytest.mark.parametrize("num_panels", [1, 4])
def test_nothing_of_a_figure_lies_over_its_legend(num_panels):
    steps = np.arange(10)
    runs = [(f"a/run{k}", Curve(steps, steps + 1.0 * k), steps) for k in range(6)]
    figure = drawing.draw_curves([(f"eval/{n}", runs) for n in range(num_panels)], "environment steps", 0.0)
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert [axes.get_xlabel() for axes in figure.axes[:num_panels]][-1] == "environment steps"
    assert not any(legend.overlaps(axes.get_tightbbox()) for axes in figure.axes[:num_panels])
