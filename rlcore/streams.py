"""Standard streams whose reader may go away, and threads that write to disks that may be full."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast


class _Unbroken:
    """A stream that drops what can no longer be written: a training must not end because its log has no reader."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self) -> None:
        """Lets the rest of the buffer go nowhere, so that the interpreter's last flush does not fail either."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def unbroken(stream: TextIO | None) -> TextIO:
    """A stream that never raises an OSError when written to; None, closed before the program began, leads nowhere."""
    return cast(TextIO, _Unbroken(stream if stream is not None else open(os.devnull, "w")))


@contextmanager
def undisturbed() -> Iterator[None]:
    """In here neither a lost reader nor a thread of TensorBoard's that cannot write ends or prints anything."""
    hook = threading.excepthook

    def quiet(failure: threading.ExceptHookArgs) -> None:
        if not issubclass(failure.exc_type, OSError):  # its owner is told when it writes next
            hook(failure)

    threading.excepthook = quiet
    try:
        with redirect_stdout(unbroken(sys.stdout)), redirect_stderr(unbroken(sys.stderr)):
            yield
    finally:
        threading.excepthook = hook
