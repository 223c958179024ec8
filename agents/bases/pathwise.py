"""What the agents have in common that follow the gradient of a reward which carries one."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from rlcore import settings
from rlcore.agent import Agent, Metrics
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.optimizers import SGD, Accumulation, Adam
from rlcore.precision import Outputs, Precision, computed
from rlcore.registry import did_you_mean
from rlcore.rollout import Rollout
from rlcore.schedules import Schedule, anneal


class ParameterGroup(settings.Settings):
    """Parameters that are trained in another way than the rest."""

    match: str
    """Their names, in which ``*`` stands for anything: ``network.0.*``; of several groups the first one counts."""
    learning_rate: PositiveFloat | None = None
    """Step size before the schedule; null: the agent's."""
    weight_decay: NonNegativeFloat | None = None
    """L2 penalty; null: the agent's."""
    freeze: bool = False
    """Leave them as they are; a batch norm among them also keeps its running statistics, and normalises by them."""


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
        learning_rate_warmup: float = Field(default=0.0, ge=0, lt=1)
        """Share of the run in which it first rises from 0, before that schedule begins."""
        momentum: float = Field(default=0.0, ge=0, lt=1)
        """Momentum of sgd."""
        bias_correction: bool = True
        """Bias correction of adam and adamw; see `rlcore.optimizers.Adam`."""
        weight_decay: NonNegativeFloat = 0.0
        """L2 penalty, added to the gradient; adamw subtracts it from the parameters instead."""
        groups: list[ParameterGroup] = []  # noqa: RUF012 (pydantic copies it)
        """Parameters with a learning rate of their own, or that are frozen."""
        max_grad_norm: PositiveFloat | None = None
        """Bound on the gradient's 2-norm; null disables clipping."""
        accumulate: PositiveInt = 1
        """Batches whose gradients are averaged before each step."""
        precision: Precision = "float32"
        """Of the network's products and convolutions, by ``torch.autocast``; parameters and answers stay float32."""

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

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        self.max_grad_norm = self.settings.max_grad_norm
        if self.settings.accumulate > 1:
            self.accumulation = Accumulation(self.parameters, self.settings.accumulate)
        self._frozen: list[nn.Module] = []  # modules that stay in evaluation mode

    def learn(self, rollout: Rollout) -> Metrics:
        """Takes one step of the optimizer."""
        s = self.settings
        learning_rate = anneal(
            self.optimizer, s.learning_rate, s.learning_rate_schedule, rollout.progress, s.learning_rate_warmup
        )
        loss, metrics = self._loss(rollout)
        return {**self.minimize(loss), **metrics, "learning_rate": learning_rate}

    def train(self, mode: bool = True) -> Self:
        """As of every module, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _loss(self, rollout: Rollout) -> tuple[Tensor, Metrics]:
        """What is minimised, 0-d, of N answers with the graph of their rewards; and further metrics."""
        return -rollout[0].reward.mean(), {}  # of the row, not stacked: that would be one more node in the graph

    def _computed(self, network: Callable[[Tensor], Outputs], x: Tensor) -> Outputs:
        """What a network makes of x [B, ...], computed in the set precision; float32."""
        return computed(network, x, self.settings.precision)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        """That of all parameters, as the settings say; freezes those that are to be left as they are."""
        s = self.settings
        if s.optimizer == "sgd":
            return SGD(self._groups(), s.learning_rate, s.momentum, s.weight_decay)
        return Adam(
            self._groups(),
            s.learning_rate,
            weight_decay=s.weight_decay,
            decoupled_weight_decay=s.optimizer == "adamw",
            bias_correction=s.bias_correction,
        )

    def _groups(self) -> list[dict[str, Any]]:
        """The parameters by group, those of none first."""
        left = dict(self.named_parameters())
        groups: list[dict[str, Any]] = []
        names = list(left)
        for group in self.settings.groups:
            found = [name for name in left if fnmatchcase(name, group.match)]
            if not found:
                raise InputError(
                    f"agent.groups: no parameter{' is left that' if groups else ''} matches {group.match!r}"
                    f"{did_you_mean(group.match, names)}; there are {', '.join(names)}"
                )
            params = [left.pop(name) for name in found]
            if group.freeze:
                for param in params:
                    param.requires_grad_(False)
                continue
            own = {"lr": group.learning_rate, "weight_decay": group.weight_decay}
            groups.append({"params": params, **{key: value for key, value in own.items() if value is not None}})
        if not (left or groups):
            raise InputError("agent.groups: freeze all parameters; leave some to be trained")
        self._frozen = [module for module in self.modules() if _is_frozen(module)]
        self.train(self.training)
        return [{"params": list(left.values())}, *groups] if left else groups


def _is_frozen(module: nn.Module) -> bool:
    """Whether a module has statistics, and parameters of its own all of which are frozen."""
    own = [param.requires_grad for param in module.parameters(recurse=False)]
    return bool(own) and not any(own) and next(module.buffers(recurse=False), None) is not None
