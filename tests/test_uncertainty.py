import json
import math

import numpy as np
import pytest
import torch
from compare import same
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import rlcore
from rlcore.agents.ensemble import Ensemble
from rlcore.agents.ppo import PPO
from rlcore.agents.random_search import RandomSearch
from rlcore.agents.recurrent_ppo import RecurrentPPO
from rlcore.agents.reinforce import Reinforce
from rlcore.agents.supervised import Supervised
from rlcore.distributions import Categorical
from rlcore.envs.cartpole import CartPole
from rlcore.envs.probes import Target
from rlcore.errors import InputError
from rlcore.gym_environment import GymEnvironment
from rlcore.networks import Network, NetworkChoice
from rlcore.networks.dropout import ConsistentDropout, dropouts, make_consistent, recalled
from rlcore.rollout import collect
from rlcore.supervised.datasets import from_arrays
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.reconstruction import ReconstructionEnv
from rlcore.trainer import Trainer
from rlcore.trees import take
from rlcore.uncertainty import (
    Classes,
    Numbers,
    accuracy_at_coverage,
    best_answer,
    brier_score,
    calibration_error,
    fit_temperature,
    measures,
    negative_log_likelihood,
    reliability,
    risk_at_coverage,
    roc_area,
    tempered,
    uncertainty,
)
from rlcore.uncertainty.mc_dropout import MCDropout


def network(**settings):
    return NetworkChoice.model_validate({"name": "mlp", "hidden": [16, 16], "activation": "relu", **settings})


def classifier(seed=1, num_envs=30, agent=Supervised, action="logits", **settings):
    env = SupervisedEnv(SupervisedEnv.Settings(dataset="iris", num_envs=num_envs, action=action))
    torch.manual_seed(seed)
    return agent(env, agent.Settings(**{"network": network(dropout=0.3), **settings})), env


# The mathematics.


def test_entropies_in_closed_form():
    log2 = math.log(2)
    alike = uncertainty(Classes(torch.full((7, 1, 2), 0.5)))  # each pass is in doubt, and all alike
    assert alike.predictive_entropy.item() == pytest.approx(log2)
    assert alike.mutual_information.item() == pytest.approx(0, abs=1e-7)
    apart = uncertainty(Classes(torch.eye(2)[:, None]))  # each pass is sure, and they differ
    assert apart.predictive_entropy.item() == pytest.approx(log2)
    assert apart.expected_entropy.item() == 0
    assert apart.mutual_information.item() == pytest.approx(log2)
    assert apart.variation_ratio.item() == 0.5
    assert apart.probabilities.tolist() == [[0.5, 0.5]]
    p = torch.tensor([[[0.5, 0.25, 0.25]], [[0.5, 0.5, 0.0]]])
    found = uncertainty(Classes(p))
    by_hand = -(0.5 * math.log(0.5) + 0.375 * math.log(0.375) + 0.125 * math.log(0.125))
    assert found.predictive_entropy.item() == pytest.approx(by_hand, rel=1e-6)
    assert found.expected_entropy.item() == pytest.approx((1.5 * log2 + log2) / 2, rel=1e-6)


@given(st.integers(1, 9), st.integers(2, 8), st.integers(0, 10**6), st.floats(0.05, 30))
def test_entropies_keep_their_bounds(T, K, seed, scale):
    logits = torch.randn(T, 5, K, generator=torch.Generator().manual_seed(seed)) * scale
    found = uncertainty(Classes(logits.softmax(-1)))
    torch.testing.assert_close(found.mutual_information, found.predictive_entropy - found.expected_entropy)
    assert (found.mutual_information <= found.predictive_entropy + 1e-6).all()
    assert (found.predictive_entropy <= math.log(K) + 1e-6).all()
    assert ((found.variation_ratio >= 0) & (found.variation_ratio <= 1 - 1 / T + 1e-6)).all()
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(5))


def test_the_variance_of_numbers_is_that_of_their_mixture():
    means, stds = torch.tensor([0.0, 2.0, 1.0]), torch.tensor([0.5, 1.0, 2.0])
    found = uncertainty(Numbers(means.view(3, 1, 1), stds.view(3, 1, 1)))
    generator = torch.Generator().manual_seed(1)
    which = torch.randint(3, (400_000,), generator=generator)
    draws = means[which] + stds[which] * torch.randn(400_000, generator=generator)
    assert found.mean.item() == pytest.approx(1.0)
    assert found.std.item() == pytest.approx(draws.std().item(), rel=0.01)
    assert found.epistemic_std.item() == pytest.approx(means.std(correction=0).item())
    assert found.aleatoric_std.item() == pytest.approx(stds.square().mean().sqrt().item())


def test_scores_in_closed_form():
    p, target = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]), torch.tensor([0, 1])
    assert negative_log_likelihood(p, target) == pytest.approx(-(math.log(0.7) + math.log(0.1)) / 2, rel=1e-6)
    by_hand = (0.3**2 + 0.2**2 + 0.1**2 + 0.1**2 + 0.9**2 + 0.8**2) / 2
    assert brier_score(p, target) == pytest.approx(by_hand, rel=1e-6)
    assert negative_log_likelihood(torch.tensor([[1.0, 0.0]]), torch.tensor([1])) < 100  # no infinity


@pytest.mark.parametrize("equal", ["width", "mass"])
def test_the_calibration_error_of_answers_whose_calibration_is_known(equal):
    generator = torch.Generator().manual_seed(1)
    confidence = torch.rand(400_000, generator=generator, dtype=torch.float64)
    chance = torch.rand(400_000, generator=generator, dtype=torch.float64)
    assert calibration_error(confidence, chance < confidence, equal=equal) < 0.005
    # right with the chance c^2: the gap is E |c - c^2| = 1/6
    assert calibration_error(confidence, chance < confidence**2, equal=equal) == pytest.approx(1 / 6, abs=0.005)


def test_the_measures_are_what_they_are_named_for():
    logits, doubt, target = 2 * torch.randn(60, 3), torch.rand(60), torch.arange(60) % 3
    p = logits.softmax(1)
    right, stated = p.argmax(1) == target, p[torch.arange(60), target]
    order = doubt.argsort()
    by_hand = {
        "accuracy": right.double().mean(),
        "negative_log_likelihood": -stated.log().mean(),
        "brier_score": (p - F.one_hot(target, 3)).square().sum(1).mean(),
        "calibration_error": calibration_error(p.amax(1), right),
        "calibration_error_mass": calibration_error(p.amax(1), right, equal="mass"),
        "risk_coverage_area": ((~right)[order].double().cumsum(0) / torch.arange(1, 61)).mean(),
        "accuracy_at_95": right[order[:57]].double().mean(),
        "accuracy_at_90": right[order[:54]].double().mean(),
        "error_roc_area": (doubt[~right][:, None] > doubt[right][None]).double().mean(),
    }
    assert measures(p, target, doubt) == pytest.approx({key: float(x) for key, x in by_hand.items()}, rel=1e-5)


def test_bins_of_equal_mass_hold_the_same_number():
    confidence = torch.rand(1000).pow(0.1)
    bins = reliability(confidence, torch.ones(1000, dtype=torch.bool), 10, "mass")
    assert bins.num_examples.tolist() == [100] * 10
    assert bins.confidence.diff().min() > 0
    by_width = reliability(torch.tensor([0.05, 1.0, 0.0]), torch.tensor([True, False, True]), 10)
    assert by_width.num_examples.tolist() == [2, 1]


def test_risk_at_coverage_by_hand():
    doubt, wrong = torch.tensor([0.1, 0.9, 0.4, 0.2]), torch.tensor([False, True, True, False])
    assert risk_at_coverage(doubt, wrong).tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert accuracy_at_coverage(doubt, wrong, 0.5) == 1
    assert accuracy_at_coverage(doubt, wrong, 0.75) == pytest.approx(2 / 3)
    alike = risk_at_coverage(torch.zeros(4), torch.tensor([True, False, False, False]))
    assert alike.tolist() == pytest.approx([0.25] * 4)  # ties come in no order
    assert roc_area(doubt, wrong) == 1
    assert math.isnan(roc_area(doubt, torch.zeros(4, dtype=torch.bool)))


def test_the_temperature_that_logits_were_multiplied_by_is_found_again():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(50_000, 5, generator=generator)
    target = logits.softmax(1).multinomial(1, generator=generator).squeeze(1)
    sharp = (3 * logits).softmax(1)
    tau = fit_temperature(sharp, target)
    assert tau == pytest.approx(3, rel=0.05)
    torch.testing.assert_close(tempered(sharp, 3.0), logits.softmax(1))
    assert calibration_error(*tempered(sharp, tau).max(1)[:1], tempered(sharp, tau).argmax(1) == target) < 0.01


# Monte Carlo dropout.


class HalfOfTwo(nn.Module):
    """Logits are the input; its dropout of one unit leaves [0, 0] or [2 a, 0], each with chance one half."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return torch.cat([self.dropout(x[:, :1]), torch.zeros_like(x[:, :1])], 1)


def test_a_known_distribution_of_masks_gives_the_exact_entropy_in_the_limit():
    agent, _ = classifier()
    agent.network, a = HalfOfTwo(), 0.7
    agent.action_space = rlcore.spaces.Logits(2)
    found = MCDropout(agent, passes=200_000).uncertainty(torch.full((1, 1), a))
    p = 0.5 * 0.5 + 0.5 * torch.tensor(2 * a).sigmoid().double()
    entropy = lambda p: -(p * p.log() + (1 - p) * (1 - p).log())  # noqa: E731
    expected = 0.5 * math.log(2) + 0.5 * entropy(torch.tensor(2 * a).sigmoid().double())
    assert found.predictive_entropy.item() == pytest.approx(entropy(p).item(), abs=2e-4)
    assert found.expected_entropy.item() == pytest.approx(expected.item(), abs=2e-4)
    assert found.mutual_information.item() == pytest.approx((entropy(p) - expected).item(), abs=4e-4)


@pytest.mark.parametrize("body", ["mlp", "residual", "tokens"])
@pytest.mark.parametrize("batch", [1, 5])
def test_one_batched_pass_equals_a_loop_of_passes_with_the_same_masks(body, batch):
    agent, env = classifier()
    if body != "mlp":
        agent.network = {"residual": Residual, "tokens": Tokens}[body]()
    drawn = []
    for module in dropouts(agent):
        module.register_forward_hook(lambda module, inputs, output: drawn.append((inputs[0], output)))
    obs, T = env.inputs(slice(0, batch)), 6
    mc = MCDropout(agent, passes=T)
    mc.answers(obs)  # decides where rows are repeated
    drawn.clear()
    answers = mc.answers(obs)
    masks = [(output / (x * (1 / 0.7))).nan_to_num().round().bool() for x, output in drawn if len(x) != batch]
    modules = make_consistent(agent)
    assert len(masks) == len(modules)
    agent.eval()
    for module in modules:
        module.train()
    for t in range(T):
        size = [len(mask) // T for mask in masks]
        these = tuple(mask[t * n : (t + 1) * n] for mask, n in zip(masks, size, strict=True))
        with recalled(modules, these):
            single = agent.distribution(obs).log_probs.exp()
        torch.testing.assert_close(answers.p[t], single, atol=1e-6, rtol=1e-5)


class Residual(nn.Module):
    """A path around dropout meets one through it."""

    def __init__(self):
        super().__init__()
        self.first, self.dropout, self.last = nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 3)

    def forward(self, x):
        x = self.first(x).exp()
        return self.last(x + self.dropout(x))


class Tokens(nn.Module):
    """Rows of the batch are not the rows that dropout sees."""

    def __init__(self):
        super().__init__()
        self.first, self.dropout, self.last = nn.Linear(1, 8), nn.Dropout(0.3), nn.Linear(32, 3)

    def forward(self, x):
        x = self.dropout(self.first(x.reshape(-1, 1)).exp())
        return self.last(x.view(-1, 32))


def test_passes_differ_from_each_other_and_rows_from_each_other():
    agent, env = classifier()
    agent.network = Residual()  # whose every unit is above 0
    asker, obs = MCDropout(agent, passes=4), env.inputs(slice(0, 1)).expand(3, 4)
    p = asker.answers(obs).p
    assert len(p.view(12, 3).unique(dim=0)) > 8
    assert torch.equal(asker.answers(obs).p, p)


def test_asking_changes_no_bit_and_the_same_seed_gives_the_same_answer():
    agent, env = classifier(network=network(dropout=0.3, batch_norm=True))
    trainer = Trainer(agent, env, total_steps=3000)
    for _ in range(20):
        trainer.update()
    before = trainer.checkpoint()
    modes = [module.training for module in agent.modules()]
    obs = env.inputs(slice(0, 10))
    first = MCDropout(agent, seed=3).uncertainty(obs)
    again = MCDropout(agent, seed=3).uncertainty(obs)
    other = MCDropout(agent, seed=4).uncertainty(obs)
    same(before, trainer.checkpoint())
    assert modes == [module.training for module in agent.modules()]
    assert torch.equal(first.probabilities, again.probabilities)
    assert not torch.equal(first.probabilities, other.probabilities)
    # batch norm goes by its running statistics: a row alone is answered as in the batch, but for its masks
    many = MCDropout(agent, passes=4000).uncertainty(obs).probabilities
    alone = MCDropout(agent, passes=4000, seed=2).uncertainty(obs[:1]).probabilities
    torch.testing.assert_close(many[:1], alone, atol=0.03, rtol=0)


def test_a_limit_of_memory_cuts_the_batch_and_not_the_passes():
    agent, env = classifier()
    seen = []
    agent.network.output.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    obs = env.inputs(slice(0, 20))
    bytes_a_row = 4 * (16 + 16 + 16 + 16 + 16 + 16 + 3)  # each layer's, activation's and dropout's output
    answers = MCDropout(agent, passes=10, memory_mib=10 * bytes_a_row * 6.5 / 2**20).answers(obs)
    assert seen == [3, 2, 3, 60, 60, 60, 20]  # the first ones find out how to ask, and what a row takes
    assert answers.p.shape == (10, 20, 3)
    seen.clear()
    MCDropout(agent, passes=10, memory_mib=1e-6).answers(obs)
    assert seen == [3, 2, 3] + [10] * 20


@pytest.mark.parametrize("kind", [PPO, Reinforce])
def test_policies_are_asked_too(kind):
    torch.manual_seed(1)
    env = CartPole(CartPole.Settings(num_envs=4))
    agent = kind(env, kind.Settings(network=network(dropout=0.2)))
    obs, _ = env.reset(seed=1)
    found = MCDropout(agent).uncertainty(obs)
    assert found.probabilities.shape == (4, 2)
    assert (found.mutual_information > 0).all()
    assert MCDropout(agent).predict(obs).action.shape == (4,)
    env = Target(Target.Settings(num_envs=4))
    agent = kind(env, kind.Settings(network=network(dropout=0.2)))
    obs, _ = env.reset(seed=1)
    found = MCDropout(agent).uncertainty(obs)
    assert found.mean.shape == found.std.shape == (4, *env.single_action_space.shape)
    assert (found.epistemic_std > 0).all()
    torch.testing.assert_close(found.aleatoric_std, torch.full_like(found.std, 2.0))  # half the box's width


@pytest.mark.parametrize(("action", "std"), [("gaussian", 0.1), ("values", 0.5**0.5)])
def test_the_reward_is_the_log_likelihood_under_the_agents_own_distribution(action, std):
    dataset = from_arrays(np.random.default_rng(1).random((20, 3), dtype=np.float32), np.arange(20) % 2)
    options = {"std": std} if action == "gaussian" else {}
    env = ReconstructionEnv(ReconstructionEnv.Settings(num_envs=8, action=action, **options), dataset=dataset)
    agent = Supervised(env)
    obs, _ = env.reset(seed=1)
    pi = agent.distribution(obs)
    _, reward, *_ = env.step(pi.mean)
    constant = pi.log_prob(obs) - reward
    torch.testing.assert_close(constant, constant[:1].expand(8), atol=1e-3, rtol=0)
    found = uncertainty(agent.answers(obs))
    torch.testing.assert_close(found.aleatoric_std, torch.full_like(found.std, std))


class Twice(nn.Module):
    """One dropout module, used in two places."""

    num_features = 8

    def __init__(self):
        super().__init__()
        self.first, self.second, self.dropout = nn.Linear(4, 8), nn.Linear(8, 8), nn.Dropout(0.3)

    def forward(self, x):
        return self.dropout(self.second(self.dropout(self.first(x))))


@pytest.mark.parametrize("kind", [PPO, Reinforce])
def test_one_dropout_module_in_two_places_is_refused_by_policies(kind, monkeypatch):
    where = "rlcore.agents.bases.actor_critic" if kind is PPO else kind.__module__
    monkeypatch.setattr(f"{where}.build_body", lambda *arguments: Twice())
    env = CartPole(CartPole.Settings(num_envs=8))
    agent = kind(env)
    rollout = collect(agent, env, env.reset(seed=1)[0], agent.horizon)
    with pytest.raises(InputError, match="used twice"):
        agent.learn(rollout)


@pytest.mark.parametrize("kind", [PPO, Reinforce])
def test_a_rollout_without_masks_is_refused(kind):
    agent, env = policy(kind)
    rollout = collect(agent.eval(), env, env.reset(seed=1)[0], agent.horizon)
    with pytest.raises(InputError, match=r"recorded 0 masks: call agent\.train"):
        agent.train().learn(rollout)


@pytest.mark.parametrize("action", ["logits", "values", "label"])
def test_what_all_say_together_is_an_action_of_the_environment(action):
    kind = Reinforce if action == "label" else Supervised
    agent, env = classifier(agent=kind, action=action)
    obs, _ = env.reset(seed=1)
    env.step(MCDropout(agent).predict(obs).action)


def test_log_odds_are_two_classes():
    rng = np.random.default_rng(1)
    data = from_arrays(rng.normal(size=(40, 4)).astype(np.float32), np.arange(40) % 2)
    env = SupervisedEnv(SupervisedEnv.Settings(num_envs=8, action="log_odds"), dataset=data)
    agent = Supervised(env, Supervised.Settings(network=network(dropout=0.3)))
    obs, _ = env.reset(seed=1)
    found = MCDropout(agent).uncertainty(obs)
    assert found.probabilities.shape == (8, 2)
    answer = best_answer(found, agent.action_space)
    torch.testing.assert_close(answer.sigmoid().squeeze(1), found.probabilities[:, 1])
    with torch.no_grad():
        agent.eval()
        torch.testing.assert_close(agent.answers(obs).p[0, :, 1], agent(obs).sigmoid().squeeze(1))


class Deaf(Network):
    """Its dropout has no say in the answer."""

    def __init__(self, in_shape, out_features, settings):
        super().__init__()
        self.layer, self.dropout, self.num_features = nn.Linear(4, out_features), nn.Dropout(0.5), out_features

    def forward(self, x):
        return self.layer(x)


def test_what_cannot_be_asked_is_refused_in_one_line():
    agent, env = classifier(network=network())
    obs = env.inputs(slice(0, 2))
    cartpole = CartPole()
    remembering = RecurrentPPO(cartpole, RecurrentPPO.Settings(horizon=8, minibatch_size=8))
    with pytest.raises(InputError, match="RecurrentPPO has a memory of its episode, which MC dropout"):
        MCDropout(remembering)
    with pytest.raises(InputError, match="Supervised pass through no dropout, so all passes would be the same"):
        MCDropout(agent).answers(obs)
    agent, env = classifier()
    with pytest.raises(InputError, match="at least 2, got 1"):
        MCDropout(agent, passes=1)
    with pytest.raises(InputError, match="memory_mib: must be above 0"):
        MCDropout(agent, memory_mib=0)
    agent.network = Deaf((4,), 3, None)
    with pytest.raises(InputError, match="pass through no dropout"):
        MCDropout(agent).answers(obs)
    agent, env = classifier(agent=RandomSearch, action="label")
    with pytest.raises(InputError, match="RandomSearch has no distribution over its answers"):
        MCDropout(agent).answers(obs)


class Outside(rlcore.Agent):
    """An agent as a user writes it: a network of its own, and a distribution."""

    def __init__(self, env, settings=None):
        super().__init__(env, settings)
        self.network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))

    def distribution(self, obs):
        return Categorical(self.network(obs))

    def act(self, obs, state=None):
        return rlcore.Step(self.distribution(obs).sample())

    def learn(self, rollout):
        return {}


def test_an_agent_from_outside_is_asked_alone_and_as_members():
    torch.manual_seed(1)
    env = CartPole(CartPole.Settings(num_envs=6))
    obs, _ = env.reset(seed=1)
    assert MCDropout(Outside(env)).uncertainty(obs).mutual_information.min() > 0
    rlcore.registry.agents.register("outside")(Outside)
    choice = Ensemble.Settings.model_validate({"agent": {"name": "outside"}, "members": 2})
    agent = Ensemble(env, choice)
    rlcore.check_agent(agent, env)
    assert uncertainty(agent.answers(obs)).mutual_information.shape == (6,)


def test_a_loaded_run_is_asked(tmp_path):
    overrides = ["trainer.epochs=1", "agent.network.dropout=0.2", "threads=1"]
    assert rlcore.commands.train("digits_lenet", overrides, str(tmp_path / "run"), None, 1) == 0
    agent = rlcore.load(tmp_path / "run")
    assert MCDropout(agent).uncertainty(torch.rand(3, 1, 8, 8)).probabilities.shape == (3, 10)
    settings = ["passes=3", "above=0.5"]
    assert rlcore.commands.evaluate(str(tmp_path / "run"), None, None, False, "uncertainty", settings) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["evaluation"]["uncertainty/mc_dropout_accuracy"] > 0.1


# Dropout in policies.


def policy(kind, **settings):
    torch.manual_seed(1)
    env = CartPole(CartPole.Settings(num_envs=8))
    small = {"horizon": 32, "minibatch_size": 64} if kind is PPO else {}
    return kind(env, kind.Settings(network=network(dropout=0.5), **small, **settings)), env


@pytest.mark.parametrize("shared", [False, True])
def test_the_first_minibatchs_ratio_is_one_with_dropout(shared):
    agent, env = policy(PPO, shared=shared)
    for _ in range(3):  # away from the first, nearly uniform policy
        obs, _ = env.reset(seed=1)
        agent.learn(collect(agent, env, obs, 32))
    rollout = collect(agent, env, env.reset(seed=2)[0], 32)
    rows, _ = agent.training_rows(rollout)
    with torch.no_grad():
        with recalled(agent.policy_dropouts, rows.masks):
            recalled_ratio = (agent.actor_critic.answers(rows.obs)[0].log_prob(rows.action) - rows.log_prob).exp()
        other_ratio = (agent.distribution(rows.obs).log_prob(rows.action) - rows.log_prob).exp()
    torch.testing.assert_close(recalled_ratio, torch.ones_like(recalled_ratio), atol=1e-5, rtol=0)
    assert (other_ratio - 1).abs().max() > 0.01  # with new masks it is another policy
    assert 0.4 < rows.masks[0].float().mean() < 0.6


def test_the_gradient_of_reinforce_is_that_of_the_policy_that_acted():
    agent, env = policy(Reinforce, normalize=False, baseline=True)
    rollout = collect(agent, env, env.reset(seed=2)[0], None)
    masks = rollout.rows(rollout.memory)
    assert masks[0].shape == (rollout.num_steps, 16)
    with torch.no_grad(), recalled(agent.policy_dropouts, masks):
        logits = agent.distribution(rollout.rows(rollout.obs)).logits
    t, n = 3, 5
    with recalled(agent.policy_dropouts, take(rollout.memory, t)):
        found = agent.distribution(rollout.obs[t]).logits[n]
    torch.testing.assert_close(found, logits[int(rollout.valid[:t].sum() + rollout.valid[t, :n].sum())])
    assert math.isfinite(agent.learn(rollout)["value_loss"])


def test_consistent_dropout_is_dropout():
    torch.manual_seed(1)
    x = torch.ones(2000, 50)
    kept = ConsistentDropout(0.3)(x)
    assert kept.mean().item() == pytest.approx(1, abs=0.02)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.7])
    by_channel = make_consistent(nn.Sequential(nn.Dropout2d(0.5)))[0](torch.ones(10, 6, 3, 3))
    assert all(len(image.unique()) == 1 for image in by_channel.flatten(0, 1))
    assert torch.equal(ConsistentDropout(0.3).eval()(x), x)
    with pytest.raises(InputError, match="AlphaDropout keeps no mask"):
        make_consistent(nn.Sequential(nn.AlphaDropout(0.5)))


# Ensembles.


def ensemble(kind="supervised", members=3, num_envs=30, action="logits", **settings):
    env = SupervisedEnv(SupervisedEnv.Settings(dataset="iris", num_envs=num_envs, action=action))
    choice = {"name": kind, "network": {"name": "mlp", "hidden": [16], "activation": "relu"}, **settings}
    torch.manual_seed(1)
    return Ensemble(env, Ensemble.Settings.model_validate({"agent": choice, "members": members})), env


def test_a_member_learns_as_it_would_alone_from_its_share():
    agent, env = ensemble(learning_rate=1e-2)
    alone = agent.members[1]
    single = Supervised(SupervisedEnv(env.settings.model_copy(update={"num_envs": 10})), alone.settings)
    single.load_state_dict(alone.state_dict())
    obs, _ = env.reset(seed=1)
    for _ in range(5):
        share, target = obs[10:20], env._target[10:20]
        rollout = collect(agent, env, obs, 1)
        agent.learn(rollout)
        single.minimize(F.cross_entropy(single(share), target))
        obs = rollout.last_obs
    for ours, theirs in zip(alone.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_every_member_finishes():
    agent, _ = ensemble()
    assert agent.finish() == {}
    for k, member in enumerate(agent.members):
        member.finish = lambda k=k: {"last": float(k)}
    assert agent.finish() == {"last": 1.0}


@pytest.mark.parametrize("kind", ["supervised", "reinforce", "ppo"])
def test_an_ensemble_of_any_agent_learns_and_doubts(kind):
    action = "logits" if kind == "supervised" else "label"
    more = {"horizon": 4, "minibatch_size": 10} if kind == "ppo" else {}

    agent, env = ensemble(kind, action=action, learning_rate=1e-2, **more)
    scores = Trainer(agent, env, total_steps=9_000).fit().scalars
    assert scores["accuracy"] > 0.85
    generator = torch.Generator().manual_seed(1)
    seen, far = env.reset(seed=1)[0], 20 * torch.randn(1000, 4, generator=generator)
    near, far = (uncertainty(agent.answers(obs)).mutual_information.mean() for obs in (seen, far))
    assert far > near


def test_an_ensemble_answers_by_the_mean_of_its_members():
    agent, env = ensemble()
    obs, _ = env.reset(seed=1)
    with torch.no_grad():
        p = torch.stack([member(obs).softmax(1) for member in agent.members])
        torch.testing.assert_close(agent.predict(obs).action.exp(), p.mean(0))
    assert agent.answers(obs).p.shape == (3, 30, 3)
    assert not torch.allclose(p[0], p[1])


def test_members_that_cannot_share_are_refused():
    with pytest.raises(InputError, match="4 members cannot share 30 environments"):
        ensemble(members=4)
    with pytest.raises(InputError, match="random_search has no distribution"):
        ensemble("random_search", action="label")
    with pytest.raises(InputError, match="recurrent_ppo has a memory"):
        ensemble("recurrent_ppo", action="label", minibatch_size=None, network={"name": "gru"})


def test_answers_that_cannot_be_mixed_are_refused_at_once():
    env = GymEnvironment(GymEnvironment.Settings(id="Pendulum-v1", num_envs=4))
    member = {"name": "ppo", "squash": True, "horizon": 4, "minibatch_size": 8}
    with pytest.raises(InputError, match="uncertainty is not defined for"):
        Ensemble(env, Ensemble.Settings.model_validate({"agent": member, "members": 2}))
