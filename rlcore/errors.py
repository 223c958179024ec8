"""What goes wrong by what was given, said in one line."""

from typing import Any


class InputError(ValueError):
    """A mistake in what was given: a setting, a file, an environment.

    The message is one line that names what was given, what was expected and how to mend it. The command line prints
    it and exits with status 2.
    """


class CheckpointError(InputError):
    """A checkpoint that cannot be read, written or used here."""


class NonFiniteError(InputError):
    """A NaN or an infinity where training needs a number."""


class EnvironmentFailure(InputError):
    """An environment that raised an error, died or hangs.

    Args:
        message: one line.
        traceback: of the error, as Python prints it; empty where there is none.
    """

    def __init__(self, message: str, traceback: str = ""):
        super().__init__(message)
        self.traceback = traceback

    def __reduce__(self) -> tuple[Any, ...]:
        """Across processes the traceback goes along."""
        return type(self), (str(self), self.traceback)
