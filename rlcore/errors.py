"""What goes wrong by what was given, said in one line."""


class InputError(ValueError):
    """A mistake in what was given: a setting, a file, an environment.

    The message is one line that names what was given, what was expected and how to mend it. The command line prints
    it and exits with status 2.
    """


class CheckpointError(InputError):
    """A checkpoint that cannot be read, written or used here."""


class NonFiniteError(InputError):
    """A NaN or an infinity where training needs a number."""
