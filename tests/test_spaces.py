"""Probes of known value for every kind of action and observation: PPO and REINFORCE learn each in seconds."""

import pytest
import torch
from compare import same
from one_step import NETWORKS, PROBES, OneStep

from rlcore import Trainer, check_agent, check_environment, collect
from rlcore.agents.ppo import PPO
from rlcore.agents.recurrent_ppo import RecurrentPPO
from rlcore.agents.reinforce import Reinforce


def make(probe, kind=PPO, **settings):
    env = OneStep(*PROBES[probe])
    torch.manual_seed(0)
    network = NETWORKS.get(probe, {"name": "mlp", "hidden": [32]})
    if kind is RecurrentPPO:
        network = {"name": "gru", "size": 16, "body": network}
    given = {"network": network, "learning_rate": 5e-3, **settings}
    if kind is not Reinforce:
        given = {"horizon": 16, "minibatch_size": 64, "entropy_coefficient": 0.0, **given}
    return env, kind(env, kind.Settings.model_validate(given))


@pytest.mark.parametrize("kind", [PPO, Reinforce])
@pytest.mark.parametrize("probe", PROBES)
def test_it_is_learned(probe, kind):
    rate = 1e-3 if probe == "pixels" else 1e-2  # larger steps saturate the policy on a convolution
    env, agent = make(probe, kind, learning_rate=rate, learning_rate_schedule="linear")
    if "mask" not in probe:  # its random actions know of no mask
        check_environment(env, 20)
    check_agent(agent, env)
    Trainer(agent, env, total_steps=4_000 if kind is PPO else 6_000, seed=1).fit()
    found = env.evaluation(16).score(agent, 400, 3).scalars["return"]
    assert found > (0.9 if probe == "target" else 0.95)


def test_a_target_is_met_by_a_squashed_policy_too():
    env, agent = make("target", squash=True, learning_rate=1e-2)
    Trainer(agent, env, total_steps=5_000, seed=1).fit()
    assert env.evaluation(16).score(agent, 400, 3).scalars["return"] > 0.9
    obs, _ = env.reset(seed=1)
    assert agent.act(obs).action.abs().max() <= 2


RATIOS = [(probe, {}) for probe in PROBES]
RATIOS += [(probe, {"normalize_observations": True}) for probe in ("target", "masked bandit", "one part of three")]
RATIOS += [("target", {"squash": True}), ("target", {"squash": True, "normalize_observations": True})]


@pytest.mark.parametrize(("probe", "settings"), RATIOS, ids=str)
@pytest.mark.parametrize("kind", [PPO, RecurrentPPO])
def test_the_first_ratio_is_one_and_each_row_is_answered_alone(kind, probe, settings):
    env, agent = make(probe, kind, **settings)
    trainer = Trainer(agent, env, total_steps=10**6, seed=1)
    for _ in range(2):
        trainer.update()
    rollout = collect(agent, env, trainer.collector.obs, 16, trainer.collector.state)
    rows, _ = agent.training_rows(rollout)
    pi, V = agent.actor_critic.answers(rows.obs)
    torch.testing.assert_close(pi.log_prob(rows.action), rows.log_prob, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(V, rows.value)
    obs = trainer.collector.obs
    whole = agent.distribution(obs)
    row = {key: x[5:6] for key, x in obs.items()} if isinstance(obs, dict) else obs[5:6]
    torch.testing.assert_close(agent.distribution(row).entropy(), whole.entropy()[5:6], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(agent.distribution(row).mode, whole.mode[5:6])


def test_normalisers_move_after_the_last_epoch_and_not_in_evaluation():
    env, agent = make("target", normalize_observations=True, normalize_rewards=True, num_epochs=3)
    before = agent.normalizer.single.mean.clone()
    seen = []
    minimize = agent.minimize
    agent.minimize = lambda loss: seen.append(agent.normalizer.single.mean.clone()) or minimize(loss)
    obs, _ = env.reset(seed=1)
    rollout = collect(agent, env, obs, 16)
    agent.learn(rollout)
    assert len(seen) == 3 * 4
    assert all(torch.equal(mean, before) for mean in seen)
    everything = rollout.obs.flatten(0, 1).double()
    torch.testing.assert_close(agent.normalizer.single.mean, everything.mean(0))
    torch.testing.assert_close(agent.normalizer.single.var, everything.var(0, correction=0))
    after = {name: value.clone() for name, value in agent.state_dict().items()}
    env.evaluation(4).score(agent, 50, 1)
    same(dict(agent.state_dict()), after)


def test_reinforce_normalises_by_what_it_has_learned_from():
    env, agent = make("target", Reinforce, normalize_observations=True, normalize_rewards=True, baseline=True)
    obs, _ = env.reset(seed=1)
    rollout = collect(agent, env, obs, None)
    before, minimize, seen = agent.normalizer.single.mean.clone(), agent.minimize, []
    agent.minimize = lambda *loss: seen.append(agent.normalizer.single.mean.clone()) or minimize(*loss)
    agent.learn(rollout)
    assert len(seen) == 1 + agent.settings.value_steps
    assert all(torch.equal(mean, before) for mean in seen)
    torch.testing.assert_close(agent.normalizer.single.mean, rollout.obs.flatten(0, 1).double().mean(0))
    torch.testing.assert_close(agent.reward_normalizer.moments.mean, rollout.reward.double().mean())
    after = {name: value.clone() for name, value in agent.state_dict().items()}
    env.evaluation(4).score(agent, 50, 1)
    same(dict(agent.state_dict()), after)


def test_one_epoch_without_a_clip_is_a2c():
    """The gradient of an advantage actor-critic, written by hand, to float32 rounding."""
    settings = {"clip_range": None, "num_epochs": 1, "minibatch_size": None, "entropy_coefficient": 0.01}
    env, agent = make("number", normalize_advantages=False, max_grad_norm=1e9, **settings)
    obs, _ = env.reset(seed=1)
    rollout = collect(agent, env, obs, 16)
    one = torch.nn.functional.one_hot(rollout.obs.flatten(), 3).float()
    features, value_features = one, one
    for layer, value_layer in zip(agent.body.network.hidden, agent.value_body.network.hidden, strict=True):
        features, value_features = layer(features).tanh(), value_layer(value_features).tanh()
    pi = torch.distributions.Categorical(logits=agent.policy_head(features))
    V = agent.value_head(value_features).squeeze(1)
    R = rollout.reward.flatten()  # episodes of one step
    loss = -(pi.log_prob(rollout.action.flatten()) * (R - V.detach())).mean()
    loss = loss + 0.5 * (V - R).square().mean() - 0.01 * pi.entropy().mean()
    expected = torch.autograd.grad(loss, list(agent.parameters()))
    agent.optimizer.step = lambda: None  # the gradients stay
    agent.learn(rollout)
    for parameter, gradient in zip(agent.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)
