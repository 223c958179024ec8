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
    from rlcore.trainer import Trainer


class EMA(Hook):
    """Averages the parameters after each update; in evaluation, and once deployed, the agent has the average.

    average <- d average + (1 - d) parameters,  from the parameters before the first update

    Polyak & Juditsky 1992, in the form of Tarvainen & Valpola 2017, section 3. Buffers are not averaged. A checkpoint
    holds the average where parameters are, so that ``rlcore.load`` returns it; and what learning goes on from, beside.
    """

    class Settings(settings.Settings):
        """Settings of the average."""

        decay: float = Field(default=0.999, gt=0, lt=1)
        """d, per update (a call of `Agent.learn`)."""

    settings: Settings

    def on_start(self, trainer: Trainer) -> None:
        """Begins the average; see `Hook`."""
        self._learned: list[Tensor] = list(trainer.agent.parameters())
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
        """The parameters that learning goes on from; the average is the agent's in a checkpoint."""
        return {"learned": [param.detach() for param in self._learned]}

    @torch.no_grad()
    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Takes the agent's parameters as the average, and gives it those that it learns with."""
        learned: list[Tensor] = restored(list(saved["learned"]), [x.detach() for x in self._learned], "ema.learned")
        for param, average, kept in zip(self._learned, self._average, learned, strict=True):
            average.copy_(param)
            param.copy_(kept)

    @torch.no_grad()
    def _swap(self) -> None:
        for param, average in zip(self._learned, self._average, strict=True):
            kept = param.clone()
            param.copy_(average)
            average.copy_(kept)
