"""Standard streams whose reader may go away."""

import os
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
