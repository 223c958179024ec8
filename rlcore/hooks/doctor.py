"""Doctor: examines a run while it trains, at its evaluations."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from rlcore.doctor.curves import Curves
from rlcore.doctor.diagnosis import ask
from rlcore.doctor.examination import STEPS, Examination
from rlcore.evaluation import preserved
from rlcore.hooks.base import Hook

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from rlcore.evaluation import Report
    from rlcore.rollout import Rollout
    from rlcore.trainer import Trainer


class Doctor(Hook):
    """Warns in a line of what `rlcore doctor` would find, once of each, when the agent has been evaluated.

    It looks at the latest rollouts that the agent has learned from, at its figures since the run began, and plays some
    episodes of random actions once. It keeps these rollouts, `STEPS` environment steps or one of them, a copy of the
    initial parameters, and at most 2,000 points of each figure, which a checkpoint holds.
    """

    score_names = ()

    def on_start(self, trainer: Trainer) -> None:
        """Begins to listen; see `Hook`."""
        self.curves = Curves()
        trainer.tracker.loggers["doctor"] = self.curves
        self._start: dict[str, Tensor] = {name: p.detach().clone() for name, p in trainer.agent.named_parameters()}
        self._rollouts: deque[Rollout] = deque()
        self._random: NDArray[np.float64] | None = None
        self._told: set[str] = set()

    def on_rollout(self, trainer: Trainer, rollout: Rollout) -> None:
        """Keeps the latest rollouts; see `Hook`."""
        if trainer.agent.differentiable:  # whose rewards hold a graph
            return
        self._rollouts.append(rollout)
        while sum(one.num_steps for one in self._rollouts) - self._rollouts[0].num_steps >= STEPS:
            self._rollouts.popleft()

    def on_evaluation(self, trainer: Trainer, report: Report) -> None:
        """Examines; see `Hook`."""
        trainer.tracker.loggers.setdefault("doctor", self.curves)  # a trainer may be given another tracker
        progress = 1.0 if trainer.stopped else min(1.0, trainer.steps / trainer.total_steps)
        with preserved(trainer.agent):
            x = Examination(
                trainer, self.curves.curves(), self._start, list(self._rollouts), progress, self._random, complete=False
            )
            diagnosis = ask(x)
        self._random = x.random
        for finding in diagnosis.findings:
            if finding.name not in self._told:
                self._told.add(finding.name)
                trainer.tracker.note(str(finding))

    def state_dict(self) -> dict[str, Any]:
        """The figures so far."""
        return {"curves": self.curves.state_dict()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Goes on with the figures that were saved; see `Hook`."""
        self.curves.load_state_dict(saved["curves"])
