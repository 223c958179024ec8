"""The adapter for EnvPool; skipped where that is not installed (extra ``envpool``)."""

import importlib.util
import sys

import numpy as np
import pytest
import torch

from rlcore import InputError, Trainer, check_environment, collect
from rlcore.agents.dqn import DQN
from rlcore.agents.ppo import PPO
from rlcore.envs.envpool import EnvPool

needs_envpool = pytest.mark.skipif(importlib.util.find_spec("envpool") is None, reason="envpool is not installed")


def made(env_id="CartPole-v1", **settings):
    return EnvPool(EnvPool.Settings(id=env_id, **{"num_envs": 4, **settings}))


def test_where_it_is_not_installed_one_line_says_how(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(InputError, match=r"env\.name: it needs envpool .*: pip install envpool"):
        made()


@needs_envpool
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Catch-v0"])
def test_the_contract_is_kept(env_id):
    check_environment(made(env_id), num_steps=300)


@needs_envpool
def test_true_successors_and_no_filler_rows():
    """Observations follow CartPole's equations within an episode, also into its end."""
    env = made(num_envs=3)
    agent = PPO(env, PPO.Settings(horizon=120, minibatch_size=360))
    obs, _ = env.reset(seed=1)
    rollout = collect(agent, env, obs, 120)
    assert rollout.done.sum() > 5
    x, v = rollout.obs[..., 0], rollout.obs[..., 1]
    torch.testing.assert_close(rollout.next_obs[..., 0][~rollout.terminated], (x + 0.02 * v)[~rollout.terminated])
    begins = rollout.obs[1:][rollout.done[:-1]]
    assert (begins.abs() <= 0.05).all()
    assert (rollout.reward == 1).all()


@needs_envpool
def test_a_time_limit_is_a_cut_with_the_true_last_observation():
    env = made("Pendulum-v1", num_envs=2, options={"max_episode_steps": 5})
    env.reset(seed=1)
    for step in range(1, 11):
        obs, _, terminated, truncated, info = env.step(torch.zeros(2, 1))
        assert not terminated.any()
        assert truncated.all() == (step % 5 == 0)
        if step % 5 == 0:
            assert info["final_obs"].shape == obs.shape
            assert not torch.equal(info["final_obs"], obs)


@needs_envpool
def test_seeds_decide_and_differ():
    first, again, other = (made().reset(seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(row) for row in first.tolist()}) == 4


@needs_envpool
def test_agents_learn_there():
    env = made("CartPole-v1", num_envs=8)
    scalars = (
        Trainer(PPO(env, PPO.Settings(horizon=64, learning_rate=1e-3)), env, total_steps=20_000, seed=1).fit().scalars
    )
    assert scalars["return"] > 100
    settings = {"network": {"name": "mlp", "hidden": [32]}, "learning_starts": 64, "replay_size": 500}
    dqn = DQN(env, DQN.Settings.model_validate(settings))
    Trainer(dqn, env, total_steps=400, seed=1).fit()
    assert np.isfinite(dqn.values(env.reset(seed=1)[0]).detach().numpy()).all()


@needs_envpool
@pytest.mark.parametrize(("settings", "match"), [
    ({"env_id": "CartPol-v1"}, r"EnvPool has no 'CartPol-v1' \(did you mean 'CartPole-v1'"),
    ({"options": {"num_envs_": 3}}, r"env\.options: CartPole-v1 cannot be made"),
])  # fmt: skip
def test_mistakes_are_one_line(settings, match):
    with pytest.raises(InputError, match=match):
        made(**settings)
