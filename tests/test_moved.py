"""What rlcore 0.1 had elsewhere is still found there."""

import importlib
import sys
from operator import attrgetter
from pathlib import Path

import pytest
import torch
from gymnasium.spaces import Discrete

from rlcore import Trainer
from rlcore.agents.reinforce import Reinforce
from rlcore.envs.games.versus import VersusEnv
from rlcore.envs.probes import Probe, TwoStep
from rlcore.moved import MOVED
from rlcore.stateful import attributes_of_type


@pytest.mark.parametrize(("former", "now"), MOVED.items())
def test_a_module_is_found_by_its_former_name_with_a_warning(former, now):
    sys.modules.pop(former, None)
    with pytest.warns(DeprecationWarning, match=f"{former} is now {now}"):
        found = importlib.import_module(former)
    assert found is importlib.import_module(now)


INTERNAL = """
rlcore.agents.game_replay GameReplay.checkpoint, rlcore.agents.game_replay GameReplay.restore,
rlcore.agents.replay Rows, rlcore.envs.game_env GameEnv.observe, rlcore.envs.selfplay SelfPlayEnv.observe,
rlcore.envs.versus VersusEnv.observe, rlcore.gym_maker in_worker, rlcore.statistics EpisodeStatistics.checkpoint,
rlcore.statistics EpisodeStatistics.restore, rlcore.supervised.datasets channels_first, rlcore.tracking table_of,
rlcore.tracking Tracker.text, rlcore.tracking Tracker.hyperparameters, rlcore.tracking Tracker.stop_progress
"""
"""Between parts of rlcore, and gone; or attributes of objects now."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_public_class_function_and_method_of_0_1_is_there():
    missing = set()
    for line in (Path(__file__).parent / "names_of_0_1.txt").read_text().splitlines():
        module, _, names = line.partition(": ")
        for name in names.split():
            try:
                attrgetter(name)(importlib.import_module(module))
            except AttributeError:
                missing.add(f"{module} {name}")
    assert missing == {name.strip() for name in INTERNAL.split(",")}


def test_methods_are_called_and_overridden_by_their_former_names():
    seen = []
    with pytest.warns(DeprecationWarning, match="watch is now called on_attach"):

        class Pool(VersusEnv):
            def watch(self, agent):
                super().watch(agent)
                seen.append("watch")

            def learned(self):
                super().learned()
                seen.append("learned")

    with pytest.warns(DeprecationWarning, match="drop_running is now called on_reset"):

        class Mine(Reinforce):
            def drop_running(self):
                super().drop_running()
                seen.append("drop_running")

    env = Pool(Pool.Settings(num_envs=2, save_every=1))
    with pytest.warns(DeprecationWarning, match="watch is now called on_attach"):
        trainer = Trainer(Mine(env), env, total_steps=20)
    assert seen == ["watch"]
    assert len(env.former) == 1  # as on_attach of the base was called, too
    with pytest.warns(DeprecationWarning, match="learned is now called on_update"):
        trainer.update()
    assert seen == ["watch", "learned"]
    assert len(env.former) == 2
    with pytest.warns(DeprecationWarning, match="drop_running is now called on_reset"):
        trainer.replace_env(Pool(Pool.Settings(num_envs=2, save_every=1)))
    assert seen[-1] == "drop_running"
    with pytest.warns(DeprecationWarning, match="held is now"):
        assert trainer.agent.held(torch.optim.Optimizer) == attributes_of_type(trainer.agent, torch.optim.Optimizer)


def test_a_probe_may_be_written_as_before():
    with pytest.warns(DeprecationWarning, match="pay is now called reward"):

        class Generous(TwoStep):
            def pay(self, action):
                return torch.full((self.num_envs,), 7.0)

    env = Generous(Generous.Settings(num_envs=2))
    env.reset(seed=1)
    assert env.step(torch.zeros(2, dtype=torch.int64))[1].tolist() == [7.0, 7.0]


def test_a_former_name_in_a_mixin_and_one_that_calls_the_base():
    seen = []

    class Mixin:
        def drop_running(self):
            seen.append("mixed")
            super().drop_running()

    with pytest.warns(DeprecationWarning, match="drop_running is now called on_reset"):

        class Mine(Mixin, Reinforce):
            pass

    env = TwoStep(TwoStep.Settings(num_envs=2))
    with pytest.warns(DeprecationWarning, match="now called on_reset"):
        Mine(env).on_reset()
    assert seen == ["mixed"]
    with pytest.warns(DeprecationWarning, match="now called reward"):

        class Doubled(Probe):
            def pay(self, action):
                return 2 * super().pay(action)

    probe = Doubled(Probe.Settings(num_envs=3), 2, Discrete(2), "cpu")
    with pytest.warns(DeprecationWarning, match="now called reward"):
        assert probe.reward(torch.zeros(3)).tolist() == [2.0] * 3
