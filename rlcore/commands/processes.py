"""Several processes on this machine that train one agent together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from rlcore import device, distributed
from rlcore.errors import InputError
from rlcore.interruption import ending_signals

LOOPBACK = "127.0.0.1"
GRACE = 30.0
"""Seconds that the others have to end once one has failed."""
LAST_WORDS = 5.0
"""The same, once all were asked to end and one has."""


def command_line(words: Sequence[str]) -> list[str]:
    """What runs the command line in another process, with the path of this one.

    With ``-m`` the working folder would come first, and could shadow the standard library.
    """
    return [
        sys.executable,
        "-c",
        f"import sys; sys.path[:] = {sys.path!r}; from rlcore.cli import main; main()",
        *words,
    ]


def start(words: Sequence[str], environ: Mapping[str, str], log: IO[bytes] | None = None) -> "subprocess.Popen[bytes]":
    """Starts the command line in another process, in a session of its own, so that Ctrl-C reaches it only through us.

    Args:
        words: what follows ``rlcore`` in the command line.
        environ: its environment.
        log: a file for what it prints; None: here.
    """
    errors = None if log is None else subprocess.STDOUT
    return subprocess.Popen(command_line(words), stdout=log, stderr=errors, env=environ, start_new_session=True)


def exit_status(process: "subprocess.Popen[bytes]") -> int:
    """The exit status of a process that has ended, 128 + n where the signal n ended it."""
    return 128 - process.returncode if process.returncode < 0 else process.returncode


def sharing_cores(processes: int) -> dict[str, str]:
    """The environment of one of several processes side by side: more threads than cores are many times slower."""
    return {"OMP_NUM_THREADS": str(max(1, device.NUM_THREADS // processes))}


@contextmanager
def signals_to(end: Callable[[int], None]) -> Iterator[None]:
    """In here the number of a signal that asks to end is given to a function."""
    previous = {which: signal.signal(which, lambda number, frame: end(number)) for which in ending_signals()}
    try:
        yield
    finally:
        for which, handler in previous.items():
            signal.signal(which, handler)


def launch(processes: int, words: Sequence[str]) -> int:
    """Runs the command line in each of several processes, as torchrun would on one machine; returns the exit status.

    A signal to end is passed on to the first of them, which agrees with the others; a second one kills all.

    Args:
        processes: how many.
        words: what follows ``rlcore`` in the command line.

    Raises:
        InputError: this process is itself one of several.
    """
    if distributed.is_launched():
        raise InputError("--processes: torchrun has launched several already; leave it out")
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    environ = {
        **sharing_cores(processes),
        **os.environ,
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    children: list[subprocess.Popen[bytes]] = []

    def end(number: int) -> None:
        for child in children if signalled else children[:1]:
            child.send_signal(signal.SIGKILL if signalled else number)
        signalled.append(number)

    signalled: list[int] = []
    with signals_to(end):
        try:
            for rank in range(processes):
                if signalled:
                    return 128 + signalled[0]
                children.append(start(words, environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)}))
            statuses = _waited(children, signalled)
        finally:
            for child in children:
                child.kill()
    return next((status for status in statuses if status), 0)


def _waited(children: Sequence["subprocess.Popen[bytes]"], signalled: Sequence[int]) -> list[int]:
    """Waits for all, for `GRACE` once one has failed; returns their exit statuses, 128 + n where a signal ended one."""
    failed_at = None
    while None in (statuses := [child.poll() for child in children]):
        time.sleep(0.05)
        if failed_at is None and any(statuses):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() > failed_at + (LAST_WORDS if signalled else GRACE):
            for child in children:
                child.kill()
    return [exit_status(child) for child in children]
