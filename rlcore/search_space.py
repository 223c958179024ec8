"""Where settings are looked for, by `rlcore.commands.study`: ranges and choices."""

import json
import math
from decimal import Decimal
from typing import Any, Protocol

from pydantic import JsonValue, PositiveFloat, PositiveInt, model_validator

from rlcore.errors import InputError
from rlcore.settings import Settings


class Trial(Protocol):
    """What a value is asked of: an Optuna trial."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """A whole number."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """A number."""

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """One of several."""


class Range(Settings):
    """Numbers from ``low`` to ``high``, both included; whole ones, if both are."""

    low: int | float
    """The smallest."""
    high: int | float
    """The largest."""
    log: bool = False
    """As many between 1 and 10 as between 10 and 100."""
    step: PositiveInt | PositiveFloat | None = None
    """Only ``low``, ``low`` + step, ...; not with ``log``."""

    @model_validator(mode="after")
    def _check(self) -> "Range":
        if not self.low < self.high:
            raise InputError(f"low must be less than high, got {self.low:g} and {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise InputError("log: needs a low of more than 0, and no step")
        if self.is_whole and isinstance(self.step, float):
            raise InputError(f"step: must be whole, as low and high are; got {self.step:g}")
        if self.step is not None and self.step > self.high - self.low:
            raise InputError(f"step: must be at most high - low, {self.high - self.low:g}; got {self.step:g}")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether it is of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggest(self, trial: Trial, name: str) -> int | float:
        """A value for a trial."""
        if self.is_whole:
            return trial.suggest_int(name, int(self.low), int(self._last), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self._last, step=self.step, log=self.log)

    @property
    def _last(self) -> int | float:
        """``high``, or the last step below it."""
        if self.step is None:
            return self.high
        low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))
        return float(high - (high - low) % step)

    def encode(self, value: Any) -> Any:
        """A value as a trial has it; None if it is not in the range, or between two steps."""
        is_number = isinstance(value, int if self.is_whole else (int, float)) and not isinstance(value, bool)
        if not is_number or not self.low <= value <= self.high:
            return None
        steps = (value - self.low) / (self.step or 1)
        return value if self.step is None or math.isclose(steps, round(steps)) else None

    def decode(self, value: int | float) -> int | float:
        """The value of what a trial has."""
        return value

    def ends(self) -> list[int | float]:
        """The values between which all others lie."""
        return [self.low, int(self._last) if self.is_whole else self._last]


class Choices:
    """One of several values of any kind; a trial has those that are no numbers, strings or booleans as JSON.

    Args:
        values: at least one.
    """

    def __init__(self, values: list[JsonValue]):
        plain = all(isinstance(value, (bool, int, float, str)) for value in values)
        self.of = {value if plain else json.dumps(value): value for value in values}
        """As a trial has it, to the value."""

    def suggest(self, trial: Trial, name: str) -> Any:
        """A value for a trial."""
        return self.decode(trial.suggest_categorical(name, list(self.of)))

    def encode(self, value: Any) -> Any:
        """A value as a trial has it; None if it is not among them."""
        return next((name for name, known in self.of.items() if known == value), None)

    def decode(self, value: Any) -> Any:
        """The value of what a trial has."""
        return self.of[value]

    def ends(self) -> list[Any]:
        """All of them."""
        return list(self.of.values())


Parameter = Range | Choices


def parameters(search: dict[str, Range | list[JsonValue]]) -> dict[str, Parameter]:
    """The parameters of a ``search:`` block, by dotted key."""
    return {key: one if isinstance(one, Range) else Choices(one) for key, one in search.items()}
