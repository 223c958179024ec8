"""How often the host would wait for a GPU: counted on the CPU, with what it looks at only there left out."""

import pytest
import torch
from compare import Syncs
from trainers import make_trainer

from rlcore import config


def counted(monkeypatch, env, agent, updates=4):
    """Waits of each of some updates."""
    modules = "finite", "agent", "statistics", "search.tree", "search.evaluators", "envs.selfplay"
    for module in modules:
        monkeypatch.setattr(f"rlcore.{module}.sync_is_costly", lambda device: True)
    settings = {"env": env, "agent": agent, "trainer": {"total_steps": 10**9}, "device": "cpu"}
    trainer, _ = config.build(config.Config.model_validate(settings))
    counts = []
    for _ in range(updates):
        with Syncs() as syncs:
            trainer.update()
        counts.append(syncs.count)
    return counts


def test_the_count_sees_what_waits():
    x = torch.arange(4.0)
    for wait in (
        lambda: x[0].item(),
        lambda: x.tolist(),
        lambda: float(x[0]),
        lambda: bool(x[0] == 0),
        lambda: x[x > 1],
        lambda: x.__setitem__(x > 1, 0.0),
        lambda: x.nonzero(),
        lambda: x.unique(),
        lambda: torch.equal(x, x),
    ):
        with Syncs() as syncs:
            wait()
        assert syncs.count == 1
    with Syncs() as syncs:
        x[torch.tensor([1, 2])], x.cumsum(0), torch.where(x > 1, x, 0), x.masked_fill(x > 1, 0)
    assert syncs.count == 0


DIGITS = {"name": "supervised", "dataset": "digits"}
VAE = {"name": "autoencoder", "network": {"name": "vae"}, "kl_warmup": 0.5, "free_bits": 0.1}
HORIZON = {"horizon": 50, "minibatch_size": 100}
NORMALIZED = {"normalize_observations": True, "normalize_rewards": True}


REPLAY = {"horizon": 4, "learning_starts": 16, "batch_size": 16, "replay_size": 400, "updates_per_step": 0.25}
UPDATES = [
    ({"name": "supervised"}, DIGITS, 0),
    (VAE, {"name": "reconstruction", "dataset": "digits", "binarize": "dynamic"}, 0),
    ({"name": "ppo", **HORIZON}, {**DIGITS, "action": "label"}, 1),
    ({"name": "ppo", **HORIZON, **NORMALIZED}, {"name": "cartpole", "max_episode_steps": 100}, 1),
    ({"name": "ppo", **HORIZON, **NORMALIZED}, {"name": "cartpole", "max_episode_steps": 7}, 3),
    ({"name": "reinforce"}, {**DIGITS, "action": "label"}, 3),
    ({"name": "recurrent_ppo", **HORIZON, "network": {"name": "frame_stack"}}, {"name": "cartpole"}, 3),
    ({"name": "dqn", **REPLAY}, {"name": "cartpole", "max_episode_steps": 100}, 1),
    ({"name": "sac", **REPLAY}, {"name": "probe_target"}, 1),
    ({"name": "td3", **REPLAY}, {"name": "probe_target"}, 1),
    ({"name": "alphazero", "horizon": 4}, {"name": "selfplay", "game": "tictactoe"}, 4 + 2),
]
"""Of an agent in an environment: how often an update waits."""


@pytest.mark.parametrize(("agent", "env", "waits"), UPDATES)
def test_an_update_waits(monkeypatch, agent, env, waits):
    """Once to see which episodes were truncated, twice more where some were; AlphaZero once a move.

    The first update also looks at the range of discrete actions.
    """
    first, *later = counted(monkeypatch, {**env, "num_envs": 4}, agent)
    assert set(later) == {waits}
    assert first <= waits + 1


@pytest.mark.parametrize("name", ["bc", "td3_bc", "iql", "cql", "discrete_cql"])
def test_an_update_from_recorded_episodes_never_waits(name):
    trainer = make_trainer(name)
    trainer.agent._check_finite = lambda metrics, optimizer: None  # which does not look on a GPU
    trainer._finite.look = lambda rollout, step: None
    trainer.update()
    with Syncs() as syncs:
        trainer.update()
    assert syncs.count == 0
