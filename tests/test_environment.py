import multiprocessing
import os
import re
import signal
import time

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary
from pydantic import ValidationError

from rlcore import Trainer, check_agent, check_environment, checkpoint
from rlcore.agents.ppo import PPO
from rlcore.environment import Environment
from rlcore.envs import probes
from rlcore.errors import ContractError, EnvironmentFailure, InputError
from rlcore.gym_environment import GymEnvironment
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


def test_actions_in_a_box_of_integers_arrive_as_such():
    space = Box(0, 3, (2,), np.int32)
    env = make(options={"action_space": space})
    env.reset(seed=1)
    env.step(torch.tensor([[-0.7, 1.6], [2.2, 9.0]]))
    taken = [one.unwrapped.taken[0] for one in env.envs.envs]
    assert [action.tolist() for action in taken] == [[0, 2], [2, 3]]
    assert all(map(space.contains, taken))


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
        ({"reward": lambda x: x / 0}, "reward of step 0 has a NaN or an infinity"),
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

    with pytest.raises(InputError, match=complaint):
        check_environment(Broken())


@pytest.mark.parametrize(
    ("method", "spoil", "complaint"),
    [
        ("reset", lambda obs, info: obs, r"reset must return \(obs, info\), got Tensor"),
        ("reset", lambda obs, info: (obs, None), "info a dict; got NoneType"),
        ("step", lambda *outcome: outcome[:4], r"step must return \(obs, .*, info\), got a tuple of 4"),
        ("step", lambda *outcome: (*outcome[:4], None), "info of step 0 must be a dict, got NoneType"),
    ],
)
def test_check_environment_counts_what_is_returned(monkeypatch, method, spoil, complaint):
    proper = getattr(probes.Identity, method)
    monkeypatch.setattr(probes.Identity, method, lambda *given, **more: spoil(*proper(*given, **more)))
    with pytest.raises(InputError, match=complaint):
        check_environment(probes.Identity())


def test_check_environment_finds_tensors_that_are_written_again():
    class Reusing(probes.Identity):
        def step(self, actions):
            obs, *rest = super().step(actions)
            self.buffer = getattr(self, "buffer", torch.zeros_like(obs))
            self.buffer.copy_(obs)
            return self.buffer, *rest

    with pytest.raises(InputError, match="written to later"):
        check_environment(Reusing())


def test_check_environment_finds_unseeded_draws():
    class Unseeded(probes.Identity):
        def step(self, actions):
            obs, reward, *rest = super().step(actions)
            return obs, reward + torch.rand(self.num_envs), *rest

    with pytest.raises(InputError, match="seeded generator"):
        check_environment(Unseeded())


class Elapsing(probes.TwoStep):
    """Forgets, when it is restored, how far its episodes have gone."""

    def restore(self, saved):
        super().restore(saved)
        self._elapsed = torch.zeros_like(self._elapsed)


class Bare(probes.Target):
    """Keeps no settings."""

    def __init__(self, settings=None, device="cpu"):
        super().__init__(settings, device)
        del self.settings


class Unlike(probes.Target):
    """Is constructed in a way of its own."""

    def __init__(self):
        super().__init__()


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (Elapsing, "differs after the environment was restored: checkpoint lacks"),
        (Bare, r"Bare.evaluation: it has no rlcore.Settings in self.settings; set"),
        (Unlike, r"Unlike.evaluation: too many positional arguments; set self.settings and let Unlike\(settings"),
    ],
)
def test_check_environment_restores_it_and_makes_its_twin(kind, complaint):
    with pytest.raises(ContractError, match=complaint):
        check_environment(kind(), 31)


class Fickle(gymnasium.Env):
    """Does in step 3 what it is told to."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Discrete(2)

    def __init__(self, deed="nothing", victim=1):
        self.deed, self.victim = deed, victim

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.number = seed % 2
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        obs = np.zeros(2, np.float32)
        if self.steps == 3 and self.number == self.victim:
            if self.deed == "raise":
                raise ValueError("the cart has\nleft the rails")
            if self.deed == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.deed == "hang":
                time.sleep(60)
            if self.deed == "shape":
                obs = np.zeros(3, np.float32)
            if self.deed == "dtype":
                obs = np.zeros(2, np.complex64)
        return obs, 1.0, False, False, {}


class Masked(gymnasium.Env):
    """Tells in info which actions are allowed: all but the number of the step; in episode 2 none."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Discrete(3)

    def __init__(self, exhaust=False):
        self.exhaust, self.episode = exhaust, 0

    def _mask(self):
        mask = np.ones(3, np.int8)
        mask[self.steps] = 0
        return {"action_mask": mask * (not (self.exhaust and self.episode == 3))}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.episode = 0, self.episode + 1
        return np.zeros(2, np.float32), self._mask()

    def step(self, action):
        assert action != self.steps
        self.steps += 1
        over = self.steps == 3
        self.steps %= 3
        return np.zeros(2, np.float32), 1.0, over, False, self._mask()


class LateKey(gymnasium.Env):
    """A part appears that its space does not know."""

    observation_space = Dict({"a": Box(-1, 1, (2,), np.float32)})
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"a": np.zeros(2, np.float32)}, {}

    def step(self, action):
        return {"a": np.zeros(2, np.float32), "b": 1}, 0.0, False, False, {}


class Returning(gymnasium.Env):
    """Returns what the caller wants as its observation, reward and info."""

    observation_space = Dict({"a": Box(-1, 1, (2,), np.float32)})
    action_space = Discrete(2)

    def __init__(self, **odd):
        self.returned = {"obs": {"a": np.zeros(2, np.float32)}, "reward": 0.0, "info": {}} | odd

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"a": np.zeros(2, np.float32)}, {}

    def step(self, action):
        return self.returned["obs"], self.returned["reward"], False, False, self.returned["info"]


gymnasium.register("Fickle-v0", Fickle)
gymnasium.register("Masked-v0", Masked)
gymnasium.register("LateKey-v0", LateKey)
gymnasium.register("Returning-v0", Returning)


def children():
    return {process.pid for process in multiprocessing.active_children()}


@pytest.mark.parametrize(
    ("vectorization", "deed", "told"),
    [
        ("sync", "raise", r"environment 1 \(seed 7\) failed in step: ValueError: the cart has left the rails"),
        ("async", "raise", r"environment 1 \(seed 7\) failed in step: ValueError: the cart has left the rails"),
        ("async", "die", r"environment 1 \(seed 7\) died in step, exit code -9"),
        ("async", "hang", r"environment 1 \(seed 7\) hung: no answer to step within 1 s \(env.timeout\)"),
        (
            "sync",
            "shape",
            r"environment 1 \(seed 7\) returned an observation outside its space: shape \(3,\), dtype float32",
        ),
        (
            "async",
            "dtype",
            r"environment 1 \(seed 7\) returned an observation outside its space: shape \(2,\), dtype complex64",
        ),
    ],
)
def test_a_failing_environment_is_named_and_no_process_is_left(vectorization, deed, told, capfd):
    before = children()
    env = make("Fickle-v0", 3, vectorization=vectorization, options={"deed": deed}, timeout=1.0)
    env.reset(seed=6)
    actions = torch.zeros(3, dtype=torch.int64)
    env.step(actions)
    env.step(actions)
    with pytest.raises(EnvironmentFailure, match=told) as caught:
        env.step(actions)
    if deed == "raise":
        assert 'raise ValueError("the cart has' in caught.value.traceback
    assert children() == before
    env.close()
    assert "Traceback" not in capfd.readouterr().err


def test_a_part_that_appears_later_is_named():
    env = make("LateKey-v0")
    env.reset(seed=1)
    with pytest.raises(EnvironmentFailure, match="returned the keys a, b; its space has a; b must"):
        env.step(torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ({"reward": np.array([1.0])}, r"returned a reward that is not a number: array\(\[1.\]\)"),
        ({"reward": None}, "returned a reward that is not a number: None"),
        ({"info": None}, "returned an info that is not a dict: None"),
        ({"obs": np.zeros(2, np.float32)}, "returned an observation that is not a dict, as its space is"),
    ],
)
def test_what_a_step_must_not_return_is_named(odd, told):
    env = make("Returning-v0", options=odd)
    env.reset(seed=1)
    with pytest.raises(EnvironmentFailure, match=told):
        env.step(torch.zeros(2, dtype=torch.int64))


def test_a_reward_may_be_any_number():
    for number in (1, True, np.float32(1), np.int64(1), np.array(1.0)):
        env = make("Returning-v0", options={"reward": number})
        env.reset(seed=1)
        assert env.step(torch.zeros(2, dtype=torch.int64))[1].tolist() == [1, 1]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_mask_in_info_becomes_a_part_of_the_observation(vectorization):
    env = make("Masked-v0", 3, vectorization=vectorization)
    obs, _ = env.reset(seed=1)
    assert set(obs) == {"observation", "action_mask"}
    for t in range(1, 8):
        assert obs["action_mask"].dtype == torch.bool
        legal = obs["action_mask"]
        assert not legal[:, (t - 1) % 3].any()
        obs, *_ = env.step(legal.int().argmax(1))
    env.close()
    agent = PPO(env := make("Masked-v0", 2), PPO.Settings(horizon=16, minibatch_size=8))
    agent.learn(collect(agent, env, env.reset(seed=1)[0], 16))  # the environment asserts


def test_a_mask_that_allows_nothing_is_named():
    env = make("Masked-v0", 2, options={"exhaust": True})
    obs, _ = env.reset(seed=1)
    for _ in range(5):
        obs, *_ = env.step(obs["action_mask"].int().argmax(1))
    with pytest.raises(EnvironmentFailure, match="has an action_mask that allows no action"):
        env.step(obs["action_mask"].int().argmax(1))


def test_wrappers_are_taken_by_name():
    env = make("CartPole-v1", 2, wrappers=[{"name": "TimeLimit", "max_episode_steps": 2}])
    env.reset(seed=1)
    env.step(torch.zeros(2, dtype=torch.int64))
    assert env.step(torch.zeros(2, dtype=torch.int64))[3].all()
    flat = make("Blackjack-v1", 2, wrappers=[{"name": "FlattenObservation"}])
    assert flat.single_observation_space.shape == (45,)


@pytest.mark.parametrize(
    ("wrapper", "told"),
    [
        ({"name": "TimeLimt"}, "gymnasium has no wrapper 'TimeLimt' .did you mean 'TimeLimit'"),
        ({"name": "NormalizeObservation"}, "agent.normalize_observations=true"),
        ({"name": "NormalizeReward"}, "agent.normalize_rewards=true"),
    ],
)
def test_a_wrapper_that_does_not_exist_or_normalises_is_one_line(wrapper, told):
    with pytest.raises(ValidationError) as caught:
        make(wrappers=[wrapper])
    assert re.search(told, str(caught.value))


def test_a_wrapper_of_wrong_arguments_is_one_line():
    with pytest.raises(InputError, match=r"env\.wrappers: TimeLimit cannot be made: .*max_steps"):
        make(wrappers=[{"name": "TimeLimit", "max_steps": 3}])


def test_pixels_stay_bytes_and_discrete_observations_are_numbers():
    env = make("Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3", 2)
    obs, _ = env.reset(seed=1)
    assert obs["observation"].shape == (2,)
    assert obs["observation"].dtype == torch.int64
    assert obs["action_mask"].shape == (2, 6)  # Taxi tells in info which actions would do something


def test_parts_of_a_dict_are_checked():
    env = make("Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3", 2)
    check_environment(env, num_steps=10)
    reset = env.reset
    for spoilt, message in (
        (lambda obs: {"observation": obs["observation"]}, "obs must have the keys"),
        (
            lambda obs: obs | {"action_mask": obs["action_mask"][:, :5]},
            r"obs\['action_mask'\] must have shape \(2, 6\)",
        ),
    ):
        env.reset = lambda s=spoilt, **given: (s(reset(**given)[0]), {})
        with pytest.raises(InputError, match=message):
            check_environment(env, num_steps=10)


class Odd(gymnasium.Env):
    """What it shows, and which mask it tells, are given."""

    def __init__(self, shown, space, mask=None):
        self.shown, self.observation_space, self.mask = shown, space, mask
        self.action_space = Discrete(3, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.shown, {} if self.mask is None else {"action_mask": np.array(self.mask, np.int8)}

    def step(self, action):
        assert self.action_space.contains(action)
        assert self.mask is None or self.mask[action - 1]
        return (*self.reset()[:1], 1.0, False, False, self.reset()[1])


gymnasium.register("Odd-v0", Odd)
ONE = {"shown": np.zeros(1, np.float32), "space": Box(-1, 1, (1,))}


def test_a_number_outside_its_space_and_a_mask_of_another_length_are_one_line():
    with pytest.raises(EnvironmentFailure, match=r"returned an observation outside its space Discrete\(3\): 7"):
        make("Odd-v0", options={"shown": 7, "space": Discrete(3)})
    with pytest.raises(EnvironmentFailure, match=r"has an action_mask of 2 entries; Discrete\(3, start=1\) needs 3"):
        make("Odd-v0", options={**ONE, "mask": [1, 0]})


def test_random_actions_are_counted_from_0_and_allowed():
    env = make("Odd-v0", 3, options=ONE)
    check_environment(env, 30)
    env = make("Odd-v0", 3, options={**ONE, "mask": [0, 1, 0]})
    check_environment(env, 30)
    assert env.random_actions().tolist() == [1, 1, 1]


def test_an_environment_that_cannot_be_made_is_one_line():
    with pytest.raises(InputError, match=r"gymnasium cannot make 'Odd-v0': TypeError: .*missing"):
        make("Odd-v0")
    spawned = {"vectorization": "async", "context": "spawn", "options": {"reuse": True}}
    with pytest.raises(InputError, match=r"a process ended while it made 'Counter-v0'; .* module:Id-v0"):
        make(**spawned)


def test_parts_may_have_any_name():
    space = Dict({"type": Box(-1, 1, (2,)), "a.b": Box(-1, 1, (2,)), "forward": Discrete(2)})
    shown = {"type": np.zeros(2, np.float32), "a.b": np.ones(2, np.float32), "forward": 1}
    env = make("Odd-v0", options={"shown": shown, "space": space})
    settings = {
        "horizon": 4,
        "minibatch_size": None,
        "network": {"name": "multi_input"},
        "normalize_observations": True,
    }
    agent = PPO(env, PPO.Settings.model_validate(settings))
    check_agent(agent, env)


class Unlucky(probes.Identity):
    """Fails in evaluation."""

    def score(self, agent, num_episodes, seed):
        raise EnvironmentFailure(0, "has no display")


def test_what_was_learned_is_saved_where_the_evaluation_fails(tmp_path):
    env = Unlucky()
    agent = PPO(env, PPO.Settings(horizon=16, minibatch_size=32))
    trainer = Trainer(agent, env, Trainer.Settings(total_steps=1000, eval_every=200), run_dir=tmp_path)
    with pytest.raises(EnvironmentFailure, match="has no display"):
        trainer.fit()
    assert checkpoint.load(tmp_path / "checkpoints/last.pt")["steps"] >= 200


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_mask_told_in_info_joins_a_dict(vectorization):
    space = Dict({"x": Box(-1, 1, (2,)), "n": Discrete(3)})
    shown = {"x": np.zeros(2, np.float32), "n": 1}
    options = {"shown": shown, "space": space, "mask": [0, 1, 0]}
    wrappers = [{"name": "TimeLimit", "max_episode_steps": 4}]
    env = make("Odd-v0", 3, options=options, wrappers=wrappers, vectorization=vectorization)
    check_environment(env, 30)
    agent = PPO(env, PPO.Settings.model_validate({"horizon": 8, "minibatch_size": 8, "network": "multi_input"}))
    obs, _ = env.reset(seed=1)
    rollout = collect(agent, env, obs, 8)
    assert {*rollout.obs} == {*rollout.final_obs} == {"x", "n", "action_mask"}
    assert rollout.final_obs["action_mask"].tolist() == [[False, True, False]] * 6  # three, cut twice
    assert (rollout.action == 1).all()
    env.close()


class FirstForbidden(probes.Identity):
    """Forbids the first action, by masks and observations of given dtypes; random actions respect it where told."""

    mask, floats, careful = torch.bool, torch.float32, True

    def __init__(self, settings=None, device="cpu"):
        super().__init__(settings, device)
        parts = {"x": Box(-1, 1, (2,)), "action_mask": MultiBinary(4)}
        Environment.__init__(self, self.num_envs, Dict(parts), Discrete(4, start=5))

    def shown(self, result):
        N = self.num_envs
        mask = torch.tensor([0, 1, 1, 1]).expand(N, -1).to(self.mask)
        return {"x": torch.zeros(N, 2, dtype=self.floats), "action_mask": mask}, *result[1:]

    def reset(self, **given):
        return self.shown(super().reset(**given))

    def step(self, actions):
        return self.shown(super().step(actions))

    def random_actions(self):
        actions = super().random_actions()
        return actions.clamp_min(1) if self.careful else actions


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ({"mask": torch.int8}, r"obs\['action_mask'\] must be torch.bool, got torch.int8"),
        ({"floats": torch.float64}, r"obs\['x'\] must be torch.float32, got torch.float64"),
        ({"careful": False}, "random_actions drew an action that the action_mask forbids"),
        ({}, None),
    ],
)
def test_dtypes_and_masks_of_ones_own_environment_are_checked(monkeypatch, spoilt, told):
    for name, value in spoilt.items():
        monkeypatch.setattr(FirstForbidden, name, value)
    if told is None:
        check_environment(FirstForbidden(), 30)
        return
    with pytest.raises(InputError, match=told):
        check_environment(FirstForbidden(), 30)


def test_a_fault_inside_a_constructor_is_not_taken_for_another_signature():
    class Faulty(probes.TwoStep):
        def __init__(self, settings, device="cpu"):
            if settings.num_envs == 1:
                raise TypeError("inside")
            super().__init__(settings, device)

    class Odd(probes.TwoStep):
        def __init__(self):
            super().__init__(probes.TwoStep.Settings())

    with pytest.raises(TypeError, match="inside"):
        Faulty(Faulty.Settings(num_envs=2)).evaluation(1)
    with pytest.raises(ContractError, match=r"Odd\.evaluation: too many positional arguments; set self\.settings"):
        Odd().evaluation(1)
