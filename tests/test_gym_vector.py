"""Environments that step all N themselves keep the contract of those that are stepped one by one."""

from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from compare import same
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlcore.agents.dqn import DQN
from rlcore.errors import InputError
from rlcore.gym_environment import GymEnvironment
from rlcore.trainer import Trainer


class Walk(gymnasium.Env):
    """Draws numbers until an episode of random length ends, in either way."""

    observation_space = Dict({"a": Box(-9, 9, (2,), np.float32), "b": Box(0, 255, (1,), np.uint8)})
    action_space = Discrete(3)

    def _observe(self):
        drawn = self.np_random.normal(size=2).astype(np.float32)
        return {"a": drawn, "b": np.array([self.steps], np.uint8)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {"energy": 1.0}

    def step(self, action):
        self.steps += 1
        ends = self.np_random.random(2) < 0.15
        return self._observe(), float(action), bool(ends[0]), bool(ends[1]), {"energy": float(self.steps)}


class FlatWalk(gymnasium.ObservationWrapper):
    """The same, with an observation that is no Dict."""

    def __init__(self):
        super().__init__(Walk())
        self.observation_space = self.env.observation_space["a"]

    def observation(self, obs):
        return obs["a"]


def vector(num_envs, single=Walk, autoreset_mode=None, *, supports=AutoresetMode.SAME_STEP):
    """N of them by gymnasium's own vector environment, which agrees to one way of resetting alone."""
    if autoreset_mode is not None and autoreset_mode is not supports:
        raise ValueError(f"autoreset_mode {autoreset_mode} is not supported")
    return SyncVectorEnv([single] * num_envs, autoreset_mode=supports)


disabled = partial(vector, supports=AutoresetMode.DISABLED)
next_step = partial(vector, supports=AutoresetMode.NEXT_STEP)


def batched_final_obs(num_envs, single=FlatWalk, autoreset_mode=None):
    """As Atari's, ``final_obs`` is a batch whose other rows mean nothing."""

    class Batched(gymnasium.vector.VectorWrapper):
        def step(self, actions):
            obs, reward, terminated, truncated, info = self.env.step(actions)
            if "final_obs" in info:
                final = np.full_like(obs, 7.0)
                done = terminated | truncated
                final[done] = np.stack(list(info["final_obs"][done]))
                info["final_obs"] = final
            return obs, reward, terminated, truncated, info

    return Batched(vector(num_envs, single, autoreset_mode))


@pytest.mark.parametrize(("maker", "single"), [
    (vector, Walk), (disabled, Walk), (disabled, FlatWalk), (vector, FlatWalk), (batched_final_obs, FlatWalk),
])  # fmt: skip
def test_steps_are_those_of_single_environments(maker, single):
    here = GymEnvironment(maker, num_envs=3, vectorization="vector_entry_point", options={"single": single})
    there = GymEnvironment(single, num_envs=3)
    assert here.single_observation_space == there.single_observation_space
    same(here.reset(seed=5)[0], there.reset(seed=5)[0])
    ended = torch.zeros(2, dtype=torch.int64)
    for k in range(100):
        actions = torch.tensor([k % 3, 1, 2])
        *mine, info = here.step(actions)
        *theirs, expected = there.step(actions)
        same(mine, theirs)
        assert ("final_obs" in info) == ("final_obs" in expected)
        if "final_obs" in info:
            same(info["final_obs"], expected["final_obs"])
            assert (info["reset_info"]["energy"][mine[2] | mine[3]] == 1).all()
        assert np.array_equal(info["energy"], expected["energy"])
        assert np.array_equal(info["_energy"], expected["_energy"])
        ended += torch.stack([mine[2].sum(), mine[3].sum()])
    assert ended.min() > 10


def test_an_agent_learns_from_them():
    env = GymEnvironment(batched_final_obs, num_envs=2, vectorization="vector_entry_point")
    agent = DQN(env, DQN.Settings(batch_size=8, learning_starts=0, horizon=2))
    trainer = Trainer(agent, env, Trainer.Settings(total_steps=80, eval_episodes=3), seed=1)
    trainer.fit()
    assert trainer.steps == 80
    assert "eval/return" in trainer.figures


@pytest.mark.parametrize(("given", "match"), [
    ({"env": "CartPole-v1"}, "CartPole-v1 must reset an ended episode in the same step .*NEXT_STEP; use sync"),
    ({"env": next_step}, "its autoreset_mode is AutoresetMode.NEXT_STEP"),
    ({"env": "Acrobot-v1"}, "env.vectorization: 'Acrobot-v1' cannot be made: .*vector entry point"),
    ({"env": "CartPole-v1", "wrappers": [{"name": "TimeLimit", "max_episode_steps": 9}]}, "env.wrappers: is of single"),
    ({"env": "CartPole-v1", "options": {"length": 3}}, "unexpected keyword argument 'length'"),
    ({"env": lambda num_envs, autoreset_mode: vector(num_envs + 1), "num_envs": 2}, "2 were asked for, .* makes 3"),
    ({"env": lambda num_envs, autoreset_mode: 3}, "makes no gymnasium.vector.VectorEnv but 3"),
])  # fmt: skip
def test_what_is_none_is_refused_in_one_line(given, match):
    with pytest.raises(InputError, match=match) as caught:
        GymEnvironment(vectorization="vector_entry_point", **given)
    assert "\n" not in str(caught.value)


def test_a_failure_and_a_film_are_one_line():
    env = GymEnvironment(vector, num_envs=2, vectorization="vector_entry_point")
    env.reset(seed=1)
    with pytest.raises(InputError, match="there are no videos"):
        env.filming()
    env.envs.env.envs[0].step = lambda action: 1 / 0
    with pytest.raises(InputError, match="vector failed in step: ZeroDivisionError: division by zero"):
        env.step(torch.zeros(2, dtype=torch.int64))


def changed(place, value):
    """A maker of environments of whose answers one is another."""

    class Changed(gymnasium.vector.VectorWrapper):
        def step(self, actions):
            answers = list(self.env.step(actions))
            answers[place] = value(answers[place]) if callable(value) else value
            return tuple(answers)

    return lambda num_envs, autoreset_mode: Changed(vector(num_envs, FlatWalk, autoreset_mode))


@pytest.mark.parametrize(("place", "value", "match"), [
    (0, lambda obs: obs[:1], r"observations must have the shape \[2, 2\], have \[1, 2\]"),
    (0, lambda obs: None, r"observations must have the shape \[2, 2\], have \[\]"),
    (1, None, "each environment has one reward, got object"),
    (1, lambda reward: reward[:, None], r"each environment has one reward, got float64 of shape \[2, 1\]"),
    (2, [True], r"each environment has one flag, got bool of shape \[1\]"),
    (4, None, "AttributeError"),
    (4, {"action_mask": np.ones((2, 5), bool)}, "cannot reshape"),
    (4, {}, "an episode has ended, and info has no final_obs"),
])  # fmt: skip
def test_answers_that_are_none_end_in_one_line(place, value, match):
    env = GymEnvironment(changed(place, value), num_envs=2, vectorization="vector_entry_point")
    env.reset(seed=1)
    with pytest.raises(InputError, match=f"failed in step: .*{match}"):  # noqa: PT012 (an episode must end first)
        for _ in range(60):
            env.step(torch.zeros(2, dtype=torch.int64))


def test_odd_answers_are_read_all_the_same():
    odd = {3: 1, "list": [1, [2]], "text": np.array(["a", "b"]), "speed": np.array([np.nan, 2.0])}
    maker = changed(4, lambda info: {**info, **odd})
    env, other = (GymEnvironment(maker, num_envs=2, vectorization="vector_entry_point") for _ in range(2))
    assert not torch.equal(env.reset()[0], other.reset()[0])  # nobody has seeded them
    env.reset(seed=1)
    for _ in range(20):
        *_, terminated, truncated, info = env.step(torch.zeros(2, dtype=torch.int64))
        assert "text" not in info
        assert info["_speed"].tolist() == [False, not (terminated | truncated)[1]]  # what was there of its last step?


def test_atari_steps_itself():
    pytest.importorskip("ale_py")
    env = GymEnvironment("ale_py:ALE/Pong-v5", num_envs=3, vectorization="vector_entry_point")
    obs, _ = env.reset(seed=2)
    assert obs.shape == (3, 4, 84, 84)
    assert obs.dtype == torch.uint8
    for _ in range(1_200):
        obs, _, terminated, truncated, info = env.step(env.random_actions())
        if (done := terminated | truncated).any():
            changed = (info["final_obs"] != obs).flatten(1).any(1)
            assert torch.equal(changed, done)
            break
    else:
        pytest.fail("no game ended")
