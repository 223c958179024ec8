from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from rlcore import ContractError
from rlcore.agent import Agent
from rlcore.agents.ppo import PPO
from rlcore.envs.cartpole import CartPole
from rlcore.envs.probes import ConstantReward, TwoStep
from rlcore.rollout import Step, collect, minibatches
from rlcore.statistics import EpisodeStatistics
from rlcore.trees import stack


class Memory(NamedTuple):
    counter: Tensor


class Counting(Agent):
    """Recurrent: its state counts the steps since the episode began; acts at random."""

    def act(self, obs, state=None):
        action = torch.randint(2, (len(obs),))
        return Step(action, Memory(state), state + 1)

    def learn(self, rollout):
        return {}

    def initial_state(self, num_envs):
        return torch.zeros(num_envs)


def play(env, horizon, num_envs_state=True):
    agent = Counting(env)
    obs, _ = env.reset(seed=1)
    return agent, collect(agent, env, obs, horizon, agent.initial_state(env.num_envs))


def test_fields_have_their_shapes_and_dtypes():
    _, rollout = play(CartPole(CartPole.Settings(num_envs=3)), 7)
    assert rollout.obs.shape == (7, 3, 4)
    assert rollout.action.shape == rollout.reward.shape == rollout.terminated.shape == (7, 3)
    assert (rollout.reward.dtype, rollout.action.dtype) == (torch.float32, torch.int64)
    assert rollout.terminated.dtype == rollout.truncated.dtype == rollout.valid.dtype == torch.bool
    assert rollout.valid.all()
    assert rollout.num_steps == 21
    assert rollout.rows(rollout.obs).shape == (21, 4)
    assert rollout.final_obs.shape == (0, 4)


def test_rollouts_follow_each_other_without_a_gap():
    env = CartPole(CartPole.Settings(num_envs=3))
    agent, first = play(env, 5)
    second = collect(agent, env, first.last_obs, 5, first.last_state)
    assert torch.equal(second.obs[0], first.last_obs)
    assert torch.equal(second.initial_state, first.last_state)


def test_state_begins_anew_with_each_episode():
    _, rollout = play(ConstantReward(ConstantReward.Settings(num_envs=2, length=3)), 8)
    assert rollout.memory.counter[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert rollout.last_state.tolist() == [2, 2]


def test_whole_episodes_are_whole_and_none_is_favoured():
    env = CartPole(CartPole.Settings(num_envs=64))
    _, rollout = play(env, None)
    lengths = rollout.valid.sum(0)
    assert ((rollout.done & rollout.valid).sum(0) == 1).all()  # exactly one end each
    assert len(rollout) == lengths.max()
    assert rollout.num_steps == lengths.sum()
    first_end = rollout.done.int().argmax(0)
    assert torch.equal(first_end + 1, lengths)
    assert torch.equal(rollout.rows(rollout.reward).sum(), lengths.sum().float())


def test_whole_episode_rollouts_end_with_a_reset():
    _, rollout = play(CartPole(CartPole.Settings(num_envs=4)), None)
    assert (rollout.last_obs.abs() <= 0.05).all()
    assert rollout.last_state.tolist() == [0] * 4


def test_final_obs_are_those_of_truncated_rows_in_order():
    env = CartPole(CartPole.Settings(num_envs=3, max_episode_steps=4))
    _, rollout = play(env, 9)
    assert rollout.cut.nonzero()[:, 0].tolist() == [3] * 3 + [7] * 3
    assert rollout.final_obs.shape == (6, 4)
    env.reset(seed=1)
    for t in range(4):
        *_, info = env.step(rollout.action[t])
    assert torch.equal(rollout.final_obs[:3], info["final_obs"])


def test_truncated_rows_without_their_final_obs_are_named(monkeypatch):
    env = CartPole(CartPole.Settings(num_envs=2, max_episode_steps=3))
    step = env.step
    monkeypatch.setattr(env, "step", lambda actions: (*step(actions)[:4], {}))
    obs, _ = env.reset(seed=1)
    rollout = collect(PPO(env), env, obs, 4)
    with pytest.raises(ContractError, match="an episode was truncated, but info has no final_obs"):
        _ = rollout.final_obs


def test_next_obs_are_the_true_successors():
    env = CartPole(CartPole.Settings(num_envs=3, max_episode_steps=4))
    _, rollout = play(env, 9)
    goes_on = ~rollout.done[:-1]
    assert torch.equal(rollout.next_obs[:-1][goes_on], rollout.obs[1:][goes_on])
    assert torch.equal(rollout.next_obs[rollout.cut], rollout.final_obs)
    assert torch.equal(rollout.next_obs[-1], rollout.last_obs)
    _, rollout = play(env, 8)  # cut in the last row
    assert rollout.cut[-1].all()
    assert torch.equal(rollout.next_obs[-1], rollout.final_obs[-3:])
    _, rollout = play(env, None)
    assert torch.equal(rollout.next_obs[rollout.cut], rollout.final_obs)


def test_a_step_both_terminated_and_truncated_is_no_cut():
    _, rollout = play(ConstantReward(ConstantReward.Settings(num_envs=2, length=3, end="both")), 6)
    assert rollout.truncated.any()
    assert not rollout.cut.any()


def test_minibatches_hold_each_row_once():
    class Rows(NamedTuple):
        a: Tensor
        b: Tensor

    rows = Rows(torch.arange(10), torch.arange(10) * 2)
    pieces = list(minibatches(rows, 5))
    assert [len(piece.a) for piece in pieces] == [5, 5]
    assert sorted(torch.cat([piece.a for piece in pieces]).tolist()) == list(range(10))
    assert all(torch.equal(piece.a * 2, piece.b) for piece in pieces)
    assert [len(piece.a) for piece in minibatches(rows, None)] == [10]


def test_stack_keeps_the_kind_of_tree():
    got = stack([{"x": Memory(torch.tensor(i)), "y": (torch.tensor(i), None)} for i in range(3)])
    assert got["x"].counter.tolist() == [0, 1, 2]
    assert got["y"][0].tolist() == [0, 1, 2]
    assert got["y"][1] is None


@pytest.mark.parametrize("horizon", [1, 5, 13])
def test_statistics_add_up_across_rollouts(horizon):
    env = CartPole(CartPole.Settings(num_envs=3))
    agent = Counting(env)
    obs, _ = env.reset(seed=3)
    statistics, state = EpisodeStatistics(3, env.device, window=1000), agent.initial_state(3)
    expected, running = [], [0.0] * 3
    for update in range(130 // horizon):
        rollout = collect(agent, env, obs, horizon, state)
        obs, state = rollout.last_obs, rollout.last_state
        statistics.add(rollout)
        if update % 3 == 0:
            statistics.means()
        for t in range(horizon):
            for n in range(3):
                running[n] += float(rollout.reward[t, n])
                if rollout.done[t, n]:
                    expected.append(running[n])
                    running[n] = 0.0
    means = statistics.means()
    assert statistics.count() == len(expected) > 5
    assert means["return"] == means["length"] == pytest.approx(sum(expected) / len(expected))


def test_statistics_of_whole_episodes_count_each_once():
    env = TwoStep(TwoStep.Settings(num_envs=4))
    statistics = EpisodeStatistics(4, env.device)
    statistics.add(play(env, None)[1])
    assert statistics.means()["length"] == 2
    assert statistics.count() == 4
