import multiprocessing
import os
import random
import signal
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Text, Tuple

import rlcore
from rlcore import Trainer, check_environment
from rlcore.agents.ppo import PPO
from rlcore.errors import EnvironmentFailure, InputError
from rlcore.gym_environment import GymEnvironment

ZEROS = np.zeros(2, np.float32)


class Plain(gymnasium.Env):
    """Shows what `show` returns; an episode has five steps."""

    observation_space, action_space = Box(-1, 1, (2,), np.float32), Discrete(2)
    t = 0

    def show(self):
        return ZEROS

    def info(self):
        return {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.show(), self.info()

    def step(self, action):
        self.t += 1
        return self.show(), 1.0, self.t == 5, False, self.info()


def made(kind, num_envs=2, vectorization="sync", **settings):
    gymnasium.registry.pop("Made-v0", None)
    gymnasium.register("Made-v0", kind)
    settings = {"context": "fork", **settings} if vectorization == "async" else settings
    settings = {"id": "Made-v0", "num_envs": num_envs, "vectorization": vectorization, **settings}
    return GymEnvironment(GymEnvironment.Settings.model_validate(settings))


def played(env, num_steps=12):
    """Observations, rewards and infos of steps without a choice."""
    obs, info = env.reset(seed=1)
    seen = [(obs, None, info)]
    for _ in range(num_steps):
        obs, reward, *_, info = env.step(torch.zeros(env.num_envs, *env.single_action_space.shape, dtype=torch.int64))
        seen.append((obs, reward, info))
    env.close()
    return seen


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_info_keeps_its_numbers_whatever_else_it_holds(vectorization):
    class Informs(Plain):
        def info(self):
            n = int(self.np_random.integers(1, 5))
            return {
                "collisions": np.arange(n),
                "status": "stuck" if n == 1 else n,
                "goal": {"distance": 1.0} if n == 1 else 0,
                "distance": np.float32(0.5),
                "success": np.bool_(True),
                "late": None if self.t < 2 else torch.tensor(3),
                "huge": 10**400,
                "nan": float("nan"),
                7: 1.0,
            }

    for _, _, info in played(made(Informs, vectorization=vectorization))[1:]:
        assert info["distance"].tolist() == [0.5, 0.5]
        assert info["success"].tolist() == [1, 1]
        assert not {"collisions", "huge", "nan", 7} & info.keys()
        if "status" in info:  # where it is a number
            assert ((info["status"] > 1) == info["_status"]).all()
        assert ("late" in info) == bool(info.get("late") is not None)
        assert info.get("late", np.full(2, 3.0)).tolist() == [3, 3]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("space", "shown"),
    [
        (Plain.observation_space, torch.tensor([0.25, 0.5], requires_grad=True)),
        (Plain.observation_space, [0.25, 0.5]),
        (Box(0, 9, (2,), np.dtype(">u2")), np.array([3, 4], ">u2")),
        (Box(0, 9, (2,), np.dtype(">f4")), np.array([3, 4], ">f4")),
        (Box(0, 9, (2,), np.dtype(">f8")), np.array([3, 4], ">f8")[::-1]),
        (Box(0, 9, (2,), np.longdouble), np.array([3, 4], np.longdouble)),
        (Box(0, 9, (2,), np.uint32), np.array([3, 4], np.uint32)),
        (Discrete(5), torch.tensor(3)),
        (Discrete(5), np.array([3])),
        (MultiDiscrete([5, 5]), [3, 4]),
        (Dict({"x": Box(0, 9, (2,)), "n": Discrete(5)}), {"x": [3.0, 4.0], "n": np.int32(4)}),
    ],
    ids=str,
)
def test_observations_may_be_of_any_kind_that_holds_the_numbers(space, shown, vectorization):
    class Shows(Plain):
        observation_space = space

        def show(self):
            return shown

    def equal(obs, given):
        numbers = given.tolist() if hasattr(given, "tolist") else given
        assert obs.tolist() == [np.reshape(numbers, obs.shape[1:]).tolist()] * 2

    for obs, _, _ in played(made(Shows, vectorization=vectorization)):
        if isinstance(space, Dict):
            for key, given in shown.items():
                equal(obs[key], given)
        else:
            equal(obs, shown)
            assert obs.dtype in (torch.float32, torch.int64)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("flag", [np.bool_, int, lambda x: np.array([x]), torch.tensor, lambda x: torch.tensor([x])])
def test_flags_may_be_of_any_kind(flag, vectorization):
    class Flags(Plain):
        def step(self, action):
            obs, reward, end, cut, info = super().step(action)
            return obs, reward, flag(end), flag(cut), info

    env = made(Flags, vectorization=vectorization)
    env.reset(seed=1)
    ends = [env.step(torch.zeros(2, dtype=torch.int64))[2].tolist() for _ in range(10)]
    assert ends == ([[False, False]] * 4 + [[True, True]]) * 2
    env.close()


@pytest.mark.parametrize("flag", [None, "yes", [True, False], np.zeros(2, bool)])
def test_what_is_no_flag_is_named(flag):
    class Flags(Plain):
        def step(self, action):
            return ZEROS, 1.0, flag, False, {}

    env = made(Flags)
    env.reset(seed=1)
    with pytest.raises(EnvironmentFailure, match=r"environment 0 .* returned a terminated that is not a bool"):
        env.step(torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_actions_in_a_box_have_its_dtype_and_lie_in_it(dtype):
    taken = []

    class Moves(Plain):
        action_space = Box(-0.1, 0.3, (2,), dtype)

        def step(self, action):
            taken.append(action.copy())
            return super().step(action)

    env = made(Moves)
    env.reset(seed=1)
    for _ in range(20):
        env.step(torch.randn(2, 2))
    assert all(Moves.action_space.contains(action) for action in taken)
    check_environment(env, 10)


class MaskedBy(Plain):
    """Allows one action after the other, as told by one of several means; some come only with steps."""

    action_space = Discrete(3)

    def allowed(self):
        return np.arange(3) != self.t % 3

    def step(self, action):
        assert (self.mask_is_late and self.t == 0) or self.allowed()[action]
        return super().step(action)

    mask_is_late = False


class ByMethod(MaskedBy):
    def action_masks(self):
        return self.allowed()


class LateMask(MaskedBy):
    mask_is_late = True

    def info(self):
        return {"action_mask": self.allowed().astype(np.int8)} if self.t else {}


class TupleOfMasks(MaskedBy):
    action_space = MultiDiscrete([2, 3])

    def info(self):
        return {"action_mask": (np.array([1, 0], np.int8), self.allowed().astype(np.int8))}

    def step(self, action):
        assert action[0] == 0
        return super().step(action[1])


class ListOfMasks(TupleOfMasks):
    def info(self):
        return {}

    def action_masks(self):
        return [[True, False], self.allowed().tolist()]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [(ByMethod, {}), (LateMask, {"action_mask": True}), (TupleOfMasks, {}), (ListOfMasks, {})],
)
def test_masks_are_read_wherever_they_come_from(kind, settings, vectorization):
    env = made(kind, num_envs=3, vectorization=vectorization, **settings)
    choices = [2, 3] if isinstance(kind.action_space, MultiDiscrete) else [3]
    for t, (obs, _, _) in enumerate(made_steps(env, 12)):
        assert obs["action_mask"].shape == (3, sum(choices))
        forbidden = (~obs["action_mask"][:, -3:]).nonzero()[:, 1].tolist()
        assert forbidden == ([] if kind is LateMask and t % 5 == 0 else [t % 5 % 3] * 3)
    agent = PPO(env, PPO.Settings(horizon=16, minibatch_size=None))
    Trainer(agent, env, total_steps=300).fit()  # the environment asserts
    env.close()


def made_steps(env, num_steps):
    """Observations while allowed actions are taken."""
    obs, _ = env.reset(seed=1)
    yield obs, None, None
    for _ in range(num_steps):
        obs, *_ = env.step(env.random_actions())
        yield obs, None, None


def test_a_mask_that_comes_unexpected_is_named():
    env = made(LateMask)
    env.reset(seed=1)
    with pytest.raises(EnvironmentFailure, match="action_mask in info, though its first reset had none; set env"):
        env.step(torch.zeros(2, dtype=torch.int64))


class Mission(Space):
    """A text of an environment's own, as MiniGrid's."""


class Parts(Plain):
    observation_space = Dict({"image": Box(0, 255, (7, 7, 3), np.uint8), "mission": Mission(), "way": Discrete(4)})

    def show(self):
        return {"image": np.full((7, 7, 3), self.t, np.uint8), "mission": "get to the goal", "way": 1}


def test_parts_that_no_tensor_holds_are_named_and_can_be_left_out():
    with pytest.raises(InputError, match=r"the part 'mission' of the observations.*; env.ignore=\[mission\] leaves it"):
        made(Parts)
    env = made(Parts, ignore=["mission"])
    check_environment(env, 20)
    assert set(env.reset(seed=1)[0]) == {"image", "way"}
    with pytest.raises(InputError, match=r"no part 'misson' \(did you mean 'mission'.*parts: image, mission, way"):
        made(Parts, ignore=["misson"])
    with pytest.raises(InputError, match=r"env.ignore: observations have no part 'x'; they have none: Box"):
        made(Plain, ignore=["x"])


def test_what_can_be_flattened_is_told():
    class Pair(Plain):
        observation_space = Tuple([Discrete(2), Discrete(3)])

        def show(self):
            return 1, 2

    with pytest.raises(InputError, match=r"env.wrappers=\[\{name: FlattenObservation\}\] turns it into numbers"):
        made(Pair)
    assert played(made(Pair, wrappers=[{"name": "FlattenObservation"}]))[0][0].tolist() == [[0, 1, 0, 0, 1]] * 2

    class Says(Plain):
        observation_space = Dict({"x": Box(-1, 1, (2,)), "says": Text(3)})

        def show(self):
            return {"x": ZEROS, "says": "abc"}

    with pytest.raises(InputError, match=r"the part 'says' .* leaves it out; env.wrappers=.*FlattenObservation"):
        made(Says)


class Told(Plain):
    """Records what it was made with, and the options of its resets."""

    resets: list = []

    def __init__(self, size: "tuple[int, int]" = (1, 1), place=(0,), speed: np.ndarray = None, names: list = ()):
        self.given = size, place, speed, names

    def reset(self, *, seed=None, options=None):
        Told.resets.append(options)
        return super().reset(seed=seed)


class Shifted(gymnasium.ObservationWrapper):
    def __init__(self, env, by: np.ndarray, size: tuple[int, ...]):
        super().__init__(env)
        assert isinstance(by, np.ndarray)
        assert isinstance(size, tuple)
        self.by = by.astype(np.float32)

    def observation(self, observation):
        return observation + self.by


def test_lists_in_yaml_become_what_arguments_need():
    wrapper = {"name": f"{__name__}:Shifted", "by": [0.5, 1], "size": [1, 2]}
    options = {"size": [3, 4], "place": [5], "speed": [1.0, 2.0], "names": ["a"]}
    env = made(Told, options=options, wrappers=[wrapper])
    size, place, speed, names = env.envs.envs[0].unwrapped.given
    assert (size, place, names) == ((3, 4), (5,), ["a"])
    assert isinstance(speed, np.ndarray)
    assert env.reset(seed=1)[0].tolist() == [[0.5, 1]] * 2


def test_resets_after_an_episodes_end_are_like_the_first():
    Told.resets.clear()
    played(made(Told))
    assert len(Told.resets) >= 6  # of the probe, then two environments three times
    assert set(Told.resets) == {None}


class DrawsGlobally(Plain):
    """Draws from every global generator, as it is made too."""

    observation_space = Box(0, 1, (4,), np.float64)

    def __init__(self):
        self.made_with = np.random.random()  # noqa: NPY002

    def show(self):
        return np.array([self.made_with, random.random(), np.random.random(), torch.rand(()).item()])  # noqa: NPY002


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_the_seed_decides_what_global_generators_give_in_every_process(vectorization):
    runs = []
    for seed in (7, 7, 8):
        rlcore.seed_everything(seed)
        env = made(DrawsGlobally, num_envs=3, vectorization=vectorization)
        obs, _ = env.reset(seed=seed)
        shown = [obs, *(env.step(torch.zeros(3, dtype=torch.int64))[0] for _ in range(8))]
        runs.append(torch.stack(shown))
        env.close()
    assert torch.equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).all()
    for one in range(3):
        assert (runs[0][:, one] != runs[0][:, one - 1]).all()
    assert multiprocessing.active_children() == []


class Licensed(Plain):
    """A simulator of which one instance may exist."""

    alive = 0

    def __init__(self):
        Licensed.alive += 1
        assert Licensed.alive == 1, "all licences are in use"

    def close(self):
        Licensed.alive -= 1


def test_a_simulator_of_one_instance_trains_and_is_evaluated(tmp_path):
    def trainer():
        rlcore.seed_everything(1)
        env = made(Licensed, num_envs=1, single_instance=True)
        agent = PPO(env, PPO.Settings(horizon=7, minibatch_size=None))
        settings = Trainer.Settings(total_steps=70, eval_every=21, eval_episodes=3)
        return Trainer(agent, env, settings, run_dir=tmp_path)

    one = trainer()
    report = one.fit()
    one.close()
    assert Licensed.alive == 0
    assert report.scalars["return"] == 5
    assert one.episodes.means()["return"] == 5  # those that an evaluation cut off do not count
    again = trainer()
    again.fit()
    again.close()
    for name, value in one.agent.state_dict().items():
        assert torch.equal(value, again.agent.state_dict()[name])
    with pytest.raises(InputError, match="all licences are in use"):
        made(Licensed, num_envs=2)
    Licensed.alive = 0


def test_a_box_of_float64_comes_as_such_only_to_an_agent_that_asks():
    class Offset(Plain):
        observation_space = Box(-np.inf, np.inf, (1,), np.float64)

        def show(self):
            return 1.7e9 + self.np_random.normal(size=1)

    env = made(Offset)
    plain = Trainer(PPO(env, PPO.Settings(horizon=4, minibatch_size=None)), env, total_steps=8)
    assert env.reset(seed=1)[0].dtype == torch.float32
    assert plain.evaluation_env(3).reset(seed=1)[0].dtype == torch.float32
    settings = PPO.Settings(horizon=64, minibatch_size=None, normalize_observations=True)
    trainer = Trainer(PPO(env, settings), env, total_steps=1280)
    trainer.fit()
    assert env.reset(seed=1)[0].dtype == torch.float64
    assert trainer.evaluation_env(3).reset(seed=1)[0].dtype == torch.float64
    assert 0.8 < float(trainer.agent.normalizer.single.var) < 1.2
    rlcore.check_agent(trainer.agent, env)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_environment_that_exits_is_a_failure_like_any_other(vectorization):
    class Exits(Plain):
        def step(self, action):
            sys.exit(3)

    env = made(Exits, vectorization=vectorization)
    env.reset(seed=1)
    with pytest.raises(EnvironmentFailure, match=r"environment . \(seed .\) failed in step: SystemExit: 3"):
        env.step(torch.zeros(2, dtype=torch.int64))


def test_what_closing_raises_changes_nothing():
    class Stuck(Plain):
        def close(self):
            raise RuntimeError("the simulator does not answer")

    env = made(Stuck)
    assert Trainer(PPO(env, PPO.Settings(horizon=5, minibatch_size=None)), env, total_steps=20).fit().scalars
    env.close()


@pytest.mark.parametrize("reward", ["1", 1j, 10**400, object(), [1.0], None])
def test_what_is_no_reward_is_named(reward):
    class Pays(Plain):
        def step(self, action):
            return ZEROS, reward, False, False, {}

    env = made(Pays)
    env.reset(seed=1)
    with pytest.raises(EnvironmentFailure, match="returned a reward that is not a number"):
        env.step(torch.zeros(2, dtype=torch.int64))


def test_an_environment_that_moves_to_another_folder_takes_no_file_along(workdir):
    class Moves(Plain):
        def step(self, action):
            os.chdir("/")
            return super().step(action)

    env = made(Moves)
    agent = PPO(env, PPO.Settings(horizon=5, minibatch_size=None))
    Trainer(agent, env, total_steps=20, run_dir="run").fit()
    assert {path.name for path in (workdir / "run/checkpoints").iterdir()} == {"last.pt", "best.pt"}


def trains_in_a_pool(_):
    """Whether signals still end a process of a user's own pool that trains in it."""
    env = made(Plain)
    env.reset(seed=1)
    return signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN


def test_a_process_of_ones_own_is_no_worker():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(trains_in_a_pool, [0]) == [True]
