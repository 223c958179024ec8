"""Writes what is played into data sets in Minari's format."""

import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.experience.reading import DATA_FOLDER, datasets_folder, minari_module
from rlcore.trees import Tree

NAME = re.compile(r"[-\w]+-v\d+")
FLUSHED = 10_000
"""Steps of ended episodes after which they are written."""


class Played(NamedTuple):
    """A step of N environments, as arrays."""

    obs: Any  # [N, *O], before it
    action: NDArray[Any]  # [N, *A], as the environment takes it
    reward: NDArray[Any]  # [N] float32
    terminated: NDArray[Any]  # [N] bool
    truncated: NDArray[Any]  # [N] bool, which may be changed
    next_obs: Any  # [N, *O], the true one after it


class EpisodeWriter:
    """Writes the episodes of N environments in lockstep, each once it has ended, into a new data set.

    It is written beside, and gets its name when it is closed: so there is never half of one.

    Args:
        folder: of the data set; its name ends in a version, ``-v0``, by Minari's rules.
        env: whose spaces the data are of.
        metadata: what the data set is to say of itself, as JSON has it.

    Raises:
        InputError: there is something at that place, the name is not one of Minari's, or it cannot be written.
    """

    def __init__(self, folder: str | Path, env: Environment, metadata: dict[str, Any]):
        self.folder, self.num_steps, self.num_episodes = Path(folder).absolute(), 0, 0
        if not NAME.fullmatch(self.folder.name):
            example = re.sub(r"[^-\w]+", "-", self.folder.name) or "name"
            raise InputError(f"{folder}: the name of a data set ends in a version, by Minari's rules: {example}-v0")
        if self.folder.exists():
            raise InputError(f"{folder} exists already; choose another name, or remove it")
        minari = minari_module()
        self._beside = self.folder.with_name(f".{self.folder.name}.writing")
        self._buffer_type = minari.data_collector.EpisodeBuffer
        self._played: list[Played] = []
        self._begun = [0] * env.num_envs  # where in these each environment's episode begins
        self._ended: list[Any] = []
        shutil.rmtree(self._beside, ignore_errors=True)  # of a process that was killed
        try:
            (self._beside / DATA_FOLDER).mkdir(parents=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about a spec that cannot be written
                self._storage = minari.dataset.minari_storage.MinariStorage.new(
                    self._beside / DATA_FOLDER,
                    observation_space=env.single_observation_space,
                    action_space=env.single_action_space,
                    env_spec=env.spec,
                    jpeg_encoding=False,  # which would lose something
                )
            own = {"dataset_id": _id(self.folder), "minari_version": minari.__version__}
            self._storage.update_metadata({**own, **metadata})
        except NotImplementedError as error:
            raise InputError(f"{folder}: Minari cannot write the spaces of this environment: {error}") from error
        except (OSError, ImportError) as error:
            self._fail(error)

    def add(self, played: Played) -> None:
        """Adds a step of each environment.

        Raises:
            InputError: the data set cannot be written; nothing is left of it.
        """
        self._played.append(played)
        self.num_steps += len(played.reward)
        for n in (played.terminated | played.truncated).nonzero()[0].tolist():
            self._end(n)
        if (oldest := min(self._begun)) > FLUSHED:
            del self._played[:oldest]
            self._begun = [begun - oldest for begun in self._begun]
        if sum(len(one.rewards) for one in self._ended) >= FLUSHED:
            self._flush()

    def cut(self) -> None:
        """Ends the episodes in progress as truncated: others begin."""
        if self._played:
            self._played[-1].truncated[:] |= ~self._played[-1].terminated
        for n, begun in enumerate(self._begun):
            if begun < len(self._played):
                self._end(n)

    def close(self) -> None:
        """Ends the episodes in progress, and gives the data set its name.

        Raises:
            InputError: it has no steps, or cannot be written; nothing is left of it.
        """
        self.cut()
        self._flush()
        if not self.num_steps:
            self.abandon()
            raise InputError(f"{self.folder}: nothing was played, so there is no data set")
        try:
            os.replace(self._beside, self.folder)
        except OSError as error:
            self._fail(error)

    def abandon(self) -> None:
        """Leaves nothing."""
        shutil.rmtree(self._beside, ignore_errors=True)

    def _end(self, n: int) -> None:
        """The episode of environment n is complete."""
        steps, self._begun[n] = self._played[self._begun[n] :], len(self._played)

        def column(name: str, last: str | None = None) -> Any:
            rows = [getattr(step, name) for step in steps]
            if last is not None:
                rows.append(getattr(steps[-1], last))
            if isinstance(rows[0], dict):
                return {key: np.stack([row[key][n] for row in rows]) for key in rows[0]}
            return np.stack([row[n] for row in rows])

        self._ended.append(
            self._buffer_type(
                observations=column("obs", "next_obs"),
                actions=column("action"),
                rewards=column("reward"),
                terminations=column("terminated"),
                truncations=column("truncated"),
                infos=None,
            )
        )
        self.num_episodes += 1

    def _flush(self) -> None:
        ended, self._ended = self._ended, []
        try:
            self._storage.update_episodes(ended)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.abandon()
        raise InputError(f"{self.folder}: cannot be written, and nothing is left of it: {error}") from error


def arrays(tree: Tree, space: Any) -> Any:
    """Observations [N, *O] as arrays of the dtypes of their space."""
    if isinstance(tree, dict):
        return {key: arrays(part, space[key]) for key, part in tree.items()}
    return tree.numpy(force=True).astype(space.dtype)


def _id(folder: Path) -> str:
    """What Minari finds the data set by, if its folders are where this one is."""
    try:
        return folder.resolve().relative_to(datasets_folder().resolve()).as_posix()
    except ValueError:
        return folder.name
