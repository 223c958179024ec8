"""Data sets in Minari's format: what `rlcore record` writes, who can read it, what is refused."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import Env, spaces
from pydantic import ValidationError

from rlcore import InputError, Trainer, commands, config, load
from rlcore.agents.bc import BC
from rlcore.agents.discrete_cql import DiscreteCQL
from rlcore.agents.dqn import DQN
from rlcore.agents.ppo import PPO
from rlcore.agents.recurrent_ppo import RecurrentPPO
from rlcore.cli import main
from rlcore.commands.record import Player, _acted, _played
from rlcore.envs.cartpole import CartPole
from rlcore.envs.offline import OfflineEnv
from rlcore.experience import Recorded, reading
from rlcore.experience.description import describe
from rlcore.experience.reading import local_ids, read
from rlcore.experience.writing import EpisodeWriter, Played
from rlcore.gym_environment import GymEnvironment
from rlcore.trees import where

minari = pytest.importorskip("minari")
h5py = pytest.importorskip("h5py")

FAILING = """
import os
from gymnasium.envs.classic_control import CartPoleEnv

class Failing(CartPoleEnv):
    count = 0

    def step(self, action):
        self.count += 1
        if self.count == int(os.environ.get("FAILS_AT", 0)):
            raise ValueError("broken")
        return super().step(action)
"""
QUICK = ("trainer.eval_every=null", "trainer.loggers=[]", "threads=1")


def rlcore(*words):
    """Runs a command in this process; its exit status."""
    before, sys.argv = sys.argv, ["rlcore", *map(str, words)]
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.argv = before
    return 0


def trained(folder, agent="ppo", env="CartPole-v1", *settings, steps=1024):
    assert (
        rlcore("train", agent, f"env.id={env}", f"trainer.total_steps={steps}", *QUICK, *settings, "--run-dir", folder)
        == 0
    )
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "cartpole", "ppo", "CartPole-v1", "env.num_envs=4")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder of data sets, which Minari knows."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    return tmp_path / "data"


def cartpole_step(obs, action):
    """gymnasium's equations, in float64."""
    x, v, angle, turn = obs.double().unbind(1)
    force = torch.where(action == 1, 10.0, -10.0)
    temp = (force + 0.05 * turn.square() * angle.sin()) / 1.1
    turning = (9.8 * angle.sin() - angle.cos() * temp) / (0.5 * (4 / 3 - 0.1 * angle.cos().square() / 1.1))
    acceleration = temp - 0.05 * turning * angle.cos() / 1.1
    return torch.stack([x + 0.02 * v, v + 0.02 * acceleration, angle + 0.02 * turn, turn + 0.02 * turning], 1)


# --- what is written ---


@pytest.mark.parametrize("policy", ["act", "predict", "random"])
def test_every_transition_obeys_the_physics(run, data, policy):
    assert rlcore("record", run, data / "cartpole-v0", "--steps", 600, "--policy", policy, "--seed", 7) == 0
    recorded = read("cartpole-v0")
    assert len(recorded) == 600
    obs, next_obs = recorded.obs[recorded.place], recorded.obs[recorded.place + 1]
    assert torch.allclose(next_obs.double(), cartpole_step(obs, recorded.action), atol=1e-5)
    out = (next_obs[:, 0].abs() > 2.4) | (next_obs[:, 2].abs() > 12 * np.pi / 180)
    assert torch.equal(out, recorded.terminated)
    ends = recorded.lengths.cumsum(0) - 1
    assert (recorded.terminated | recorded.truncated)[ends].all()
    assert (recorded.terminated | recorded.truncated).sum() == len(ends)
    begins = recorded.obs[recorded.place[ends - recorded.lengths + 1]]
    assert (begins.abs() <= 0.05).all()
    assert torch.equal(recorded.returns, recorded.lengths.double())
    again = data / "again-v0"
    assert rlcore("record", run, again, "--steps", 600, "--policy", policy, "--seed", 7) == 0
    assert torch.equal(read(str(again)).obs, recorded.obs)


def test_minari_reads_it(run, data):
    assert rlcore("record", run, data / "cartpole" / "expert-v3", "--steps", 304) == 0
    assert local_ids() == ["cartpole/expert-v3"]
    assert [*minari.list_local_datasets()] == ["cartpole/expert-v3"]
    found = minari.load_dataset("cartpole/expert-v3")
    assert found.total_steps == 304
    env = found.recover_environment()
    assert env.spec.id == "CartPole-v1"
    assert env.observation_space == found.observation_space
    for episode in found:
        assert all(map(env.observation_space.contains, episode.observations))
        assert all(map(env.action_space.contains, episode.actions))
        assert len(episode.observations) == len(episode.actions) + 1 == len(episode.rewards) + 1
    made = found.storage.metadata
    assert made["algorithm_name"] == "ppo"
    (part,) = made["rlcore"]["parts"]
    assert (part["policy"], part["steps"], part["steps_trained"]) == ("act", 304, 1024)


@pytest.mark.skipif(find_spec("d3rlpy") is None, reason="needs d3rlpy")
def test_d3rlpy_reads_it(run, data):
    import d3rlpy

    assert rlcore("record", run, data / "cartpole-v0", "--steps", 300) == 0
    dataset, _ = d3rlpy.datasets.get_minari("cartpole-v0")
    assert dataset.transition_count


class Counted(Env):
    """Counts its steps, and tells them; the reward is the action."""

    observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float64), "b": spaces.Discrete(4, start=2)})
    action_space = spaces.Discrete(3, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.seen(), {}

    def seen(self):
        return {"a": np.full(2, 0.1 * self.t), "b": 2 + self.t % 4}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        return self.seen(), float(action), self.t == 7, False, {}


def test_actions_are_those_that_the_environment_takes(tmp_path):
    """Clipped to the box, and counted from its start; float64 where the space is."""
    env = GymEnvironment(Counted, num_envs=2)
    agent = BC(env, BC.Settings.model_validate({"network": {"name": "multi_input"}}))
    writer = EpisodeWriter(tmp_path / "counted-v0", env)
    agent.eval()
    for step in _acted(env, 3, 0, Player(agent, env, "act")):
        writer.add(_played(step, env))
        if writer.num_steps == 28:
            break
    writer.close({})
    episodes = list(minari.MinariDataset(tmp_path / "counted-v0" / "data"))
    assert [len(one.rewards) for one in episodes] == [7, 7, 7, 7]
    for one in episodes:
        assert one.rewards.tolist() == one.actions.tolist()
        assert one.observations["a"].dtype == np.float64
        assert one.observations["b"].tolist() == [2, 3, 4, 5, 2, 3, 4, 5]
    recorded = read(str(tmp_path / "counted-v0"))
    assert recorded.action.min() >= 0
    assert recorded.action.max() <= 2
    assert torch.equal(recorded.reward, recorded.action + 5.0)


def test_numbers_are_clipped(tmp_path):
    run = trained(tmp_path / "run", "ppo", "Pendulum-v1", "agent.log_std_init=2")
    assert rlcore("record", run, tmp_path / "pendulum-v0", "--steps", 64) == 0
    action = read(str(tmp_path / "pendulum-v0")).action
    assert action.abs().max() == 2
    assert describe(read(str(tmp_path / "pendulum-v0"))).scalars["action_at_bounds"] > 0.5


def test_masks_are_recorded_and_hold(tmp_path):
    class Masked(Env):
        observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(3)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.seen()

        def seen(self):
            mask = np.arange(3) == self.np_random.integers(3)
            return np.zeros(2, np.float32), {"action_mask": mask}

        def step(self, action):
            obs, info = self.seen()
            return obs, 1.0, bool(self.np_random.random() < 0.2), False, info

    env = GymEnvironment(Masked, num_envs=2)
    agent = BC(env)
    agent.eval()
    writer = EpisodeWriter(tmp_path / "masked-v0", env)
    for step in _acted(env, 3, 0, Player(agent, env, "random")):
        writer.add(_played(step, env))
        if writer.num_steps >= 40:
            break
    writer.close({})
    recorded = read(str(tmp_path / "masked-v0"))
    mask = recorded.obs["action_mask"][recorded.place]
    assert mask.dtype == torch.bool
    assert mask.gather(1, recorded.action[:, None]).all()
    recorded.require_spaces(env.single_observation_space, env.single_action_space, "x")


def test_mixed_runs(run, data, tmp_path):
    other = trained(tmp_path / "other", "dqn", "CartPole-v1", "agent.learning_starts=64")
    assert rlcore("record", run, data / "mixed-v0", "--steps", 400, "--mix", f"{other}:0.25", "--num-envs", 4) == 0
    parts = read("mixed-v0").metadata["rlcore"]["parts"]
    assert [(part["agent"], part["steps"]) for part in parts] == [("ppo", 300), ("dqn", 100)]
    recorded = read("mixed-v0")
    assert len(recorded) == 400
    obs, next_obs = recorded.obs[recorded.place], recorded.obs[recorded.place + 1]
    assert torch.allclose(next_obs.double(), cartpole_step(obs, recorded.action), atol=1e-5)
    thirds = [f"--mix={other}:{share}" for share in (0.33, 0.56, 0.11)]  # which add up to more than 1 in float64
    assert rlcore("record", run, data / "thirds-v0", "--steps", 400, *thirds) == 0
    for mix, message in (
        ("x", "must be RUN:SHARE"),
        (f"{other}:2", "must be RUN:SHARE"),
        ("none:0.5", "none is not a run"),
    ):
        with pytest.raises(InputError, match=message):
            commands.record(str(run), str(data / "no-v0"), 100, mix=[mix])
    with pytest.raises(InputError, match=r"at most 1 together, got 1\.2"):
        commands.record(str(run), str(data / "no-v0"), 100, mix=[f"{other}:0.6", f"{other}:0.6"])
    pendulum = trained(tmp_path / "pendulum", "ppo", "Pendulum-v1")
    with pytest.raises(InputError, match=r"(?s)pendulum has the space .*, not .* as .*cartpole"):
        commands.record(str(run), str(data / "no-v0"), 100, mix=[f"{pendulum}:0.5"])
    assert not (data / "no-v0").exists()


def test_episodes_that_recording_cuts_count_in_no_return(data, tmp_path):
    """On Pendulum a piece of 50 steps would be the best episode of all."""
    run = trained(tmp_path / "run", "ppo", "Pendulum-v1")
    assert rlcore("record", run, data / "pendulum-v0", "--steps", 2_000, "--policy", "random") == 0
    recorded = read("pendulum-v0")
    assert torch.equal(recorded.whole, recorded.lengths == 200)
    assert recorded.whole.sum() == 8
    found = describe(recorded).scalars
    assert (found["episodes"], found["cut"], found["length_min"]) == (16, 8, 200)
    assert found["return"] == pytest.approx(recorded.returns[recorded.whole].mean().item())
    settings = {"dataset": "pendulum-v0", "best_share": 0.5, "reward_scale": "returns"}
    best = OfflineEnv(OfflineEnv.Settings.model_validate(settings)).original
    assert best.lengths.tolist() == [200] * 4
    assert best.returns.min() >= recorded.returns[recorded.whole].median()
    spread = recorded.returns[recorded.whole].max() - recorded.returns[recorded.whole].min()
    scaled = OfflineEnv(OfflineEnv.Settings.model_validate({**settings, "best_share": 1.0})).recorded
    assert torch.allclose(scaled.reward[0], (recorded.reward[0] * 1000 / spread).float())
    both = Recorded.joined([recorded, recorded])
    assert both.whole.sum() == 16


def test_a_replay_that_has_lost_a_beginning(data, tmp_path):
    settings = ("env.num_envs=2", "agent.learning_starts=64", "agent.replay_size=300")
    run = trained(tmp_path / "dqn", "dqn", "CartPole-v1", *settings, "trainer.checkpoint_every=1024")
    assert rlcore("record", run, data / "replay-v0", "--steps", 300, "--policy", "replay") == 0
    recorded = read("replay-v0")
    begins = recorded.obs[recorded.place[recorded.lengths.cumsum(0) - recorded.lengths]]
    ends = recorded.terminated[recorded.lengths.cumsum(0) - 1]
    assert torch.equal(recorded.whole, (begins.abs() <= 0.05).all(1) & ends)
    assert 2 <= (~recorded.whole).sum() <= 4


def test_what_an_expert_would_have_done(run, data, tmp_path):
    """DAgger: the states are the student's, the actions the expert's; several data sets are one."""
    student = trained(tmp_path / "student", "ppo", "CartPole-v1", "env.num_envs=2", steps=256)
    assert rlcore("record", student, data / "seen-v0", "--steps", 200) == 0
    assert rlcore("record", student, data / "asked-v0", "--steps", 200, "--expert", run) == 0
    seen, asked = read("seen-v0"), read("asked-v0")
    assert torch.equal(seen.obs, asked.obs)
    expert = load(run)
    assert torch.equal(asked.action, expert.predict(asked.obs[asked.place]).action)
    assert not torch.equal(seen.action, asked.action)
    assert asked.metadata["rlcore"]["actions_of"][0]["agent"] == "ppo"
    both = OfflineEnv(OfflineEnv.Settings.model_validate({"dataset": ["seen-v0", "asked-v0"], "env": "cartpole"}))
    assert both.num_examples == 400
    assert torch.equal(both.recorded.obs[both.recorded.place][200:], asked.obs[asked.place])
    assert torch.equal(both.recorded.returns, torch.cat([seen.returns, asked.returns]))
    agent = DiscreteCQL(both)
    with pytest.raises(InputError, match=r"env\.dataset: in seen-v0, asked-v0 actions are an expert's"):
        Trainer(agent, both, total_steps=256)
    Trainer(BC(both), both, total_steps=256)
    with pytest.raises(InputError, match=r"agent\.replay_from: in asked-v0 actions are an expert's"):
        DQN(CartPole(CartPole.Settings(num_envs=4)))._fill("asked-v0")
    with pytest.raises(InputError, match="choose another --policy than replay"):
        commands.record(str(run), str(data / "x-v0"), 10, policy="replay", expert=str(run))
    other = trained(tmp_path / "other", "ppo", "MountainCar-v0")
    assert rlcore("record", other, data / "car-v0", "--steps", 16) == 0
    with pytest.raises(InputError, match=r"env\.dataset: car-v0 has the observation space .*; seen-v0 has"):
        OfflineEnv(OfflineEnv.Settings.model_validate({"dataset": ["seen-v0", "car-v0"]}))


@pytest.mark.parametrize("n", [1, 3])
def test_a_replay_is_recorded_as_it_was_seen(data, tmp_path, n):
    settings = ("env.num_envs=2", "agent.learning_starts=64", f"agent.n_step={n}", "agent.replay_size=300")
    run = trained(tmp_path / "dqn", "dqn", "CartPole-v1", *settings, "trainer.checkpoint_every=1024")
    assert rlcore("record", run, data / "replay-v0", "--steps", 300, "--policy", "replay") == 0
    recorded = read("replay-v0")
    assert len(recorded) == 300
    obs, next_obs = recorded.obs[recorded.place], recorded.obs[recorded.place + 1]
    kept = ~recorded.terminated
    assert torch.allclose(next_obs.double()[kept], cartpole_step(obs, recorded.action)[kept], atol=1e-5)
    assert torch.equal(next_obs[~kept], obs[~kept])  # the true one is not known, and another episode's is none
    assert (recorded.reward == 1).all()
    with pytest.raises(InputError, match="holds 300 steps, fewer than the 1,000 asked for"):
        commands.record(str(run), str(data / "more-v0"), 1_000, policy="replay")
    assert not (data / "more-v0").exists()


def test_a_run_without_a_replay(run, data):
    with pytest.raises(InputError, match=r"--policy replay: the checkpoint last of .* holds no replay"):
        commands.record(str(run), str(data / "x-v0"), 10, policy="replay")
    with pytest.raises(InputError, match="--policy: must be one of act, predict, random, replay, got 'greedy'"):
        commands.record(str(run), str(data / "x-v0"), 10, policy="greedy")


def test_what_is_written_is_not_rounded(tmp_path):
    """float64 beside a large offset, by an agent that reads float32."""

    class Far(Env):
        observation_space, action_space = spaces.Box(-np.inf, np.inf, (1,), np.float64), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.t = 0
            return self.seen(), {}

        def seen(self):
            return np.array([1e6 + 1e-3 * self.t])

        def step(self, action):
            self.t += 1
            return self.seen(), 0.0, False, self.t == 9, {}

    env = GymEnvironment(Far, num_envs=1)
    env.float64 = True
    writer = EpisodeWriter(tmp_path / "far-v0", env)
    for step in islice(_acted(env, 1, 0, Player(PPO(env, PPO.Settings(horizon=4, minibatch_size=4)), env, "act")), 9):
        writer.add(_played(step, env))
    writer.close({})
    assert read(str(tmp_path / "far-v0")).obs[:, 0].tolist() == [1e6 + 1e-3 * t for t in range(10)]


def test_random_actions_know_nothing_of_the_environments_noise(tmp_path):
    class Noisy(Env):
        observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.seen(), {}

        def seen(self):
            return self.np_random.uniform(-1, 1, 1).astype(np.float32)

        def step(self, action):
            return self.seen(), 0.0, False, False, {}

    env = GymEnvironment(Noisy, num_envs=1)
    steps = list(islice(_acted(env, 1, 0, Player(BC(env), env, "random")), 400))
    action = torch.cat([step[1] for step in steps]).flatten()
    for obs in (torch.cat([step[0] for step in steps]).flatten(), torch.cat([step[5] for step in steps]).flatten()):
        assert abs(torch.corrcoef(torch.stack([action, obs]))[0, 1]) < 0.2
    first = {seed: next(_acted(env, seed, 0, Player(BC(env), env, "random")))[0].item() for seed in (1, 2)}
    env = GymEnvironment(Noisy, num_envs=8)
    assert first[2] not in next(_acted(env, 1, 0, Player(BC(env), env, "random")))[0].flatten().tolist()


def test_a_recurrent_agent_remembers_and_forgets():
    """Its state goes on through an episode, and begins anew with the next one."""
    env = CartPole(CartPole.Settings(num_envs=2, max_episode_steps=5))
    network = {"name": "gru", "size": 4, "body": {"name": "mlp", "hidden": [4]}}
    agent = RecurrentPPO(
        env, RecurrentPPO.Settings.model_validate({"horizon": 4, "minibatch_size": 4, "network": network})
    )
    agent.eval()
    state = agent.initial_state(2)
    for obs, action, _, terminated, truncated, *_ in islice(_acted(env, 3, 0, Player(agent, env, "predict")), 12):
        step = agent.predict(obs, state)
        assert torch.equal(step.action, action)
        state = where(terminated | truncated, agent.initial_state(2), step.state)


def test_an_episode_that_does_not_end_is_cut():
    class Endless(Counted):
        def step(self, action):
            return (*super().step(action)[:2], False, False, {})

    env = GymEnvironment(Endless, num_envs=2)
    env.max_episode_steps = 4
    steps = list(
        islice(
            _acted(env, 1, 0, Player(BC(env, BC.Settings.model_validate({"network": "multi_input"})), env, "random")),
            10,
        )
    )
    assert not any(step.cut.any() for step in steps)
    assert [bool(step[4].all()) for step in steps] == [False, False, False, True] * 2 + [False] * 2
    assert [step[0]["b"].tolist()[0] for step in steps] == [2, 3, 4, 5, 2, 3, 4, 5, 2, 3]
    assert [step[5]["b"].tolist()[0] for step in steps] == [3, 4, 5, 2, 3, 4, 5, 2, 3, 4]


def test_an_episode_beside_one_that_does_not_end_is_not_whole(tmp_path):
    """All begin anew: those which had not lasted so long were ended by the recording, and have no return."""

    class Uneven(Counted):
        is_short = False

        def reset(self, *, seed=None, options=None):
            if seed is not None:
                self.is_short = seed % 2 == 1
            return super().reset(seed=seed, options=options)

        def step(self, action):
            return (*super().step(action)[:2], self.is_short and self.t == 3, False, {})

    env = GymEnvironment(Uneven, num_envs=2)
    env.max_episode_steps = 4
    agent = BC(env, BC.Settings.model_validate({"network": "multi_input"}))
    writer = EpisodeWriter(tmp_path / "uneven-v0", env)
    for step in islice(_acted(env, 1, 0, Player(agent, env, "random")), 4):
        writer.add(_played(step, env))
    writer.close({})
    recorded = read(str(tmp_path / "uneven-v0"))
    assert dict(zip(recorded.lengths.tolist(), recorded.whole.tolist(), strict=True)) == {3: True, 1: False, 4: True}
    assert recorded.truncated.sum() == 2


@pytest.mark.parametrize("settings", ["env.vectorization=async", "env.single_instance=true"])
def test_as_many_steps_as_were_asked_for(tmp_path, settings):
    run = trained(tmp_path / "run", "ppo", "CartPole-v1", "env.num_envs=2", settings, steps=256)
    assert rlcore("record", run, tmp_path / "x-v0", "--steps", 64) == 0
    recorded = read(str(tmp_path / "x-v0"))
    assert len(recorded) == recorded.metadata["rlcore"]["parts"][0]["steps"] == 64


def test_many_short_and_few_long_episodes(tmp_path):
    """What is written early, and what is dropped then, leaves every episode as it was played."""
    env = CartPole(CartPole.Settings(num_envs=3))
    writer = EpisodeWriter(tmp_path / "mixed-v0", env)
    for t in range(9_000):
        obs = np.array([[n, t, 0, 0] for n in range(3)], np.float32)
        flags = np.array([t % 31 == 30, t % 50 == 49, t == 5_999]), np.zeros(3, bool)
        writer.add(
            Played(
                obs,
                np.array([0, 1, 0]),
                np.ones(3, np.float32),
                *flags,
                obs + np.eye(4, dtype=np.float32)[1],
                np.zeros(3, bool),
            )
        )
    writer.close({})
    recorded = read(str(tmp_path / "mixed-v0"))
    assert len(recorded) == 27_000
    obs, next_obs = recorded.obs[recorded.place], recorded.obs[recorded.place + 1]
    assert torch.equal(next_obs[:, 1], obs[:, 1] + 1)
    assert torch.equal(next_obs[:, 0], obs[:, 0])
    lengths = [torch.unique(recorded.lengths[recorded.obs[recorded.place[recorded.lengths.cumsum(0) - 1]][:, 0] == n])
               for n in range(3)]  # fmt: skip
    assert [set(x.tolist()) for x in lengths] == [{31, 10}, {50}, {6_000, 3_000}]


def test_an_action_that_its_mask_forbids(tmp_path):
    """Whoever learned to do it could not: it is refused, where the mask allows something."""
    space = spaces.Dict({"x": spaces.Box(-1, 1, (1,)), "action_mask": spaces.Box(0, 1, (2,), np.int8)})
    env = SimpleNamespace(single_observation_space=space, single_action_space=spaces.Discrete(2), spec=None)
    no = np.zeros(1, bool)
    for mask, is_fine in (([0, 1], True), ([0, 0], True), ([1, 0], False)):
        writer = EpisodeWriter(tmp_path / f"masked{''.join(map(str, mask))}-v0", env)
        obs = {"x": np.zeros((1, 1), np.float32), "action_mask": np.array([mask], np.int8)}
        last = {**obs, "action_mask": np.zeros((1, 2), np.int8)}
        writer.add(Played(obs, np.array([1]), np.ones(1, np.float32), ~no, no, last, no))
        writer.close({})
        if is_fine:
            assert len(read(str(writer.folder))) == 1
        else:
            with pytest.raises(InputError, match="episode 0: step 0 has the action 1, which its action_mask forbids"):
                read(str(writer.folder))


# --- nothing half ---


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), RuntimeError("No space left")])
def test_a_full_disk_leaves_nothing(run, data, monkeypatch, capsys, error):
    from minari.dataset._storages.hdf5_storage import HDF5Storage

    def full(self, episodes):
        raise error

    monkeypatch.setattr(HDF5Storage, "update_episodes", full)
    assert rlcore("record", run, data / "full-v0", "--steps", 100) == 2
    assert re.search("cannot be written, and nothing is left of it: .*No space left", capsys.readouterr().err)
    assert list(data.iterdir()) == []


def test_a_disk_that_is_nearly_full(run, data, monkeypatch, capsys):
    usage = shutil.disk_usage(data.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    assert rlcore("record", run, data / "full-v0", "--steps", 100) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(data.iterdir()) == []


def test_what_there_is_not(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reading, "local_ids", lambda: ["hopper/medium-v0"])
    assert rlcore("show", "hoper/medium-v0") == 2
    assert "there is no data set 'hoper/medium-v0' (did you mean 'hopper/medium-v0'?)" in capsys.readouterr().err
    assert rlcore("record", run, tmp_path / "some-v0", "--steps", 64) == 0
    assert rlcore("show", tmp_path / "some-v0", "--figure", tmp_path / "none" / "some.png") == 2
    assert f"rlcore: --figure {tmp_path}/none/some.png: " in capsys.readouterr().err


def test_a_place_that_is_taken_meanwhile(run, data):
    env = CartPole(CartPole.Settings(num_envs=2))
    writer = EpisodeWriter(data / "late-v0", env)
    obs, flags = np.zeros((2, 4), np.float32), np.zeros(2, bool)
    writer.add(Played(obs, np.array([0, 1]), np.ones(2, np.float32), flags, flags, obs, flags))
    assert local_ids() == []  # it is still being written
    (data / "late-v0").mkdir()
    with pytest.raises(InputError, match=r"late-v0: is complete, but stays in .*\.late-v0\.writing"):
        writer.close({})
    assert len(read(str(data / ".late-v0.writing"))) == 2
    (data / "link-v0").symlink_to("nowhere")
    with pytest.raises(InputError, match="exists already"):
        EpisodeWriter(data / "link-v0", env)


def test_a_spec_that_cannot_be_written(data):
    gymnasium.register("Counted-v0", entry_point=Counted)
    try:
        env = GymEnvironment("Counted-v0", num_envs=1)
        EpisodeWriter(data / "class-v0", env).abandon()
    finally:
        del gymnasium.registry["Counted-v0"]


def test_numbers_that_are_none_end_it(data, tmp_path, monkeypatch, capsys):
    (tmp_path / "failing.py").write_text(
        FAILING.replace('raise ValueError("broken")', "return self.state, float('nan'), False, False, {}")
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("failing", None)
    run = trained(tmp_path / "run", "ppo", "failing:Failing", "env.num_envs=2", steps=256)
    monkeypatch.setenv("FAILS_AT", "50")
    assert rlcore("record", run, data / "some-v0", "--steps", 10_000, "--num-envs", 2) == 2
    assert "returned a NaN or an infinity in its reward" in capsys.readouterr().err
    assert len(read("some-v0")) == 98
    monkeypatch.setenv("FAILS_AT", "1")
    assert rlcore("record", run, data / "none-v0", "--steps", 10_000, "--num-envs", 2) == 2
    assert "returned a NaN" in capsys.readouterr().err
    sys.modules.pop("failing", None)


def test_two_at_once(run, data):
    env = CartPole(CartPole.Settings(num_envs=2))
    writer = EpisodeWriter(data / "same-v0", env)
    with pytest.raises(InputError, match="is in use"):
        commands.record(str(run), str(data / "same-v0"), 10)
    obs, flags = np.zeros((2, 4), np.float32), np.zeros(2, bool)
    writer.add(Played(obs, np.array([0, 1]), np.ones(2, np.float32), flags, flags, obs, flags))
    writer.close({})
    assert len(read("same-v0")) == 2


def test_an_environment_that_fails_leaves_what_was_played(data, tmp_path, monkeypatch, capsys):
    (tmp_path / "failing.py").write_text(FAILING)
    monkeypatch.syspath_prepend(str(tmp_path))
    run = trained(tmp_path / "run", "ppo", "failing:Failing", "env.num_envs=2", steps=256)
    monkeypatch.setenv("FAILS_AT", "50")
    assert rlcore("record", run, data / "some-v0", "--steps", 10_000, "--num-envs", 2) == 2
    shown = capsys.readouterr()
    assert "ValueError: broken" in shown.err
    assert "some-v0: 98 steps" in shown.out
    assert len(read("some-v0")) == read("some-v0").metadata["rlcore"]["parts"][0]["steps"] == 98


def test_ctrl_c_leaves_a_smaller_data_set(run, tmp_path):
    out = tmp_path / "some-v0"
    command = [sys.executable, "-m", "rlcore", "record", str(run), str(out), "--steps", "100_000_000".replace("_", "")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    beside = tmp_path / ".some-v0.writing" / "data" / "metadata.json"
    while not beside.is_file() or not json.loads(beside.read_text() or "{}").get("total_steps"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT
    recorded = read(str(out))
    assert len(recorded) > 1000
    assert f"SIGINT: {out}: {len(recorded):,} steps" in process.stdout.read()
    assert not beside.parent.parent.exists()


@pytest.mark.parametrize(
    ("name", "message"), [("expert", "ends in a version, by Minari's rules: expert-v0"), ("a b-v0", "a-b-v0-v0")]
)
def test_names_are_minaris(run, data, name, message):
    with pytest.raises(InputError, match=message):
        commands.record(str(run), str(data / name), 10)
    (data / "there-v0").mkdir(parents=True)
    with pytest.raises(InputError, match="exists already"):
        commands.record(str(run), str(data / "there-v0"), 10)


# --- what is read ---


def written(folder, change=None, lengths=(3, 2), **kinds):
    """A small data set, some of whose arrays are changed."""
    observation = kinds.get("observation_space", spaces.Box(-1, 1, (2,)))
    action = kinds.get("action_space", spaces.Box(-1, 1, (1,)))
    storage = minari.dataset.minari_storage.MinariStorage
    (folder / "data").mkdir(parents=True)
    made = storage.new(folder / "data", observation_space=observation, action_space=action)
    made.update_metadata({"dataset_id": folder.name, "minari_version": minari.__version__})
    for T in lengths:
        columns = {
            "observations": np.zeros((T + 1, 2), np.float32), "actions": np.zeros((T, 1), np.float32),
            "rewards": np.ones(T), "terminations": np.arange(T) == T - 1, "truncations": np.zeros(T, bool),
        }  # fmt: skip
        if change is not None:
            change(columns)
        made.update_episodes([minari.data_collector.EpisodeBuffer(**columns)])
    return folder


def changed_metadata(folder, **changes):
    path = folder / "data" / "metadata.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("observations", np.full((4, 2), np.nan, np.float32), "observations has a NaN or an infinity"),
        ("actions", np.full((3, 1), np.inf), "actions has a NaN or an infinity"),
        ("rewards", np.full(3, np.nan), "rewards has a NaN or an infinity"),
        ("rewards", np.full(3, 1e300), "rewards has a NaN or an infinity, or what is one in float32"),
        ("actions", np.full((3, 1), 7.0, np.float32), "actions must be in Box.*, got 7 to 7"),
        ("rewards", np.ones(2), "observations must have 3 rows, as the rewards say, got 4"),
        ("observations", np.zeros((3, 2), np.float32), "observations must have 4 rows, as the rewards say, got 3"),
        ("observations", np.zeros((4, 5), np.float32), r"observations must be \[rows, 2\], got \[4, 5\]"),
        ("actions", np.zeros(3, np.float32), r"actions must be \[rows, 1\], got \[3\]"),
        ("terminations", np.zeros(2, bool), "terminations must have 3 rows"),
        ("rewards", np.array([b"x", b"y", b"z"]), "rewards must be numbers, got"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, name, value, message):
    folder = written(tmp_path / "bad-v0", lambda columns: columns.update({name: value}), lengths=(3,))
    with pytest.raises(InputError, match=f"data set .*bad-v0: episode 0: {message}"):
        read(str(folder))


def test_actions_outside_their_space(tmp_path):
    def change(columns):
        columns["actions"] = np.array([0, 7, 1])

    folder = written(tmp_path / "bad-v0", change, (3,), action_space=spaces.Discrete(2))
    with pytest.raises(InputError, match=r"actions must be in Discrete\(2\), got 7"):
        read(str(folder))


def test_nothing_in_it(tmp_path):
    with pytest.raises(InputError, match="has no steps"):
        read(str(written(tmp_path / "empty-v0", lengths=())))
    folder = written(tmp_path / "zero-v0")
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        for name in ("actions", "rewards", "terminations", "truncations"):
            file[f"episode_0/{name}"].resize(0, axis=0)
        file["episode_0/observations"].resize(1, axis=0)
    with pytest.raises(InputError, match="episode 0 has no steps"):
        read(str(folder))


def test_without_rewards(tmp_path):
    folder = written(tmp_path / "no-v0")
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1/rewards"]
    with pytest.raises(InputError, match=r"Minari cannot read it: KeyError: .*'rewards' doesn't exist"):
        read(str(folder))


def test_one_episode_is_enough(tmp_path):
    assert len(read(str(written(tmp_path / "one-v0", lengths=(1,))))) == 1


def test_a_newer_minari(tmp_path):
    folder = changed_metadata(written(tmp_path / "new-v0"), minari_version="9.0.0")
    with pytest.raises(InputError, match=r"does not support the dataset generated by Minari 9\.0\.0"):
        read(str(folder))


def test_nothing_is_run(tmp_path):
    """Without spaces Minari would make the environment of the spec: any function that the file names."""
    trap = tmp_path / "trap.py"
    trap.write_text("from pathlib import Path\n\ndef make(**k):\n    Path(__file__).with_name('ran').touch()\n")
    spec = json.dumps({"id": "Trap-v0", "entry_point": "trap:make", "additional_wrappers": [], "kwargs": {}})
    sys.path.insert(0, str(tmp_path))
    try:
        folder = changed_metadata(written(tmp_path / "trap-v0"), env_spec=spec, observation_space=None)
        with pytest.raises(InputError, match=r"metadata\.json has no observation_space"):
            read(str(folder))
        read(str(changed_metadata(written(tmp_path / "spec-v0"), env_spec=spec)))
    finally:
        sys.path.remove(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_pickled_objects_are_not_read(tmp_path):
    folder = written(tmp_path / "pickle-v0", lengths=(1,))

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    import pickle

    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        file["episode_0/rewards"] = np.array([np.void(pickle.dumps(Trap()))])
    with pytest.raises(InputError, match="rewards must be numbers"):
        read(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"data_format": "hdf5"}', '{"observation_space": 3}'])
def test_damaged_metadata(tmp_path, content):
    folder = written(tmp_path / "bad-v0")
    (folder / "data" / "metadata.json").write_text(content)
    with pytest.raises(InputError, match=r"data set .*bad-v0"):
        read(str(folder))


def test_damaged_files(tmp_path):
    folder = written(tmp_path / "bad-v0")
    path = folder / "data" / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="Minari cannot read it"):
        read(str(folder))


def test_a_missing_id(data):
    written(data / "hopper" / "medium-v0")
    with pytest.raises(
        InputError, match=r"there is no data set 'hopper/medium-v1' \(did you mean 'hopper/medium-v0'\?\)"
    ):
        read("hopper/medium-v1")


def test_spaces_that_no_tensors_hold(tmp_path):
    folder = written(tmp_path / "text-v0", lengths=())
    text = minari.serialization.serialize_space(spaces.Text(5))
    with pytest.raises(InputError, match=r"no tensors hold the observation space Text"):
        read(str(changed_metadata(folder, observation_space=text)))


def test_without_minari(tmp_path, monkeypatch):
    folder = written(tmp_path / "here-v0")
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(InputError, match=r"need minari \(.*\): pip install 'minari\[hdf5\]'"):
        read(str(folder))


# --- the whole way ---


def test_from_a_run_to_a_policy(run, data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert rlcore("record", run, "data/cartpole-v0", "--steps", 2000, "--policy", "predict") == 0
    assert rlcore("show", "data/cartpole-v0", "--figure", "figure.png") == 0
    shown = capsys.readouterr().out
    assert "episodes" in shown
    assert "actions: 0:" in shown
    assert Path("figure.png").stat().st_size > 5_000
    Path("bc.yaml").write_text(
        "env: {name: offline, dataset: data/cartpole-v0, env: {name: cartpole}}\nagent: {name: bc}\n"
        "trainer: {epochs: 4, eval_episodes: 4}\n"
    )
    assert rlcore("train", "bc.yaml", "--run-dir", "clone") == 0
    assert rlcore("eval", "clone") == 0
    assert rlcore("list", "datasets") == 0
    listed = capsys.readouterr().out
    assert "cartpole-v0" in listed
    assert "Recorded episodes" in listed
    assert config.load(Path("clone/config.yaml")).config.env.settings.dataset == str(tmp_path / "data" / "cartpole-v0")
    assert rlcore("show", "data/cartpole-v0", "agent.gamma=1") == 2
    assert rlcore("show", "ppo", "env.id=CartPole-v1", "--figure", "x.png") == 2
    assert rlcore("record", "clone", "data/clone-v0", "--steps", 16) == 0  # in the environment that evaluates it
    Path("alone.yaml").write_text(
        "env: {name: offline, dataset: data/cartpole-v0}\nagent: {name: bc}\ntrainer: {total_steps: 512}\n"
    )
    assert rlcore("train", "alone.yaml", "--run-dir", "alone") == 0
    assert "eval/agreement" in capsys.readouterr().out
    assert rlcore("record", "alone", "data/alone-v0", "--steps", 10) == 2
    assert "alone: is of a data set, in which nobody plays" in capsys.readouterr().err
    shutil.rmtree("data/cartpole-v0")
    Path("clone/config.yaml").write_text(
        Path("clone/config.yaml")
        .read_text()
        .replace("epochs: 4", "epochs: null")
        .replace("total_steps: null", "total_steps: 8192")
    )
    assert rlcore("eval", "clone") == 0
    assert rlcore("resume", "clone", "trainer.total_steps=16384") == 2
    assert "there is no data set" in capsys.readouterr().err


def test_a_replay_begins_with_what_was_recorded(run, data, tmp_path):
    assert rlcore("record", run, data / "cartpole-v0", "--steps", 512) == 0
    env = CartPole(CartPole.Settings(num_envs=4))
    settings = {"replay_from": "cartpole-v0", "learning_starts": 500, "batch_size": 16, "replay_size": 2_000}
    settings |= {"normalize_observations": True, "network": {"hidden": [8]}}
    agent = DQN(env, DQN.Settings.model_validate(settings))
    trainer = Trainer(agent, env, total_steps=64, seed=1)
    trainer.update()
    assert len(agent.replay) == 512 + 4 * agent.horizon
    assert agent.normalizer.single.count == 512 + 4 * agent.horizon
    b = agent.replay.sample(600)
    kept = ~b.terminated
    assert torch.allclose(b.next_obs.double()[kept], cartpole_step(b.obs, b.action)[kept], atol=1e-5)
    trainer.fit()
    with pytest.raises(ValidationError, match="replay_from: stacks of recorded images"):
        DQN.Settings.model_validate({**settings, "frames": 4})
    wrong = GymEnvironment("MountainCar-v0", num_envs=4)
    with pytest.raises(InputError, match=r"agent\.replay_from: .*cartpole-v0 has the observation space"):
        Trainer(DQN(wrong, DQN.Settings.model_validate(settings)), wrong, total_steps=64).fit()
    many = CartPole(CartPole.Settings(num_envs=600))
    with pytest.raises(InputError, match=r"agent\.replay_from: .*512 steps for 600 environments"):
        Trainer(DQN(many, DQN.Settings.model_validate(settings | {"replay_size": 9_000})), many, total_steps=600).fit()


def test_a_small_replay_begins_with_the_latest_steps(run, data):
    assert rlcore("record", run, data / "cartpole-v0", "--steps", 400) == 0
    env = CartPole(CartPole.Settings(num_envs=2))
    settings = {"replay_from": "cartpole-v0", "learning_starts": 50, "batch_size": 16, "replay_size": 100}
    agent = DQN(env, DQN.Settings.model_validate(settings))
    agent._fill("cartpole-v0")
    recorded = read("cartpole-v0")
    latest = recorded.obs[recorded.place][-100:].view(2, 50, 4)
    seen = torch.stack([b.obs for b, _ in agent.replay.steps()], 1)
    assert torch.equal(seen, latest)


def test_a_replay_that_was_not_saved_begins_with_what_was_recorded_again(run, data, tmp_path):
    assert rlcore("record", run, data / "cartpole-v0", "--steps", 400) == 0
    settings = {"replay_from": "cartpole-v0", "learning_starts": 50, "batch_size": 16, "save_replay": False}

    def trainer():
        env = CartPole(CartPole.Settings(num_envs=4))
        return Trainer(DQN(env, DQN.Settings.model_validate(settings)), env, total_steps=640, seed=1)

    first, second = trainer(), trainer()
    first.update()
    second.restore(first.checkpoint())
    second.update()
    assert len(second.agent.replay) == 400 + 16


def test_init_from_on_the_command_line(run, tmp_path, capsys):
    words = "train", "ppo", "env=cartpole", "trainer.total_steps=1024", *QUICK
    assert rlcore(*words, f"init_from={run}", "--run-dir", tmp_path / "a") == 0
    assert re.search(r"begins from .*: (\d+) of \1 parameters and statistics", capsys.readouterr().out)
    assert rlcore(*words, f"init_from={tmp_path}/none", "--run-dir", tmp_path / "b") == 2
    assert "there is no checkpoint in" in capsys.readouterr().err


def test_the_writer_by_hand(tmp_path):
    env = CartPole(CartPole.Settings(num_envs=2))
    writer = EpisodeWriter(tmp_path / "hand-v0", env)
    for t in range(3):
        obs = np.full((2, 4), t, np.float32)
        flags = np.array([t == 1, False]), np.array([False, False])
        writer.add(Played(obs, np.array([0, 1]), np.ones(2, np.float32), *flags, obs + 1, np.zeros(2, bool)))
    writer.close({})
    recorded = read(str(tmp_path / "hand-v0"))
    assert recorded.lengths.tolist() == [2, 1, 3]
    assert recorded.obs[:, 0].tolist() == [0, 1, 2, 2, 3, 0, 1, 2, 3]
    assert recorded.terminated.tolist() == [False, True, False, False, False, False]
    assert recorded.truncated.tolist() == [False, False, True, False, False, True]
    with pytest.raises(InputError, match="nothing was played"):
        EpisodeWriter(tmp_path / "none-v0", env).close({})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hand-v0"]
