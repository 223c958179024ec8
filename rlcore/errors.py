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
        env: its number; or another failure, to be raised again, as gymnasium does with what a process raised.
        told: what it did, one line.
        traceback: of the error, as Python prints it; empty where there is none.
        seed: that it was reset with; None if there was none.
    """

    env: int
    told: str
    traceback: str
    seed: int | None

    def __init__(self, env: "int | EnvironmentFailure", told: str = "", traceback: str = "", seed: int | None = None):
        if isinstance(env, EnvironmentFailure):
            told, traceback, seed, env = env.told, env.traceback, env.seed, env.env
        super().__init__(f"environment {env}{'' if seed is None else f' (seed {seed})'} {told}")
        self.env, self.told, self.traceback, self.seed = env, told, traceback, seed

    def __reduce__(self) -> tuple[Any, ...]:
        """Across processes all of it goes along."""
        return type(self), (self.env, self.told, self.traceback, self.seed)
