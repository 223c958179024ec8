"""Reads data sets in Minari's format: local files alone, of which nothing is run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from numpy.typing import NDArray
from pydantic import AfterValidator

from rlcore.errors import InputError
from rlcore.experience.recorded import Episode, Recorded
from rlcore.imports import optional
from rlcore.memory import require_memory
from rlcore.registry import did_you_mean
from rlcore.spaces import ACTION_MASK, dtype_of_tensor

DatasetName = Annotated[str, AfterValidator(lambda name: str(Path(name).resolve()) if Path(name).is_dir() else name)]
"""A data set's folder, made absolute so that a run that is resumed from elsewhere finds it; or a local one's id."""

DATA_FOLDER = "data"
"""Within a data set's folder, by Minari's rules."""
METADATA_FILE = "metadata.json"
CUT = "cut_episodes"
"""In the metadata, the numbers of the episodes whose beginning or end was not recorded."""
SPACES = "observation_space", "action_space"
LARGEST = float(np.finfo(np.float32).max)
SLACK = 1e-5
"""Of the bounds of a space, in units of their size: what rounding may exceed them by."""


def datasets_folder() -> Path:
    """Where data sets are that are named by an id: ``$MINARI_DATASETS_PATH``, or ``~/.minari/datasets``."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def local_ids() -> list[str]:
    """The ids of the data sets in `datasets_folder`."""
    folder = datasets_folder()
    found = (path.parent.parent.relative_to(folder) for path in folder.glob(f"**/{DATA_FOLDER}/{METADATA_FILE}"))
    return sorted(path.as_posix() for path in found if not path.name.startswith("."))  # as what is still being written


def is_dataset(name: str) -> bool:
    """Whether `locate` finds a data set of that name."""
    return _located(name) is not None


def locate(dataset: str) -> Path:
    """The folder with the files of a data set.

    Args:
        dataset: its folder, or the id of a local one.

    Raises:
        InputError: there is no such data set.
    """
    if (found := _located(dataset)) is not None:
        return found
    known = local_ids()
    near = did_you_mean(dataset, known)
    raise InputError(
        f"there is no data set {dataset!r}{near}: neither a folder with {DATA_FOLDER}/{METADATA_FILE}, nor a local one "
        f"of Minari ({', '.join(known) or 'none'} in {datasets_folder()})"
    )


def _located(dataset: str) -> Path | None:
    folders = Path(dataset), datasets_folder() / dataset
    places = (data for folder in folders for data in (folder / DATA_FOLDER, folder))
    return next((data for data in places if (data / METADATA_FILE).is_file()), None)


def minari_module() -> Any:
    """Minari.

    Raises:
        InputError: it is not installed.
    """
    return optional("minari", "recorded episodes need", "'minari[hdf5]'")


def read_metadata(dataset: str) -> dict[str, Any]:
    """What a data set says of itself, with its two spaces.

    Raises:
        InputError: there is no such data set, it cannot be read, or does not name its spaces, which Minari would then
            take from an environment that it makes.
    """
    minari, data = minari_module(), locate(dataset)
    with _readable(dataset):
        storage = minari.dataset.minari_storage
        raw = storage.MinariStorage.read_raw_metadata(data)
        if missing := [name for name in SPACES if not isinstance(raw.get(name), str)]:
            raise InputError(f"data set {dataset}: {METADATA_FILE} has no {' and no '.join(missing)}")
        spaces = {name: minari.serialization.deserialize_space(raw[name]) for name in SPACES}
    return {**raw, **spaces}


def read(dataset: str) -> Recorded:
    """The episodes of a data set.

    Args:
        dataset: its folder, or the id of a local one.

    Raises:
        InputError: there is no such data set, it cannot be read, is of a version that Minari does not know, has no
            steps, no rewards, a NaN, or numbers that do not fit its spaces.
    """
    metadata = read_metadata(dataset)
    spaces: list[Any] = [metadata[name] for name in SPACES]
    for name, space in zip(SPACES, spaces, strict=True):
        _check_space(dataset, name.replace("_", " "), space)
    minari = minari_module()
    with _readable(dataset):
        found = minari.MinariDataset(locate(dataset))
        if not found.total_episodes:  # of which there is no file to open
            raise InputError(f"data set {dataset}: has no steps")
        size = found.total_steps * sum(_row_bytes(space) for space in spaces)
        require_memory(2 * size, f"data set {dataset}")
        episodes = [_episode(f"data set {dataset}: episode {number}", one, *spaces) for number, one in enumerate(found)]
    recorded = Recorded.of(episodes, *spaces)
    for number in _numbers(metadata.get(CUT, []), f"data set {dataset}: {CUT}", ()).tolist():
        if number not in range(len(episodes)):
            raise InputError(f"data set {dataset}: {CUT} names the episode {number!r} of {len(episodes):,}")
        recorded.whole[int(number)] = False
    return replace(recorded, name=dataset, metadata=metadata)


def _episode(where: str, found: Any, observation_space: Any, action_space: Any) -> Episode:
    """An episode of Minari, once it has been checked."""
    reward = _numbers(found.rewards, f"{where}: rewards", ())
    T = len(reward)
    if not T:
        raise InputError(f"{where} has no steps")
    obs = _tree(found.observations, observation_space, f"{where}: observations", T + 1)
    action = _from_0(_tree(found.actions, action_space, f"{where}: actions", T), action_space, f"{where}: actions")
    if isinstance(action_space, Discrete) and isinstance(obs, dict) and ACTION_MASK in obs:
        _check_allowed(action, obs[ACTION_MASK][:-1], where)
    terminated, truncated = (
        _of_length(T, _numbers(flags, f"{where}: {name}", ()), f"{where}: {name}").astype(np.bool_)
        for name, flags in (("terminations", found.terminations), ("truncations", found.truncations))
    )
    return Episode(obs, action, reward.astype(np.float32), terminated, truncated)


def _check_allowed(action: NDArray[Any], mask: NDArray[Any], where: str) -> None:
    """Raises an InputError if an action [T] is one that its mask [T, A] forbids: nobody could learn to do it."""
    is_forbidden = ~mask[np.arange(len(action)), action] & mask.any(1)  # a mask that allows none allows all
    if is_forbidden.any():
        step = int(is_forbidden.argmax())
        raise InputError(f"{where}: step {step} has the action {action[step]}, which its {ACTION_MASK} forbids")


@contextmanager
def _readable(dataset: str) -> Iterator[None]:
    """What fails in here is one line about the data set."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of any kind: the files may be anyone's
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"data set {dataset}: Minari cannot read it: {message}") from error


def _check_space(dataset: str, name: str, space: Space[Any]) -> None:
    is_dict = isinstance(space, Dict) and name != "action space"
    for part in space.values() if is_dict else [space]:  # type: ignore[attr-defined]
        if not isinstance(part, (Box, Discrete, MultiDiscrete, MultiBinary)):
            raise InputError(f"data set {dataset}: no tensors hold the {name} {space}")


def _row_bytes(space: Any) -> int:
    if isinstance(space, Dict):
        return sum(map(_row_bytes, space.values()))
    return int(np.prod(space.shape)) * int(space.dtype.itemsize)


def _tree(found: Any, space: Any, name: str, num_rows: int) -> Any:
    """Arrays [num_rows, *shape] of a space, as the tensors of rlcore have them."""
    if isinstance(space, Dict):
        if not isinstance(found, dict) or found.keys() != space.spaces.keys():
            raise InputError(f"{name} must have the parts {', '.join(space)}, got {', '.join(map(str, found))}")
        parts = {key: _tree(found[key], part, f"{name} {key!r}", num_rows) for key, part in space.items()}
        return parts | {key: part.astype(np.bool_) for key, part in parts.items() if key == ACTION_MASK}
    array = _of_length(num_rows, _numbers(found, name, space.shape), name)
    if isinstance(space, (Discrete, MultiDiscrete)):
        size: Any = space.n if isinstance(space, Discrete) else space.nvec
        outside = (array < space.start) | (array >= space.start + size)
        if outside.any():
            raise InputError(f"{name} must be in {space}, got {array[outside][0]}")
    return array.astype(dtype_of_tensor(space.dtype, float64=True), copy=False)


def _of_length(num_rows: int, array: NDArray[Any], name: str) -> NDArray[Any]:
    if len(array) != num_rows:
        raise InputError(f"{name} must have {num_rows:,} rows, as the rewards say, got {len(array):,}")
    return array


def _numbers(found: Any, name: str, shape: Any) -> NDArray[Any]:
    """An array [rows, *shape] of finite numbers; objects, as pickles would be, are none."""
    array = np.asarray(found)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must be numbers, got {array.dtype}")
    if array.shape[1:] != tuple(shape) or not array.ndim:
        raise InputError(f"{name} must be [rows, {', '.join(map(str, shape))}], got {list(array.shape)}")
    if array.dtype.kind == "f" and not (np.abs(array) <= LARGEST).all():
        raise InputError(f"{name} has a NaN or an infinity, or what is one in float32")
    return array


def _from_0(array: NDArray[Any], space: Any, name: str) -> NDArray[Any]:
    """Actions counted from 0; numbers within their bounds, as float32, which is what agents give."""
    if isinstance(space, (Discrete, MultiDiscrete)):
        return (array - space.start).astype(np.int64)
    if not isinstance(space, Box):
        return array
    slack = SLACK * np.maximum(1, np.where(np.isfinite(space.high - space.low), space.high - space.low, 0))
    if ((array < space.low - slack) | (array > space.high + slack)).any():
        raise InputError(f"{name} must be in {space}, got {array.min():g} to {array.max():g}")
    return array.astype(np.float32, copy=False)
