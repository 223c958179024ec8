"""Settings do what they say: each of these fails where a line of the algorithm is left out or its sign turned."""

import copy
import math

import pytest
import torch
from compare import same
from one_step import PROBES, OneStep

from rlcore.agents.alphazero import AlphaZero
from rlcore.agents.ppo import PPO, approx_kl
from rlcore.agents.random_search import RandomSearch
from rlcore.agents.recurrent_ppo import RecurrentPPO
from rlcore.agents.reinforce import Reinforce
from rlcore.agents.supervised import Supervised
from rlcore.envs.cartpole import CartPole
from rlcore.envs.games import TicTacToe
from rlcore.envs.games.selfplay import SelfPlayEnv
from rlcore.envs.probes import Product
from rlcore.evaluation import Report
from rlcore.networks.dropout import recalled
from rlcore.rollout import collect
from rlcore.search import Edges, improved_logits, search
from rlcore.statistics import EpisodeStatistics
from rlcore.supervised.environment import SupervisedEnv
from rlcore.trainer import Trainer
from rlcore.trees import tree_map

close = torch.testing.assert_close
DROPOUT = {"name": "mlp", "hidden": [16], "dropout": 0.5}


def on_cartpole(kind, num_envs=8, **settings):
    """An agent, and a rollout of it."""
    torch.manual_seed(1)
    env = CartPole(CartPole.Settings(num_envs=num_envs))
    agent = kind(env, kind.Settings.model_validate(settings))
    if "network" in settings:
        agent.policy_head.weight.data.mul_(100)  # so that a mask matters
    obs, _ = env.reset(seed=1)
    return agent, collect(agent, env, obs, agent.horizon, agent.initial_state(num_envs))


def test_ppo_learns_by_the_masks_that_it_acted_with():
    agent, rollout = on_cartpole(PPO, network=DROPOUT, horizon=32, minibatch_size=None, num_epochs=1)
    assert float(agent.learn(rollout)["approx_kl"]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("baseline", [False, True])
def test_reinforces_loss_is_its_formula(baseline):
    settings = {"normalize": False, "baseline": baseline, "entropy_coefficient": 0.1}
    agent, rollout = on_cartpole(Reinforce, network=DROPOUT, **settings)
    obs, action, advantage = map(rollout.rows, (rollout.obs, rollout.action, agent._returns(rollout)))
    with torch.no_grad(), recalled(agent.policy_dropouts, rollout.rows(rollout.memory)):
        pi = agent.distribution(obs)
    if baseline:
        advantage = advantage - agent._value(obs)
    expected = -(pi.log_prob(action) * advantage).mean() - 0.1 * pi.entropy().mean()
    close(agent.learn(rollout)["loss"], expected)


def test_values_are_estimated_without_dropout():
    agent, rollout = on_cartpole(PPO, network=DROPOUT, horizon=16, minibatch_size=None)
    assert torch.equal(agent.training_rows(rollout)[0].value, agent.training_rows(rollout)[0].value)
    agent, rollout = on_cartpole(Reinforce, network=DROPOUT, baseline=True)
    obs = rollout.rows(rollout.obs)
    assert torch.equal(agent._value(obs), agent._value(obs))


def test_the_value_remembers_without_dropout():
    agent, rollout = on_cartpole(RecurrentPPO, network={"name": "gru", "body": DROPOUT}, horizon=8, minibatch_size=None)
    state = tree_map(lambda x: x.clone(), rollout.initial_state[1])
    with torch.no_grad():
        for obs, begins in zip(agent.eval().normalized(rollout.obs), rollout.episode_starts, strict=True):
            state = agent.value_body.remember(obs, tree_map(lambda x, b=begins: x * ~b[:, None], state))
    close(rollout.last_state[1], state)


def test_a_clipped_value_counts_its_larger_error():
    given = {"horizon": 16, "minibatch_size": None, "value_clip": 1e-9, "learning_rate": 0.01}
    (once, rollout), (twice, _) = (on_cartpole(PPO, num_epochs=epochs, **given) for epochs in (1, 2))
    rows, _ = once.training_rows(rollout)
    once.learn(rollout)
    before = (rows.value - rows.target).square()
    after = (once.value(rows.obs).detach() - rows.target).square()
    assert (before > after).any()
    assert (after > before).any()
    close(twice.learn(rollout)["value_loss"], (before.mean() + torch.maximum(before, after).mean()) / 2)


@pytest.mark.parametrize("kind", [PPO, Reinforce])
def test_the_policy_sees_what_is_normalised(kind):
    settings = {"horizon": 4, "minibatch_size": None} if kind is PPO else {}
    env = OneStep(*PROBES["target"])
    agent = kind(env, kind.Settings(normalize_observations=True, scale_actions=False, **settings))
    agent.normalizer.update(torch.randn(100, 2) * 3 + 5)
    obs, _ = env.reset(seed=1)
    close(agent.distribution(obs).mode, agent.policy_head(agent.body(agent.normalizer(obs))))


@pytest.mark.parametrize("kind", [PPO, Reinforce])
def test_the_scale_of_normalised_rewards_does_not_matter(kind):
    settings = {"horizon": 32, "minibatch_size": None} if kind is PPO else {}
    agent, rollout = on_cartpole(kind, normalize_rewards=True, **settings)

    def targets():
        return agent.training_rows(rollout)[0].target if kind is PPO else agent._returns(rollout)

    before = targets()
    rollout.reward.mul_(1000)
    close(targets(), before)


def test_schedules_reach_the_optimizer_and_the_clipping():
    settings = {"horizon": 32, "minibatch_size": 64, "learning_rate_schedule": "linear"}
    agent, rollout = on_cartpole(PPO, learning_rate=1.0, **settings)
    rollout.progress = 0.75
    agent.learn(rollout)
    assert agent.optimizer.param_groups[0]["lr"] == 0.25
    agent, rollout = on_cartpole(PPO, horizon=32, clip_range=1.0, clip_range_schedule="linear", minibatch_size=64)
    rollout.progress = 1.0
    assert agent.learn(rollout)["clip_fraction"] > 0.9


def test_advantages_are_recomputed_in_every_epoch():
    agent, rollout = on_cartpole(PPO, horizon=32, recompute_advantages=True, minibatch_size=64, num_epochs=3)
    inner, estimates = agent._estimates, []

    def values(rollout):
        estimates.append(inner(rollout))
        return estimates[-1]

    agent._estimates = values
    agent.learn(rollout)
    assert len(estimates) == 3
    assert not torch.equal(estimates[0][0], estimates[1][0])


def test_kl_of_log_ratios():
    # (1 - ln 2 - 1/2 + ln 2) / 2
    assert approx_kl(torch.tensor([math.log(2), -math.log(2)])).item() == pytest.approx(0.25)


def test_the_share_of_noise_at_the_root():
    def evaluate(state):
        return 5 * torch.eye(9)[7].expand(len(state), 9), torch.zeros(len(state))

    for share, move in ((0.0, 7), (1.0, 4)):
        game = TicTacToe()
        found = search(game, game.initial(1), evaluate, 1, noise=torch.eye(9)[4:5], noise_fraction=share)
        assert found.action.item() == move


def test_moves_not_yet_visited_are_worth_the_mixed_value():
    """Danihelka et al. 2022, appendix D: (v + sum n * sum p q / sum p) / (1 + sum n), sums over what was visited."""
    prior, visits, total = (torch.tensor(x) for x in ([0.5, 0.25, 0.25], [1.0, 0, 0], [0.5, 0, 0]))
    mixed = (-0.5 + 1 * 0.5) / 2
    Q = 0.5 * (1 + torch.tensor([0.5, mixed, mixed]))
    close(improved_logits(Edges(prior, visits, total, torch.tensor(-0.5)), 50, 2.0), prior.log() + 51 * 2.0 * Q)


def alphazero(**settings):
    env = SelfPlayEnv(SelfPlayEnv.Settings(num_envs=64))
    small = {"network": {"name": "policy_value", "hidden": [32], "head": 16}, "simulations": 4, "batch_size": 32}
    torch.manual_seed(0)
    return AlphaZero(env, AlphaZero.Settings.model_validate({**small, **settings})), env.reset(seed=1)[0]


def test_with_a_gate_the_player_plays_and_not_the_learner():
    agent, state = alphazero(gate_every=5)
    for parameter in agent.network.parameters():
        parameter.data.add_(0.1)
    close(agent.policy_and_value(state), agent.policy_and_value(state, agent.player))
    assert not torch.allclose(agent.policy_and_value(state)[0], agent.policy_and_value(state, agent.network)[0])


@pytest.mark.parametrize("moves", [0, 1])
def test_first_moves_are_drawn_for_as_long_as_asked(moves):
    agent, state = alphazero(temperature_moves=moves)
    assert (len(agent.act(state).action.unique()) > 1) == (moves > 0)


def test_episodes_are_counted_once_and_forgotten_behind_the_window():
    _, rollout = on_cartpole(Reinforce, num_envs=64)
    statistics = EpisodeStatistics(64, torch.device("cpu"), window=100)
    statistics.add(rollout)
    assert not rollout.valid.all()
    assert statistics.count() == 64
    assert statistics.means()["length"] == rollout.num_steps / 64
    _, rollout = on_cartpole(PPO, num_envs=1, horizon=400, minibatch_size=None)
    statistics = EpisodeStatistics(1, torch.device("cpu"), window=2)
    statistics.add(rollout)
    ends = rollout.done[:, 0].nonzero().flatten()
    assert statistics.means()["length"] == (ends[-1] - ends[-3]).item() / 2


def test_the_best_evaluation_is_kept(tmp_path):
    env = CartPole()
    trainer = Trainer(PPO(env), env, total_steps=1000, run_dir=tmp_path)
    twin = trainer.evaluator.env = env.evaluation(1)
    saved = []
    trainer.save = saved.append
    for score in (1.0, 3.0, 2.0):
        twin.score = lambda agent, num_episodes, seed, score=score: Report({"return": score})
        trainer.evaluate()
    assert (trainer.best, saved) == (3, ["best", "best"])


def test_physics_are_drawn_anew_where_an_episode_ended_alone():
    env = CartPole(CartPole.Settings(num_envs=2, length={"low": 0.4, "high": 0.8}, max_episode_steps=50))
    env.reset(seed=1)
    env._elapsed[0] = 49
    before = env.constants["length"].copy()
    env.step(torch.tensor([0, 1]))
    changed = env.constants["length"] != before
    assert changed.tolist() == [True, False]


def test_standard_scaling_is_of_each_column():
    env = SupervisedEnv(SupervisedEnv.Settings(dataset="iris", num_envs=30, scaling="standard"))
    inputs = env.scaled(env.inputs(slice(None)))
    close(inputs.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    close(inputs.std(0, correction=0), torch.ones(4))


def test_random_search_looks_further_after_a_failure_and_nearer_after_a_success():
    env = Product(Product.Settings(num_envs=1))
    agent = RandomSearch(env, RandomSearch.Settings(std=0.1, max_std=0.3))
    obs, _ = env.reset(seed=1)
    rollout, stds = collect(agent, env, obs, None), []
    for best in (1e9, 1e9, -1e9):
        agent.score = torch.tensor(best)
        stds.append(float(agent.learn(rollout)["std"]))
    assert stds == pytest.approx([0.2, 0.3, 0.15])


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_weight_decay_is_part_of_the_gradient_or_decoupled(optimizer):
    env = SupervisedEnv(SupervisedEnv.Settings(dataset="iris", num_envs=30))
    torch.manual_seed(1)
    agent = Supervised(env, Supervised.Settings(optimizer=optimizer, learning_rate=0.1, weight_decay=0.5))
    weight = agent.network.output.weight
    before = weight.detach().clone()
    agent.minimize(0 * agent(torch.zeros(2, 4)).sum())
    after = before - 0.1 * before.sign() if optimizer == "adam" else 0.95 * before
    close(weight.detach(), after, atol=1e-5, rtol=1e-4)


def test_a_copy_of_an_agent_learns_on_as_it_would():
    agent, rollout = on_cartpole(PPO, horizon=32, minibatch_size=None)
    agent.learn(rollout)
    for one in (agent, twin := copy.deepcopy(agent)):
        torch.manual_seed(2)
        one.learn(rollout)
    same(agent.checkpoint(), twin.checkpoint())
