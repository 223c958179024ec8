"""Curriculum: changes the environment as the agent learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from rlcore import settings
from rlcore.errors import InputError
from rlcore.hooks.base import Hook, check_figure, figure
from rlcore.settings import with_changes

if TYPE_CHECKING:
    from rlcore.agent import Metrics
    from rlcore.trainer import Trainer


class Stage(settings.Settings):
    """A stage of a curriculum."""

    env: dict[str, Any]
    """Settings of the environment that differ from the run's own: ``{options: {size: 4}}``."""
    until: float | None = None
    """The next stage begins when the figure is this large; null, for the last stage alone: never."""


class Curriculum(Hook):
    """Trains in one stage after another, each an environment with other settings (Bengio et al. 2009).

    The spaces must be the same in all of them. Episodes in progress are abandoned when a stage begins, and the means of
    ``rollout`` begin anew. Evaluation is in the environment of the run's own settings, the task that matters. A resumed
    run goes on in the stage that it was in.
    """

    class Settings(settings.Settings):
        """Settings of a curriculum."""

        stages: list[Stage] = Field(min_length=2)
        """The stages, in order; the first begins with the run."""
        figure: str = "rollout/return"
        """What decides, named as in TensorBoard; ``steps`` are environment steps."""

    settings: Settings

    def __init__(self, settings: Settings):
        super().__init__(settings)
        for n, stage in enumerate(settings.stages, 1):
            if (stage.until is None) != (n == len(settings.stages)):
                raise InputError(f"curriculum: stage {n} of {len(settings.stages)}: all but the last need until")
        self.stage = 0
        """The number of the stage, counted from 0."""

    def on_start(self, trainer: Trainer) -> None:
        """Begins the first stage, after every other one has been tried out; see `Hook`.

        Raises:
            InputError: a stage has no valid settings, other spaces, or the environment cannot be made of them; or
                evaluations will not have the figure.
        """
        check_figure(trainer, self.settings.figure, "curriculum")
        self._trainer, self._base = trainer, trainer.env.settings
        for stage in reversed(range(len(self.settings.stages))):
            self._begin(stage)

    def on_update(self, trainer: Trainer, metrics: Metrics) -> None:
        """Begins the next stage if it is time; see `Hook`."""
        until = self.settings.stages[self.stage].until
        value = figure(trainer, self.settings.figure, "curriculum")
        if until is not None and value is not None and value >= until:
            self._begin(self.stage + 1)
        metrics["stage"] = float(self.stage)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Goes on in the stage that was saved; see `Hook`."""
        super().load_state_dict(saved)
        if not 0 <= self.stage < len(self.settings.stages):
            raise InputError(f"curriculum: the checkpoint is of stage {self.stage + 1}, of which there are none")
        self._begin(self.stage)

    def _begin(self, stage: int) -> None:
        self.stage, env = stage, self._trainer.env
        settings = with_changes(self._base, self.settings.stages[stage].env, f"curriculum: stage {stage + 1}: env")
        self._trainer.replace_env(type(env)(settings, env.device))  # type: ignore[call-arg, arg-type]
