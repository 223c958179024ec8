import gc
import io
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.spaces import Box, Discrete
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlcore import commands
from rlcore.agents.ppo import PPO
from rlcore.envs import cartpole, probes
from rlcore.envs.cartpole import CartPole
from rlcore.errors import InputError
from rlcore.evaluation import Film, Report, play
from rlcore.gym_environment import GymEnvironment
from rlcore.tracking import Tracker
from rlcore.video import VideoReport, moving_image


class Counting(gymnasium.Env):
    """Its frames, in a buffer, are as bright as the steps played; an episode has five, or as many as its seed."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    observation_space = Box(0, 255, (1,), np.float32)
    action_space = Discrete(2)

    def __init__(self, render_mode=None, brightness=1, length=None):
        self.render_mode, self.brightness, self.length = render_mode, brightness, length
        self.frame = np.zeros((20, 24, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.episode = 0, self.length or seed or 5
        return self._obs(), {}

    def step(self, action):
        self.steps += 1
        return self._obs(), 1.0, self.steps == self.episode, False, {}

    def render(self):
        self.frame[:] = self.steps * self.brightness
        return self.frame if self.render_mode == "rgb_array" else None

    def _obs(self):
        return np.array([self.steps], np.float32)


class Undrawable(Counting):
    def render(self):
        raise RuntimeError("no\nscreen")


gymnasium.register("Counting-v0", Counting)
gymnasium.register("Undrawable-v0", Undrawable)


class Shown(probes.TwoStep):
    """An environment of rlcore's own, with frames of its own."""

    frames = np.zeros((1, 2, 2, 3), np.uint8)

    def render(self):
        return tuple(self.frames)


def make(env_id="Counting-v0", num_envs=2, **settings):
    return GymEnvironment(GymEnvironment.Settings(id=env_id, num_envs=num_envs, **settings))


def agent_of(env):
    return PPO(env, PPO.Settings(horizon=16, minibatch_size=16))


def film(env, **settings):
    return VideoReport(VideoReport.Settings(**settings))(agent_of(env), env, Report({}))


def steps_shown(film):
    return [int(frame.mean()) for frame in film.frames]


def test_the_best_and_the_worst_episode_are_filmed_from_beginning_to_end(workdir):
    env = make()
    found = film(env, episodes=4, seed=3)
    returns = [play(agent_of(env), env.evaluation(1), 1, seed).scalars["return"] for seed in range(3, 7)]
    assert found.scalars == {"best": max(returns), "worst": min(returns)} == {"best": 6, "worst": 3}
    assert steps_shown(found.films["best"]) == [0, 1, 2, 3, 4, 5, 6]
    assert steps_shown(found.films["worst"]) == [0, 1, 2, 3]
    assert found.films["best"].fps == 5
    assert found.text == "best: return 6, seed 6, 6 steps\nworst: return 3, seed 3, 3 steps"
    assert not list(workdir.iterdir())


def test_of_a_long_episode_the_end_is_filmed():
    found = film(make(options={"length": 100}), episodes=1, max_steps=3)
    assert steps_shown(found.films["best"]) == [97, 98, 99, 100]
    assert "100 steps, of which the film shows the last 3" in found.text


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_what_is_filmed_is_what_is_evaluated(vectorization):
    class Evaluated(GymEnvironment):
        of_evaluation = False

        def evaluation(self, num_envs):
            twin = super().evaluation(num_envs)
            twin.of_evaluation = True
            return twin

        def __del__(self):  # as older gymnasiums do
            self.close()

    wrappers = [{"name": "TimeLimit", "max_episode_steps": 2}]
    options = {"brightness": 10, "length": 100}
    env = Evaluated(
        Evaluated.Settings.model_validate(
            {"id": "Counting-v0", "vectorization": vectorization, "options": options, "wrappers": wrappers}
        )
    )
    assert steps_shown(film(env, episodes=1).films["best"]) == [0, 10, 20]
    twin = env.filming()
    assert twin.of_evaluation
    assert twin.num_envs == 1
    gc.collect()
    env.reset(seed=1)
    env.step(torch.zeros(8, dtype=torch.int64))
    env.close()


def test_a_film_ends_where_evaluation_cuts_an_episode():
    env = make(options={"length": 100})
    env.max_episode_steps = 3
    assert steps_shown(film(env, episodes=1).films["best"]) == [0, 1, 2, 3]


def test_an_environment_of_which_there_is_one_is_filmed_and_left_open():
    class Lone(Shown):
        def evaluation(self, num_envs):
            return self

    lone = Lone(Lone.Settings(num_envs=1))
    assert len(film(lone, episodes=1).films["best"].frames) == 3
    assert not lone.closed
    env = make(num_envs=1, single_instance=True, options={"render_mode": "rgb_array"})
    assert steps_shown(film(env, episodes=1, seed=3).films["best"]) == [0, 1, 2, 3]
    env.reset()
    assert not env.closed


def test_after_an_episode_every_frame_is_that_of_its_end():
    twin = make().filming()
    twin.reset(seed=2)
    shown = []
    for _ in range(3):
        *_, terminated, _, _ = twin.step(torch.zeros(1, dtype=torch.int64))
        shown.append((int(twin.render()[0].mean()), terminated.item()))
    assert shown == [(1, False), (2, True), (1, False)]
    twin.reset()
    assert twin.render()[0].mean() == 0


def test_an_environment_of_ones_own_is_filmed_once_it_renders():
    with pytest.raises(InputError, match="Identity cannot be filmed: it does not override render"):
        film(probes.Identity())
    found = film(Shown(), episodes=1)
    assert len(found.films["best"].frames) == 3  # of two steps
    assert found.films["best"].fps == 30


@pytest.mark.parametrize("frames", [np.zeros((1, 2, 2, 3)), np.zeros((1, 2, 2), np.uint8), [None]])
def test_frames_of_another_kind_are_refused(frames, monkeypatch):
    monkeypatch.setattr(Shown, "frames", frames)
    with pytest.raises(InputError, match=r"render must return RGB frames, uint8 \[H, W, 3\]; got dtype"):
        film(Shown())


def test_what_cannot_be_drawn_is_one_line(monkeypatch):
    with pytest.raises(InputError, match=r"^environment 0 cannot be rendered: RuntimeError: no screen$"):
        film(make("Undrawable-v0"))
    monkeypatch.setattr(Undrawable, "mujoco_renderer", None, raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(InputError, match=r"screen; .* set MUJOCO_GL=egl or MUJOCO_GL=osmesa \(it is not set\)$"):
        film(make("Undrawable-v0"))


def test_what_is_not_installed_is_one_line_that_says_how_to(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pygame", None)
    for env in (CartPole(), make("CartPole-v1")):
        with pytest.raises(InputError, match=r'pip install "gymnasium\[classic.control\]"'):
            film(env)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match=r'^films are written by imageio: pip install "imageio\[ffmpeg\]"$'):
        Tracker(tmp_path).report("video", Report({}, films={"best": Film([], 50)}), 1)


def test_the_tracker_writes_films_beside_each_other_and_to_tensorboard(tmp_path):
    imageio = pytest.importorskip("imageio.v3")
    pytest.importorskip("imageio_ffmpeg")
    frames = [np.full((20, 25, 3), 20 * n, np.uint8) for n in range(11)]
    tracker = Tracker(tmp_path / "run")
    report = Report({"best": 7.0}, films={"best": Film(frames, 50)})
    files = [file for step in (1, 2, 2) for file in tracker.report("video", report, step)]
    elsewhere = Report({}, films={"a": Film(frames, 50, "films"), "b": Film(frames, 50, str(tmp_path / "absolute"))})
    files += tracker.report("video", elsewhere, 3)
    tracker.close()
    names = ["run/videos/best-1.mp4", "run/videos/best-2.mp4", "run/videos/best-2-2.mp4"]
    names += ["run/films/a-3.mp4", "absolute/b-3.mp4"]
    assert files == [tmp_path / name for name in names]
    for file in files:
        shown = imageio.imread(file, plugin="FFMPEG")
        assert shown.shape == (11, 20, 26, 3)  # an even width, for players
        np.testing.assert_allclose(shown[:, 10, 10, 0], [20 * n for n in range(11)], atol=2)
        assert imageio.immeta(file, plugin="FFMPEG")["fps"] == 50

    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [event.step for event in events.Images("video/best/film")] == [1, 2, 2]
    assert not {*events.Tags()["images"]} & {*events.Tags()["scalars"]}  # TensorBoard shows one kind of each tag
    event = events.Images("video/best/film")[0]
    assert (event.width, event.height) == (25, 20)
    with Image.open(io.BytesIO(event.encoded_image_string)) as gif:
        shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    assert [int(frame.mean()) for frame in shown] == [0, 40, 80, 120, 160, 200]


def test_what_tensorboard_gets_is_small_and_lasts_as_long():
    frames = [np.full((500, 700, 3), n % 250, np.uint8) for n in range(900)]
    image = moving_image(Film(frames, 90))
    with Image.open(io.BytesIO(image.encoded_image_string)) as gif:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(gif)]  # milliseconds
    assert gif.size == (image.width, image.height) == (234, 167)
    assert durations == [50] * 180


def test_a_film_that_cannot_be_written_is_one_line(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*best-1\.mp4"):
        Tracker(tmp_path).report("video", Report({}, films={"best": Film([], 50, "file")}), 1)


def test_the_films_of_a_run_are_in_its_folder(workdir, capsys):
    pytest.importorskip("imageio_ffmpeg")
    pytest.importorskip("pygame")
    settings = ["trainer.total_steps=1024", "trainer.eval_every=512", "trainer.eval_episodes=2"]
    settings += ["trainer.reports=[{name: video, episodes: 2, folder: videos}]"]  # as 0.1 saved it
    assert commands.train("cartpole_ppo", settings, "run", None, 1) == 0
    names = {f"{name}-{step}.mp4" for name in ("best", "worst") for step in (512, 1024)}
    assert {path.name for path in (workdir / "run/videos").iterdir()} == names
    capsys.readouterr()
    assert commands.evaluate("run", 2, "last", False, "video", ["episodes=2"]) == 0
    assert "file: run/videos/best-1024-2.mp4\nfile: run/videos/worst-1024-2.mp4\n" in capsys.readouterr().out
    assert {path.name for path in workdir.iterdir()} == {"run"}


@pytest.fixture(params=["numpy", "torch"])
def namespace(request, monkeypatch):
    """Both ways in which CartPole is computed; the second is a GPU's."""
    pytest.importorskip("pygame")
    if request.param == "torch":
        monkeypatch.setattr(cartpole, "_array_namespace", lambda device: torch)


def test_cartpole_is_drawn_by_gymnasium(namespace):
    env = CartPole(CartPole.Settings(num_envs=2, length=[0.5, 1.0]))
    obs, _ = env.reset(seed=1)
    for _ in range(5):
        obs, *_ = env.step(torch.ones(2, dtype=torch.int64))
    theirs = CartPoleEnv(render_mode="rgb_array")
    for n, frame in enumerate(env.render()):
        theirs.state, theirs.length = obs[n].tolist(), (0.5, 1.0)[n]
        np.testing.assert_array_equal(frame, theirs.render())
    assert frame.shape == (400, 600, 3)
    assert frame.dtype == np.uint8


def test_cartpole_shows_the_end_of_an_episode_with_the_constants_that_it_had(namespace):
    env = CartPole(CartPole.Settings(num_envs=1, length={"low": 0.2, "high": 1.5}))
    env.reset(seed=1)
    twin = CartPole(env.settings)
    twin.restore(env.checkpoint())
    np.testing.assert_array_equal(twin.render()[0], env.render()[0])
    length, theirs, ended = env.length, CartPoleEnv(render_mode="rgb_array"), False
    while not ended:
        *_, ended, _, info = env.step(torch.ones(1, dtype=torch.int64))
    assert env.length != length
    theirs.state, theirs.length = info["final_obs"][0].tolist(), length.item()
    np.testing.assert_array_equal(env.render()[0], theirs.render())
    env.reset()
    assert (env.render()[0] != theirs.render()).any()


def test_cartpole_is_filmed_at_its_own_pace():
    pytest.importorskip("pygame")
    found = film(CartPole(CartPole.Settings(max_episode_steps=5)), episodes=1)
    assert len(found.films["best"].frames) == 6
    assert found.films["best"].fps == 50
    assert (found.films["best"].frames[0] != found.films["best"].frames[-1]).any()
