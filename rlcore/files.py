"""Files that are written whole or not at all, and runs that one process writes at a time."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from rlcore.errors import InputError

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


def _sync_folder(folder: Path) -> None:
    """Writes out the folder's names, where the system can: a rename may otherwise be lost with the power."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
