"""EarlyStopping: ends a run that is good enough, or no longer gets better."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveInt, model_validator

from rlcore import settings
from rlcore.errors import InputError
from rlcore.hooks.base import Hook
from rlcore.registry import did_you_mean

if TYPE_CHECKING:
    from rlcore.evaluation import Report
    from rlcore.trainer import Trainer


class EarlyStopping(Hook):
    """Ends the run when a figure reaches a threshold, or has not improved in ``patience`` evaluations.

    The figure is looked at after each evaluation. The run then ends as at its last step, with `Agent.finish` and a
    closing evaluation; resuming it does not go on, unless with other hooks.
    """

    class Settings(settings.Settings):
        """Settings of early stopping."""

        figure: str
        """Named as in TensorBoard: ``eval/return``, ``rollout/return``, ``train/loss``."""
        at_least: float | None = None
        """End when the figure is this large."""
        at_most: float | None = None
        """End when it is this small."""
        patience: PositiveInt | None = None
        """End after this many evaluations in a row in which it was not better than the best before."""
        larger_is_better: bool = True
        """false where smaller figures are better, as of a loss; for ``patience``."""
        min_delta: NonNegativeFloat = 0.0
        """By how much a figure must be better to count."""

        @model_validator(mode="after")
        def _check(self) -> EarlyStopping.Settings:
            if self.at_least is None and self.at_most is None and self.patience is None:
                raise InputError("needs at_least, at_most or patience")
            return self

    settings: Settings

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.best = -math.inf
        """The best figure so far; where smaller ones are better, its negative."""
        self.waited = 0
        """Evaluations since then."""

    def on_evaluation(self, trainer: Trainer, report: Report) -> None:
        """Looks at the figure; see `Hook`.

        Raises:
            InputError: there is no such figure.
        """
        s = self.settings
        if s.figure not in trainer.figures:
            if s.figure.startswith("rollout/"):  # no episode has ended yet
                return
            known = sorted(trainer.figures)
            raise InputError(
                f"trainer.hooks: early_stopping: there is no figure {s.figure!r}{did_you_mean(s.figure, known)}; "
                f"known: {', '.join(known)}"
            )
        value = trainer.figures[s.figure]
        if s.at_least is not None and value >= s.at_least:
            trainer.stop(f"{s.figure} is {value:g}, at least {s.at_least:g}")
        if s.at_most is not None and value <= s.at_most:
            trainer.stop(f"{s.figure} is {value:g}, at most {s.at_most:g}")
        sign = 1 if s.larger_is_better else -1
        if sign * value > self.best + s.min_delta:
            self.best, self.waited = sign * value, 0
        else:
            self.waited += 1
        if s.patience is not None and self.waited >= s.patience:
            trainer.stop(f"{s.figure} has not improved on {sign * self.best:g} in {self.waited} evaluations")
