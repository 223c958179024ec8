"""Agent: how parameters change. What users subclass."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from gymnasium import Space
from torch import Tensor, nn

from rlcore import registry, settings
from rlcore.distributions import Distribution
from rlcore.errors import CheckpointError, InputError, NonFiniteError
from rlcore.optimizers import FusedOptimizer, clip_grad_norm
from rlcore.rollout import Rollout, Step
from rlcore.seeding import restore_generator
from rlcore.settings import Choice
from rlcore.trees import Tree, tree_map
from rlcore.uncertainty import Answers, answers_of

Metrics = dict[str, Tensor | float]
"""Names to detached 0-d tensors or numbers; they appear in TensorBoard under ``train/``."""


class Agent(nn.Module, ABC):
    """Acts in an environment and learns from what came of it.

    A subclass declares its ``Settings``, makes its networks and its ``optimizer`` in ``__init__``, and writes `act` and
    `learn`. Whatever is a parameter, a buffer, an optimizer or a generator among its attributes is in the checkpoint.

    Args:
        env: the environment; only its spaces and sizes are read.
        settings: an instance of the class's own ``Settings``; None is the defaults.
    """

    class Settings(settings.Settings):
        """Settings of an agent that has none."""

    horizon: int | None = 1
    """T, environment steps between two calls of `learn`. None: one whole episode from each environment."""
    differentiable: bool = False
    """Whether `collect` lets `act` keep its graph, for a reward that carries a gradient."""
    max_grad_norm: float | None = None
    """Bound of the gradient's 2-norm in `minimize`; None does not clip."""
    optimizer: torch.optim.Optimizer

    def __init__(self, env: Any, settings: settings.Settings | None = None):
        super().__init__()
        self.settings = settings if settings is not None else self.Settings()
        self.observation_space: Space[Any] = env.single_observation_space
        self.action_space: Space[Any] = env.single_action_space
        self.nonfinite: Tensor | None = None
        """0-d bool, on other devices than the CPU: a loss was NaN or infinite; the trainer reads it at the next log."""

    @abstractmethod
    def act(self, obs: Tree, state: Tree = None) -> Step:
        """Answers while learning: explores, and remembers what `learn` needs.

        Args:
            obs: [N, *O].
            state: recurrent agents only, what the last step returned, or `initial_state` where an episode begins.
        """

    @abstractmethod
    def learn(self, rollout: Rollout) -> Metrics:
        """Changes the parameters, by a rollout of `horizon` steps."""

    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """Answers in evaluation: the greedy or mean action. The default acts as in learning.

        Args:
            obs: [N, *O].
            state: as in `act`.
        """
        return self.act(obs, state)

    def distribution(self, obs: Tree) -> Distribution:
        """Over the answers to observations [B, *O]: what uncertainty is read from; as the modes of the modules are.

        Raises:
            InputError: this agent has none.
        """
        raise InputError(f"the agent {type(self).__name__} has no distribution over its answers (Agent.distribution)")

    def answers(self, obs: Tree) -> Answers:
        """All the answers there are to observations [B, *O], for `rlcore.uncertainty`; T = 1 unless it has members."""
        return tree_map(lambda x: x.unsqueeze(0), answers_of(self.distribution(obs)))

    def initial_state(self, num_envs: int) -> Tree:
        """Recurrent agents only: the state in which an episode begins, fields [num_envs, ...]."""
        return None

    def drop_running(self) -> None:
        """Forgets what it knows of episodes that were going on: they were broken off."""

    def minimize(self, loss: Tensor, optimizer: torch.optim.Optimizer | None = None) -> Metrics:
        """One step of the optimizer down the gradient of the loss; the only place that takes one.

        Args:
            loss: 0-d, with a graph.
            optimizer: None is ``self.optimizer``.

        Returns:
            The loss and, where it is clipped, the gradient's norm before clipping (``grad_norm``).

        Raises:
            NonFiniteError: the loss, or a gradient that is clipped, is NaN or infinite; no parameter has changed. On
                other devices than the CPU to look would stall them: the step is skipped there by a fused optimizer,
                and `nonfinite` is set.
        """
        optimizer = optimizer or self.optimizer
        params = [param for group in optimizer.param_groups for param in group["params"]]
        for param in params:
            param.grad = None
        loss.backward()
        metrics: Metrics = {"loss": loss.detach()}
        if self.max_grad_norm is not None:
            grads = [param.grad for param in params if param.grad is not None]
            metrics["grad_norm"] = clip_grad_norm(grads, self.max_grad_norm)
        self._check_finite(metrics, optimizer)
        optimizer.step()
        return metrics

    def _check_finite(self, metrics: Metrics, optimizer: torch.optim.Optimizer) -> None:
        if not reading_waits(metrics["loss"].device):  # type: ignore[union-attr]
            for name, value in metrics.items():
                if not math.isfinite(value):
                    raise NonFiniteError(f"{name} is {float(value)}")
            return
        bad = torch.as_tensor(sum(metrics.values())) * 0 != 0  # of a NaN or an infinity
        self.nonfinite = bad if self.nonfinite is None else self.nonfinite | bad
        if isinstance(optimizer, FusedOptimizer):
            optimizer.found_inf = bad.float()

    def checkpoint(self) -> dict[str, Any]:
        """Everything that learning has changed: parameters and buffers, optimizers, generators."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "parameters": self.state_dict(),
            "optimizers": {name: thing.state_dict() for name, thing in self.held(torch.optim.Optimizer)},
            "generators": {name: thing.get_state() for name, thing in self.held(torch.Generator)},
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Puts back what `checkpoint` returned; where the settings are others now, optimizers follow the new ones.

        Raises:
            CheckpointError: it is another agent's, a network of another shape, or an optimizer of another kind.
        """
        settings = self.settings.model_dump(mode="json")
        changed = saved.get("settings", settings) != settings
        try:
            self.load_state_dict(saved["parameters"])
            for name, optimizer in self.held(torch.optim.Optimizer):
                _restore_optimizer(optimizer, saved["optimizers"][name], changed)
            for name, generator in self.held(torch.Generator):
                restore_generator(generator, saved["generators"][name])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"the checkpoint does not fit the agent {type(self).__name__}: {reason}") from error

    def held(self, kind: type) -> list[tuple[str, Any]]:
        """The attributes that are of a kind, also those in lists and dicts, with their names."""
        return list(_of_kind(kind, vars(self).items()))


def _of_kind(kind: type, named: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    for name, thing in named:
        if isinstance(thing, kind):
            yield str(name), thing
        elif isinstance(thing, (dict, list)):
            inner = thing.items() if isinstance(thing, dict) else enumerate(thing)
            yield from ((f"{name}.{key}", found) for key, found in _of_kind(kind, inner))


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], keep_settings: bool) -> None:
    made = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    for here, there in zip(made, saved["param_groups"], strict=True):
        unknown, missing = there.keys() - here.keys(), here.keys() - there.keys()
        if unknown and missing:
            raise ValueError(f"its optimizer has {', '.join(sorted(unknown))}, this one {', '.join(sorted(missing))}")
    optimizer.load_state_dict(saved)
    if keep_settings:
        for group, settings in zip(optimizer.param_groups, made, strict=True):
            group.update(settings)


class AgentChoice(Choice):
    """An agent by name, with its settings."""

    registry = registry.agents

    def build(self, env: Any) -> Agent:
        """A new agent for an environment."""
        return registry.agents[self.name](env, self.settings)


def reading_waits(device: torch.device) -> bool:
    """Whether to look at a number on this device is to wait until it has done all its work."""
    return device.type != "cpu"
