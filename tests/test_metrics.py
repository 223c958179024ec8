"""Figures of an evaluation that a config names."""

import math

import numpy as np
import pytest
import sklearn.metrics
import torch

import rlcore
from rlcore import Agent, InputError, Step, Trainer
from rlcore.agents.supervised import Supervised
from rlcore.supervised.datasets import from_arrays
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.metrics import MeanMetric
from rlcore.supervised.pool import PoolEnv
from rlcore.supervised.reconstruction import ReconstructionEnv

RNG = np.random.default_rng(1)
INPUTS = RNG.normal(size=(90, 4)).astype(np.float32)


def scored(targets, metrics, **settings):
    """The report, answers [n, ...] and targets of an untrained agent on all examples."""
    every = {"num_envs": 30, "test_fraction": 0, "evaluation_batch": 40, "metrics": metrics, **settings}
    env = SupervisedEnv(SupervisedEnv.Settings(**every), dataset=from_arrays(INPUTS, targets)).evaluation(1)
    torch.manual_seed(1)
    agent = Supervised(env)
    with torch.no_grad():
        answers = agent.outputs(env.inputs(slice(None)))
    return env.score(agent, 1, 1), answers.double(), env


class Guesses(Agent):
    def act(self, obs, state=None):
        return Step(torch.as_tensor(np.stack([self.action_space.sample() for _ in obs])))

    def learn(self, rollout):
        return {}


LABELS = np.arange(90) % 3
NUMBERS = RNG.normal(size=(90, 2)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "targets", "settings"),
    [
        (SupervisedEnv, LABELS, {"metrics": ["f1", {"name": "top_k", "k": 2}]}),
        (SupervisedEnv, LABELS, {"action": "ask"}),
        (SupervisedEnv, LABELS, {"action": "values", "classes": ["2", "0"]}),
        (SupervisedEnv, LABELS, {"action": "values", "metrics": ["r2"]}),
        (SupervisedEnv, NUMBERS, {"action": "values", "metrics": ["r2"]}),
        (SupervisedEnv, NUMBERS, {"action": "normal"}),
        (SupervisedEnv, (NUMBERS > 0).astype(int), {"action": "log_odds", "metrics": ["f1"]}),
        (PoolEnv, LABELS, {"acquisition": "random", "initial": 5, "labels": 9}),
        (ReconstructionEnv, LABELS, {"action": "values"}),
        (ReconstructionEnv, LABELS, {"action": "gaussian"}),
    ],
)
def test_the_names_of_figures_are_known_before_there_are_any(kind, targets, settings):
    env = kind(kind.Settings(num_envs=30, **settings), dataset=from_arrays(INPUTS, targets))
    env.reset(seed=1)
    found = env.evaluation(1).score(Guesses(env), 1, 1).scalars
    metrics = [name[:-1] for name in env.score_names if name.endswith("*")]
    assert {name for name in found if not name.startswith(tuple(metrics))} == set(env.score_names) - {
        f"{name}*" for name in metrics
    }
    assert all(any(name.startswith(metric) for name in found) for metric in metrics)


def test_figures_of_classes_are_those_of_scikit_learn():
    targets = RNG.integers(0, 3, 90)
    average = {"average": "weighted"}
    names = ["f1", {"name": "top_k", "k": 2}, "auroc", {"name": "average_precision", **average}]
    report, logits, _ = scored(targets, names)
    p, answer = logits.softmax(1).numpy(), logits.argmax(1)
    found = report.scalars
    assert found["f1"] == pytest.approx(sklearn.metrics.f1_score(targets, answer, average="macro"))
    assert found["top_k_2"] == pytest.approx(sklearn.metrics.top_k_accuracy_score(targets, p, k=2))
    assert found["auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(targets, p, multi_class="ovr"))
    one_hot = np.eye(3)[targets]
    expected = sklearn.metrics.average_precision_score(one_hot, p, average="weighted")
    assert found["average_precision"] == pytest.approx(expected)


@pytest.mark.parametrize("action", ["logits", "log_odds"])
def test_of_two_classes_the_second_is_the_positive_one(action):
    targets = RNG.integers(0, 2, 90)
    report, answers, _ = scored(targets, ["f1", "auroc", "average_precision"], action=action)
    score = answers[:, 0] if action == "log_odds" else answers[:, 1] - answers[:, 0]
    found = report.scalars
    assert found["f1"] == pytest.approx(sklearn.metrics.f1_score(targets, score > 0))
    assert found["auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(targets, score))
    assert found["average_precision"] == pytest.approx(sklearn.metrics.average_precision_score(targets, score))


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.uint8, np.float32])
def test_several_labels_are_ints_bools_or_floats(dtype):
    targets = RNG.integers(0, 2, (90, 3)).astype(dtype)
    report, log_odds, env = scored(targets, ["f1", "auroc"], action="log_odds")
    found, plain = report.scalars, targets.astype(int)
    assert found["f1"] == pytest.approx(sklearn.metrics.f1_score(plain, log_odds > 0, average="macro"))
    assert found["auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(plain, log_odds))
    p = log_odds.sigmoid().numpy()
    likelihood = np.log(np.where(plain == 1, p, 1 - p)).sum(1)
    assert found["log_likelihood"] == pytest.approx(likelihood.mean(), rel=1e-5)
    assert env.single_action_space.shape == (3,)


def test_several_numbers_have_each_their_own_error_in_their_own_units():
    targets = (RNG.normal(size=(90, 2)) * [1, 1000]).astype(np.float32)
    report, answers, _ = scored(targets, ["r2"], action="values")
    error = answers.numpy() - targets
    for k in range(2):
        assert report.scalars[f"mae_{k}"] == pytest.approx(np.abs(error[:, k]).mean())
        assert report.scalars[f"rmse_{k}"] == pytest.approx(math.sqrt((error[:, k] ** 2).mean()))
        assert report.scalars[f"r2_{k}"] == pytest.approx(sklearn.metrics.r2_score(targets[:, k], answers[:, k]))
    assert {"squared_error", "mae_0", "rmse_1"} <= set(report.errors)
    assert "r2_0" not in report.errors
    assert set(scored(targets[:, 0], ["r2"], action="values")[0].scalars) == {"squared_error", "rmse", "mae", "r2"}


def test_a_metric_of_ones_own_and_the_best_checkpoint_by_it(tmp_path):
    @rlcore.registry.metrics.register("within_one")
    class WithinOne(MeanMetric):
        def of(self, answers, targets):
            return ((answers - targets).abs() <= 1).all(1)

    targets = RNG.normal(size=90).astype(np.float32)
    report, answers, _ = scored(targets, ["within_one"], action="values")
    within = np.abs(answers.squeeze(1).numpy() - targets) <= 1
    assert 0 < within.mean() < 1
    assert report.scalars["within_one"] == pytest.approx(within.mean())
    every = {"num_envs": 30, "validation_fraction": 0.4, "action": "values", "metrics": ["within_one"]}
    env = SupervisedEnv(SupervisedEnv.Settings(**every), dataset=from_arrays(INPUTS, targets))
    for best_by, best in (("within_one", max), ("mae", min)):
        torch.manual_seed(1)
        settings = Trainer.Settings(total_steps=900, eval_every=30, best_by=best_by)
        trainer = Trainer(Supervised(env), env, settings, run_dir=tmp_path / best_by)
        seen = [trainer.figures[f"eval/{best_by}"] for _ in trainer.updates()]
        assert abs(trainer.best) == best(seen) != seen[0]


@pytest.mark.parametrize(
    ("metrics", "settings", "message"),
    [
        (["r2"], {}, r"env\.metrics: r2: there is no R2 of classes or outcomes"),
        (["f1"], {"action": "values"}, r"env\.metrics: f1: there is no F1 of numbers"),
        ([{"name": "top_k", "k": 3}], {}, r"env\.metrics: top_k: k: must be below the number of classes, 3; got 3"),
        (["top_g"], {}, r"unknown metric 'top_g' \(did you mean 'top_k'\?\)"),
    ],
)
def test_a_figure_that_there_is_not_is_one_line(metrics, settings, message):
    targets = RNG.integers(0, 3, 90)
    if settings:
        targets = targets.astype(np.float32) + 0.5
    with pytest.raises((InputError, ValueError), match=message):
        scored(targets, metrics, **settings)


def test_outcomes_between_0_and_1_have_no_figures_of_labels():
    targets = RNG.uniform(size=(90, 2)).astype(np.float32)
    with pytest.raises(InputError, match=r"env\.metrics: are of outcomes that are 0 or 1"):
        scored(targets, ["f1"], action="log_odds")


def test_a_class_without_examples_is_left_out_of_the_mean_of_areas():
    targets = np.arange(90) % 3
    env = SupervisedEnv(
        SupervisedEnv.Settings(num_envs=30, test_fraction=0, metrics=["auroc", "average_precision"]),
        dataset=from_arrays(INPUTS, targets, INPUTS[targets < 2], targets[targets < 2]),
    ).evaluation(1)
    torch.manual_seed(1)
    agent = Supervised(env)
    with torch.no_grad():
        p = agent.outputs(env.inputs(slice(None))).double().softmax(1).numpy()
    found, present = env.score(agent, 1, 1).scalars, targets[targets < 2]
    areas = [sklearn.metrics.roc_auc_score(present == k, p[:, k]) for k in range(2)]
    assert found["auroc"] == pytest.approx(np.mean(areas))
    areas = [sklearn.metrics.average_precision_score(present == k, p[:, k]) for k in range(2)]
    assert found["average_precision"] == pytest.approx(np.mean(areas))


def test_weighted_areas_are_those_of_scikit_learn():
    targets = RNG.choice(3, 90, p=[0.6, 0.3, 0.1])
    report, logits, _ = scored(targets, [{"name": "auroc", "average": "weighted"}])
    p = logits.softmax(1).numpy()
    expected = sklearn.metrics.roc_auc_score(targets, p, multi_class="ovr", average="weighted")
    assert report.scalars["auroc"] == pytest.approx(expected)


def test_one_outcome_of_floats_is_one_of_two():
    targets = RNG.integers(0, 2, 90).astype(np.float32)
    report, log_odds, _ = scored(targets, ["auroc", "f1"], action="log_odds")
    assert report.scalars["auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(targets, log_odds[:, 0]))
    assert report.scalars["f1"] == pytest.approx(sklearn.metrics.f1_score(targets, log_odds[:, 0] > 0))


def test_metrics_that_would_mislead_are_refused():
    targets = RNG.integers(0, 3, 90)
    assert {"top_k_1", "top_k_2"} <= set(scored(targets, [{"name": "top_k", "k": k} for k in (1, 2)])[0].scalars)
    for metrics, settings, message in (
        (["f1", {"name": "f1", "average": "micro"}], {}, r"env\.metrics: f1 is named twice"),
        (["auroc"], {"action": "label"}, r"env\.metrics: auroc: needs probabilities of the classes"),
        (["f1"], {"action": "ask"}, r"env\.metrics: with env\.action=ask the figures are"),
    ):
        every = {"num_envs": 30, "metrics": metrics, **settings}
        with pytest.raises(InputError, match=message):
            SupervisedEnv(SupervisedEnv.Settings(**every), dataset=from_arrays(INPUTS, targets))
