"""Regression: answers that state a standard deviation, in the units of the targets, and how reliable it is."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

import rlcore
from rlcore import Trainer, check_agent
from rlcore.agents.ensemble import Ensemble
from rlcore.agents.supervised import Supervised
from rlcore.errors import InputError
from rlcore.evaluation import Report
from rlcore.rollout import collect
from rlcore.run import Run
from rlcore.spaces import Normals
from rlcore.supervised.datasets import from_arrays, load
from rlcore.supervised.environment import SupervisedEnv, prediction_errors
from rlcore.supervised.reconstruction import ReconstructionEnv
from rlcore.supervised.reports.uncertainty import UncertaintyReport
from rlcore.targets import LEAST_VARIANCE, target_scale
from rlcore.uncertainty import (
    Numbers,
    best_answer,
    fit_std_factor,
    interval_coverage,
    normal_crps,
    normal_measures,
    normal_negative_log_likelihood,
    quantile_calibration_error,
    quantile_shares,
    uncertainty,
)
from rlcore.uncertainty.mc_dropout import MCDropout

close = torch.testing.assert_close


def two_numbers(n=60, seed=0):
    """Targets of very different units, [n, 2]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    y = np.stack([1000 + 50 * x[:, 0], 1e-3 * x[:, 1] - 5], 1) + rng.normal(size=(n, 2)) * [10, 1e-4]
    return from_arrays(x.astype(np.float32), y.astype(np.float32))


def make(dataset=None, kind=SupervisedEnv, **settings):
    given = {"num_envs": 12, "action": "normal", **settings}
    return kind(kind.Settings(**given), dataset=dataset or two_numbers())


def agent_of(env, network=None, **settings):
    torch.manual_seed(1)
    given = {"network": {"name": "mlp", "hidden": [16], **(network or {})}, **settings}
    return Supervised(env, Supervised.Settings.model_validate(given))


def told(agent, env, **settings):
    twin = env.test(1) or env.evaluation(1)
    return UncertaintyReport(UncertaintyReport.Settings(**settings))(agent, twin, Report({}))


# The reward


def test_the_reward_is_the_log_likelihood_summed_over_the_numbers():
    env = make()
    env.reset(seed=1)
    target, action = env._target, torch.randn(12, 2, 2)
    _, reward, *_ = env.step(action)
    expected = Normal(action[:, 0], (0.5 * action[:, 1]).exp()).log_prob(target).sum(1)
    close(reward, expected)
    assert env.single_action_space.shape == (2, 2)
    assert repr(env.single_action_space) == "Normals(2,)"


@pytest.mark.parametrize("scaling", ["raw", "standard"])
def test_the_reward_is_the_log_likelihood_under_the_agents_own_distribution(scaling):
    env = make(target_scaling=scaling)
    agent = agent_of(env)
    check_agent(agent, env)
    obs, _ = env.reset(seed=1)
    target, pi = env._target, agent.distribution(obs)
    _, reward, *_ = env.step(agent.act(obs).action)
    close(pi.log_prob(target), reward, rtol=1e-4, atol=1e-3)


# The units of the targets


@pytest.mark.parametrize("action", ["normal", "values"])
def test_networks_say_standardised_targets_and_agents_answer_in_their_units(action):
    env = make(action=action, target_scaling="standard")
    agent = agent_of(env)
    targets = env.dataset.train.targets.double()
    obs, _ = env.reset(seed=1)
    said, answer = agent.network(obs), agent(obs)
    shift, scale = targets.mean(0).float(), targets.std(0, correction=0).float()
    if action == "normal":
        said = said.unflatten(1, (2, 2))
        variance = (said[:, 1].exp() + LEAST_VARIANCE) * scale.square()
        close(answer[:, 1].exp(), variance)
        said, answer = said[:, 0], answer[:, 0]
    close(answer, shift + scale * said)


def test_variances_have_a_floor_and_constants_a_scale():
    scale = target_scale(Normals((1,), 0.0, 10.0))
    log_var = scale(torch.tensor([[[0.0], [-1000.0]]]))[:, 1]
    assert log_var.item() == pytest.approx(math.log(LEAST_VARIANCE * 100))
    constant = from_arrays(np.random.default_rng(0).normal(size=(30, 2)), np.full(30, 0.1))
    space = make(constant, target_scaling="standard").single_action_space
    assert (space.shift.item(), space.scale.item()) == (pytest.approx(0.1), 1)


def test_a_trained_agent_keeps_the_units_of_its_targets(workdir):
    for name, factor in (("one", 1.0), ("other", 40.0)):
        x = np.random.default_rng(1).normal(size=(60, 1))
        np.savez(f"{name}.npz", inputs=x, targets=factor * (3 * x[:, 0] + 100))
    config = [
        "env=supervised",
        "env.dataset=one.npz",
        "env.action=normal",
        "env.num_envs=8",
        "env.target_scaling=standard",
    ]
    assert rlcore.commands.train("supervised", [*config, "trainer.epochs=2"], "run", None, 1) == 0
    trained = rlcore.load("run")
    elsewhere, _ = Run("run").trainer("last", ["env.dataset=other.npz"])
    close(elsewhere.agent(np.zeros((2, 1))), trained(np.zeros((2, 1))))
    assert elsewhere.env.single_action_space.shift != trained.action_space.shift
    with pytest.raises(InputError, match=r"env\.target_scaling: is 'standard' for good"):
        Run("run").trainer("last", ["env.target_scaling=raw"])


# Weighted gradients


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_gradient_is_that_of_beta_nll(beta):
    env = make(target_scaling="standard")
    agent = agent_of(env, beta_nll=beta)
    obs, _ = env.reset(seed=1)
    scale = agent.target_scale
    target = (env._target - scale.shift) / scale.scale
    rollout = collect(agent, env, obs, 1)
    mean, log_var = agent.network(obs).unflatten(1, (2, 2)).unbind(1)
    var = log_var.exp() + LEAST_VARIANCE
    loss = ((0.5 * ((target - mean).square() / var + var.log())) * var.detach() ** beta).sum(1).mean()
    expected = torch.autograd.grad(loss, list(agent.parameters()))
    close(rollout.reward[0], env.action.reward(agent_of(env)(obs), target * scale.scale + scale.shift))
    agent.learn(rollout)
    for parameter, grad in zip(agent.parameters(), expected, strict=True):
        close(parameter.grad, grad, rtol=1e-3, atol=1e-4)


def test_a_member_of_an_ensemble_follows_the_same_gradient():
    member = {"name": "supervised", "network": {"name": "mlp", "hidden": [16]}, "beta_nll": 0.5}
    env = make(target_scaling="standard")
    ensemble = Ensemble(env, Ensemble.Settings.model_validate({"agent": member, "members": 2}))
    alone = agent_of(make(num_envs=6, target_scaling="standard"), beta_nll=0.5)
    alone.load_state_dict(ensemble.members[1].state_dict())
    obs, _ = env.reset(seed=1)
    target = env._target[6:]
    ensemble.learn(collect(ensemble, env, obs, 1))
    loss = -env.action.reward(alone.act(obs[6:]).action, target).mean()
    grads = torch.autograd.grad(loss, list(alone.parameters()))
    for parameter, grad in zip(ensemble.members[1].parameters(), grads, strict=True):
        close(parameter.grad, grad, rtol=1e-3, atol=1e-4)


# What is learned


@pytest.fixture(scope="module")
def learned():
    """An environment of known noise, and an agent that has learned it."""
    settings = {"dataset": "x_sin_x", "num_envs": 50, "scaling": "standard", "target_scaling": "standard"}
    env = SupervisedEnv(SupervisedEnv.Settings(action="normal", **settings))
    agent = agent_of(env, {"hidden": [50, 50]}, beta_nll=0.5, learning_rate=3e-3, learning_rate_schedule="cosine")
    Trainer(agent, env, Trainer.Settings(epochs=200)).fit()
    return env, agent


def test_the_learned_standard_deviation_is_that_of_the_noise(learned):
    _, agent = learned
    x = torch.linspace(0.5, 9.5, 50)[:, None]
    with torch.no_grad():
        found = uncertainty(agent.answers(x))
    true_std = 0.3 * (1 + x.square()).sqrt()
    assert (found.aleatoric_std / true_std).log().abs().mean() < 0.15
    assert (found.mean - x * x.sin()).abs().mean() < 0.35
    assert not found.epistemic_std.any()


def test_its_intervals_hold_as_many_targets_as_they_say(learned):
    env, agent = learned
    report = told(agent, env, num=2)
    for level in (50, 80, 90, 95):
        assert report.scalars[f"plain_coverage_{level}"] == pytest.approx(level / 100, abs=0.06)
    assert report.scalars["plain_calibration_error"] < 2e-3
    scores = env.evaluation(1).score(agent, 1, 1).scalars
    assert report.scalars["plain_negative_log_likelihood"] == pytest.approx(-scores["log_likelihood"], rel=1e-5)
    assert report.scalars["plain_rmse"] == pytest.approx(scores["rmse"], rel=1e-5)
    assert report.text.count("#") == 2
    assert {"calibration", "predictions"} == report.figures.keys()


# Several answers


def test_the_answer_of_a_mixture_has_its_mean_and_variance():
    answers = Numbers(torch.tensor([[[0.0]], [[2.0]]]), torch.tensor([[[1.0]], [[3.0]]]))
    answer = best_answer(uncertainty(answers), Normals((1,)))
    assert answer.shape == (1, 2, 1)
    assert answer[0, 0].item() == 1
    assert answer[0, 1].exp().item() == pytest.approx((1 + 9) / 2 + 1)


def test_an_ensemble_and_mc_dropout_answer_in_the_space_and_are_reported():
    member = {"name": "supervised", "network": {"name": "mlp", "hidden": [16], "dropout": 0.2}}
    env = make(target_scaling="standard")
    ensemble = Ensemble(env, Ensemble.Settings.model_validate({"agent": member, "members": 3}))
    obs, _ = env.reset(seed=1)
    asked = MCDropout(ensemble.members[0], passes=5)
    for answer in (ensemble.predict(obs).action, asked.predict(obs).action):
        env.step(answer)
    assert (ensemble.predict(obs).action[:, 1] > ensemble.members[0].predict(obs).action[:, 1]).any()
    for agent, ways in ((ensemble, ("plain", "ensemble")), (ensemble.members[0], ("plain", "mc_dropout"))):
        report = told(agent, env, passes=5)
        for way in ways:
            parts = [report.scalars[f"{way}_negative_log_likelihood_{k}"] for k in (0, 1)]
            assert report.scalars[f"{way}_negative_log_likelihood"] == pytest.approx(sum(parts))
            assert (report.scalars[f"{way}_epistemic_std_1"] > 0) == (way != "plain")
        assert len(told(agent, env, passes=5, index=3).text.splitlines()) == 1 + (3 if agent is ensemble else 5)


def test_validation_examples_set_a_factor_of_the_standard_deviations():
    data = two_numbers(400)
    env = make(data, action="values", target_scaling="standard", validation_fraction=0.5)
    agent = agent_of(env)
    scalars = told(agent, env).scalars
    held = env.dataset.validation
    z = (agent.predict(held.inputs).action - held.targets) / math.sqrt(0.5)
    assert scalars["plain_std_factor_1"] == pytest.approx(z[:, 1].square().mean().sqrt().item(), rel=1e-5)
    for k in (0, 1):
        nll = scalars[f"plain_negative_log_likelihood_{k}"]
        assert scalars[f"plain_scaled_negative_log_likelihood_{k}"] < nll


def test_a_squared_error_states_its_fixed_standard_deviation():
    env = make(action="values", target_scaling="standard")
    report = told(agent_of(env), env)
    assert report.scalars["plain_sharpness_0"] == pytest.approx(math.sqrt(0.5))


# Measures in closed form


def test_likelihood_and_coverage_are_those_of_the_normal():
    generator = torch.Generator().manual_seed(1)
    mean, std = torch.randn(2, 100_000, generator=generator)
    std = std.exp()
    target = mean + std * torch.randn(100_000, generator=generator)
    nll = normal_negative_log_likelihood(mean, std, target)
    assert nll == pytest.approx(-Normal(mean, std).log_prob(target).mean().item(), rel=1e-5)
    for level in (0.5, 0.9):
        assert interval_coverage(mean, std, target, level) == pytest.approx(level, abs=0.005)
        z = Normal(0, 1).icdf(torch.tensor((1 + level) / 2)) / 2
        narrow = 2 * Normal(0, 1).cdf(z).item() - 1
        assert interval_coverage(mean, std / 2, target, level) == pytest.approx(narrow, abs=0.005)
    close(quantile_shares(mean, std, target, [0.1, 0.7]), torch.tensor([0.1, 0.7]).double(), atol=0.005, rtol=0)
    assert quantile_calibration_error(mean, std, target) < 1e-4
    assert quantile_calibration_error(mean, std, mean + 100 * std, [0.2, 0.6]) == pytest.approx((0.04 + 0.36) / 2)


def test_the_crps_is_the_integral_that_defines_it():
    mean, std, target = torch.tensor([0.3]), torch.tensor([1.7]), torch.tensor([2.0])
    y = torch.linspace(-30, 30, 200_001, dtype=torch.float64)
    gap = Normal(0.3, 1.7).cdf(y) - (y >= 2.0).double()
    assert normal_crps(mean, std, target) == pytest.approx(torch.trapezoid(gap.square(), y).item(), rel=1e-3)
    assert normal_crps(mean, torch.tensor([1e-9]), target) == pytest.approx(1.7, rel=1e-5)


def test_the_measures_are_what_they_are_named_for():
    mean, std, target = torch.randn(50), torch.rand(50) + 0.5, torch.randn(50)
    found = normal_measures(mean, std, target)
    assert found["rmse"] == pytest.approx((mean - target).square().mean().sqrt().item())
    assert found["sharpness"] == pytest.approx(std.mean().item())
    assert found["coverage_80"] == interval_coverage(mean, std, target, 0.8)
    assert found["crps"] == normal_crps(mean, std, target)


def test_no_factor_of_the_standard_deviations_is_likelier_than_the_fitted_one():
    mean, std, target = torch.randn(50), torch.rand(50) + 0.5, torch.randn(50)
    factor = fit_std_factor(mean, std, target)
    best = normal_negative_log_likelihood(mean, factor * std, target)
    for other in (0.99, 1.01):
        assert normal_negative_log_likelihood(mean, other * factor * std, target) > best


def test_errors_are_told_of_each_number():
    answer, target = torch.tensor([[1.0, 10.0], [3.0, 10.0]]), torch.tensor([[0.0, 10.0], [0.0, 30.0]])
    by_hand = {"rmse_0": math.sqrt(5), "rmse_1": math.sqrt(200), "mae_0": 2.0, "mae_1": 10.0}
    assert prediction_errors(answer, target) == pytest.approx(by_hand)
    assert prediction_errors(answer[:, :1], target[:, :1]) == pytest.approx({"rmse": math.sqrt(5), "mae": 2.0})
    scores = make(target_scaling="standard").evaluation(1).score(agent_of(make(target_scaling="standard")), 1, 1)
    assert {"rmse_0", "mae_1"} <= set(scores.errors)
    assert scores.scalars["rmse_0"] > 1
    assert scores.scalars["rmse_1"] < 1


# Data, and bad input


def test_the_noise_of_x_sin_x_is_as_documented():
    x, y = load("x_sin_x").train
    z = (y - (x * x.sin()).squeeze(1)) / (0.3 * (1 + x.square()).sqrt().squeeze(1))
    assert z.std().item() == pytest.approx(1, abs=0.1)
    assert x.shape == (500, 1)
    inputs, targets = load("diabetes").train
    assert inputs.shape == (442, 10)
    assert (targets.min(), targets.max()) == (25, 346)


def test_mistakes_are_one_line():
    iris = SupervisedEnv.Settings(dataset="iris", action="normal", num_envs=8)
    with pytest.raises(InputError, match=r"env\.action: normal is for numbers, .* are classes; use logits"):
        SupervisedEnv(iris)
    with pytest.raises(
        InputError, match=r"agent\.beta_nll: answers must be normals \(env\.action=normal\), got Values"
    ):
        agent_of(make(action="values"), beta_nll=0.5)
    with pytest.raises(ValueError, match=r"target_scaling: is for numbers .*, the action is logits"):
        SupervisedEnv.Settings(dataset="iris", target_scaling="standard")
    env = make(kind=ReconstructionEnv, action="values")
    with pytest.raises(InputError, match="needs a data set of classes"):
        told(agent_of(env), env)
