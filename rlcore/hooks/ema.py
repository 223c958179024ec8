"""EMA: an exponential moving average of the parameters, which answers in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from rlcore import settings
from rlcore.checkpoint import restored
from rlcore.hooks.base import Hook

if TYPE_CHECKING:
    from rlcore.agent import Metrics
    from rlcore.rollout import Rollout
    from rlcore.trainer import Trainer


class EMA(Hook):
    """Averages the parameters after each update; in evaluation, and once deployed, the agent has the average.

    average <- d average + (1 - d) parameters,  from the parameters before the first update

    Polyak & Juditsky 1992, in the form of Tarvainen & Valpola 2017, section 3. Buffers are not averaged. A checkpoint
    holds the average where parameters are, so that ``rlcore.load`` returns it; and what learning goes on from, beside.
    `Trainer.agent` itself always has the parameters that it learns with.
    """

    class Settings(settings.Settings):
        """Settings of the average."""

        decay: float = Field(default=0.999, gt=0, lt=1)
        """d, per update (a call of `Agent.learn`)."""

    settings: Settings

    def on_start(self, trainer: Trainer) -> None:
        """Looks up the parameters; see `Hook`."""
        self._learned: list[Tensor] = list(trainer.agent.parameters())
        self._average: list[Tensor] = []  # empty before the first update

    def on_rollout(self, trainer: Trainer, rollout: Rollout) -> None:
        """Begins the average, before the first update; see `Hook`."""
        if not self._average:
            self._average = [param.detach().clone() for param in self._learned]

    @torch.no_grad()
    def on_update(self, trainer: Trainer, metrics: Metrics) -> None:
        """Averages; see `Hook`."""
        torch._foreach_lerp_(self._average, self._learned, 1 - self.settings.decay)

    @contextmanager
    def answering(self, trainer: Trainer) -> Iterator[None]:
        """The parameters are the average in here; see `Hook`."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Any]:
        """The average, and the parameters that learning goes on from."""
        return {"average": self._average, "learned": [param.detach() for param in self._learned]}

    @torch.no_grad()
    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restores the average, and gives the agent the parameters that it learns with."""
        like = [param.detach() for param in self._learned]
        self._average = restored(list(saved["average"]), like, "ema.average") if saved["average"] else []
        for param, kept in zip(self._learned, restored(list(saved["learned"]), like, "ema.learned"), strict=True):
            param.copy_(kept)

    @torch.no_grad()
    def _swap(self) -> None:
        for param, average in zip(self._learned, self._average, strict=False):  # none before the first update
            kept = param.clone()
            param.copy_(average)
            average.copy_(kept)
