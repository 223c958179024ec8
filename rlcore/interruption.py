"""Signals that ask a loop to end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(BaseException):
    """A signal came during work that may be aborted; no ``except Exception`` on the way must take it for a failure."""


def ending_signals() -> list[signal.Signals]:
    """Those that ask a process to end: SIGINT, SIGTERM and, unless it is ignored as under nohup, SIGHUP."""
    signals = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    return signals


class Interruption:
    """One of the `ending_signals` asks a loop to end; a second one ends it at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """The number of the first signal, once it has come."""
        self._breaks = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keeps the first signal in `signal`; in threads other than the main one, signals are left alone."""

        def ask(number: int, frame: object) -> None:
            self.signal = number
            for which, handler in previous.items():
                signal.signal(which, handler)
            if self._breaks:
                raise Interrupted

        previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            previous = {which: signal.signal(which, ask) for which in ending_signals()}
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():  # a generator may be closed in another one
                for which, handler in previous.items():
                    signal.signal(which, handler)

    @contextmanager
    def breaking(self) -> Iterator[None]:
        """A signal aborts the work in here by raising `Interrupted`."""
        try:
            self._breaks = True
            yield
        finally:
            self._breaks = False
