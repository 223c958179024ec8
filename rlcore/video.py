"""The report ``video``: films of the best and the worst of some episodes."""

from pathlib import Path

import gymnasium
from gymnasium.wrappers import RecordVideo
from pydantic import PositiveInt

from rlcore import settings
from rlcore.agent import Agent
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.evaluation import Report, ReportMaker, play
from rlcore.gym_environment import GymEnvironment
from rlcore.settings import Seed


class VideoReport(ReportMaker):
    """Plays some episodes, and films the best and the worst of them (gymnasium's RecordVideo)."""

    class Settings(settings.Settings):
        """Settings of the report."""

        episodes: PositiveInt = 10
        """Episodes to choose from."""
        folder: str = "videos"
        """Folder of the files."""
        seed: Seed = 1
        """Seed of the first episode; each further one adds 1."""

    settings: Settings

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """Makes the report; see `rlcore.evaluation.ReportMaker`.

        Returns:
            The returns of both, ``best`` and ``worst``; the text says where the files are.

        Raises:
            InputError: the environment is not one of gymnasium's, renders no pixels, or moviepy is not installed.
        """
        if not isinstance(env, GymEnvironment):
            raise InputError("report video: films only gymnasium environments (env.name=gym)")
        s = self.settings
        seeds = range(s.seed, s.seed + s.episodes)
        returns = {seed: self._play(agent, env, seed) for seed in seeds}
        scalars, lines = {}, []
        for name, seed in {
            "best": max(seeds, key=returns.__getitem__),
            "worst": min(seeds, key=returns.__getitem__),
        }.items():
            scalars[name] = self._play(agent, env, seed, name)
            lines.append(f"{name}: return {scalars[name]:,.6g}, seed {seed}: {Path(s.folder) / name}-episode-0.mp4")
        return Report(scalars, "\n".join(lines))

    def _play(self, agent: Agent, env: GymEnvironment, seed: int, film: str | None = None) -> float:
        """The return of one episode, which is filmed if a file name is given."""
        changes = {
            "num_envs": 1,
            "vectorization": "sync",
            "options": {**env.settings.options, "render_mode": "rgb_array"},
        }
        one = GymEnvironment(env.settings.model_copy(update=changes), env.device)
        try:
            if film is not None:
                envs = one.envs.envs  # type: ignore[attr-defined]
                envs[0] = RecordVideo(
                    envs[0], self.settings.folder, lambda episode: episode == 0, name_prefix=film, disable_logger=True
                )
            return play(agent, one, 1, seed).scalars["return"]
        except InputError:
            raise
        except (gymnasium.error.Error, ValueError) as error:
            raise InputError(f"report video: {' '.join(str(error).split())} (pip install 'rlcore[video]')") from error
        finally:
            one.close()
