import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from rlcore import check_environment
from rlcore.agents.ppo import PPO
from rlcore.environment import GymEnvironment
from rlcore.envs import probes
from rlcore.errors import InputError
from rlcore.rollout import collect


class Counter(gymnasium.Env):
    """Shows how many steps have been played, in a buffer that it reuses; ends at 3, is cut at 2 in odd episodes."""

    observation_space = Box(-100, 100, (1,), np.float64)
    action_space = Discrete(2, start=5)

    def __init__(self, reuse=True, action_space=None):
        self.buffer, self.reuse, self.episodes, self.taken = np.zeros(1), reuse, 0, []
        if action_space is not None:
            self.action_space = action_space

    def _obs(self, value):
        if not self.reuse:
            return np.array([float(value)])
        self.buffer[0] = value
        return self.buffer

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episodes += 1
        self.steps = 0
        return self._obs(100 if self.episodes == 1 else -self.episodes), {}

    def step(self, action):
        self.steps += 1
        self.taken.append(action)
        cut = self.steps == 2 and self.episodes % 2 == 1
        return self._obs(self.steps), float(self.steps), self.steps == 3, cut, {}


gymnasium.register("Counter-v0", Counter)
gymnasium.register("Normalized-v0", lambda: gymnasium.wrappers.NormalizeReward(gymnasium.make("CartPole-v1").unwrapped))


def make(env_id="Counter-v0", num_envs=2, **settings):
    return GymEnvironment(GymEnvironment.Settings(id=env_id, num_envs=num_envs, **settings))


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("reuse", [True, False])
def test_rows_hold_no_filler_and_final_obs_is_the_true_successor(vectorization, reuse):
    env = make(vectorization=vectorization, options={"reuse": reuse})
    obs, _ = env.reset(seed=1)
    agent = PPO(env, PPO.Settings(horizon=8, minibatch_size=None))
    rollout = collect(agent, env, obs, 8)
    env.close()
    # Episodes: 1 is cut after two steps, 2 ends after three, 3 is cut after two; then the first step of 4.
    expected = [100, 1, -2, 1, 2, -3, 1, -4]
    for n in range(2):
        assert rollout.obs[:, n, 0].tolist() == expected
        assert rollout.reward[:, n].tolist() == [1, 2, 1, 2, 3, 1, 2, 1]
        assert rollout.terminated[:, n].tolist() == [False, False, False, False, True, False, False, False]
        assert rollout.truncated[:, n].tolist() == [False, True, False, False, False, False, True, False]
    assert rollout.final_obs.flatten().tolist() == [2, 2, 2, 2]
    assert rollout.last_obs.flatten().tolist() == [1, 1]
    assert rollout.obs.dtype == torch.float32


def test_discrete_actions_are_counted_from_the_spaces_start():
    env = make()
    env.reset(seed=1)
    env.step(torch.tensor([0, 1]))
    assert [one.unwrapped.taken for one in env.envs.envs] == [[5], [6]]


def test_box_actions_are_clipped_to_the_bounds():
    env = make(options={"action_space": Box(-1, 1, (1,))})
    env.reset(seed=1)
    env.step(torch.tensor([[-3.0], [0.5]]))
    assert [float(one.unwrapped.taken[0][0]) for one in env.envs.envs] == [-1.0, 0.5]


@pytest.mark.parametrize("env_id", ["Acrobot-v1", "Pendulum-v1", "CartPole-v1", "MountainCar-v0"])
def test_contract_of_gymnasiums_own(env_id):
    check_environment(make(env_id, 3), num_steps=250)


def test_contract_async():
    env = make("CartPole-v1", 2, vectorization="async")
    check_environment(env, num_steps=60)
    env.close()


@pytest.mark.parametrize(
    "kind", [probes.Identity, probes.ConstantReward, probes.TwoStep, probes.Target, probes.RockPaperScissors]
)
def test_contract_of_probes(kind):
    check_environment(kind(kind.Settings(num_envs=3)), num_steps=40)


def test_seeds_decide():
    one, two, other = (make("CartPole-v1").reset(seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_unknown_id_gets_the_nearest():
    with pytest.raises(InputError, match=r"did you mean 'CartPole-v1'"):
        make("CartPol-v1")


def test_normalizing_wrapper_is_refused():
    with pytest.raises(InputError, match="is wrapped in NormalizeReward"):
        make("Normalized-v0")


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ({"reward": lambda x: x.double()}, "reward must be torch.float32"),
        ({"terminated": lambda x: x.float()}, "terminated must be torch.bool"),
        ({"obs": lambda x: x[:1]}, "obs must have shape"),
        ({"reward": lambda x: x.unsqueeze(1)}, "reward must have shape"),
    ],
)
def test_check_environment_tells_what_is_wrong(broken, complaint):
    class Broken(probes.Identity):
        def step(self, actions):
            obs, reward, terminated, truncated, info = super().step(actions)
            values = {"obs": obs, "reward": reward, "terminated": terminated}
            for name, spoil in broken.items():
                values[name] = spoil(values[name])
            return values["obs"], values["reward"], values["terminated"], truncated, info

    with pytest.raises(AssertionError, match=complaint):
        check_environment(Broken())


def test_check_environment_finds_tensors_that_are_written_again():
    class Reusing(probes.Identity):
        def step(self, actions):
            obs, *rest = super().step(actions)
            self.buffer = getattr(self, "buffer", torch.zeros_like(obs))
            self.buffer.copy_(obs)
            return self.buffer, *rest

    with pytest.raises(AssertionError, match="written to later"):
        check_environment(Reusing())


def test_check_environment_finds_unseeded_draws():
    class Unseeded(probes.Identity):
        def step(self, actions):
            obs, reward, *rest = super().step(actions)
            return obs, reward + torch.rand(self.num_envs), *rest

    with pytest.raises(AssertionError, match="seeded generator"):
        check_environment(Unseeded())
