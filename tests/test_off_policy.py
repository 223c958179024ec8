"""Agents that learn from a replay, and PQN: their losses by hand, what they learn where the answer is known, input."""

import copy
import math

import numpy as np
import pytest
import torch
from compare import same
from gymnasium.spaces import Box, Discrete
from one_step import NETWORKS, PROBES, OneStep
from test_docs import blocks
from torch import nn

from rlcore import InputError, Trainer, check_agent, checkpoint
from rlcore.agents.bases.exploration import StateDependentNoise
from rlcore.agents.bases.q_learning import quantile_huber
from rlcore.agents.crossq import CrossQ
from rlcore.agents.discrete_sac import DiscreteSAC
from rlcore.agents.dqn import DQN
from rlcore.agents.pqn import PQN
from rlcore.agents.sac import SAC, squashed
from rlcore.agents.td3 import TD3
from rlcore.distributions import DiagonalGaussian
from rlcore.envs.cartpole import CartPole
from rlcore.envs.probes import ConstantReward, Identity, Target, TwoStep
from rlcore.networks.batch_renorm import BatchRenorm
from rlcore.networks.critics import Critics
from rlcore.networks.mlp import MLP as MLPNetwork
from rlcore.networks.noisy import NoisyLinear
from rlcore.rollout import Transition, collect
from rlcore.uncertainty import uncertainty

MLP = {"name": "mlp", "hidden": [32], "activation": "relu", "init": "torch"}
QUICK = {
    "network": MLP, "learning_starts": 64, "replay_size": 2_000, "batch_size": 64, "learning_rate": 3e-3, "horizon": 4,
}  # fmt: skip
AIM = {**QUICK, "batch_size": 32, "learning_rate": 5e-3, "gamma": 0.0, "updates_per_step": 0.5}
QUICK_PQN = {"network": {**MLP, "layer_norm": True}, "horizon": 8, "minibatch_size": 32, "learning_rate": 1e-2}
VALUE = {**QUICK, "target_every": 32, "epsilon": 0.05, "exploration_fraction": 0.3}
FAST = {**VALUE, "batch_size": 32, "learning_rate": 1e-2, "target_every": 16}
ALL = {"double": True, "dueling": True, "n_step": 2, "priority_alpha": 0.5}
TINY = {"replay_size": 40, "batch_size": 8, "learning_starts": 8}
OFF_POLICY = [DQN, SAC, CrossQ, TD3]


def made(kind, env, **settings):
    torch.manual_seed(1)
    return kind(env, kind.Settings.model_validate(settings))


def fit(agent, env, steps):
    return Trainer(agent, env, Trainer.Settings(total_steps=steps, eval_every=steps), seed=1).fit().scalars


def batch(obs, action, reward, next_obs, terminated, discount=0.5, **others):
    rows = len(reward)
    discount = torch.full((rows,), discount)
    return Transition(obs, action, torch.tensor(reward), next_obs, torch.tensor(terminated), discount, **others)


class Table(nn.Module):
    """Q by observation, [S] one-hot, of A actions."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(torch.tensor(table))  # [S, A, M]

    def forward(self, obs):
        obs = obs["observation"] if isinstance(obs, dict) else obs
        return self.table[obs.argmax(1)]


def dqn_of(q, target, **settings):
    """A DQN of two states and two actions with given tables."""
    env = Identity(Identity.Settings(num_actions=2, num_envs=2))
    agent = made(DQN, env, **VALUE, **settings)
    agent.q, agent.target = Table(q), Table(target)
    agent.losses = []
    agent.minimize = lambda loss, optimizer=None: agent.losses.append(loss.detach()) or {}
    return agent


@pytest.mark.parametrize(("double", "expected"), [(False, 7.0), (True, 5.0)])
def test_the_target_is_the_largest_value_or_that_of_the_action_chosen(double, expected):
    q, target = [[[1.0], [2.0]], [[4.0], [3.0]]], [[[0.0], [0.0]], [[8.0], [12.0]]]
    agent = dqn_of(q, target, double=double)
    one, two = torch.eye(2)
    b = batch(one[None], torch.tensor([1]), [1.0], two[None], [False])
    _, error = agent.update(b)
    assert error.item() == 2.0 - expected
    assert agent.losses[-1].item() == abs(2.0 - expected) - 0.5  # Huber's, beyond 1
    _, error = agent.update(b._replace(terminated=torch.tensor([True])))
    assert error.item() == 1.0  # the reward alone
    agent.update(b._replace(weight=torch.tensor([0.25])))
    assert agent.losses[-1].item() == 0.25 * (abs(2.0 - expected) - 0.5)


def test_an_action_that_is_not_allowed_has_no_value():
    env = OneStep(*PROBES["masked bandit"])
    agent = made(DQN, env, **VALUE)
    obs, _ = env.reset(seed=1)
    assert (agent.values(obs)[~obs["action_mask"]] == -1e9).all()
    agent.epsilon.fill_(0.05)
    for _ in range(20):
        assert obs["action_mask"].gather(1, agent.explore(obs)[:, None]).all()
        assert obs["action_mask"].gather(1, agent.act(obs).action[:, None]).all()
    agent.target = Table([[[0.0], [0.0], [0.0], [100.0]]])
    b = batch(obs, torch.zeros(16, dtype=torch.int64), [0.0] * 16, obs, [False] * 16)
    _, error = agent.update(b)
    assert ((error < -40) == obs["action_mask"][:, 3]).all()  # where the best one is allowed


def test_the_loss_of_quantiles_is_that_of_the_paper():
    theta, target, tau = torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 5.0]]), torch.tensor([0.25, 0.75])
    u = [[1.0, 5.0], [-2.0, 2.0]]
    huber = lambda x: 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5  # noqa: E731
    expected = sum(sum(abs(t - (x < 0)) * huber(x) for x in row) / 2 for t, row in zip((0.25, 0.75), u, strict=True))
    assert quantile_huber(theta, target, tau).item() == pytest.approx(expected)


@pytest.mark.parametrize("settings", [
    {}, {"double": True}, {"dueling": True}, {"quantiles": 5}, {"noisy": True, "epsilon": 0.0}, ALL,
])  # fmt: skip
def test_dqn_learns_the_identity(settings):
    env = Identity(Identity.Settings(num_envs=4))
    assert fit(made(DQN, env, **{**FAST, "gamma": 0.0, **settings}), env, 800)["return"] == 1


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(("end", "value"), [("terminated", 1.75), ("truncated", 2.0), ("both", 1.75)])
def test_a_time_limit_is_no_death(end, value, n_step):
    env = ConstantReward(ConstantReward.Settings(num_envs=4, length=3, end=end))
    agent = made(DQN, env, **{**FAST, "gamma": 0.5, "n_step": n_step})
    fit(agent, env, 800)
    obs, _ = env.reset(seed=1)
    assert agent.values(obs).amax(1).mean().item() == pytest.approx(value, abs=0.05)


@pytest.mark.parametrize(("end", "value"), [("terminated", 1.75), ("truncated", 2.0)])
def test_pqn_knows_a_time_limit_from_a_death(end, value):
    env = ConstantReward(ConstantReward.Settings(num_envs=8, length=3, end=end))
    agent = made(PQN, env, **QUICK_PQN, gamma=0.5)
    fit(agent, env, 4_000)
    obs, _ = env.reset(seed=1)
    assert agent.values(obs).amax(1).mean().item() == pytest.approx(value, abs=0.05)


def test_pqn_learns_credit_over_two_steps():
    env = TwoStep(TwoStep.Settings(num_envs=8))
    agent = made(PQN, env, **QUICK_PQN)
    assert fit(agent, env, 3_000)["return"] == 1


def test_returns_of_pqn_are_those_of_a_recursion():
    env = CartPole(CartPole.Settings(num_envs=4, max_episode_steps=7))
    agent = made(PQN, env, horizon=20, minibatch_size=20, trace=0.6, gamma=0.9, reward_scale=0.5)
    obs, _ = env.reset(seed=1)
    rollout = collect(agent, env, obs, 20)
    rows, _ = agent._rows(rollout)
    after = agent.values(rollout.next_obs.flatten(0, 1)).amax(1).view(20, 4)
    G = torch.zeros(20, 4)
    for t in reversed(range(20)):
        cont = (~rollout.done[t]).float() if t < 19 else torch.zeros(4)
        later = G[t + 1] if t < 19 else torch.zeros(4)
        rest = (1 - 0.6 * cont) * after[t] + 0.6 * cont * later
        G[t] = 0.5 * rollout.reward[t] + 0.9 * torch.where(rollout.terminated[t], 0.0, rest)
    torch.testing.assert_close(rows.target.view(20, 4), G)


@pytest.mark.parametrize(("kind", "settings"), [
    (SAC, {}), *(pytest.param(*one, marks=pytest.mark.slow) for one in [
        (SAC, {"alpha": 0.01}), (SAC, {"quantiles": 5, "drop": 1}), (TD3, {"critics": 1}),
    ]),
    (SAC, {"state_dependent_noise": True, "log_std_init": -2.0, "horizon": 8}), (TD3, {}),
    (TD3, {"noise_kind": "ornstein_uhlenbeck", "priority_alpha": 0.5, "n_step": 2}),
])  # fmt: skip
def test_continuous_agents_hit_the_target(kind, settings):
    env = Target(Target.Settings(num_envs=4))
    agent = made(kind, env, **{**AIM, **settings})
    assert fit(agent, env, 1_600)["return"] > -0.02


class Shifted(Target):
    """The target in Box(5, 35): 20 + 10 x."""

    def __init__(self, settings=None, device="cpu"):
        super().__init__(settings, device)
        self.single_action_space = Box(5.0, 35.0, (1,))
        self.action_space = Box(5.0, 35.0, (self.num_envs, 1))

    def reward(self, action):
        return -((action - 20) / 10 - self._obs).square().squeeze(1)


@pytest.mark.parametrize("kind", [SAC, TD3])
def test_any_box_is_explored_and_reached(kind):
    env = Shifted(Shifted.Settings(num_envs=64))
    agent = made(kind, env, **{**QUICK, "gamma": 0.0, "learning_starts": 640})
    obs, _ = env.reset(seed=1)
    first = torch.cat([agent.act(obs).action for _ in range(50)])
    assert first.min() < 5.5
    assert first.max() > 34.5
    assert abs(first.mean() - 20) < 1
    if kind is SAC:
        drawn = torch.cat([agent.explore(obs) for _ in range(50)])
        assert drawn.min() < 7
        assert drawn.max() > 33
    env = Shifted(Shifted.Settings(num_envs=4))
    assert fit(made(kind, env, **AIM), env, 1_600)["return"] > -0.02


def test_a_squashed_draw_has_the_density_of_its_tanh():
    torch.manual_seed(0)
    gaussian = DiagonalGaussian(
        torch.tensor([[0.3, -1.0]]).expand(1000, 2), torch.tensor([[-0.5, 0.2]]).expand(1000, 2)
    )
    numbers, log_prob = squashed(gaussian)
    u = numbers.double().atanh()
    mean, std = gaussian.mean.double(), gaussian.log_std.double().exp()
    expected = (
        -0.5 * ((u - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi) - (1 - numbers.double() ** 2).log()
    ).sum(1)
    inside = (numbers.abs() < 0.999).all(1)
    torch.testing.assert_close(log_prob[inside].double(), expected[inside], atol=1e-3, rtol=1e-3)


def sac_on_target(**settings):
    env = Target(Target.Settings(num_envs=2))
    agent = made(SAC, env, **{**QUICK, **settings})
    torch.manual_seed(5)
    obs, next_obs = torch.rand(6, 1), torch.rand(6, 1)
    return agent, batch(obs, torch.rand(6, 1) * 4 - 2, [1.0, 2, 3, 4, 5, 6], next_obs, [False, True] * 3, 0.9)


def test_the_error_of_sac_is_that_of_its_soft_target():
    agent, b = sac_on_target(alpha=0.2)
    state = torch.get_rng_state()
    numbers, log_prob = squashed(agent.gaussian(b.next_obs))
    V = agent.target_critic(b.next_obs, numbers).amin(0).squeeze(1) - 0.2 * log_prob
    y = b.reward + 0.9 * ~b.terminated * V
    Q = agent.critic(b.obs, b.action / 2).squeeze(2)
    torch.set_rng_state(state)
    metrics, error = agent.update(b)
    torch.testing.assert_close(error, Q.mean(0) - y)
    torch.testing.assert_close(metrics["critic_loss"], (Q - y).square().sum(0).mean())


def crossq_on_target(**settings):
    env = Target(Target.Settings(num_envs=2))
    agent = made(CrossQ, env, **{**QUICK, "policy_delay": 1, "alpha": 0.2, **settings})
    torch.manual_seed(5)
    obs, next_obs = torch.rand(6, 1), torch.rand(6, 1)
    return agent, batch(obs, torch.rand(6, 1) * 4 - 2, [1.0, 2, 3, 4, 5, 6], next_obs, [False, True] * 3, 0.9)


def test_crossq_judges_now_and_next_as_one_batch():
    agent, b = crossq_on_target()
    assert not hasattr(agent, "target_critic")
    twin = copy.deepcopy(agent.critic)
    state = torch.get_rng_state()
    numbers, log_prob = squashed(agent.gaussian(b.next_obs))
    both = twin.train()(torch.cat([b.obs, b.next_obs]), torch.cat([b.action / 2, numbers])).squeeze(2)
    y = b.reward + 0.9 * ~b.terminated * (both[:, 6:].amin(0) - 0.2 * log_prob)
    torch.set_rng_state(state)
    _, error = agent.update(b)
    torch.testing.assert_close(error, (both[:, :6].mean(0) - y).detach())
    for here, there in zip(agent.critic.critics.renorms, twin.critics.renorms, strict=True):
        assert torch.equal(here.mean, there.mean)  # moved once, by the step of the critics
        assert here.num_updates == 1
    agent.train()
    before = copy.deepcopy(agent.critic.state_dict())
    agent._improve(b.obs, agent.temperature())
    agent.answers(b.obs)
    after = agent.critic.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in before.items())


@pytest.mark.parametrize(("settings", "match"), [
    ({"tau": 0.01}, "tau: there are no target networks"),
    ({"target_critics": 1}, "target_critics: there are no target networks"),
    ({"network": {**MLP, "layer_norm": True}}, "layer_norm: there is batch renormalisation already"),
])  # fmt: skip
def test_what_crossq_has_not_is_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        crossq_on_target(**settings)


def test_critics_have_a_network_of_their_own():
    agent, _ = sac_on_target(critic_network={**MLP, "hidden": [7, 9]})
    assert [tuple(weight.shape) for weight in agent.critic.critics.weights] == [(2, 2, 7), (2, 7, 9), (2, 9, 1)]
    assert agent.policy[0].num_features == 32


@pytest.mark.parametrize("updates", [0, 200_000])
def test_batch_renormalisation_is_that_of_its_paper(updates):
    torch.manual_seed(3)
    norm = BatchRenorm(2, 3)
    norm.mean.uniform_(-9, 9)
    norm.variance.uniform_(0.01, 2)
    norm.num_updates.fill_(updates)
    with torch.no_grad():
        norm.gamma.uniform_(0.5, 2)
        norm.beta.uniform_(-1, 1)
    mean, variance = norm.mean.clone(), norm.variance.clone()
    x = torch.randn(2, 50, 3, requires_grad=True)
    y = norm(x)
    mu, var = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    sigma_B, sigma = (var + 1e-3).sqrt(), (variance + 1e-3).sqrt()
    r = (sigma_B / sigma).clamp(1 / 3, 3).detach() if updates else 1.0
    d = ((mu - mean) / sigma).clamp(-5, 5).detach() if updates else 0.0
    expected = norm.gamma * ((x - mu) / sigma_B * r + d) + norm.beta
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.mean, 0.99 * mean + 0.01 * mu)
    torch.testing.assert_close(norm.variance, 0.99 * variance + 0.01 * var)
    weights = torch.randn_like(y)
    here, there = (torch.autograd.grad((out * weights).sum(), x)[0] for out in (y, expected))
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-4)
    norm.eval()
    expected = norm.gamma * (x - norm.mean) / (norm.variance + 1e-3).sqrt() + norm.beta
    torch.testing.assert_close(norm(x), expected, rtol=1e-4, atol=1e-4)


def test_the_largest_quantiles_are_dropped():
    agent, _ = sac_on_target(quantiles=3, drop=1, critics=2)
    Q = torch.tensor([[[1.0, 5, 3]], [[9.0, 2, 4]]])
    assert agent._least(Q).tolist() == [[1, 2, 3, 4]]  # of six the two largest are left out
    assert sac_on_target(critics=2)[0]._least(torch.tensor([[[1.0]], [[-3.0]]])).tolist() == [[-3.0]]


def test_the_temperature_moves_entropy_towards_its_target():
    for target, grows in ((5.0, True), (-5.0, False)):
        agent, b = sac_on_target(target_entropy=target)
        agent.update(b)
        assert (agent.temperature.log_alpha.item() > 0) == grows
    agent, b = sac_on_target(alpha=0.3)
    agent.update(b)
    assert agent.temperature().item() == pytest.approx(0.3)
    assert sac_on_target()[0].target_entropy == -1.0


@pytest.mark.parametrize("kind", [SAC, TD3])
def test_the_actors_step_leaves_the_critics_alone_and_targets_follow_slowly(kind):
    agent, b = sac_on_target(tau=0.1)
    if kind is TD3:
        agent = made(TD3, Target(Target.Settings(num_envs=2)), **QUICK, tau=0.1, policy_delay=1)
    before = [p.detach().clone() for p in agent.target_critic.parameters()]
    inner, seen = agent.minimize, []

    def minimize(loss, optimizer=None):
        critics = [p.detach().clone() for p in agent.critic.parameters()]
        made = inner(loss, optimizer)
        same = all(map(torch.equal, critics, agent.critic.parameters()))
        seen.append((optimizer is agent.critic_optimizer, same))
        return made

    agent.minimize = minimize
    agent.update(b)
    assert seen == [(True, False), (False, True)]
    for old, now, source in zip(before, agent.target_critic.parameters(), agent.critic.parameters(), strict=True):
        torch.testing.assert_close(now, old + 0.1 * (source.detach() - old))


def test_td3_smooths_its_target_within_bounds_and_delays_the_policy():
    agent = made(TD3, Target(Target.Settings(num_envs=2)), **QUICK, target_noise=100.0, target_noise_clip=0.25)
    _, b = sac_on_target()
    seen, critic = [], agent.target_critic
    hook = critic.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    policy = [p.detach().clone() for p in agent.policy.parameters()]
    target = agent.target_policy(b.next_obs).tanh()
    agent.update(b)
    assert torch.equal(seen[0], (target + (seen[0] - target)).clamp(-1, 1))
    torch.testing.assert_close((seen[0] - target).abs(), torch.full((6, 1), 0.25))
    assert all(map(torch.equal, policy, agent.policy.parameters()))  # its step comes with the second update
    hook.remove()
    agent.update(b)
    assert not all(map(torch.equal, policy, agent.policy.parameters()))


def test_drifting_noise_begins_anew_with_an_episode():
    agent = made(TD3, Target(Target.Settings(num_envs=2)), **QUICK, noise=0.5, noise_kind="ornstein_uhlenbeck")
    obs = torch.zeros(2, 1)
    torch.manual_seed(1)
    expected = torch.zeros(2, 1)
    for _ in range(5):
        agent.explore(obs)
    torch.manual_seed(1)
    for _ in range(5):
        expected = 0.85 * expected + 0.5 * torch.randn(2, 1)
    torch.testing.assert_close(agent.drift.noise, expected)
    agent.drift.begin(torch.tensor([True, False]))
    assert agent.drift.noise[0] == 0
    assert agent.drift.noise[1] == expected[1]
    agent.on_reset()
    assert agent.drift.noise is None


def test_large_batches_of_critics_are_the_same_in_parts():
    critics = Critics(2, 3, 1, MLPNetwork.Settings(hidden=[5, 4], activation="relu")).double()
    x = torch.randn(2_500, 3, dtype=torch.float64, requires_grad=True)
    whole = [critics(part) for part in x.split(100)]
    found = critics(x)
    assert torch.allclose(found, torch.cat(whole, 1))
    weight = torch.randn_like(found)
    wanted = torch.autograd.grad((torch.cat(whole, 1) * weight).sum(), [x, *critics.parameters()])
    for a, b in zip(torch.autograd.grad((found * weight).sum(), [x, *critics.parameters()]), wanted, strict=True):
        assert torch.allclose(a, b)
    which = torch.tensor([1])
    assert torch.equal(critics(x, which=which), critics(x)[1:])


def test_critics_side_by_side_are_critics_one_by_one():
    torch.manual_seed(0)
    critics = Critics(3, 5, 2, MLPNetwork.Settings(hidden=[7, 6], activation="relu"))
    x = torch.randn(4, 5, requires_grad=True)
    y = critics(x)
    assert y.shape == (3, 4, 2)
    for k in range(3):
        h = x
        for layer, (W, b) in enumerate(zip(critics.weights, critics.biases, strict=True)):
            h = h @ W[k] + b[k]
            h = h if layer == 2 else h.relu()
        torch.testing.assert_close(y[k], h)
    critics(x, frozen=True).sum().backward()
    assert all(p.grad is None for p in critics.parameters())
    assert x.grad is not None


def test_noise_of_a_layer_is_factorised_and_off_in_evaluation():
    torch.manual_seed(0)
    layer = NoisyLinear(4, 3)
    x = torch.randn(2, 4)
    layer.eval()
    torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)
    layer.train()
    draws = torch.stack([layer(torch.eye(4)) - layer(torch.zeros(4, 4)) for _ in range(2)])
    assert not torch.equal(*draws)
    with torch.no_grad():
        layer.weight.zero_(), layer.bias.zero_(), layer.bias_std.zero_()
    weights = torch.stack([layer(torch.eye(4)).T for _ in range(8_000)])
    assert weights.mean().abs() < 0.01
    # E[f(e)^2 f(e')^2] of f(e) = sign(e) sqrt |e| is (2 / pi), times sigma_0^2 / inputs
    assert weights.square().mean().item() == pytest.approx(2 / math.pi * 0.25 / 4, rel=0.05)
    assert torch.linalg.matrix_rank(weights[0], tol=1e-5) == 1


@pytest.mark.parametrize("name", ["masked bandit", "one part of three", "pixels", "number"])
def test_dqn_reads_what_others_read(name):
    env = OneStep(*PROBES[name], num_envs=4)
    settings = {**VALUE, "batch_size": 16, "gamma": 0.0, "updates_per_step": 0.5}
    settings |= {"network": NETWORKS[name]} if name in NETWORKS else {}
    check_agent(made(DQN, env, **settings), env)
    assert fit(made(DQN, env, **settings), env, 1_200)["return"] > 0.9


@pytest.mark.parametrize("kind", [SAC, CrossQ, TD3])
@pytest.mark.parametrize("name", ["pixels", "one part of three", "target"])
def test_continuous_agents_read_what_others_read(kind, name):
    space, _, draw, _ = PROBES[name]
    env = OneStep(space, Box(-1.0, 1.0, (2, 2)), draw, lambda obs, a: -(a - 0.5).flatten(1).square().sum(1), num_envs=4)
    rate = 1e-3 if kind is TD3 else 1e-2  # its policy saturates by larger steps
    settings = {**QUICK, "batch_size": 16, "learning_rate": rate, "policy_delay": 1}
    settings |= {"network": NETWORKS[name]} if name in NETWORKS else {}
    check_agent(made(kind, env, **settings), env)
    agent = made(kind, env, **settings, gamma=0.0)
    assert fit(agent, env, 400)["return"] > -0.6  # the middle of the Box: -1
    obs, _ = env.reset(seed=1)
    told = uncertainty(agent.answers(obs))
    assert told.mean.shape == (4,)
    assert (told.epistemic_std >= 0).all()
    assert agent.predict(obs).action.shape == (4, 2, 2)


@pytest.mark.parametrize("kind", OFF_POLICY)
def test_normalisers_see_each_step_once_and_evaluation_changes_nothing(kind):
    env = CartPole(CartPole.Settings(num_envs=4)) if kind is DQN else Target(Target.Settings(num_envs=4))
    agent = made(kind, env, **QUICK, normalize_observations=True, normalize_rewards=True)
    trainer = Trainer(agent, env, total_steps=400, seed=1)
    for _ in range(10):
        trainer.update()
    assert agent.normalizer.single.count == agent.reward_normalizer.moments.count == trainer.steps == 160
    kept = agent.replay._rows.obs[:40]
    torch.testing.assert_close(agent.normalizer.single.mean.float(), kept.flatten(0, 1).mean(0))
    before = {name: x.clone() for name, x in agent.state_dict().items()}
    trainer.evaluate()
    assert all(torch.equal(x, before[name]) for name, x in agent.state_dict().items())


@pytest.mark.parametrize(("updates", "expected"), [(0.25, 25), (1, 100), (3, 300)])
def test_updates_per_step_are_counted_over_all_environments(updates, expected):
    env = Identity(Identity.Settings(num_envs=2))
    agent = made(DQN, env, **{**VALUE, "horizon": 5, "learning_starts": 0, "updates_per_step": updates})
    count = []
    agent.update = lambda b: count.append(len(b.reward)) or ({"loss": torch.zeros(())}, torch.zeros(64))
    trainer = Trainer(agent, env, total_steps=10**6, seed=1)
    for _ in range(10):
        trainer.update()
    assert count == [64] * expected


def test_a_replay_that_is_not_saved_is_filled_again_and_the_run_says_so(tmp_path):
    def trainer():
        env = Identity(Identity.Settings(num_envs=2))
        agent = made(DQN, env, **{**VALUE, "learning_starts": 64, "save_replay": False})
        return Trainer(agent, env, Trainer.Settings(total_steps=2_000, log_every=8), seed=1)

    one = trainer()
    for _ in range(30):
        one.update()
    checkpoint.save(tmp_path / "saved.pt", one.checkpoint())
    assert (tmp_path / "saved.pt").stat().st_size < 62_000
    other = trainer()
    other.restore(checkpoint.load(tmp_path / "saved.pt"))
    assert len(other.agent.replay) == 0
    before = [p.clone() for p in other.agent.q.parameters()]
    assert other.agent.replay.to_refill == 240
    for _ in range(29):
        other.update()
    assert all(map(torch.equal, before, other.agent.q.parameters()))
    assert other.agent.epsilon < 1  # it acts as it did
    assert "is filled again before learning" in other.agent.remarks({})[0]
    for _ in range(2):
        other.update()
    assert other.agent.remarks({}) == []
    assert not all(map(torch.equal, before, other.agent.q.parameters()))


@pytest.mark.parametrize(("kind", "env", "settings", "match"), [
    (DQN, Target, {}, "dqn chooses one of several actions"),
    (PQN, Target, {}, "pqn chooses one of several actions"),
    (TD3, CartPole, {}, "TD3 chooses numbers in a Box"),
    (DiscreteSAC, Target, {}, "discrete_sac chooses one of several actions"),
    (DQN, CartPole, {"network": {"name": "mlp", "dropout": 0.1}}, "does not support dropout or batch norm"),
    (DQN, CartPole, {"network": "gru"}, "gru has a memory"),
    (SAC, Target, {"network": "lstm"}, "lstm has a memory"),
    (DQN, CartPole, {**TINY, "frames": 4}, "is too small for 8 environments"),
    (PQN, CartPole, {"minibatch_size": 7}, "does not divide horizon x num_envs"),
])  # fmt: skip
def test_what_does_not_fit_is_one_line(kind, env, settings, match):
    with pytest.raises(InputError, match=match):
        made(kind, env(env.Settings()), **settings)


@pytest.mark.parametrize(("settings", "match"), [
    ({"replay_size": 10}, "replay_size: 10 holds no batch of batch_size=32"),
    ({"replay_size": 500, "learning_starts": 1000}, "never filled to learning_starts=1,000"),
    ({"replay_size": 40, "learning_starts": 0, "n_step": 50}, "holds no window of n_step=50"),
    ({"priority_alpha": 2.0}, "priority_alpha"),
    ({"updates_per_step": 0.0}, "updates_per_step"),
])  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        DQN.Settings(**settings)
    with pytest.raises(ValueError, match="leaves none of quantiles=3"):
        SAC.Settings(quantiles=3, drop=3)


@pytest.mark.parametrize(("kind", "settings", "match"), [
    (DQN, {"priority_beta": 0.5}, "set priority_alpha"), (DQN, {"tau": 0.005}, "set both"),
    (SAC, {"drop": 1}, "set quantiles"), (SAC, {"alpha": 0.1, "target_entropy": -2.0}, "set alpha=auto"),
    (SAC, {"log_std_init": -1.0}, "is of state_dependent_noise"), (SAC, {"state_dependent_noise": True}, "set horizon"),
    (TD3, {"target_noise": 0.0, "target_noise_clip": 0.1}, "no noise to clip"),
])  # fmt: skip
def test_settings_without_effect_are_refused(kind, settings, match):
    with pytest.raises(ValueError, match=match):
        kind.Settings(**settings)


@pytest.mark.parametrize(
    "space", [Box(-1, 1, ()), Box(np.array([0, 5]), np.array([1, 5])), Box(-(2**31), 2**31 - 1, (1,), np.int32)]
)
def test_boxes_without_a_range_are_refused(space):
    env = OneStep(Box(-1, 1, (2,)), space, lambda n, g: torch.zeros(n, 2), lambda o, a: a)
    with pytest.raises(InputError, match="each with a range"):
        made(SAC, env)


@pytest.mark.parametrize(("settings", "match"), [
    ({"replay_device": "gpu"}, "device: must be auto, cpu, cuda"),
    ({"replay_size": 300, "batch_size": 8, "learning_starts": 300}, "too few for learning_starts=300"),
    ({"replay_size": 384, "batch_size": 8, "learning_starts": 8, "horizon": 4}, "too few for"),
])  # fmt: skip
def test_a_replay_that_does_not_fit_is_one_line_before_training(settings, match):
    with pytest.raises(InputError, match=match):
        made(DQN, CartPole(CartPole.Settings(num_envs=128)), **settings)


def test_what_was_loaded_acts_as_it_had_learned_to(tmp_path):
    env = Identity(Identity.Settings(num_envs=4))
    agent = made(DQN, env, **{**FAST, "gamma": 0.0, "epsilon": 0.0})
    trainer = Trainer(agent, env, total_steps=800, seed=1)
    trainer.fit()
    saved = trainer.checkpoint(learns=False)["agent"]
    other = made(DQN, env, **{**FAST, "gamma": 0.0, "epsilon": 0.0})
    other.restore(saved)
    other.eval()
    obs, _ = env.reset(seed=1)
    assert other.epsilon == 0
    assert (other.act(obs).action == obs.argmax(1)).all()


def test_rewards_are_clipped_one_by_one_before_they_are_summed():
    env = ConstantReward(ConstantReward.Settings(num_envs=1, length=100))
    agent = made(DQN, env, **{**VALUE, "n_step": 8, "gamma": 1.0, "normalize_rewards": True})
    obs, _ = env.reset(seed=1)
    agent.replay.add(collect(agent, env, obs, 20))
    drawn = agent.replay.sample(200, reward_scale=torch.tensor(4.0))
    assert drawn.reward.max() == 32
    assert agent.replay.sample(50, reward_scale=torch.tensor(100.0)).reward.max() == 80


def test_settings_of_the_network_reach_the_critics():
    env = Target(Target.Settings(num_envs=2))
    agent = made(SAC, env, network={**MLP, "layer_norm": True, "init": "zeros"})
    assert agent.critic.critics.has_norms
    assert not any(weight.any() for weight in agent.critic.critics.weights)
    torch.manual_seed(0)
    critics = Critics(2, 3, 1, MLPNetwork.Settings(hidden=[5], layer_norm=True, activation="relu"))
    with torch.no_grad():
        for norm in critics.norms:
            norm.uniform_(0.5, 1.5)
    x = torch.randn(4, 3)
    for k in range(2):
        h = nn.functional.layer_norm(x @ critics.weights[0][k] + critics.biases[0][k], (5,))
        h = (h * critics.norms[0][k] + critics.norms[1][k]).relu()
        torch.testing.assert_close(critics(x)[k], h @ critics.weights[1][k] + critics.biases[1][k])
    torch.testing.assert_close(critics(x, which=slice(1))[0], critics(x)[0])
    with pytest.raises(InputError, match="critics have no batch_norm"):
        made(SAC, env, network={**MLP, "bias": False})


@pytest.mark.parametrize("kind", [SAC, TD3])
def test_a_few_target_critics_answer(kind):
    env = Target(Target.Settings(num_envs=2))
    agent = made(kind, env, **{**QUICK, "critics": 5, "target_critics": 2})
    obs, numbers = torch.randn(7, 1), torch.zeros(7, 1)
    every = agent.target_critic(obs, numbers)
    seen = set()
    for _ in range(50):
        drawn = agent._targets(obs, numbers)
        chosen = [next(n for n in range(5) if torch.allclose(one, every[n])) for one in drawn]
        assert len(set(chosen)) == len(chosen) == 2
        seen |= set(chosen)
    assert seen == set(range(5))
    with pytest.raises(ValueError, match="target_critics: 3 of critics=2 cannot answer"):
        made(kind, env, target_critics=3)


@pytest.mark.parametrize(("kind", "env"), [(SAC, Target), (TD3, Target), (DiscreteSAC, Identity)])
def test_critics_have_a_rate_of_their_own_and_norms_are_told(kind, env):
    env = env(env.Settings(num_envs=2))
    settings = {
        "learning_starts": 0,
        "learning_rate": 1e-3,
        "critic_learning_rate": 4e-3,
        "learning_rate_schedule": "linear",
    }
    agent = made(kind, env, **{**QUICK, **settings}, max_grad_norm=1.0)
    trainer = Trainer(agent, env, total_steps=1_000, seed=1)
    seen = {}
    while trainer.steps < 100:
        seen |= trainer.update()
    rates = [one.param_groups[0]["lr"] for one in (agent.critic_optimizer, agent.optimizer)]
    assert rates == pytest.approx([4e-3 * (1 - agent.progress), 1e-3 * (1 - agent.progress)])
    assert {"critic_grad_norm", "actor_grad_norm", "critic_loss", "actor_loss"} <= seen.keys()


def test_a_changed_temperature_counts_on_resume():
    env = Target(Target.Settings(num_envs=2))
    one, other = made(SAC, env, **QUICK, alpha=0.2), made(SAC, env, **QUICK, alpha=0.01)
    other.restore(one.checkpoint())
    assert other.temperature().item() == pytest.approx(0.01)


def test_the_mean_of_all_updates_is_reported():
    env = Identity(Identity.Settings(num_envs=2))
    agent = made(DQN, env, **{**VALUE, "horizon": 8, "learning_starts": 0, "updates_per_step": 0.25})
    losses = iter([1.0, 2.0, 3.0, 6.0])
    agent.update = lambda b: ({"loss": torch.tensor(next(losses))}, torch.zeros(64))
    obs, _ = env.reset(seed=1)
    assert agent.learn(collect(agent, env, obs, 8))["loss"] == 3


@pytest.mark.parametrize("settings", [
    {"state_dependent_noise": True, "horizon": 4}, {"noise_kind": "ornstein_uhlenbeck"},
])  # fmt: skip
def test_evaluation_that_explores_changes_nothing(settings):
    env = Target(Target.Settings(num_envs=4))
    kind = TD3 if "noise_kind" in settings else SAC
    agent = made(kind, env, **{**QUICK, **settings})
    given = {"eval_deterministic": False, "eval_episodes": 20, "total_steps": 400}
    trainer = Trainer(agent, env, Trainer.Settings(**given), seed=1)
    for _ in range(20):
        trainer.update()
    before = trainer.checkpoint()
    trainer.evaluate()
    same(before["learns"]["agent"], trainer.checkpoint()["learns"]["agent"])
    same(before["agent"], trainer.checkpoint()["agent"])


def test_an_unbounded_action_is_refused():
    env = OneStep(Box(-1, 1, (2,)), Box(-np.inf, np.inf, (1,)), lambda n, g: torch.zeros(n, 2), lambda o, a: a[:, 0])
    with pytest.raises(InputError, match="each with a range"):
        made(SAC, env)
    assert isinstance(CartPole().single_action_space, Discrete)


def test_discrete_sac_learns_and_its_soft_value_is_a_sum():
    env = Identity(Identity.Settings(num_envs=4))
    settings = {**QUICK, "batch_size": 32, "learning_rate": 1e-2, "gamma": 0.0, "target_entropy": 0.1}
    assert fit(made(DiscreteSAC, env, **settings), env, 800)["return"] == 1
    agent = made(DiscreteSAC, env, **settings, alpha=0.5)
    obs, after = torch.eye(4), torch.eye(4).flip(0)
    b = batch(obs, torch.arange(4), [1.0, 2, 3, 4], after, [False, True] * 2, 0.9)
    with torch.no_grad():
        p = agent.policy(after).softmax(1)
        V = (p * (agent.target_critic(after).amin(0) - 0.5 * p.log())).sum(1)
        y = b.reward + 0.9 * ~b.terminated * V
        Q = agent.critic(obs)[:, range(4), range(4)]
    _, error = agent.update(b)
    torch.testing.assert_close(error, Q.mean(0) - y)
    told = agent.answers(obs)
    assert told.mean.shape == (2, 4)


def test_discrete_sac_keeps_to_what_is_allowed():
    env = OneStep(*PROBES["masked bandit"])
    agent = made(DiscreteSAC, env, **QUICK, gamma=0.0)
    obs, _ = env.reset(seed=1)
    allowed = obs["action_mask"].sum(1)
    assert agent._target_entropy(obs).item() == pytest.approx(0.98 * allowed.float().log().mean().item())
    check_agent(agent, env)
    obs, _ = env.reset(seed=1)
    for _ in range(20):
        assert obs["action_mask"].gather(1, agent.explore(obs)[:, None]).all()
    assert obs["action_mask"].gather(1, agent.predict(obs).action[:, None]).all()


def test_a_subclass_of_the_base_from_the_docs_learns():
    exec(blocks("docs/off_policy.md", "python")[0], {})
    given = {}
    exec(blocks("docs/off_policy.md", "python")[1].partition('"""\n')[2], given)
    env = Identity(Identity.Settings(num_envs=4))
    agent = made(given["MyQ"], env, **{k: v for k, v in QUICK.items() if k != "learning_rate"}, gamma=0.0)
    check_agent(agent, env)
    assert fit(agent, env, 1_600)["return"] == 1


def test_state_dependent_noise_is_a_function_of_the_state_until_it_is_drawn():
    torch.manual_seed(0)
    noise = StateDependentNoise(3, 2, 20_000, -0.5)
    with torch.no_grad():
        noise.log_sigma[0, 1] = 0.3
        noise.draw()
    features = torch.tensor([[1.0, -2.0, 0.5]]).expand(20_000, 3)
    drawn = noise(features)
    assert torch.equal(drawn, noise(features))  # the same in the same state
    torch.testing.assert_close(noise(2 * features), 2 * drawn)
    sigma = noise.log_sigma.exp()
    expected = (torch.tensor([1.0, 4.0, 0.25]) @ sigma.square()).sqrt()
    torch.testing.assert_close(noise.log_std(features[:1]).exp()[0], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(drawn.std(0), expected, rtol=0.03, atol=0.0)
    noise.draw()
    assert not torch.equal(drawn, noise(features))


def test_sac_explores_by_one_noise_per_rollout():
    env = Target(Target.Settings(num_envs=2))
    agent = made(SAC, env, **{**QUICK, "learning_starts": 0, "horizon": 4}, state_dependent_noise=True)
    obs = torch.tensor([[0.3], [0.3]])
    first = agent.explore(obs)
    assert torch.equal(first, agent.explore(obs))
    assert first[0] != first[1]  # each environment has its own
    trainer = Trainer(agent, env, total_steps=100, seed=1)
    trainer.update()
    assert not torch.equal(first, agent.explore(obs))
