"""Gymnasium environments by id, class and function, from Python and from YAML."""

import functools
import json
import sys
import threading

import gymnasium
import numpy as np
import pytest
import torch
from compare import same
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import TimeLimit

import rlcore
from rlcore import GymEnvironment, InputError, Trainer, checkpoint, cli
from rlcore.agents.ppo import PPO
from rlcore.gym_environment import GymSettings


class Sized(gymnasium.Env):
    """Shows its size, and can be drawn."""

    observation_space, action_space = Box(-100, 100, (1,), np.float32), Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    render_mode = None

    def __init__(self, size=1):
        self.size, self.t = size, 0

    def show(self):
        return np.full(1, self.size, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.show(), {}

    def step(self, action):
        self.t += 1
        return self.show(), 1.0, self.t == 5, False, {}

    def render(self):
        return np.full((4, 6, 3), self.size, np.uint8) if self.render_mode == "rgb_array" else None

    class Nested(gymnasium.Wrapper):
        def __init__(self):
            super().__init__(Sized(size=9))


def make_sized(size=4, render_mode=None):
    env = TimeLimit(Sized(size), 3)
    env.unwrapped.render_mode = render_mode
    return env


class Sizer:
    """A callable that is neither a class nor a function."""

    def __call__(self):
        return Sized(6)


FORMS = {
    "class": (Sized, {}, 1),
    "class with options": (Sized, {"options": {"size": 2}}, 2),
    "lambda": (lambda: Sized(size=3), {}, 3),
    "function": (make_sized, {}, 4),
    "partial": (functools.partial(Sized, size=5), {}, 5),
    "object": (Sizer(), {}, 6),
    "id": (f"{__name__}:Sized", {"options": {"size": 7}}, 7),
    "id of a function": (f"{__name__}:make_sized", {"options": {"size": 8}}, 8),
    "id of a nested class": (f"{__name__}:Sized.Nested", {}, 9),
}


@pytest.mark.parametrize(
    ("form", "context"),
    [*((form, context) for form in FORMS for context in ("sync", "fork")), ("lambda", "spawn"), ("id", "spawn")],
)
def test_every_form_steps_is_evaluated_and_filmed(form, context):
    given, settings, size = FORMS[form]
    how = {"vectorization": "sync"} if context == "sync" else {"vectorization": "async", "context": context}
    N = 1 if context == "spawn" else 2  # each of these processes imports everything anew
    env = GymEnvironment(given, num_envs=N, **settings, **how)
    twin = env.evaluation(3)
    film = env.filming()
    for one, num_envs in ((env, N), (twin, 3 if context == "sync" else N), (film, 1)):
        assert one.num_envs == num_envs
        assert one.reset(seed=1)[0].tolist() == [[size]] * num_envs
        assert one.step(torch.zeros(num_envs, dtype=torch.int64))[1].tolist() == [1.0] * num_envs
    (frame,) = film.render()
    assert (frame.shape, frame[0, 0, 0]) == ((4, 6, 3), size)
    for one in (env, twin, film):
        one.close()


def test_an_id_and_settings_as_before_and_with_a_device():
    env = GymEnvironment("CartPole-v1", num_envs=3, wrappers=[{"name": "TimeLimit", "max_episode_steps": 7}])
    assert (env.num_envs, env.device, env.settings.id) == (3, torch.device("cpu"), "CartPole-v1")
    assert GymEnvironment(GymEnvironment.Settings(id="CartPole-v1", num_envs=2), "cpu").num_envs == 2
    assert GymEnvironment(CartPoleEnv, torch.device("cpu")).num_envs == GymEnvironment(CartPoleEnv).num_envs == 8
    rlcore.check_environment(GymEnvironment(lambda: gymnasium.make("CartPole-v1"), num_envs=2), 20)


def test_the_keywords_are_the_settings():
    assert {"id", *GymSettings.__annotations__} == set(GymEnvironment.Settings.model_fields)


@pytest.mark.parametrize(
    ("given", "saved"),
    [
        ("CartPole-v1", "CartPole-v1"),
        (Sized, f"{__name__}:Sized"),
        (Sized.Nested, f"{__name__}:Sized.Nested"),
        (make_sized, f"{__name__}:make_sized"),
        (functools.partial(Sized, size=5), "functools:partial(...)"),
        (Sizer(), f"{__name__}:Sizer(...)"),
    ],
)
def test_a_name_is_saved_and_makes_the_same_again_if_it_can(given, saved):
    settings = GymEnvironment.Settings(id=given, num_envs=2)
    for mode in ("json", "python"):
        assert settings.model_dump(mode=mode)["id"] == saved
    again = GymEnvironment.Settings.model_validate(settings.model_dump(mode="json"))
    if "(...)" not in saved:
        assert GymEnvironment(again).reset(seed=1)[0].shape[0] == 2
    else:
        with pytest.raises(InputError, match=r"env.id: .* has no class or function '.*\(...\)', and gymnasium no such"):
            GymEnvironment(again)


@pytest.mark.parametrize("given", [Sized, lambda: Sized(size=3)])
def test_checkpoints_of_a_class_and_of_a_function_restore(tmp_path, given):
    def trainer():
        rlcore.seed_everything(1)
        env = GymEnvironment(given, num_envs=2)
        agent = PPO(env, PPO.Settings(horizon=8, minibatch_size=None))
        return Trainer(agent, env, total_steps=160, run_dir=tmp_path)

    one, again = trainer(), trainer()
    assert one.fit().scalars["return"] == 5
    saved = checkpoint.load(tmp_path / "checkpoints/last.pt")
    assert f"{__name__}:" in str(saved["learns"]["settings"])
    again.restore(saved)
    assert again.steps == 160
    same(again.agent.state_dict(), one.agent.state_dict())


@pytest.fixture
def package(workdir, monkeypatch):
    """``their_envs``, which registers one environment and defines others."""
    (workdir / "their_envs.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Pole(CartPoleEnv):\n    pass\n"
        "def pole(length=0.5, render_mode=None):\n"
        "    env = CartPoleEnv(render_mode=render_mode)\n    env.length = length\n    return env\n"
        "class Both(CartPoleEnv):\n    pass\n"
        "gymnasium.register('Both-v3', Both, max_episode_steps=11)\n"
        "NUMBER = 3\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(workdir)])
    yield "their_envs"
    gymnasium.registry.pop("Both-v3", None)
    sys.modules.pop("their_envs", None)


@pytest.mark.parametrize(
    ("name", "limit"), [("Both-v3", 11), ("Both", 11), ("Pole", None), ("pole", None), ("CartPole-v1", 500)]
)
def test_what_gymnasium_knows_is_made_by_it_and_the_rest_is_looked_up(package, name, limit):
    spec = GymEnvironment(f"{package}:{name}", num_envs=1).envs.envs[0].spec
    assert (None if spec is None else spec.max_episode_steps) == limit


def test_a_class_that_a_config_names_trains_and_is_evaluated(package, monkeypatch, capsys):
    def main(*words):
        monkeypatch.setattr(sys, "argv", ["rlcore", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        assert not caught.value.code, err
        return out

    env = "env={name: gym, id: their_envs:pole, num_envs: 8, options: {length: 1}}"
    main("train", "cartpole_ppo", env, "trainer.total_steps=512", "--run-dir", "run")
    assert json.loads(main("eval", "run", "--episodes", "2", "--json"))["return"] > 0
    monkeypatch.chdir("/")
    with pytest.raises(AssertionError, match="has no class or function 'poel', and gymnasium no such id"):
        main("train", "cartpole_ppo", "env={name: gym, id: their_envs:poel}")


SHARED = Sized()


class Locked(Sized):
    """Holds what no other process can be sent."""

    def __init__(self, lock):
        super().__init__()


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        (gymnasium.make("CartPole-v1"), {}, r"id: is an environment, .*CartPole-v1.*: give an id, a class, or a func"),
        (gymnasium.make_vec("CartPole-v1"), {}, r"id: is an environment, .*: give an id, a class, or a function that"),
        (3, {}, "GymEnvironment: id: give an id, a class, or a function that makes an environment, got 3"),
        (np.zeros((40, 40)), {}, "GymEnvironment: id: give an id"),
        (Sized, {"num_envs": 0}, "GymEnvironment: num_envs: must be greater than 0, got 0"),
        (Sized, {"num_env": 3}, r"num_env: unknown key \(did you mean 'num_envs'\?\)"),
        (Sized, {"wrappers": [{"name": "TimLimit"}]}, r"wrappers.0.name: gymnasium has no wrapper 'TimLimit'"),
        (Sized, {"options": {"sise": 3}}, r"cannot make '.*:Sized': TypeError: .*unexpected keyword argument 'sise'"),
        (dict, {}, r"cannot make 'builtins:dict': TypeError: it makes no gymnasium.Env but \{\}"),
        (lambda: SHARED, {}, "returns the same environment each time; it must make a new one"),
        (lambda: 1 / 0, {}, r"cannot make '.*:<lambda>': ZeroDivisionError"),
        (GymEnvironment.Settings(id="CartPole-v1"), {"num_envs": 3}, "give num_envs in the Settings, not beside them"),
        ("no_such_package:Env", {}, "env.id: cannot import 'no_such_package': .*or named under imports"),
        (f"{__name__}:SHARED", {}, "test_gym_from_python:SHARED is no class or function that makes an environment"),
        (f"{__name__}:Szied", {}, r"has no class or function 'Szied', and gymnasium no such id \(did you mean 'Sized'"),
        ("__main__:Gone", {}, "__main__ has no class or function 'Gone'.*what a script defines is there only in that"),
        (
            functools.partial(Locked, threading.Lock()),
            {"vectorization": "async", "context": "spawn"},
            "cannot be sent to another process: .*lock.*; use env.vectorization=sync",
        ),
    ],
)
def test_a_mistake_is_one_line(given, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        GymEnvironment(given, **settings)
    assert "\n" not in str(caught.value)


def test_one_instance_may_be_shared_where_there_can_be_no_other():
    assert GymEnvironment(lambda: SHARED, num_envs=1, single_instance=True).reset(seed=1)[0].shape == (1, 1)
