"""EarlyStopping: ends a run that is good enough, or no longer gets better."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveInt, model_validator

from rlcore import settings
from rlcore.errors import InputError
from rlcore.hooks.base import Hook, check_figure, figure

if TYPE_CHECKING:
    from rlcore.agent import Metrics
    from rlcore.evaluation import Report
    from rlcore.trainer import Trainer


class EarlyStopping(Hook):
    """Ends the run when a figure reaches a threshold, or has not improved in ``patience`` evaluations.

    Thresholds are looked at after each update, patience counts evaluations. The run then ends as at its last step, with
    `Agent.finish` and a closing evaluation; resuming it does not go on, unless with other hooks or another length.
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
        larger_is_better: bool | None = None
        """For ``patience``. null: unless the figure is an error or a loss, which the evaluation says of its own."""
        min_delta: NonNegativeFloat = 0.0
        """By how much a figure must be better to count."""

        @model_validator(mode="after")
        def _check(self) -> EarlyStopping.Settings:
            if self.at_least is None and self.at_most is None and self.patience is None:
                raise InputError("needs at_least, at_most or patience")
            return self

    settings: Settings
    score_names = ()

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.best = -math.inf
        """The best figure so far; where smaller ones are better, its negative."""
        self.waited = 0
        """Evaluations since then."""

    def on_start(self, trainer: Trainer) -> None:
        """See `Hook`.

        Raises:
            InputError: evaluations are to be waited for, or judged by, and there are none; or they will not have the
                figure.
        """
        if trainer.eval_every is None and (self.settings.patience or self.settings.figure.startswith("eval/")):
            raise InputError("trainer.hooks: early_stopping: needs evaluations; set trainer.eval_every")
        check_figure(trainer, self.settings.figure, "early_stopping")

    def on_update(self, trainer: Trainer, metrics: Metrics) -> None:
        """Compares the figure of the latest log, or evaluation, with the thresholds; see `Hook`.

        Raises:
            InputError: there is no such figure.
        """
        s = self.settings
        value = figure(trainer, s.figure, "early_stopping")
        if value is None:
            return
        if s.at_least is not None and value >= s.at_least:
            trainer.stop(f"{s.figure} is {value:g}, at least {s.at_least:g}")
        if s.at_most is not None and value <= s.at_most:
            trainer.stop(f"{s.figure} is {value:g}, at most {s.at_most:g}")

    def on_evaluation(self, trainer: Trainer, report: Report) -> None:
        """Also counts evaluations without a better figure; see `Hook`.

        Raises:
            InputError: there is no such figure.
        """
        s = self.settings
        self.on_update(trainer, {})
        value = figure(trainer, s.figure, "early_stopping")
        if value is None or s.patience is None:
            return
        is_larger_better = s.figure not in trainer.errors if s.larger_is_better is None else s.larger_is_better
        sign = 1 if is_larger_better else -1
        if sign * value > self.best + s.min_delta:
            self.best, self.waited = sign * value, 0
        else:
            self.waited += 1
        if self.waited >= s.patience:
            trainer.stop(f"{s.figure} has not improved on {sign * self.best:g} in {self.waited} evaluations")
