"""Errors caused by invalid input, each described in one line."""

from typing import Any


class InputError(ValueError):
    """Invalid input: a setting, a file, an environment.

    The message is one line that names what was given, what was expected and how to fix it. The command line prints
    it and exits with status 2.
    """


def one_line(error: Exception | str) -> str:
    """What an error of another library says, in one line of at most 200 characters."""
    return " ".join((str(error) or type(error).__name__).split())[:200]


class CheckpointError(InputError):
    """A checkpoint that cannot be read, written or used here."""


class EnvironmentChangedError(CheckpointError):
    """What was saved is the state of an environment that is made in another way here."""


class NonFiniteError(InputError):
    """A NaN or an infinity where training needs a number."""


class ContractError(InputError):
    """An environment or an agent that does not return what its base class asks for."""


class EnvironmentFailure(InputError):
    """An environment that raised an error, died or hung.

    Args:
        env: its number; or a failure to copy, as gymnasium does to re-raise what a process raised.
        message: what happened, in one line.
        traceback: of the error, as Python prints it; empty if there is none.
        seed: of its reset; None if there was none.
    """

    env: int
    message: str
    traceback: str
    seed: int | None

    def __init__(
        self, env: "int | EnvironmentFailure", message: str = "", traceback: str = "", seed: int | None = None
    ):
        if isinstance(env, EnvironmentFailure):
            message, traceback, seed, env = env.message, env.traceback, env.seed, env.env
        super().__init__(f"environment {env}{'' if seed is None else f' (seed {seed})'} {message}")
        self.env, self.message, self.traceback, self.seed = env, message, traceback, seed

    def __reduce__(self) -> tuple[Any, ...]:
        """Keeps all fields when passed between processes."""
        return type(self), (self.env, self.message, self.traceback, self.seed)
