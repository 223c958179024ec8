"""An off-policy agent from outside rlcore: examples/dqn.py."""

from pathlib import Path

import pytest
import torch
from compare import same
from one_step import NETWORKS, PROBES, OneStep

from rlcore import InputError, Trainer, check_agent, checkpoint, config, registry
from rlcore.envs.cartpole import CartPole
from rlcore.envs.probes import ConstantReward, Identity
from rlcore.replay import Replay

EXAMPLE = Path(__file__).parent.parent / "examples/dqn.yaml"


@pytest.fixture(scope="module")
def dqn():
    config.load(EXAMPLE)  # which imports it
    return registry.agents["example_dqn"]


def small(dqn, env, **settings):
    network = {"name": "mlp", "hidden": [32], "activation": "relu"}
    chosen = {"network": network, "horizon": 8, "num_updates": 8, "learning_starts": 64, "replay_size": 500, **settings}
    torch.manual_seed(1)
    return dqn(env, dqn.Settings.model_validate(chosen))


def test_it_learns_to_answer(dqn):
    env = Identity(Identity.Settings(num_envs=4))
    assert Trainer(small(dqn, env, gamma=0.0), env, total_steps=4000).fit().scalars["return"] == 1


@pytest.mark.parametrize(("end", "value"), [("terminated", 1.75), ("truncated", 2.0), ("both", 1.75)])
def test_a_time_limit_is_no_death(dqn, end, value):
    env = ConstantReward(ConstantReward.Settings(num_envs=4, length=3, end=end))
    agent = small(dqn, env, gamma=0.5)
    Trainer(agent, env, total_steps=3000).fit()
    obs, _ = env.reset(seed=1)
    assert agent.q(obs).amax(1).mean().item() == pytest.approx(value, abs=0.05)


def test_the_contract_finds_a_replay_that_is_not_saved(dqn):
    class Forgetful(dqn):
        """Keeps its replay where attributes are not looked for."""

        def __init__(self, env, settings):
            super().__init__(env, settings)
            self.hidden = (vars(self).pop("replay"),)

        def __getattr__(self, name):
            return self.hidden[0] if name == "replay" else super().__getattr__(name)

    env = CartPole(CartPole.Settings(num_envs=4))
    check_agent(small(dqn, env), env)
    forgetful = Forgetful(env, small(dqn, env).settings)
    with pytest.raises(InputError, match="a restored agent learns a different"):
        check_agent(forgetful, env)
    with pytest.raises(InputError, match="learn changed no parameter in 100 rollouts"):
        check_agent(small(dqn, env, learning_starts=10_000), env)


def test_it_keeps_observations_of_several_parts(dqn, tmp_path):
    env = OneStep(*PROBES["one part of three"])

    def make():
        return small(dqn, env, network=NETWORKS["one part of three"])

    trainer, other = Trainer(make(), env, total_steps=10_000), make()
    for _ in range(3):
        trainer.update()
    checkpoint.save(tmp_path / "saved.pt", trainer.agent.checkpoint())
    other.restore(checkpoint.load(tmp_path / "saved.pt"))
    same(other.checkpoint(), trainer.agent.checkpoint())
    torch.manual_seed(1)
    mine = trainer.agent.replay.sample(20)
    torch.manual_seed(1)
    same(tuple(mine), tuple(other.replay.sample(20)))
    assert (mine.reward == (mine.action == mine.obs["room"])).all()


def test_an_empty_replay_says_so():
    with pytest.raises(InputError, match="the replay is empty"):
        Replay(5).sample(1)


def test_a_replay_that_a_checkpoint_of_0_1_holds_by_an_override_is_told(dqn):
    def trainer():
        env = CartPole(CartPole.Settings(num_envs=4))
        return Trainer(small(dqn, env), env, total_steps=1200)

    one, other = trainer(), trainer()
    one.update()
    saved = one.checkpoint()
    assert trainer().restore(saved) == []
    del saved["learns"]["agent"]["states"]
    assert other.restore(saved) == ["the checkpoint has nothing of the agent's replay, which begins anew"]
