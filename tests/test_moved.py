"""What rlcore 0.1 had elsewhere is still found there."""

import importlib
import sys

import pytest
import torch

from rlcore import Trainer
from rlcore.agents.reinforce import Reinforce
from rlcore.envs.games.versus import VersusEnv
from rlcore.envs.probes import TwoStep
from rlcore.moved import MOVED
from rlcore.stateful import attributes_of_type


@pytest.mark.parametrize(("former", "now"), MOVED.items())
def test_a_module_is_found_by_its_former_name_with_a_warning(former, now):
    sys.modules.pop(former, None)
    with pytest.warns(DeprecationWarning, match=f"{former} is now {now}"):
        found = importlib.import_module(former)
    assert found is importlib.import_module(now)


def test_names_of_modules_that_became_packages_are_still_there():
    for module, names in {
        "rlcore.envs.games": ("BitBoardGame", "ConnectFour", "TicTacToe"),
        "rlcore.supervised.reports": ("BoundaryReport", "ConfusionReport", "ExamplesReport", "FiltersReport"),
        "rlcore.uncertainty": ("Classes", "Numbers", "answers_of", "calibration_error", "measures", "uncertainty"),
    }.items():
        assert all(hasattr(importlib.import_module(module), name) for name in names)


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
