"""How agents that follow the gradient of a reward are trained: losses, groups, accumulation, precision."""

import copy

import numpy as np
import pytest
import torch
from compare import same
from pydantic import ValidationError
from torch.nn import functional as F

from rlcore import InputError, Trainer
from rlcore.agents.autoencoder import AutoencoderAgent
from rlcore.agents.bc import BC
from rlcore.agents.ensemble import Ensemble
from rlcore.agents.reinforce import Reinforce
from rlcore.agents.supervised import Batch, Supervised
from rlcore.optimizers import Adam
from rlcore.schedules import anneal
from rlcore.settings import mistakes
from rlcore.supervised.datasets import from_arrays
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.reconstruction import ReconstructionEnv

RNG = np.random.default_rng(1)
INPUTS = RNG.normal(size=(90, 4)).astype(np.float32)
CLASSES = RNG.choice(3, 90, p=[0.6, 0.3, 0.1])
MLP = {"name": "mlp", "hidden": [8], "activation": "tanh"}


def make(targets=CLASSES, kind=Supervised, agent=None, **settings):
    env = SupervisedEnv(SupervisedEnv.Settings(**{"num_envs": 10, **settings}), dataset=from_arrays(INPUTS, targets))
    torch.manual_seed(1)
    return kind(env, kind.Settings.model_validate({"network": MLP, **(agent or {})})), env


class Recorded(Supervised):
    """Keeps the batches that it learned from."""

    def __init__(self, env, settings=None):
        super().__init__(env, settings)
        self.batches = []

    def loss(self, output, batch):
        self.batches.append(batch._replace(reward=batch.reward.detach()))
        return super().loss(output, batch)


def trained(num=6, targets=CLASSES, agent=None, **settings):
    """An agent after some updates, one that was made alike, and the batches."""
    learner, env = make(targets, Recorded, agent, **settings)
    other = copy.deepcopy(learner)
    Trainer(learner, env, Trainer.Settings(total_steps=env.num_envs * num, eval_every=None)).fit()
    return learner, other, learner.batches


def assert_alike(one, other, **tolerances):
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, **tolerances)


# Losses


def test_a_loss_of_ones_own_sees_outputs_and_targets():
    class Absolute(Supervised):
        def loss(self, output, batch):
            return (output - batch.target).abs().mean()

    targets = INPUTS[:, 0] * 2
    agent, env = make(targets, Absolute, {"learning_rate": 0.03}, action="values")
    trainer = Trainer(agent, env, total_steps=10 * 300)
    losses = [float(metrics["loss"]) for metrics in trainer.updates()]
    assert sum(losses[-10:]) < 0.2 * sum(losses[:10])


def test_the_targets_are_those_of_the_examples_that_were_answered():
    known = {tuple(x): y for x, y in zip(INPUTS.tolist(), CLASSES.tolist(), strict=True)}
    _, _, batches = trained()
    for batch in batches:
        assert [known[tuple(x)] for x in batch.obs.tolist()] == batch.target.tolist()


def test_members_of_an_ensemble_have_their_own_targets():
    seen = []

    class Watching(Supervised):
        def loss(self, output, batch):
            seen.append(batch)
            return super().loss(output, batch)

    env = SupervisedEnv(
        SupervisedEnv.Settings(num_envs=10, class_weights="balanced"), dataset=from_arrays(INPUTS, CLASSES)
    )
    torch.manual_seed(1)
    agent = Ensemble(env, Ensemble.Settings.model_validate({"agent": {"name": "supervised"}, "members": 2}))
    agent.members[0].__class__ = agent.members[1].__class__ = Watching
    Trainer(agent, env, Trainer.Settings(total_steps=10, eval_every=None)).fit()
    known = {tuple(x): y for x, y in zip(INPUTS.tolist(), CLASSES.tolist(), strict=True)}
    assert len(seen) == 2
    for batch in seen:
        assert len(batch.obs) == len(batch.target) == len(batch.weight) == 5
        assert [known[tuple(x)] for x in batch.obs.tolist()] == batch.target.tolist()


def test_balanced_weights_make_all_classes_count_alike():
    _, env = make(class_weights="balanced")
    targets = env.dataset.train.targets
    weights = env._class_weights[targets]
    assert weights.mean().item() == pytest.approx(1)
    sums = torch.zeros(3).index_add(0, targets, weights)
    assert sums.tolist() == pytest.approx([len(targets) / 3] * 3, rel=1e-5)


@pytest.mark.parametrize("wrong", ["balance", 3, [1.0, 2.0], {"0": -1.0}, {"0": "x"}, {0: True}])
def test_class_weights_of_a_wrong_kind_are_one_line(wrong):
    with pytest.raises(ValidationError) as caught:
        SupervisedEnv.Settings(class_weights=wrong)
    words = f"must be balanced, or a number above 0 by class, as {{cat: 2.0}}; got {wrong!r}"
    assert mistakes(caught.value, SupervisedEnv.Settings) == [(("class_weights",), words)]


def test_class_weights_are_those_of_torch_but_for_their_scale():
    given = {"0": 1.0, "1": 2.0, "2": 5.0}
    agent, other, batches = trained(agent={"optimizer": "sgd", "learning_rate": 0.1}, class_weights=given)
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    counts = np.bincount(CLASSES)  # the hold-out is by class
    weights = torch.tensor([1.0, 2.0, 5.0])
    held = torch.bincount(make()[1].dataset.train.targets).float()
    scaled = weights * held.sum() / (weights * held).sum()
    assert counts.sum() == 90
    for batch in batches:
        loss = (F.cross_entropy(other.outputs(batch.obs), batch.target, reduction="none") * scaled[batch.target]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_alike(agent, other)
    with pytest.raises(InputError, match=r"env\.class_weights: there is no class '3'; there are 0, 1, 2"):
        make(class_weights={"3": 1.0})
    with pytest.raises(InputError, match=r"env\.class_weights: needs classes"):
        make(INPUTS[:, 0], class_weights="balanced", action="values")


def test_the_focal_loss_is_that_of_its_equation():
    agent, other, batches = trained(agent={"optimizer": "sgd", "learning_rate": 0.1, "focal": 2.0})
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    for batch in batches:
        p = other.outputs(batch.obs).softmax(1)[torch.arange(10), batch.target]
        optimizer.zero_grad()
        (-((1 - p) ** 2) * p.log()).mean().backward()
        optimizer.step()
    assert_alike(agent, other)
    with pytest.raises(InputError, match=r"agent\.focal: answers must be logits"):
        make(INPUTS[:, 0], agent={"focal": 1.0}, action="values")


def test_smoothed_labels_are_those_of_torch():
    agent, other, batches = trained(agent={"optimizer": "sgd", "learning_rate": 0.1, "label_smoothing": 0.2})
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    for batch in batches:
        optimizer.zero_grad()
        F.cross_entropy(other.outputs(batch.obs), batch.target, label_smoothing=0.2).backward()
        optimizer.step()
    assert_alike(agent, other)


# Groups, freezing, schedules


def test_groups_have_their_own_rates_and_frozen_ones_do_not_move():
    groups = [
        {"match": "network.layers.0.*", "freeze": True},
        {"match": "*bias", "learning_rate": 0.2, "weight_decay": 0.1},
    ]
    plain = {"optimizer": "sgd", "learning_rate": 0.1, "learning_rate_schedule": "linear"}
    names = [name for name, _ in make()[0].named_parameters()]
    first, last = sorted({name.rpartition(".")[0] for name in names})
    frozen, own = {"match": f"{first}.*", "freeze": True}, {"learning_rate": 0.2, "weight_decay": 0.1}
    groups = [frozen, {"match": "*bias", **own}]
    agent, other, batches = trained(num=4, agent={**plain, "groups": groups})
    params = dict(other.named_parameters())
    for name, param in agent.named_parameters():
        assert torch.equal(param, params[name]) == name.startswith(first), name
    optimizer = torch.optim.SGD(
        [
            {"params": [params[f"{last}.weight"]], "lr": 0.1},
            {"params": [params[f"{last}.bias"]], "lr": 0.2, "weight_decay": 0.1},
        ]
    )
    for n, batch in enumerate(batches):
        for group, rate in zip(optimizer.param_groups, (0.1, 0.2), strict=True):
            group["lr"] = rate * (1 - n / 4)
        optimizer.zero_grad()
        F.cross_entropy(other.outputs(batch.obs), batch.target).backward()
        optimizer.step()
    assert_alike(agent, other)


def test_a_frozen_batch_norm_keeps_its_statistics_and_uses_them():
    network = {**MLP, "batch_norm": True}
    names = [name for name, _ in make(agent={"network": network})[0].named_parameters()]
    agent, _ = make(agent={"network": network, "groups": [{"match": names[-1], "learning_rate": 0.1}, {"match": "*"}]})
    assert len(agent.optimizer.param_groups) == 2
    groups = [{"match": f"network.{part}.*", "freeze": True} for part in ("hidden", "after")]
    agent, env = make(agent={"network": network, "groups": groups})
    before = {name: x.clone() for name, x in agent.named_buffers()}
    Trainer(agent, env, Trainer.Settings(total_steps=50, eval_every=None)).fit()
    assert agent.training
    assert all(torch.equal(x, before[name]) for name, x in agent.named_buffers())
    assert any("running_mean" in name for name in before)


def test_a_group_of_nothing_is_one_line():
    with pytest.raises(InputError, match=r"agent\.groups: no parameter matches 'netwrk\.\*'; there are network\."):
        make(agent={"groups": [{"match": "netwrk.*"}]})
    with pytest.raises(InputError, match=r"agent\.groups: no parameter is left that matches 'network\.\*'"):
        make(agent={"groups": [{"match": "*"}, {"match": "network.*"}]})
    with pytest.raises(InputError, match=r"agent\.groups: freeze all parameters"):
        make(agent={"groups": [{"match": "*", "freeze": True}]})


def test_the_rate_rises_and_then_follows_its_schedule():
    optimizer = Adam([torch.zeros(1, requires_grad=True)], 0.5)
    rates = [anneal(optimizer, 0.5, "linear", progress, 0.2) for progress in (0, 0.1, 0.2, 0.6, 1)]
    assert rates == pytest.approx([0, 0.25, 0.5, 0.25, 0])


# Accumulation and precision


@pytest.mark.parametrize(("name", "bound"), [("sgd", 1e9), ("adam", 0.1)])
def test_accumulated_batches_are_one_large_batch(name, bound):
    given = {"accumulate": 3, "max_grad_norm": bound, "optimizer": name, "learning_rate": 0.1}
    agent, other, batches = trained(num=6, agent=given)
    optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name](other.parameters(), 0.1)
    for n in (0, 3):
        obs, target = (torch.cat([getattr(batch, name) for batch in batches[n : n + 3]]) for name in ("obs", "target"))
        optimizer.zero_grad()
        F.cross_entropy(other.outputs(obs), target).backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), bound)
        optimizer.step()
    assert_alike(agent, other)


@pytest.mark.parametrize("stop", [4, 6])
def test_a_run_resumed_between_two_steps_ends_with_the_same_bits(stop):
    def trainer(total=None):
        agent, env = make(agent={"accumulate": 3})
        return Trainer(agent, env, Trainer.Settings(total_steps=120, stop_at=total, eval_every=None))

    whole, part, rest = trainer(), trainer(10 * stop), trainer()
    whole.fit()
    part.fit()
    assert rest.restore(part.checkpoint()) == []
    rest.fit()
    same(whole.checkpoint(), rest.checkpoint())


def test_bfloat16_is_the_autocast_of_a_loop_by_hand():
    agent, other, batches = trained(agent={"precision": "bfloat16", "learning_rate": 0.01})
    optimizer = torch.optim.Adam(other.parameters(), 0.01)
    for batch in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = other.network(batch.obs)
        assert outputs.dtype == torch.bfloat16
        F.cross_entropy(outputs.float(), batch.target).backward()
        optimizer.step()
    assert_alike(agent, other)
    full, _, _ = trained(agent={"learning_rate": 0.01})
    assert not torch.equal(next(full.parameters()), next(agent.parameters()))
    assert next(agent.parameters()).dtype == torch.float32
    assert agent(INPUTS[:2]).dtype == np.float32


@pytest.mark.parametrize("has", [False, True])
def test_auto_is_bfloat16_where_the_device_has_it(monkeypatch, has):
    monkeypatch.setattr("rlcore.precision.has_bfloat16", lambda device: has)
    named, _, _ = trained(agent={"precision": "bfloat16" if has else "float32", "learning_rate": 0.01})
    agent, _, _ = trained(agent={"precision": "auto", "learning_rate": 0.01})
    assert_alike(agent, named)


def test_an_autoencoder_is_trained_alike():
    env = ReconstructionEnv(ReconstructionEnv.Settings(num_envs=16, dataset="digits"))
    network = {"name": "vae", "hidden": [16], "latent": 2}
    given = {"network": network, "accumulate": 2, "precision": "bfloat16", "optimizer": "adamw", "weight_decay": 0.1}
    torch.manual_seed(1)
    agent = AutoencoderAgent(env, AutoencoderAgent.Settings.model_validate(given))
    before = copy.deepcopy(agent.state_dict())
    trainer = Trainer(agent, env, Trainer.Settings(total_steps=32, eval_every=None))
    first, second = (trainer.update() for _ in range(2))
    assert not any(torch.equal(x, before[name]) for name, x in agent.state_dict().items() if x.ndim > 1)
    assert {"loss", "kl", "beta", "learning_rate"} == set(first) == set(second)


def test_behaviour_cloning_computes_in_float32():
    with pytest.raises(ValueError, match="precision: behaviour cloning computes in float32"):
        BC.Settings(precision="bfloat16")


# The norm of gradients


def test_the_norm_of_gradients_is_logged():
    agent, env = make()
    hooks = [{"name": "grad_norm", "by_parameter": True}]
    trainer = Trainer(agent, env, Trainer.Settings(total_steps=10, eval_every=None, hooks=hooks))
    metrics = trainer.update()
    grads = {name: param.grad for name, param in agent.named_parameters()}
    assert metrics["grad_norm"].item() == pytest.approx(torch.cat([x.flatten() for x in grads.values()]).norm().item())
    for name, grad in grads.items():
        assert metrics[f"grad_norm/{name}"].item() == pytest.approx(grad.norm().item())
    agent, env = make(agent={"max_grad_norm": 1e-3})
    clipped = Trainer(agent, env, Trainer.Settings(total_steps=10, eval_every=None, hooks=["grad_norm"])).update()
    assert clipped["grad_norm"].item() == pytest.approx(metrics["grad_norm"].item())


@pytest.mark.parametrize("gamma", [0.5, 0.9, 2.0])
def test_the_focal_loss_of_a_certain_example_is_finite(gamma):
    agent, _ = make(agent={"focal": gamma})
    output = torch.tensor([[100.0, 0, 0], [0, 1, 2.0]], requires_grad=True)
    target = torch.tensor([0, 1])
    reward = -F.cross_entropy(output, target, reduction="none")
    (slope,) = torch.autograd.grad(agent.loss(output, Batch(output, reward, target)), output)
    assert slope.isfinite().all()
    assert slope[0].abs().max() == 0
    assert slope[1].abs().max() > 0


def test_weights_of_classes_are_refused_where_nothing_reads_them():
    env = SupervisedEnv(
        SupervisedEnv.Settings(num_envs=10, action="label", class_weights={"1": 3.0}),
        dataset=from_arrays(INPUTS, CLASSES),
    )
    with pytest.raises(InputError, match=r"env\.class_weights: Reinforce learns from the reward alone"):
        Trainer(Reinforce(env), env, total_steps=10)
    assert SupervisedEnv.Settings(class_weights={1: 3.0}).class_weights == {"1": 3.0}
