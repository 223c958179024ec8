"""Active learning: what acquisition functions choose, and a data set that grows by it."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from compare import same
from dropout_kinds import INPUTS, Asked, Functional, mlp
from pydantic import ValidationError
from torch import nn

import rlcore
from rlcore import Trainer
from rlcore.agents.ensemble import Ensemble
from rlcore.agents.reinforce import Reinforce
from rlcore.agents.supervised import Supervised
from rlcore.errors import CheckpointError, InputError
from rlcore.supervised.datasets import from_arrays
from rlcore.supervised.loading import Kept
from rlcore.supervised.pool import PoolEnv
from rlcore.supervised.reports.labels import LabelsReport
from rlcore.uncertainty import Classes, uncertainty
from rlcore.uncertainty.acquisition import batch_bald, margin
from rlcore.uncertainty.mc_dropout import MCDropout

DROPOUT = {"name": "mlp", "hidden": [16], "dropout": 0.5}
PLAIN = {"network": {"name": "mlp", "hidden": [8]}}
SMALL = {"initial": 6, "acquire": 3, "labels": 15, "batches": 4, "passes": 4, "num_envs": 8}


def answers(T=6, B=7, K=3, seed=0):
    return torch.randn(T, B, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(2).softmax(-1)


def information(p, rows):
    """I(y; omega) of the labels of some rows, by every configuration, as its definition has it."""
    found = 0.0
    for labels in itertools.product(range(p.shape[2]), repeat=len(rows)):
        likelihood = math.prod(p[:, row, label] for row, label in zip(rows, labels, strict=True))  # [T]
        marginal = likelihood.mean()
        found += (likelihood * (likelihood / marginal).log()).mean()
    return float(found)


def joint_entropy(p):
    """H[y_1 .. y_n] of the labels of n examples, by all K^n configurations; p [T, n, K]."""
    joint = p.new_ones(len(p), 1)  # [T, K^i]
    for one in p.unbind(1):
        joint = (joint.unsqueeze(2) * one.unsqueeze(1)).flatten(1)
    return torch.special.entr(joint.mean(0)).sum()


def test_the_joint_entropy_of_independent_labels_is_the_sum():
    p = answers(T=1)
    torch.testing.assert_close(joint_entropy(p), torch.special.entr(p).sum())


def test_the_joint_entropy_of_labels_that_are_the_same_is_that_of_one():
    p = torch.eye(3, dtype=torch.float64).unsqueeze(1).expand(3, 4, 3)  # each sample is sure of another class
    torch.testing.assert_close(joint_entropy(p), torch.tensor(3.0).double().log())


def test_margin_is_the_distance_of_the_two_most_likely():
    p = torch.tensor([[0.5, 0.2, 0.3], [1.0, 0.0, 0.0], [0.4, 0.4, 0.2]])
    torch.testing.assert_close(margin(p), torch.tensor([-0.2, -1.0, 0.0]))


def test_batch_bald_of_one_is_bald():
    p = answers(B=200)
    found, bald = batch_bald(p, 1), uncertainty(Classes(p)).mutual_information
    assert found.chosen.item() == bald.argmax()
    torch.testing.assert_close(found.gain[0], bald.max())


def test_batch_bald_is_the_greedy_choice_by_brute_force():
    p = answers(B=9)
    found, chosen = batch_bald(p, 4), []
    for gain in found.gain.tolist():
        before = information(p, chosen) if chosen else 0.0
        scores = {row: information(p, [*chosen, row]) for row in range(9) if row not in chosen}
        chosen.append(max(scores, key=lambda row: scores[row]))
        assert gain == pytest.approx(scores[chosen[-1]] - before, abs=1e-9)
    assert found.chosen.tolist() == chosen
    expected = torch.special.entr(p[:, chosen]).sum(-1).mean(0).sum()
    torch.testing.assert_close(found.gain.sum(), joint_entropy(p[:, chosen]) - expected)


def test_looking_at_the_most_promising_alone_changes_no_choice():
    p = answers(B=400)
    found = batch_bald(p, 3)
    for n in range(1, 3):
        chosen = found.chosen[:n].tolist()
        rest = torch.tensor([row for row in range(400) if row not in chosen])
        gains = torch.stack([joint_entropy(p[:, [*chosen, row]]) for row in rest.tolist()]) - joint_entropy(
            p[:, chosen]
        )
        gains -= torch.special.entr(p[:, rest]).sum(-1).mean(0)
        assert rest[gains.argmax()] == found.chosen[n]


def test_a_duplicate_says_less_than_what_is_new():
    doubted = answers(T=2, B=1, K=2)
    doubted[:, 0] = torch.tensor([[0.99, 0.01], [0.01, 0.99]])  # the label tells the two samples apart
    p = torch.cat([doubted, doubted, answers(T=2, B=1, K=2, seed=1)], 1)
    alone = uncertainty(Classes(p)).mutual_information
    assert alone.topk(2).indices.sort().values.tolist() == [0, 1]  # BALD asks the same twice
    sure = torch.eye(2, dtype=torch.float64).unsqueeze(1).expand(2, 3, 2)
    found = batch_bald(sure, 3)
    torch.testing.assert_close(found.gain, torch.tensor([2.0, 1.0, 1.0]).double().log())  # there is no more to say
    assert sorted(found.chosen.tolist()) == [0, 1, 2]


def test_drawn_configurations_are_near_all_of_them():
    p = answers(T=10, B=5, K=4)
    exact = batch_bald(p, 5)
    drawn = batch_bald(p, 5, num_configurations=60, generator=torch.Generator().manual_seed(1))
    assert exact.chosen[:3].tolist() == drawn.chosen[:3].tolist()  # 4^2 configurations
    torch.testing.assert_close(drawn.gain.sum(), exact.gain.sum(), rtol=0.05, atol=0)
    assert (drawn.gain != exact.gain).any()


def test_shared_passes_are_the_same_for_all_rows_and_questions():
    agent, obs = Asked(nn.Sequential(nn.Linear(INPUTS, 16), nn.Dropout(), nn.Linear(16, 3))), torch.randn(1, INPUTS)
    asker = MCDropout(agent, passes=8, shared=True)
    (p,) = asker.answers(obs.expand(5, -1))
    torch.testing.assert_close(p, p[:, :1].expand_as(p))
    assert (p[0] != p[1]).any()
    torch.testing.assert_close(asker.answers(obs)[0], p[:, :1])
    (apart,) = MCDropout(agent, passes=8).answers(obs.expand(5, -1))
    assert (apart - apart[:, :1]).abs().max() > 0.01


def test_shared_passes_have_the_mean_of_others():
    agent, obs = Asked(mlp()), torch.randn(16, INPUTS)
    shared, apart = (MCDropout(agent, passes=600, shared=one).uncertainty(obs) for one in (True, False))
    torch.testing.assert_close(shared.probabilities, apart.probabilities, atol=0.07, rtol=0)


def test_shared_passes_drop_whole_channels():
    network = nn.Sequential(nn.Unflatten(1, (4, 4, 4)), nn.Dropout2d(), nn.Flatten(), nn.Linear(64, 3, bias=False))
    nn.init.zeros_(network[3].weight)
    with torch.no_grad():  # class k sees channel k alone
        for k in range(3):
            network[3].weight[k, 16 * k : 16 * k + 16] = 1 / 16
    (p,) = MCDropout(Asked(network), passes=50, shared=True).answers(torch.ones(2, INPUTS))
    logits = p.log() - p.log().amin(-1, keepdim=True)
    assert {round(x, 3) for x in logits.flatten().tolist()} <= {0.0, 6.0}  # 3 x 2, or nothing: no part of a channel


@pytest.mark.parametrize("network", [Functional(), nn.Sequential(nn.AlphaDropout(0.3), nn.Linear(INPUTS, 3))])
def test_shared_passes_need_modules_with_a_mask(network):
    with pytest.raises(InputError, match=r"shared: .* use nn\.Dropout"):
        MCDropout(Asked(network), passes=4, shared=True).answers(torch.randn(2, INPUTS))


def blobs(num=120, classes=3):
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(num) % classes
    inputs = torch.randn(num, 2, generator=generator) + 2 * torch.eye(classes)[targets][:, :2]
    return from_arrays(inputs, targets)


def pool(**settings):
    return PoolEnv(PoolEnv.Settings(**{**SMALL, **settings}), dataset=blobs())


def trainer(agent=None, updates=17, run_dir=None, kind=Supervised, **settings):
    env = pool(**settings)
    torch.manual_seed(0)  # of the initial parameters
    agent = kind(env, kind.Settings.model_validate(agent or {"network": DROPOUT}))
    steps = {"total_steps": updates * 8, "eval_every": 32, "tensorboard": False}
    return Trainer(agent, env, Trainer.Settings(**steps), run_dir=run_dir)


@pytest.mark.parametrize("acquisition", ["random", "entropy", "margin", "bald", "batchbald"])
def test_a_round_adds_labels_until_there_are_enough(acquisition):
    run, counts = trainer(acquisition=acquisition), []
    for _ in run.updates():
        counts.append(len(run.env.labelled))
    assert counts == [6] * 4 + [9] * 4 + [12] * 4 + [15] * 5
    assert len(run.env.labelled.unique()) == 15
    assert list(run.env.curve) == [6, 9, 12, 15]
    assert run.figures["eval/labels"] == 15
    assert run.figures["eval/accuracy"] == run.env.curve[15]


def test_a_pool_keeps_the_contract_of_environments():
    rlcore.check_environment(pool(), num_steps=20)


def test_only_labelled_examples_are_shown_each_as_often():
    env = pool()
    obs, _ = env.reset(seed=3)
    shown = env.dataset.train.inputs[env.labelled]
    for _ in range(6):  # 8 of 12: each label twice
        assert (obs.unsqueeze(1) == shown).all(-1).any(1).all()
        obs, *_ = env.step(torch.zeros(8, 3))


def test_the_first_labels_are_of_each_class_and_differ_by_the_seed():
    env = pool(initial=7)
    env.reset(seed=1)
    first = env.labelled
    assert env.examples.all_targets[first].bincount().tolist() in ([3, 2, 2], [2, 3, 2], [2, 2, 3])
    env.reset(seed=2)
    assert env.labelled.tolist() != first.tolist()
    env.reset(seed=1)
    assert env.labelled.tolist() == first.tolist()


def after_a_round(**settings):
    """A run at the end of its first round, before the acquisition."""
    run = trainer(**settings)
    for n, _ in enumerate(run.updates(), 1):
        if n == SMALL["batches"]:
            return run
    raise AssertionError


def test_entropy_asks_what_is_doubted_most():
    run = after_a_round(agent=PLAIN, acquisition="entropy")
    env = run.env
    with torch.no_grad():
        found = uncertainty(run.agent.answers(env.dataset.train.inputs))
    doubt = found.predictive_entropy.index_fill(0, env.labelled, -1)
    env.acquire(run.agent)
    assert set(env.labelled[6:].tolist()) == set(doubt.topk(3).indices.tolist())


def test_a_round_begins_with_new_parameters_or_with_those_of_the_last():
    for restart in (True, False):
        run = after_a_round(restart=restart, acquisition="random")
        before = [p.clone() for p in run.agent.parameters()]
        run.env.acquire(run.agent)
        kept = all((p == q).all() for p, q in zip(run.agent.parameters(), before, strict=True))
        assert kept != restart
        assert bool(run.agent.optimizer.state) != restart


def test_a_new_start_is_that_of_an_agent_made_anew():
    run = trainer({"network": DROPOUT, "learning_rate_schedule": "cosine"})
    run.fit()
    state = torch.get_rng_state()
    run.agent.reinitialize(5)
    assert (torch.get_rng_state() == state).all()
    torch.manual_seed(5)
    new = Supervised(run.env, run.agent.settings)
    same(dict(new.state_dict()), dict(run.agent.state_dict()))
    for agent in (new, run.agent):
        Trainer(agent, pool(), total_steps=80).fit()
    same(dict(new.state_dict()), dict(run.agent.state_dict()))


def test_the_schedule_is_of_a_round():
    run = trainer({"network": DROPOUT, "learning_rate_schedule": "linear"}, updates=8)
    rates = [float(metrics["learning_rate"]) for metrics in run.updates()]
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3] * 2)


@pytest.mark.parametrize("stop", [2, 4, 6])
@pytest.mark.parametrize("acquisition", ["bald", "batchbald"])
def test_a_run_resumed_in_a_round_or_at_its_end_ends_in_the_same_bits(stop, acquisition):
    settings = {"acquisition": acquisition, "candidates": 50, "configurations": 8}
    whole, part, rest = (trainer(**settings) for _ in range(3))
    whole.fit()
    for n, _ in enumerate(part.updates(), 1):
        if n == stop:
            break
    saved = part.checkpoint()
    torch.manual_seed(99)
    assert rest.restore(saved) == []
    rest.fit()
    same(dict(whole.agent.state_dict()), dict(rest.agent.state_dict()))
    assert whole.env.labelled.tolist() == rest.env.labelled.tolist()
    assert whole.env.curve == rest.env.curve
    saved["learns"]["collector"]["env"]["labelled"][0] = saved["learns"]["collector"]["env"]["labelled"][1]
    with pytest.raises(CheckpointError, match="a row twice"):
        trainer(**settings).restore(saved)


def test_an_ensemble_needs_no_dropout():
    member = {"name": "supervised", "network": {"name": "mlp", "hidden": [8]}}
    run = trainer({"agent": member, "members": 2}, kind=Ensemble)
    run.fit()
    assert len(run.env.labelled) == 15


def test_the_report_draws_the_curve(tmp_path):
    run = trainer()
    run.fit()
    report = LabelsReport(LabelsReport.Settings(accuracy=run.env.curve[12]))
    made = report(run.agent, run.evaluator.make(), run.report)
    assert made.scalars["needed"] == min(n for n, x in run.env.curve.items() if x >= run.env.curve[12])
    assert LabelsReport(LabelsReport.Settings(accuracy=1))(run.agent, run.evaluator.make(), run.report).scalars == {}
    assert made.columns == {"labels": [6, 9, 12, 15], "accuracy": list(run.env.curve.values())}
    assert made.text.splitlines()[:2] == ["labels,accuracy", f"6,{run.env.curve[6]:.4f}"]
    fresh = pool()
    found = fresh.evaluation(1).score(run.agent, 1, 1)
    assert "labels" not in found.scalars  # of an agent that learned elsewhere
    with pytest.raises(InputError, match="made while the agent learns"):
        report(run.agent, fresh.evaluation(1), found)


@pytest.mark.parametrize(
    ("settings", "agent", "message"),
    [
        ({"labels": 500}, None, "env.labels: the pool has 96 examples, 500 labels were asked for"),
        ({"acquisition": "bald"}, PLAIN, "env.acquisition: bald: .* no dropout.*network.dropout=0.1; or an ensemble"),
        ({"acquisition": "batchbald"}, PLAIN, "env.acquisition: batchbald: .* no dropout"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(settings, agent, message):
    with pytest.raises(InputError, match=message) as error:
        trainer(agent, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": 5}, "labels: must be at least initial=6, got 5"),
        ({"candidates": 2}, "candidates: must be at least acquire=3, got 2"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        pool(**settings)


def test_entropy_needs_no_dropout():
    trainer(PLAIN, acquisition="entropy").fit()


def test_a_pool_asks_for_classes():
    numbers = from_arrays(torch.randn(20, 2), torch.randn(20))
    with pytest.raises(InputError):
        PoolEnv(PoolEnv.Settings(**SMALL), dataset=numbers)


def test_a_pool_may_be_where_it_is():
    data, found = blobs(), []
    mapped = data.train._replace(inputs=Kept(data.train.inputs.numpy(), torch.float32))
    for train in (data.train, mapped):
        env = PoolEnv(PoolEnv.Settings(**SMALL), dataset=replace(data, train=train))
        torch.manual_seed(0)
        agent = Supervised(env, Supervised.Settings.model_validate({"network": DROPOUT}))
        Trainer(agent, env, total_steps=17 * 8).fit()
        found.append((env.labelled, dict(agent.state_dict())))
    same(*found)


def test_weights_of_classes_are_refused_here_too_where_nothing_reads_them():
    plain = {"num_envs": 8, "dataset": "iris", "labels": 30, "action": "label", "acquisition": "random"}
    env = PoolEnv(PoolEnv.Settings(**plain, class_weights="balanced"))
    with pytest.raises(InputError, match=r"env\.class_weights: Reinforce learns from the reward alone"):
        Trainer(Reinforce(env), env, total_steps=8)
