"""GradNorm: the 2-norm of the gradients, among the metrics of each update."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rlcore import settings
from rlcore.hooks.base import Hook

if TYPE_CHECKING:
    from rlcore.agent import Metrics
    from rlcore.trainer import Trainer


class GradNorm(Hook):
    """Adds ``grad_norm`` to the metrics of an update: of the latest step's gradients, after any clipping.

    An agent that clips its gradients reports their norm before that by itself, and it is left as it is.
    """

    class Settings(settings.Settings):
        """Settings of the hook."""

        by_parameter: bool = False
        """Also that of each parameter, ``grad_norm/<name>``."""

    settings: Settings

    def on_update(self, trainer: Trainer, metrics: Metrics) -> None:
        """Adds the metrics; see `Hook`."""
        grads = {name: param.grad for name, param in trainer.agent.named_parameters() if param.grad is not None}
        norms = torch._foreach_norm(list(grads.values()))
        metrics.setdefault("grad_norm", torch.linalg.vector_norm(torch.stack(norms)))
        if self.settings.by_parameter:
            metrics |= {f"grad_norm/{name}": norm for name, norm in zip(grads, norms, strict=True)}
