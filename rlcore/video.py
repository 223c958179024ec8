"""The report ``video``, films of the best and the worst of some episodes, and how films are written."""

import math
import os
import warnings
from collections import deque
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt, field_validator
from torch import Tensor

from rlcore import settings
from rlcore.agent import Agent
from rlcore.environment import Environment, StepResult
from rlcore.errors import InputError
from rlcore.evaluation import VIDEOS_FOLDER, Film, Report, ReportMaker, play
from rlcore.settings import Seed
from rlcore.trees import Tree

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")  # else pygame, once it draws, keeps SIGTERM from us
GIF_FRAMES = 200
GIF_FPS = 25  # browsers slow down what is faster than 50
GIF_SIZE = 320  # pixels


class VideoReport(ReportMaker):
    """Plays some episodes, and films the best and the worst of them."""

    class Settings(settings.Settings):
        """Settings of the report."""

        episodes: PositiveInt = 10
        """Episodes to choose from."""
        max_steps: PositiveInt = 1000
        """Length of a film in steps; of a longer episode, the last ones. A frame of 600 x 400 pixels takes 0.7 MB
        of memory until its film is written."""
        folder: str = VIDEOS_FOLDER
        """Folder of the files, within the run's."""
        seed: Seed = 1
        """Seed of the first episode; each further one adds 1."""

        @field_validator("folder")
        @classmethod
        def _within(cls, folder: str) -> str:
            """A run that was made elsewhere must not write where it likes."""
            if Path(folder).is_absolute() or ".." in Path(folder).parts:
                raise InputError(f"must be within the run, got {folder}")
            return folder

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        if type(env).render is Environment.render:
            env.render()  # says that there is nothing to see

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """Makes the report; see `rlcore.evaluation.ReportMaker`.

        Returns:
            The returns and the films of both, ``best`` and ``worst``.

        Raises:
            InputError: the environment shows no frames, or what draws them is not installed.
        """
        s = self.settings
        seeds = range(s.seed, s.seed + s.episodes)
        scalars, films, lines = {}, {}, []
        twin = env.filming()
        twin.max_episode_steps = env.max_episode_steps
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # where there is no screen; the error says enough
                _Camera(twin, 1).reset(seed=s.seed)  # fails before the episodes are played, not after
            returns = {seed: play(agent, twin, 1, seed).scalars["return"] for seed in seeds}
            for name, seed in {
                "best": max(seeds, key=returns.__getitem__),
                "worst": min(seeds, key=returns.__getitem__),
            }.items():
                camera = _Camera(twin, s.max_steps + 1)
                played = play(agent, camera, 1, seed).scalars
                scalars[name], length = played["return"], int(played["length"])
                films[name] = Film(list(camera.frames), twin.metadata.get("render_fps", 30), s.folder)
                cut = f", of which the film shows the last {s.max_steps:,}" if length > s.max_steps else ""
                lines.append(f"{name}: return {scalars[name]:,.6g}, seed {seed}, {length:,} steps{cut}")
        except gymnasium.error.Error as error:
            raise InputError(f"report video: {' '.join(str(error).split())}") from error
        finally:
            if twin is not env:
                twin.close()
        return Report(scalars, "\n".join(lines), films=films)


class _Camera(Environment):
    """Another environment, of which it keeps the last frames of the first one."""

    def __init__(self, env: Environment, max_frames: int):
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space, env.device)
        self.env, self.max_episode_steps = env, env.max_episode_steps
        self.frames: deque[NDArray[np.uint8]] = deque(maxlen=max_frames)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tree, dict[str, Any]]:
        begun = self.env.reset(seed=seed, options=options)
        self._look()
        return begun

    def step(self, actions: Tensor) -> StepResult:
        stepped = self.env.step(actions)
        self._look()
        return stepped

    def _look(self) -> None:
        frame = np.array(self.env.render()[0])  # a copy: it may be a buffer
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            given = f"dtype {frame.dtype}, shape {frame.shape}"
            raise InputError(f"report video: render must return RGB frames, uint8 [H, W, 3]; got {given}")
        self.frames.append(frame)


def write(film: Film, path: Path) -> None:
    """Writes a film as mp4.

    Raises:
        InputError: imageio is not installed, or the file cannot be written.
    """
    try:
        import imageio.v3 as imageio
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise InputError('films are written by imageio: pip install "imageio[ffmpeg]"') from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # most players need an even width and height
        imageio.imwrite(path, film.frames, plugin="FFMPEG", fps=film.fps, macro_block_size=2)
    except OSError as error:
        raise InputError(f"cannot write {path}: {' '.join(str(error).split())}") from error


def moving_image(film: Film) -> "Summary.Image":
    """A film for TensorBoard: a GIF of fewer and smaller frames that plays about as long."""
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    every = math.ceil(max(len(film.frames) / GIF_FRAMES, film.fps / GIF_FPS))
    images = [Image.fromarray(frame) for frame in film.frames[::every]]
    first, *others = (image.reduce(math.ceil(max(image.size) / GIF_SIZE)) for image in images)
    content = BytesIO()
    first.save(content, "GIF", save_all=True, append_images=others, duration=1000 * every / film.fps, loop=0)
    width, height = first.size
    return Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=content.getvalue())
