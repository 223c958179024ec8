"""gymnasium's environments in checkpoints: a run that was interrupted ends in the bits of one that was not."""

import importlib.util
import random
import re
from dataclasses import dataclass, field
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from compare import same
from gymnasium.spaces import Box, Discrete
from test_gym_vector import FlatWalk, vector

import rlcore
from rlcore import GymEnvironment, Trainer, checkpoint
from rlcore.agents.dqn import DQN
from rlcore.agents.ppo import PPO
from rlcore.agents.recurrent_ppo import RecurrentPPO
from rlcore.agents.reinforce import Reinforce
from rlcore.agents.sac import SAC
from rlcore.errors import CheckpointError, EnvironmentChangedError
from rlcore.interruption import Interrupted, Interruption
from rlcore.mujoco_state import is_ours
from rlcore.plain_state import UnsavedError, put_back, state_of
from rlcore.seeding import rng_state

MLP = {"name": "mlp", "hidden": [4]}
ON_POLICY = {"horizon": 16, "minibatch_size": 16, "num_epochs": 1, "network": MLP}
REPLAY = {"network": MLP, "horizon": 4, "batch_size": 8, "learning_starts": 16, "replay_size": 64}
STACK = [
    {"name": "TimeLimit", "max_episode_steps": 21},
    {"name": "RecordEpisodeStatistics"},
    {"name": "StickyAction", "repeat_action_probability": 0.25},
    {"name": "FrameStackObservation", "stack_size": 3},
    {"name": "FlattenObservation"},
]


class Ball:
    __slots__ = ("place", "speed")

    def __init__(self, place, speed):
        self.place, self.speed = place, speed


@dataclass(frozen=True)
class Level:
    name: str
    balls: list = field(default_factory=list)


class Balls(gymnasium.Env):
    """Objects that come and go, one of them in two places; arrays that share memory; every kind of generator."""

    observation_space, action_space = Box(-np.inf, np.inf, (4,)), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None or not hasattr(self, "old"):
            self.old, self.own = np.random.RandomState(seed), random.Random(seed)
            self.torchs = torch.Generator().manual_seed(seed or 0)
        balls = [Ball(self.np_random.normal(), self.old.normal()) for _ in range(3)]
        self.level, self.held = Level("first", balls), balls[1]
        self.grid = np.zeros((2, 2))
        self.row = self.grid[1]
        self.seen, self.t = {("a", 1)}, np.float32(0.1)
        return self.show(), {}

    def show(self):
        sums = sum(ball.place for ball in self.level.balls), self.held.speed, self.grid.sum(), self.t
        return np.array(sums, np.float32)

    def step(self, action):
        self.row += torch.rand((), generator=self.torchs).item() - 0.5
        self.held.speed += self.own.random()
        self.level.balls.append(Ball(float(action), random.random()))
        self.t *= 1.1
        return self.show(), self.held.speed, self.own.random() < 0.1, False, {}


class Asked(gymnasium.Env):
    """Has its state in a place that cannot be read, and says it when asked."""

    observation_space, action_space = Box(-1, 1, (1,)), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = iter(range(9))
        return self.np_random.normal(size=1).astype(np.float32).clip(-1, 1), {}

    def step(self, action):
        t = next(self.steps)
        return np.float32([t / 9]), float(self.np_random.normal()), t == 8, False, {}


class Telling(Asked):
    def state_dict(self):
        return {"left": 9 if not hasattr(self, "steps") else self.steps.__length_hint__(), "rng": self.np_random}

    def load_state_dict(self, state):
        self.steps, self.np_random = iter(range(9 - state["left"], 9)), state["rng"]


class Forgetful(Asked):
    """Says less than there is."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def trainer(make, agent=PPO, settings=ON_POLICY, num_envs=2, **env):
    rlcore.seed_everything(1)
    made = GymEnvironment(make, num_envs=num_envs, **env)
    built = agent(made, agent.Settings.model_validate(settings))
    return Trainer(built, made, Trainer.Settings(total_steps=4000, eval_every=None), seed=4)


def updated(trainer, updates):
    for n, _ in enumerate(trainer.updates(), 1):
        if n == updates:
            break
    return trainer


def check(tmp_path, *arguments, **named):
    """N + M updates are N + M, across a file.

    The environments' states are not compared: those of spaces that nobody draws from were never seeded.
    """
    whole, cut, rest = (trainer(*arguments, **named) for _ in range(3))
    updated(whole, 7)
    checkpoint.save(tmp_path / "cut.pt", updated(cut, 4).checkpoint())
    rlcore.seed_everything(99)
    assert rest.restore(checkpoint.load(tmp_path / "cut.pt")) == []
    updated(rest, 3)
    one, other = whole.checkpoint(), rest.checkpoint()
    for saved in (one, other):
        del saved["learns"]["collector"]["env"]
    same(one, other)
    for made in (whole, cut, rest):
        made.close()


@pytest.mark.parametrize("name", [
    "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "FrozenLake-v1",
    pytest.param("Taxi-v4", marks=pytest.mark.slow), "Blackjack-v1",
])  # fmt: skip
def test_classic_control_and_toy_text(tmp_path, name):
    check(tmp_path, name, wrappers=[{"name": "FlattenObservation"}] if name == "Blackjack-v1" else [])


@pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="needs MuJoCo")
@pytest.mark.parametrize("name", ["InvertedPendulum-v5", "Hopper-v5", "Ant-v5"])
def test_mujoco(tmp_path, name):
    check(tmp_path, name)


@pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="needs MuJoCo")
def test_a_state_of_mujoco_is_that_of_another_simulation_of_the_same_model():
    one, other = (gymnasium.make("Ant-v5").unwrapped for _ in range(2))
    one.reset(seed=1)
    other.reset(seed=2)
    one.model.body_mass[1] *= 2
    one.model.opt.gravity[2] = -5
    one.step(np.full(8, 0.5))
    put_back(state_of(one), other)
    assert is_ours(other.data)
    assert other.model.opt.gravity[2] == -5
    for action in np.random.default_rng(1).normal(size=(5, 8)):
        np.testing.assert_array_equal(one.step(action)[0], other.step(action)[0])


@pytest.mark.skipif(importlib.util.find_spec("minatar") is None, reason="needs MinAtar")
def test_minatar(tmp_path):
    from minatar.gym import register_envs

    register_envs()
    check(tmp_path, "MinAtar/Breakout-v1", channels="last")


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_stack_of_wrappers(tmp_path, vectorization):
    settings = {"context": "fork"} if vectorization == "async" else {}
    check(tmp_path, "CartPole-v1", vectorization=vectorization, wrappers=STACK, **settings)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_objects_views_and_generators(tmp_path, vectorization):
    check(tmp_path, Balls, vectorization=vectorization, **({"context": "fork"} if vectorization == "async" else {}))


def test_an_environment_that_steps_all_itself(tmp_path):
    check(tmp_path, partial(vector, single=FlatWalk), vectorization="vector_entry_point")


@pytest.mark.parametrize(
    ("name", "agent", "settings"),
    [
        ("CartPole-v1", DQN, REPLAY),
        ("Pendulum-v1", SAC, REPLAY),
        ("CartPole-v1", RecurrentPPO, {**ON_POLICY, "network": {"name": "lstm", "size": 4, "body": MLP}}),
        ("CartPole-v1", Reinforce, {"network": MLP}),
    ],
)
def test_agents_of_every_kind(tmp_path, name, agent, settings):
    check(tmp_path, name, agent, settings)


def test_an_environment_that_is_asked(tmp_path):
    check(tmp_path, Telling)


@pytest.mark.parametrize(
    ("make", "why", "settings"),
    [
        (Asked, r".*:Asked: steps is a builtins.range_iterator, whose state cannot be read", {}),
        (Forgetful, r".*:Forgetful: it does not go on from its saved state as it would have", {}),
        (
            "CartPole-v1",
            "CartPole-v1: env.single_instance allows no other one to try it with",
            {"single_instance": True},
        ),
    ],
)
def test_what_cannot_be_saved_begins_new_episodes_and_says_why(make, why, settings):
    cut, rest = (trainer(make, num_envs=1, **settings) for _ in range(2))
    saved = updated(cut, 2).checkpoint()
    assert saved["learns"]["collector"]["env"] is None
    (note,) = rest.restore(saved)
    assert re.fullmatch(rf"the environment was not saved \({why}\): it begins new episodes, and results .*", note)
    updated(rest, 1)


def test_box2d_cannot_be_saved():
    pytest.importorskip("Box2D")
    env = gymnasium.make("LunarLander-v3")
    env.reset(seed=1)
    with pytest.raises(UnsavedError, match=r"env.*world.*SwigPyObject, whose state cannot be read"):
        state_of(env)


def test_checkpoints_without_the_state_of_an_environment_are_read():
    cut, rest = trainer("CartPole-v1"), trainer("CartPole-v1")
    saved = updated(cut, 2).checkpoint()
    saved["learns"]["collector"] = {**saved["learns"]["collector"], "env": None}
    del saved["learns"]["collector"]["why_unsaved"]
    (note,) = rest.restore(saved)
    assert note.startswith("the environment was not saved: it begins new episodes")
    updated(rest, 1)


def test_an_environment_that_is_another_one_begins_new_episodes():
    cut = updated(trainer(lambda: gymnasium.make("CartPole-v1")), 2)
    other = trainer(lambda: gymnasium.wrappers.StickyAction(gymnasium.make("CartPole-v1"), 0.1))
    with pytest.raises(EnvironmentChangedError, match=r"it is no gymnasium\.wrappers"):
        other.env.restore(cut.env.checkpoint())
    assert not other.env.envs.closed
    (note, *_) = [note for note in other.restore(cut.checkpoint()) if "begins new episodes" in note]
    assert "is no gymnasium.wrappers" in note
    updated(other, 1)


def test_the_trial_leaves_the_generators_as_they_were():
    env = GymEnvironment(Balls, num_envs=2)  # it draws from Python's global generator, too
    env.reset(seed=1)
    before = rng_state()
    saved = env.checkpoint()
    assert saved is not None
    same(before, rng_state())
    same(saved, env.checkpoint())


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_rollout_of_whole_episodes_that_is_broken_off_is_undone(vectorization):
    settings = {"context": "fork"} if vectorization == "async" else {}
    made = trainer("CartPole-v1", Reinforce, {"network": MLP}, vectorization=vectorization, **settings)
    updated(made, 2)
    before = made.collector.checkpoint()
    learn, step, steps = made.agent, made.env.step, iter(range(5))

    def broken(actions):
        if next(steps) == 4:
            made.env._abandon()  # as where a signal comes while processes are waited for
            raise Interrupted
        return step(actions)

    made.env.step = broken
    with pytest.raises(Interrupted):
        made.collector.collect(learn, interruption=Interruption())
    same(before, made.collector.checkpoint())
    made.close()


def test_a_state_makes_no_object_of_a_foreign_class():
    """The class of an object that is not there is looked up in the environment's own package alone."""
    env = Balls()
    env.reset(seed=1)
    saved = state_of(env)
    other, third = Balls(), Balls()
    for made in (other, third):
        made.reset(seed=2)
    put_back(saved, other, own=__name__)
    assert other.held is other.level.balls[1]
    hostile = _renamed(saved, f"{__name__}:Ball", "tempfile:TemporaryDirectory")
    with pytest.raises(CheckpointError, match=r"is no tempfile:TemporaryDirectory"):
        put_back(hostile, third, own=__name__)


def _renamed(saved, old, new):
    if isinstance(saved, (list, tuple)):
        return type(saved)(_renamed(item, old, new) for item in saved)
    return new if saved == old and isinstance(saved, str) else saved
