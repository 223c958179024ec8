"""Checkpoints: written atomically, safe to read, and sufficient to resume a run.

A checkpoint holds only tensors, numbers, strings and None in dicts, lists and tuples, so it is read with
``weights_only=True``, and a file that would run code is refused.
"""

import hashlib
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from rlcore.errors import CheckpointError, InputError
from rlcore.files import write_whole
from rlcore.memory import require_memory
from rlcore.trees import Tree, describe, difference, leaves, tree_map

SCHEMA = 3
"""Version of the layout; a checkpoint with a larger one was written by a newer rlcore, one of 1 has no digest."""
MARK = b"rlcore blake2b"
"""At the end of a file, before the digest of all bytes before it."""
DIGEST_SIZE = 32
LONGEST_REASON = 300
"""Characters of an error that are told, at most."""
MOST = 2**53
"""The largest count: up to here, a float64 holds every integer."""


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a temporary file, then renames it, so that a crash or a full disk leaves the previous file intact.

    Raises:
        CheckpointError: a value is neither a tensor nor plain data, or the file cannot be written.
    """
    path = Path(path)
    plain = _plain({"schema": SCHEMA, **content}, "checkpoint")

    def write(file: IO[bytes]) -> None:
        torch.save(plain, file)
        size = file.tell()
        file.write(MARK + _digest(file, size))

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, write)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__ or error
        kept = "; the previous one is untouched" if path.exists() else ""
        raise CheckpointError(f"cannot write {path}: {' '.join(str(cause).split())}{kept}") from error


def load(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads what `save` wrote, once every byte of it has been verified; runs no code in it.

    Raises:
        CheckpointError: the file is missing, damaged, of a newer schema, or holds more than tensors and plain data.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            has_digest = _verify(file)
            content = torch.load(file, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it is damaged, or holds more than tensors and plain data and might run code"
        ) from error
    except Exception as error:  # reading damaged bytes may raise anything
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
        raise CheckpointError(f"{path} is not an rlcore checkpoint")
    if content["schema"] > 1 and not has_digest:
        raise CheckpointError(f"{path} is damaged: it has no digest of its bytes at its end")
    if content["schema"] > SCHEMA:
        raise CheckpointError(
            f"{path} has schema {content['schema']}, of a newer rlcore; this one reads up to {SCHEMA}: upgrade rlcore"
        )
    return content


@contextmanager
def fitting(what: str) -> Iterator[None]:
    """Makes one CheckpointError of whatever goes wrong in here, where content that may be anything is restored.

    Args:
        what: the content is for, as in "the agent PPO".
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.split())[:LONGEST_REASON]
        raise CheckpointError(f"the checkpoint does not fit {what}: {reason}") from error


def restored(
    saved: Any, like: Tree, name: str, *, free: int | None = None, low: float = -math.inf, high: float = math.inf
) -> Tree:
    """What a checkpoint holds of a tree of tensors, once it has been compared with what it replaces.

    Args:
        saved: what the checkpoint holds.
        like: what it replaces, which has its structure, dtypes, shapes and devices.
        name: for the message.
        free: a dimension whose size may differ, if it is the same in all tensors.
        low: the smallest number allowed.
        high: the largest number allowed.

    Returns:
        A copy on the devices of ``like``, in containers of its types.

    Raises:
        CheckpointError: it differs in more than ``free``, or a number is out of range.
        InputError: it takes more memory than there is.
    """
    if found := difference(saved, like, free):
        raise CheckpointError(f"the checkpoint does not fit: {name}{found}")
    if free is not None and len(sizes := {leaf.shape[free] for leaf in leaves(saved)}) > 1:
        raise CheckpointError(f"the checkpoint does not fit: {name} has parts of sizes {sorted(sizes)}; must be equal")
    require_memory(sum(leaf.numel() * leaf.element_size() for leaf in leaves(saved)), f"the checkpoint's {name}")
    for leaf in leaves(saved) if (low, high) != (-math.inf, math.inf) else ():
        if not ((leaf >= low) & (leaf <= high)).all():
            raise CheckpointError(f"the checkpoint does not fit: {name} has a number that is not in [{low}, {high}]")
    return tree_map(lambda here, kept: kept.detach().to(here.device, copy=True), like, saved)


def restored_number(saved: Any, name: str, low: float = 0, high: float = MOST, whole: bool = True) -> Any:
    """A number that a checkpoint holds, once it has been checked.

    Args:
        saved: what the checkpoint holds.
        name: for the message.
        low: the smallest number allowed.
        high: the largest number allowed.
        whole: whether it must be an int.

    Raises:
        CheckpointError: it is no such number.
    """
    if type(saved) not in ((int,) if whole else (int, float)) or not low <= saved <= high:
        number = "a whole number" if whole else "a number"
        raise CheckpointError(
            f"the checkpoint does not fit: {name} is {describe(saved)}, not {number} in [{low}, {high}]"
        )
    return saved


def _digest(file: IO[bytes], size: int) -> bytes:
    """The digest of a file's first bytes; leaves the file at their end."""
    digest, left = hashlib.blake2b(digest_size=DIGEST_SIZE), size
    file.seek(0)
    while left and (piece := file.read(min(left, 2**20))):
        digest.update(piece)
        left -= len(piece)
    return digest.digest()


def _verify(file: IO[bytes]) -> bool:
    """Whether a file has a digest.

    Raises:
        ValueError: a byte is not as it was written; in a file without a digest (rlcore 0.1), a datum.
    """
    size = file.seek(0, 2) - len(MARK) - DIGEST_SIZE
    file.seek(max(0, size))
    end = file.read()
    has_digest = end.startswith(MARK)
    if has_digest:
        if end[len(MARK) :] != _digest(file, size):
            raise ValueError("its bytes are not those that were written")
    elif zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("its parts are compressed, which rlcore's are not")
            if (name := archive.testzip()) is not None:
                raise ValueError(f"the part {name} is not as it was written")
    file.seek(0)
    return has_digest


def _plain(value: Any, path: str) -> Any:
    """The same tree with views cloned and numpy scalars converted; any other type is an error that names its place."""
    if isinstance(value, Tensor):
        value = value.detach()
        return value.clone() if value.untyped_storage().nbytes() > value.numel() * value.element_size() else value
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {_plain(key, path): _plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise CheckpointError(
        f"{path} is a {type(value).__module__}.{type(value).__qualname__}; a checkpoint holds tensors, numbers, "
        "strings and None in dicts, lists and tuples"
    )
