"""What the agents have in common that follow the gradient of a reward which carries one."""

from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from rlcore import settings
from rlcore.agent import Agent, Metrics
from rlcore.errors import InputError
from rlcore.optimizers import SGD, Adam
from rlcore.rollout import Rollout, Row
from rlcore.schedules import Schedule, anneal


class PathwiseAgent(Agent):
    """Follows the gradient of a reward of one step through the answer; a subclass answers.

    maximise  E[r(x, f(x))],  by the gradient of r through f: the pathwise gradient of an episode of one step

    If the reward is a log-likelihood this is maximum likelihood. The gradient goes through the forward pass that acted.
    """

    class Settings(settings.Settings):
        """Settings of the optimizer."""

        optimizer: Literal["sgd", "adam", "adamw"] = "adam"
        """Gradient descent, Adam, or Adam with decoupled weight decay."""
        learning_rate: PositiveFloat = 1e-3
        """Step size of the optimizer, before the schedule."""
        learning_rate_schedule: Schedule = "constant"
        """How the learning rate falls over the run."""
        momentum: float = Field(default=0.0, ge=0, lt=1)
        """Momentum of sgd."""
        bias_correction: bool = True
        """Bias correction of adam and adamw; see `rlcore.optimizers.Adam`."""
        weight_decay: NonNegativeFloat = 0.0
        """L2 penalty, added to the gradient; adamw subtracts it from the parameters instead."""
        max_grad_norm: PositiveFloat | None = None
        """Bound on the gradient's 2-norm; null disables clipping."""

        @model_validator(mode="after")
        def _check_optimizer(self) -> "PathwiseAgent.Settings":
            if self.momentum and self.optimizer != "sgd":
                raise InputError(f"momentum: is a setting of sgd, the optimizer is {self.optimizer}")
            if not self.bias_correction and self.optimizer == "sgd":
                raise InputError("bias_correction: is a setting of adam and adamw, the optimizer is sgd")
            return self

    settings: Settings
    differentiable = True
    horizon = 1

    def learn(self, rollout: Rollout) -> Metrics:
        """Takes one step of the optimizer."""
        s = self.settings
        learning_rate = anneal(self.optimizer, s.learning_rate, s.learning_rate_schedule, rollout.progress)
        row = rollout[0]  # not stacked: that would be one more node in the graph
        return {**self.minimize(self._loss(row)), "learning_rate": learning_rate}

    def _loss(self, row: Row) -> Tensor:
        """What is minimised, 0-d, of N answers with the graph of their rewards."""
        return -row.reward.mean()

    def _make_optimizer(self) -> torch.optim.Optimizer:
        """That of all parameters, as the settings say."""
        s = self.settings
        if s.optimizer == "sgd":
            return SGD(self.parameters(), s.learning_rate, s.momentum, s.weight_decay)
        return Adam(
            self.parameters(),
            s.learning_rate,
            weight_decay=s.weight_decay,
            decoupled_weight_decay=s.optimizer == "adamw",
            bias_correction=s.bias_correction,
        )
