"""Writes what is played into data sets in Minari's format."""

import errno
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.experience.reading import CUT, DATA_FOLDER, datasets_folder, minari_module
from rlcore.files import locked
from rlcore.trees import Tree

NAME = re.compile(r"[-\w]+-v\d+")
FLUSHED = 10_000
"""Steps of ended episodes after which they are written."""
PATIENCE = 30
"""Seconds that somebody who reads the file has until it must be free."""
SPARE = 2**24
"""Bytes that the disk must have left over: what Minari writes by does not end well on one that is full."""


class Played(NamedTuple):
    """A step of N environments, as arrays."""

    obs: Any  # [N, *O], before it
    action: NDArray[Any]  # [N, *A], as the environment takes it
    reward: NDArray[Any]  # [N] float32
    terminated: NDArray[Any]  # [N] bool
    truncated: NDArray[Any]  # [N] bool
    next_obs: Any  # [N, *O], the true one after it
    cut: NDArray[Any]  # [N] bool, of those truncated: ended by the recording, not by a time limit


class EpisodeWriter:
    """Writes the episodes of N environments in lockstep, each once it has ended, into a new data set.

    It is written beside, and gets its name when it is closed: so there is never half of one.

    Args:
        folder: of the data set; its name ends in a version, ``-v0``, by Minari's rules.
        env: whose spaces the data are of.

    Raises:
        InputError: there is something at that place, or another process writes there; the name is not one of Minari's;
            or it cannot be written.
    """

    def __init__(self, folder: str | Path, env: Environment):
        self.folder, self.num_steps, self.num_episodes = Path(folder).absolute(), 0, 0
        if not NAME.fullmatch(self.folder.name):
            example = re.sub(r"[^-\w]+", "-", self.folder.name) or "name"
            raise InputError(f"{folder}: the name of a data set ends in a version, by Minari's rules: {example}-v0")
        if os.path.lexists(self.folder):
            raise InputError(f"{folder} exists already; choose another name, or remove it")
        minari = minari_module()
        self._buffer_type = minari.data_collector.EpisodeBuffer
        self._played: list[Played] = []
        self._begun: list[int] = []  # where in these each environment's episode begins
        self._ended: list[Any] = []
        self._cut: list[int] = []  # numbers of episodes that are not whole
        self._within: set[int] = set()  # environments whose episode in progress is not recorded as a whole
        self._is_within = False  # whether that is so of all, from the next step on
        self._beside = self.folder.with_name(f".{self.folder.name}.writing")
        self._lock = ExitStack()
        with self._failing():
            self._beside.mkdir(parents=True, exist_ok=True)
        self._lock.enter_context(locked(self._beside))
        shutil.rmtree(self._beside / DATA_FOLDER, ignore_errors=True)  # of a process that was killed
        with self._failing(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a spec that cannot be written
            (self._beside / DATA_FOLDER).mkdir()
            self._storage = minari.dataset.minari_storage.MinariStorage.new(
                self._beside / DATA_FOLDER,
                observation_space=env.single_observation_space,
                action_space=env.single_action_space,
                env_spec=env.spec if _is_writable(env.spec) else None,
                jpeg_encoding=False,  # which would lose something
            )
            self._storage.update_metadata({"dataset_id": _id(self.folder), "minari_version": minari.__version__})

    def add(self, played: Played) -> None:
        """Adds a step of each environment.

        Raises:
            InputError: the data set cannot be written; nothing is left of it.
        """
        done = played.terminated | played.truncated
        self._begun = self._begun or [0] * len(done)
        if self._is_within:
            self._within, self._is_within = set(range(len(done))), False
        if self._played and not (self._played[-1].terminated | self._played[-1].truncated).any():
            self._played[-1] = self._played[-1]._replace(next_obs=None)  # it is this step's obs
        self._played.append(played)
        self.num_steps += len(played.reward)
        self._within |= set(played.cut.nonzero()[0].tolist())
        for n in done.nonzero()[0].tolist():
            self._end(n)
        oldest = min(self._begun)
        if oldest * len(self._begun) > FLUSHED:
            del self._played[:oldest]
            self._begun = [begun - oldest for begun in self._begun]
        if sum(len(one.rewards) for one in self._ended) >= FLUSHED:
            self._flush()

    def cut(self, within: bool = False) -> None:
        """Ends the episodes in progress as truncated: others begin, or go on whose beginning is not known.

        Args:
            within: whether they go on.
        """
        if self._played:
            last = self._played[-1]
            self._played[-1] = last._replace(truncated=last.truncated | ~last.terminated)
        for n, begun in enumerate(self._begun):
            if begun < len(self._played):
                self._within.add(n)
                self._end(n)
        self._is_within = within

    def close(self, metadata: dict[str, Any]) -> None:
        """Ends the episodes in progress, and gives the data set its name.

        Args:
            metadata: what the data set is to say of itself, as JSON has it.

        Raises:
            InputError: it has no steps, or cannot be written; nothing is left of it.
        """
        self.cut()
        self._flush()
        if not self.num_steps:
            self.abandon()
            raise InputError(f"{self.folder}: nothing was played, so there is no data set")
        with self._failing():
            self._storage.update_metadata({**metadata, CUT: self._cut})
        try:
            self.folder.mkdir()  # which fails if there is something by now
            os.replace(self._beside / DATA_FOLDER, self.folder / DATA_FOLDER)
        except OSError as error:
            kept, self._beside = self._beside, self._beside / "nothing"
            raise InputError(f"{self.folder}: is complete, but stays in {kept}: {error}") from error
        self.abandon()

    def abandon(self) -> None:
        """Leaves nothing but what has its name."""
        self._lock.close()
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
        if n in self._within:
            self._within.remove(n)
            self._cut.append(self.num_episodes)
        self.num_episodes += 1

    def _flush(self) -> None:
        ended, self._ended = self._ended, []
        with self._failing():
            needed = 2 * sum(_bytes(vars(one)) for one in ended)
            if shutil.disk_usage(self._beside).free < needed + SPARE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._written(ended)

    def _written(self, ended: list[Any]) -> None:
        """Writes episodes; where somebody reads the file just now, a little later."""
        for _ in range(PATIENCE):
            try:
                self._storage.update_episodes(ended)
                return
            except BlockingIOError:
                time.sleep(1.0)
        self._storage.update_episodes(ended)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Where something fails in here, nothing is left, and one line says why."""
        try:
            yield
        except Exception as error:  # of any kind that Minari, and what it writes by, may raise
            self.abandon()
            message = " ".join(f"{error}".split()) or type(error).__name__
            raise InputError(f"{self.folder}: cannot be written, and nothing is left of it: {message}") from error


def _is_writable(spec: Any) -> bool:
    """Whether gymnasium can write the spec of an environment: one that is registered by its class it cannot."""
    try:
        return spec is not None and bool(spec.to_json())
    except Exception:  # of any kind: it names whatever a user registered
        return False


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


def _bytes(tree: Any) -> int:
    """Of the arrays in dicts."""
    if isinstance(tree, dict):
        return sum(map(_bytes, tree.values()))
    return tree.nbytes if isinstance(tree, np.ndarray) else 0
