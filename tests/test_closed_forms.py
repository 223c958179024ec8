"""What a change of one sign, factor or constant would break, though everything would still learn: values by hand."""

import copy
import math

import pytest
import torch
from torch import nn

from rlcore import collect, config, registry
from rlcore.agents import ppo as ppo_module
from rlcore.agents.alphazero import AlphaZero
from rlcore.agents.ppo import PPO, clipped_objective, normalized, squared_error
from rlcore.agents.recurrent_ppo import RecurrentPPO
from rlcore.agents.reinforce import Reinforce
from rlcore.envs.cartpole import CartPole
from rlcore.envs.games.selfplay import SelfPlayEnv
from rlcore.envs.games.versus import VersusEnv
from rlcore.networks import build
from rlcore.normalization import RewardNormalizer
from rlcore.rollout import Rollout, Step
from rlcore.search import Edges, puct

MLP = {"name": "mlp", "hidden": [8]}


def rolled(agent, env):
    obs, _ = env.reset(seed=1)
    return collect(agent, env, obs, agent.horizon, agent.initial_state(env.num_envs))


def ppo(**settings):
    env = CartPole(CartPole.Settings(num_envs=4))
    torch.manual_seed(0)
    given = {"horizon": 16, "minibatch_size": 16, "num_epochs": 1, "network": MLP, **settings}
    return PPO(env, PPO.Settings.model_validate(given)), env


def test_former_selves_sample_from_their_policy():
    """At equal logits the most likely move is always the same one; a draw is not."""
    env = VersusEnv(VersusEnv.Settings(num_envs=2, game="tictactoe", save_every=1))
    agent = Reinforce(env, Reinforce.Settings.model_validate({"network": MLP}))
    env.on_attach(agent)
    env.former[0].policy_head.weight.data.zero_()
    moves = env._former_player(env.former[0])(env.game.initial(9000))
    counts = torch.bincount(moves, minlength=9)
    assert (counts - 1000).abs().max() < 6 * math.sqrt(1000)


def test_puct_is_that_of_alphago_zero():
    """Q + c P sqrt(1 + sum n) / (1 + n), the 1 under the root being this node's own visit."""
    edges = Edges(
        prior=torch.tensor([0.5, 0.3, 0.2, -torch.inf]),
        visits=torch.tensor([5.0, 3.0, 0.0, 0.0]),
        total=torch.tensor([2.0, -3.0, 0.0, 0.0]),
        value=torch.tensor(0.1),
    )
    expected = [0.4 + 1.25 * 0.5 * 3 / 6, -1 + 1.25 * 0.3 * 3 / 4, 1.25 * 0.2 * 3 / 1, -math.inf]
    assert puct(1.25)(edges).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("passes", "steps"), [(1.0, 2), (4.0, 8), (0.1, 1)])
def test_a_position_is_learned_from_as_often_as_passes_says(passes, steps):
    """32 games x 8 moves = 256 positions a rollout; a batch of 128 is half of them."""
    env = SelfPlayEnv(SelfPlayEnv.Settings(num_envs=32))
    settings = {"network": {"name": "policy_value", "hidden": [8], "head": 8}, "simulations": 2, "horizon": 8}
    agent = AlphaZero(env, AlphaZero.Settings.model_validate({**settings, "batch_size": 128, "passes": passes}))
    agent.learn(rolled(agent, env))
    taken, minimize = [], agent.minimize
    agent.minimize = lambda loss: taken.append(1) or minimize(loss)
    agent.learn(rolled(agent, env))
    assert len(taken) == steps


@pytest.mark.parametrize(("share", "steps"), [(1.4, 4), (1.6, 1)])
def test_an_update_ends_beyond_one_and_a_half_times_the_target(monkeypatch, share, steps):
    agent, env = ppo(target_kl=0.02)
    monkeypatch.setattr(ppo_module, "approx_kl", lambda log_ratio: torch.tensor(share * 0.02))
    taken, minimize = [], agent.minimize
    agent.minimize = lambda loss: taken.append(1) or minimize(loss)
    agent.learn(rolled(agent, env))
    assert len(taken) == steps


def test_normalised_rewards_are_clipped():
    """399 rewards of 0 and one of 1: the deviation of the returns is about 1 / 20, and the reward 20 of them."""
    normalizer, rollout, ended = RewardNormalizer(0.0, 1), Rollout(), torch.ones(1, dtype=torch.bool)
    for t in range(400):
        rollout.append(torch.zeros(1, 1), Step(torch.zeros(1)), torch.tensor([float(t == 7)]), ended, ~ended, {})
    reward = normalizer(rollout)
    assert (1 / 400 * 399 / 400) ** -0.5 > 10
    assert reward.max() == 10
    assert reward.min() == 0


def test_dqn_bootstraps_from_its_target_network():
    config.load("examples/dqn.yaml")
    kind = registry.agents["example_dqn"]
    env = CartPole(CartPole.Settings(num_envs=4))
    agent = kind(env, kind.Settings.model_validate({"network": MLP, "gamma": 0.5}))
    for network, value in ((agent.q, 0.0), (agent.target, 6.0)):  # of every state and action
        network[1].weight.data.zero_()
        network[1].bias.data.fill_(value)
    rollout = rolled(agent, env)
    steps = rollout.obs, rollout.action, rollout.reward, rollout.next_obs, rollout.terminated
    loss = agent.loss(agent.replay.kind(*map(rollout.rows, steps)))
    ended = rollout.terminated.float().mean().item()
    huber = (1 - ended) * (1 + 0.5 * 6 - 0.5) + ended * 0.5  # of errors 1 + gamma 6, and 1 where an episode ended
    assert loss.item() == pytest.approx(huber)


def test_the_clip_fraction_is_of_the_ratio_and_not_of_its_logarithm():
    """exp(0.19) = 1.209 is clipped at 0.2; exp(-0.21) = 0.811 is not."""
    for log_ratio, expected in ((0.19, 1.0), (-0.21, 0.0)):
        agent, env = ppo()
        weight = agent.value_head.bias

        def losses(b, clip, log_ratio=log_ratio, weight=weight):
            x = weight.sum()
            return ppo_module.Losses(x, x, x, torch.full((len(b.action),), log_ratio))

        agent.losses = losses
        assert agent.learn(rolled(agent, env))["clip_fraction"] == expected


@pytest.mark.parametrize(("points", "passed"), [(0.55, 1.0), (0.5499, 0.0)])
def test_the_gate_opens_at_its_threshold(monkeypatch, points, passed):
    monkeypatch.setattr("rlcore.agents.alphazero.points", lambda outcome: points)
    env = SelfPlayEnv(SelfPlayEnv.Settings(num_envs=4))
    network = {"name": "policy_value", "hidden": [8], "head": 8}
    agent = AlphaZero(env, AlphaZero.Settings.model_validate({"network": network, "gate_every": 1, "gate_games": 2}))
    assert agent._gate(0.55, "gate")["gate_passed"] == passed


def test_the_forget_gates_of_an_lstm_begin_open():
    env = CartPole(CartPole.Settings(num_envs=2))
    settings = {"horizon": 4, "minibatch_size": 8, "network": {"name": "lstm", "size": 5, "body": MLP}}
    agent = RecurrentPPO(env, RecurrentPPO.Settings.model_validate(settings))
    bias = dict(agent.body.cell.named_parameters())
    total = bias["bias_ih_l0"] + bias["bias_hh_l0"]
    assert total[5:10].tolist() == [1.0] * 5  # of input, forget, cell, output gates, 5 each
    assert total[:5].abs().max() < 1
    assert total[10:].abs().max() < 1


def test_nature_cnn_begins_orthogonal():
    """Rows are orthogonal and as long as the gain, sqrt 2; biases are 0."""
    network = build("nature_cnn", (4, 84, 84), 6)
    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 5
    for layer in layers[:4]:
        rows = layer.weight.flatten(1)
        torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(len(rows)), atol=1e-4, rtol=0)
        assert not layer.bias.any()


def test_the_value_head_begins_with_a_gain_of_one():
    agent, _ = ppo()
    assert agent.value_head.weight.norm().item() == pytest.approx(1.0)
    assert not agent.value_head.bias.any()


def test_a_copy_of_the_target_is_taken_after_the_update():
    """Fixed within an update: the target network of DQN is the online one after `learn`, not before."""
    config.load("examples/dqn.yaml")
    kind = registry.agents["example_dqn"]
    env = CartPole(CartPole.Settings(num_envs=4))
    given = {"network": MLP, "learning_starts": 16, "batch_size": 8, "num_updates": 2}
    agent = kind(env, kind.Settings.model_validate(given))
    rollout = rolled(agent, env)
    for _ in range(4):
        agent.learn(rollout)
    before = copy.deepcopy(agent.target.state_dict())
    agent.learn(rollout)
    after = agent.q.state_dict()
    assert all(torch.equal(agent.target.state_dict()[name], after[name]) for name in after)
    assert any(not torch.equal(before[name], after[name]) for name in after)


@pytest.mark.parametrize(("ratio", "A", "expected"), [
    (1.5, 2.0, 2.4), (0.5, 2.0, 1.0), (1.1, 2.0, 2.2), (1.5, -2.0, -3.0), (0.5, -2.0, -1.6), (0.9, -2.0, -1.8),
])  # fmt: skip
def test_the_clipped_objective_is_equation_7(ratio, A, expected):
    one = torch.tensor([ratio]).log(), torch.tensor([A])
    torch.testing.assert_close(clipped_objective(*one, 0.2), torch.tensor([expected]))
    torch.testing.assert_close(clipped_objective(*one, None), torch.tensor([ratio * A]))


def test_advantages_are_normalised_by_their_own_moments_and_a_single_one_stays():
    expected = torch.tensor([-2.0, -1.0, 3.0]) / (14 / 3) ** 0.5
    torch.testing.assert_close(normalized(torch.tensor([1.0, 2.0, 6.0])), expected)
    assert normalized(torch.tensor([5.0])) == 5.0


def test_the_error_of_a_clipped_value_is_the_larger_one():
    V, target, old = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 3.0]), torch.tensor([0.0, 0.0])
    assert squared_error(V, target, old, None) == 0.5
    assert squared_error(V, target, old, 0.5) == ((2 - 0.5) ** 2 + (3 - 0.5) ** 2) / 2
