"""What is drawn and told of a data set's evaluation."""

import pytest
import torch

from rlcore import Agent, Step
from rlcore.agents.ensemble import Ensemble
from rlcore.agents.supervised import Supervised
from rlcore.envs.probes import Identity
from rlcore.errors import InputError
from rlcore.evaluation import ReportChoice, evaluating
from rlcore.supervised.datasets import from_arrays
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.reports.uncertainty import UncertaintyReport, measured
from rlcore.uncertainty import Classes, calibration_error, fit_temperature, measures


def make(network, inputs, targets, **settings):
    env = SupervisedEnv(
        SupervisedEnv.Settings(**{"num_envs": 4, "test_fraction": 0, **settings}), dataset=from_arrays(inputs, targets)
    )
    return Supervised(env, Supervised.Settings(network=network)), env.test(1) or env.evaluation(1)


def report(name, agent, env, **settings):
    return ReportChoice.model_validate({"name": name, **settings}).make()(agent, env, env.score(agent, 1, 1))


@pytest.fixture
def digits():
    """Zeros are dark above, ones are dark below; 4 x 6 bytes."""
    images = torch.zeros(8, 1, 4, 6, dtype=torch.uint8)
    images[::2, :, :2], images[1::2, :, 2:] = 255, 255
    return make({"name": "mlp", "hidden": [5]}, images, torch.arange(8) % 2)


def test_examples_are_drawn_with_answer_and_truth(digits):
    agent, env = digits
    answers = env.score(agent, 1, 1).columns["answer"]
    drawn = report("examples", agent, env, num=2, width=80)
    titles, upper, lower, *_ = drawn.text.splitlines()
    assert titles.split("  ")[0] == f"#0: {answers[0]}, truth 0"
    assert f"#1: {answers[1]}, truth 1" in titles
    assert upper == "██████"
    assert lower == " " * titles.index("#1") + "██████"


def test_the_most_wrong_come_first_and_only_they(digits):
    agent, env = digits
    evaluation = env.score(agent, 1, 1)
    wrong = [i for i in range(8) if evaluation.columns["answer"][i] != evaluation.columns["target"][i]]
    wrong.sort(key=lambda i: evaluation.columns["reward"][i])
    text = report("examples", agent, env, num=8, wrong=True, width=500).text
    assert [int(word[1:-1]) for word in text.split() if word.startswith("#")] == wrong


def test_figures_hold_what_they_are_named_for(digits):
    agent, env = digits
    confusion = report("confusion", agent, env).figures["confusion"]
    counts = [int(text.get_text()) for text in confusion.axes[0].texts]
    assert sum(counts) == 8
    filters = report("filters", agent, env, num=3).figures["filters"]
    assert len(filters.axes) == 3
    assert filters.axes[0].images[0].get_array().shape == (4, 6)


def test_the_boundary_is_the_agents_answer_in_the_plane():
    agent, env = make({"name": "mlp", "hidden": []}, torch.randn(20, 2), torch.arange(20) % 2)
    with torch.no_grad():
        agent.network.output.weight.copy_(torch.tensor([[-100.0, 0.0], [100.0, 0.0]]))  # class 1 where x > 0
        agent.network.output.bias.zero_()
    (axes,) = report("boundary", agent, env, resolution=21).figures["boundary"].axes
    shades, (left, right, *_) = axes.images[0].get_array(), axes.images[0].get_extent()
    x = torch.linspace(left, right, 21)
    assert (torch.tensor(shades)[:, x > 0.01] > 0.5).all()
    assert (torch.tensor(shades)[:, x < -0.01] < 0.5).all()


def test_the_boundary_is_drawn_beside_a_large_offset_too():
    inputs = torch.randn(20, 2, dtype=torch.float64) + 1.7e9
    agent, env = make({"name": "mlp", "hidden": []}, inputs, torch.arange(20) % 2, scaling="standard")
    with torch.no_grad():
        agent.network.output.weight.copy_(torch.tensor([[-100.0, 0.0], [100.0, 0.0]]))  # class 1 where x > its mean
        agent.network.output.bias.zero_()
    (axes,) = report("boundary", agent, env, resolution=21).figures["boundary"].axes
    shades, (left, right, *_) = torch.tensor(axes.images[0].get_array()), axes.images[0].get_extent()
    x = torch.linspace(left, right, 21, dtype=torch.float64) - inputs[:, 0].mean()
    assert (shades[:, x > 0.01] > 0.5).all()
    assert (shades[:, x < -0.01] < 0.5).all()


class Asks(Agent):
    """Says class 0, or asks where the first number is above 0."""

    def act(self, obs, state=None):
        return Step(torch.where(obs[:, 0] > 0, 2, 0))

    def learn(self, rollout):
        return {}


def test_questions_to_a_person_are_neither_a_class_nor_wrong():
    inputs, targets = torch.randn(20, 2), torch.arange(20) % 2
    settings = SupervisedEnv.Settings(num_envs=4, test_fraction=0, action="ask")
    env = SupervisedEnv(settings, dataset=from_arrays(inputs, targets)).evaluation(1)
    agent = Asks(env)
    (axes,) = report("boundary", agent, env, resolution=20).figures["boundary"].axes
    shades, (left, right, *_) = torch.tensor(axes.images[0].get_array()), axes.images[0].get_extent()
    x = torch.linspace(left, right, 20)
    assert (shades[:, x > 0.01] == 0.5).all()
    assert (shades[:, x < -0.01] == 0).all()
    text = report("examples", agent, env, wrong=True, num=20).text
    assert text.count("#") == ((inputs[:, 0] <= 0) & (targets == 1)).sum()
    counts = [int(shown.get_text()) for shown in report("confusion", agent, env).figures["confusion"].axes[0].texts]
    assert sum(counts) == (inputs[:, 0] <= 0).sum()


def test_packed_bits_answer_as_the_network_does():
    images = torch.randint(0, 256, (40, 1, 5, 5), dtype=torch.uint8)
    agent, env = make({"name": "binarized_mlp", "hidden": [9]}, images, torch.arange(40) % 3, scaling="raw")
    told = report("packed", agent, env)
    assert told.scalars["packed_same_answers"] == 1
    assert told.scalars["packed_accuracy"] == env.score(agent, 1, 1).scalars["accuracy"]


@pytest.mark.parametrize("name", ["boundary", "filters", "packed"])
def test_a_report_refuses_what_it_cannot_show(name):
    agent, env = make({"name": "mlp"}, torch.randn(12, 3), torch.arange(12) % 2)
    with pytest.raises(InputError, match=rf"^report {name}: needs .*[^\n]$"):
        report(name, agent, env)


def test_reports_of_data_sets_refuse_other_environments():
    env = Identity(Identity.Settings(num_envs=2))
    for name in ("boundary", "confusion", "examples", "packed"):
        maker = ReportChoice.model_validate({"name": name}).make()
        with pytest.raises(InputError, match=f"report {name}: needs a data set"):
            maker(None, env, None)


def doubting(**network):
    """Two Gaussians that touch, 60 points, learned a little."""
    torch.manual_seed(1)
    targets = torch.arange(240) % 2
    inputs = torch.randn(240, 2) + 3 * targets[:, None]
    agent, env = make(
        {"name": "mlp", "hidden": [16], **network}, inputs, targets, test_fraction=0.5, validation_fraction=0.5
    )
    agent.optimizer.param_groups[0]["lr"] = 1e-2
    train = env.dataset.train
    for _ in range(100):
        agent.minimize(torch.nn.functional.cross_entropy(agent(train.inputs), train.targets))
    return agent, env


def test_uncertainty_sets_methods_side_by_side_and_shows_what_is_doubted():
    agent, env = doubting(dropout=0.3)
    found = report("uncertainty", agent, env, above=0.3, num=2, passes=8)
    assert found.scalars["mc_dropout_accuracy"] > 0.9
    assert found.scalars["softmax_accuracy"] == env.score(agent, 1, 1).scalars["accuracy"]
    assert "softmax_noise_mutual_information_roc_area" not in found.scalars  # one answer has none
    assert found.figures.keys() == {"reliability", "risk_coverage", "entropy"}
    head, _, *_ = found.text.splitlines()
    assert head.split() == ["softmax", "mc_dropout"]
    assert found.text.count("#") == 2
    assert "examples have a predictive entropy above 0.3 nats" in found.text
    assert found.scalars == report("uncertainty", agent, env, above=0.3, num=2, passes=8).scalars


def test_a_temperature_comes_from_examples_kept_back_and_tempers_the_test_ones():
    agent, env = doubting()
    validation, target = env.dataset.validation, env.targets
    with evaluating(agent):
        found = measured(env, agent.answers).scalars
        kept_back, p = agent(validation.inputs).softmax(1), agent(env.inputs(slice(None))).softmax(1)
    tau = fit_temperature(kept_back, validation.targets)
    assert found["temperature"] == pytest.approx(tau, rel=1e-2)
    assert found["temperature"] != pytest.approx(fit_temperature(p, target), rel=5e-2)
    tau = found["temperature"]
    q = p.double() ** (1 / tau)
    q /= q.sum(1, keepdim=True)
    likelihood = q[torch.arange(len(q)), target]
    assert found["tempered_negative_log_likelihood"] == pytest.approx(-likelihood.log().mean().item(), rel=1e-5)
    right = q.argmax(1) == target
    assert found["tempered_calibration_error"] == pytest.approx(calibration_error(q.amax(1).float(), right), rel=1e-5)
    untempered = measures(p, target, -(p * p.log()).sum(1))
    assert {key: found[key] for key in untempered} == pytest.approx(untempered, rel=1e-5)


@pytest.mark.parametrize(("known", "foreign", "area"), [(0.99, 0.5, 1.0), (0.5, 0.99, 0.0), (0.7, 0.7, 0.5)])
def test_the_roc_area_is_1_where_foreign_inputs_are_doubted_more(known, foreign, area):
    _, env = doubting()
    shown = {tuple(x) for x in [*env.inputs(slice(None)).tolist(), *env.dataset.validation.inputs.tolist()]}

    def ask(obs):
        p = torch.tensor([known if tuple(x) in shown else foreign for x in obs.tolist()])
        return Classes(torch.stack([p, 1 - p], 1)[None])

    assert measured(env, ask).scalars["noise_roc_area"] == area


def test_the_bars_of_every_pass_are_shown_for_one_example():
    agent, env = doubting(dropout=0.5)
    found = report("uncertainty", agent, env, index=3, passes=5)
    assert found.text.startswith("#3: entropy")
    assert [line.split()[0] for line in found.text.splitlines()[-5:]] == list("12345")
    assert found.scalars == {}


def test_an_ensemble_is_asked_by_its_members():
    torch.manual_seed(1)
    env = SupervisedEnv(SupervisedEnv.Settings(num_envs=30, dataset="iris"))
    member = {"name": "supervised", "network": {"name": "mlp", "hidden": [8]}}
    agent = Ensemble(env, Ensemble.Settings.model_validate({"agent": member, "members": 3}))
    twin = env.evaluation(1)
    found = report("uncertainty", agent, twin, index=0)
    assert [line.split()[0] for line in found.text.splitlines()[-3:]] == list("123")
    scalars = report("uncertainty", agent, twin).scalars
    assert scalars["ensemble_accuracy"] == twin.score(agent, 1, 1).scalars["accuracy"]


def test_what_has_no_uncertainty_is_refused():
    agent, env = doubting()
    with pytest.raises(InputError, match=r"report uncertainty: .* pass through no dropout.*; or an ensemble"):
        report("uncertainty", agent, env)
    agent, env = doubting(dropout=0.3)
    with pytest.raises(InputError, match="index must be below the 120 test examples, got 120"):
        report("uncertainty", agent, env, index=120)
    iris = SupervisedEnv(SupervisedEnv.Settings(num_envs=30, dataset="iris")).evaluation(1)
    two = Supervised(env, Supervised.Settings(network={"name": "mlp", "dropout": 0.1}))
    iris.examples._inputs = iris.examples._inputs[:, :2]
    with pytest.raises(InputError, match="knows 2 classes, the data set has 3"):
        UncertaintyReport(UncertaintyReport.Settings())(two, iris, None)
    settings = SupervisedEnv.Settings(dataset="iris", num_envs=4, action="values")
    env = SupervisedEnv(settings).evaluation(1)
    values = Supervised(env, Supervised.Settings(network={"name": "mlp", "dropout": 0.1}))
    with pytest.raises(InputError, match="answers with numbers"):
        report("uncertainty", values, env)
    with pytest.raises(InputError, match="report uncertainty: needs a data set of classes"):
        UncertaintyReport(UncertaintyReport.Settings())(agent, Identity(Identity.Settings()), None)
