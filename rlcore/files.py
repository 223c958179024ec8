"""Files that are written whole or not at all, and runs that one process writes at a time."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from rlcore.errors import InputError

CONFIG_FILE, RESULT_FILE, STATUS_FILE = "config.yaml", "result.json", "status.json"
"""Of a run: its settings, its results, and what it says of itself while it goes on."""
TABLE_FILE = "progress.csv"
"""Of a run: its figures, as the logger csv writes them."""
CHECKPOINTS_FOLDER = "checkpoints"
RUNS_FOLDER = "runs"
"""Where runs go, unless another folder is named."""
LOCK_FILE = ".lock"
PATIENCE = 2.0
"""Seconds until a lock counts as taken: worker processes may outlive one that was killed by a moment."""


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes beside, then renames, with what the disk holds back written out: a crash leaves the previous file intact.

    Args:
        path: the file; its folder exists.
        write: writes the content into a file that is open to write and to read.

    Raises:
        OSError: it cannot be written; what was written beside is removed.
    """
    beside = path.with_name(path.name + ".writing")
    try:
        with open(beside, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes text by `write_whole`.

    Raises:
        InputError: it cannot be written.
    """
    try:
        write_whole(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}") from error


def replace_text(path: Path, text: str) -> None:
    """Writes text whole or not at all as readers see it; a crash of the system may lose it.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_name(path.name + ".writing")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def without_nan(value: Any) -> Any:
    """The same tree of dicts with None for NaN and infinities, which JSON lacks."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a file of JSON; empty if there is no such file.

    Raises:
        InputError: it cannot be read, or is no mapping.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; remove it, and it is remade") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: not a mapping; remove it, and it is remade")
    return content


def claim_folder(folder: Path) -> Path:
    """Creates a folder that no other process creates, with a number added to its name if it exists already.

    Raises:
        InputError: it cannot be created.
    """
    claimed, number = folder, 1
    while True:
        try:
            claimed.mkdir(parents=True)
            return claimed
        except FileExistsError:
            number += 1
            claimed = folder.with_name(f"{folder.name}-{number}")
        except OSError as error:
            raise InputError(f"cannot create the folder {claimed}: {error}") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No other process writes into the folder in here; a process that dies releases its locks.

    Raises:
        InputError: another process has the lock, or the folder cannot be written to.
    """
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise InputError(f"{folder} is in use: another process trains or resumes there; let it end first") from None
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error}") from error
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a process writes into the folder; see `locked`."""
    lock = folder / LOCK_FILE
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # read-only, thus not in use from here
        return False


def _sync_folder(folder: Path) -> None:
    """Writes out the folder's names, where the system can: a rename may otherwise be lost with the power."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
