"""Agent: the base class that users subclass; it acts and learns."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from gymnasium import Space
from torch import Tensor, nn

from rlcore import registry, settings
from rlcore.checkpoint import MOST, fitting, restored, restored_number
from rlcore.device import reading_waits
from rlcore.distributions import Distribution
from rlcore.errors import CheckpointError, InputError, NonFiniteError
from rlcore.optimizers import FusedOptimizer, clip_grad_norm
from rlcore.rollout import Rollout, Step
from rlcore.schedules import INITIAL_RATE
from rlcore.seeding import restore_generator
from rlcore.settings import Choice
from rlcore.trees import Tree, tree_map
from rlcore.uncertainty import Answers, answers_of

UNLISTED = {"params", INITIAL_RATE}
"""Keys of a parameter group that are no settings of its optimizer."""

Metrics = dict[str, Tensor | float]
"""Names to detached 0-d tensors or numbers; TensorBoard shows them under ``train/``."""


class Agent(nn.Module, ABC):
    """Acts in an environment and learns from the results.

    A subclass declares its ``Settings``, creates its networks and its ``optimizer`` in ``__init__``, and implements
    `act` and `learn`. Parameters, buffers, optimizers and generators among its attributes are saved in checkpoints.

    Args:
        env: the environment; read for its spaces and number of environments, and what else a subclass needs.
        settings: an instance of the class's own ``Settings``; None means the defaults.

    Raises:
        InputError: the environment is a single one, or the settings are another class's.
    """

    class Settings(settings.Settings):
        """Settings of an agent without any."""

    horizon: int | None = 1
    """T, steps in each environment between two calls of `learn`; None: one whole episode from each."""
    differentiable: bool = False
    """Whether `collect` records the graph of `act`, for a reward that carries a gradient."""
    max_grad_norm: float | None = None
    """Bound on the gradient's 2-norm in `minimize`; None disables clipping."""
    reads_float64: bool = False
    """Whether observations of a float64 space come as float64, so that subtracting a mean loses nothing."""
    optimizer: torch.optim.Optimizer

    def __init__(self, env: Any, settings: settings.Settings | None = None):
        super().__init__()
        _check_arguments(type(self), env, settings)
        self.settings = settings if settings is not None else self.Settings()
        self.observation_space: Space[Any] = env.single_observation_space
        self.action_space: Space[Any] = env.single_action_space
        self.nonfinite: Tensor | None = None
        """0-d bool, used except on the CPU: a loss was NaN or infinite; the trainer reads it at the next log."""

    @abstractmethod
    def act(self, obs: Tree, state: Tree = None) -> Step:
        """Chooses actions while learning: explores, and records what `learn` needs.

        Args:
            obs: [N, *O].
            state: recurrent agents only: the state that the last step returned, or `initial_state` of a new episode.
        """

    @abstractmethod
    def learn(self, rollout: Rollout) -> Metrics:
        """Updates the parameters from a rollout of `horizon` steps."""

    def finish(self) -> Metrics:
        """Called by the trainer once, when the run has reached its end, before the closing evaluation.

        A run that is extended finishes again, at its new end.

        Returns:
            Metrics, as from `learn`.
        """
        return {}

    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """Chooses actions in evaluation: greedy or mean ones. The default acts as while learning.

        Args:
            obs: [N, *O].
            state: as in `act`.
        """
        return self.act(obs, state)

    def distribution(self, obs: Tree) -> Distribution:
        """The distribution over answers to observations [B, *O], in the current modes of the modules.

        Raises:
            InputError: this agent has none.
        """
        raise InputError(f"the agent {type(self).__name__} has no distribution over its answers (Agent.distribution)")

    def answers(self, obs: Tree) -> Answers:
        """The T answers to observations [B, *O], for `rlcore.uncertainty`; T = 1 unless the agent has members."""
        return tree_map(lambda x: x.unsqueeze(0), answers_of(self.distribution(obs)))

    def initial_state(self, num_envs: int) -> Tree:
        """Recurrent agents only: the state at the beginning of an episode, fields [num_envs, ...]."""
        return None

    def remarks(self, metrics: dict[str, float]) -> list[str]:
        """What a user should know of an update's metrics, a line each; the trainer shows each line once."""
        return []

    def drop_running(self) -> None:
        """Forgets the episodes in progress, which were abandoned."""

    def minimize(self, loss: Tensor, optimizer: torch.optim.Optimizer | None = None) -> Metrics:
        """Takes one optimizer step down the gradient of the loss; the only place where optimizers step.

        Args:
            loss: 0-d, with a graph.
            optimizer: None means ``self.optimizer``.

        Returns:
            The loss and, with clipping, the gradient's norm before it (``grad_norm``).

        Raises:
            InputError: the loss has no graph, as where the reward of an environment is no function of the action.
            NonFiniteError: the loss, or the norm of a clipped gradient, is NaN or infinite; no parameter has changed.
                Raised on the CPU only: checking would stall other devices, where a fused optimizer skips the step and
                `nonfinite` is set.
        """
        if not loss.requires_grad:
            name = type(self).__name__
            raise InputError(
                f"{name}: no gradient goes through the loss, e.g. as the reward is no function of the action"
            )
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
        bad = torch.as_tensor(sum(metrics.values())) * 0 != 0  # true for NaN and infinities
        self.nonfinite = bad if self.nonfinite is None else self.nonfinite | bad
        if isinstance(optimizer, FusedOptimizer):
            optimizer.found_inf = bad.float()

    def checkpoint(self) -> dict[str, Any]:
        """The settings, and everything that learning changes: parameters, buffers, optimizers, generators."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "parameters": self.state_dict(),
            "optimizers": {name: thing.state_dict() for name, thing in self.held(torch.optim.Optimizer)},
            "generators": {name: thing.get_state() for name, thing in self.held(torch.Generator)},
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Restores what `checkpoint` returned; if the settings have changed, optimizers follow the new ones.

        Raises:
            CheckpointError: it is of another agent, a network of other shapes or dtypes, or another optimizer.
        """
        with fitting(f"the agent {type(self).__name__}"):
            settings = self.settings.model_dump(mode="json")
            changed = saved.get("settings", settings) != settings
            restore_parameters(self, saved["parameters"])
            for name, optimizer in self.held(torch.optim.Optimizer):
                _restore_optimizer(optimizer, saved["optimizers"][name], changed)
            for name, generator in self.held(torch.Generator):
                restore_generator(generator, saved["generators"][name])

    def held(self, kind: type) -> list[tuple[str, Any]]:
        """The attributes of a type, including those in lists and dicts, with their names."""
        return list(_of_kind(kind, vars(self).items()))


def _check_arguments(kind: Any, env: Any, settings: Any) -> None:
    name = kind.__name__
    if not hasattr(env, "single_action_space"):
        raise InputError(f"{name} acts in N environments at once; make them by rlcore.GymEnvironment, got {env}")
    if not isinstance(settings, kind.Settings | None):
        raise InputError(f"{name} needs {name}.Settings(...), got {settings!r}")


def _of_kind(kind: type, named: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    for name, thing in named:
        if isinstance(thing, kind):
            yield str(name), thing
        elif isinstance(thing, (dict, list)):
            inner = thing.items() if isinstance(thing, dict) else enumerate(thing)
            yield from ((f"{name}.{key}", found) for key, found in _of_kind(kind, inner))


def restore_parameters(module: nn.Module, saved: dict[str, Tensor]) -> None:
    """Loads parameters and buffers, whose dtypes must be those of the module: ``load_state_dict`` casts in silence.

    Raises:
        CheckpointError: a dtype differs.
        RuntimeError: a name or a shape differs.
    """
    for name, here in module.state_dict().items():
        if name in saved and saved[name].dtype != here.dtype:
            raise CheckpointError(f"the checkpoint does not fit: {name} is {saved[name].dtype}, not {here.dtype}")
    module.load_state_dict(saved)


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], keep_settings: bool) -> None:
    made = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    for here, there in zip(made, saved["param_groups"], strict=True):
        unknown, missing = there.keys() - here.keys() - UNLISTED, here.keys() - there.keys() - UNLISTED
        if unknown and missing:
            raise ValueError(f"its optimizer has {', '.join(sorted(unknown))}, this one {', '.join(sorted(missing))}")
    optimizer.load_state_dict(_checked(optimizer, saved, keep_settings))
    for group, new in zip(optimizer.param_groups, made, strict=True):
        if keep_settings:
            group.pop(INITIAL_RATE, None)
            group.update(new)
        elif INITIAL_RATE not in group and group.get("lr") != new.get("lr"):  # annealed by rlcore 0.1
            group[INITIAL_RATE] = new["lr"]


def _checked(optimizer: torch.optim.Optimizer, saved: dict[str, Any], keep_settings: bool) -> dict[str, Any]:
    """A copy of an optimizer's saved state: kernels do not look whether a tensor is as large as its parameter."""
    groups = optimizer.state_dict()["param_groups"]
    for group, kept in zip(groups, saved["param_groups"], strict=True):
        if kept["params"] != group["params"]:
            raise ValueError("its optimizer is of other parameters")
        if not keep_settings:
            group |= {key: _setting(kept[key], value, key) for key, value in group.items() if key in kept}
            if INITIAL_RATE in kept:
                group[INITIAL_RATE] = _setting(kept[INITIAL_RATE], group["lr"], INITIAL_RATE)
    wanted = _state_after_a_step(optimizer, groups)
    state = {}
    for index, kept in saved["state"].items():
        restored_number(index, "the number of an optimizer's parameter", high=groups[-1]["params"][-1])
        state[index] = copy.deepcopy(kept)
        for key, like in wanted.get(index, {}).items():
            low, high = (0, MOST) if like.ndim == 0 else (-math.inf, math.inf)  # a count of steps, or moments
            state[index][key] = restored(kept[key], like, f"the optimizer's {key} {index}", low=low, high=high)
    return {"state": state, "param_groups": groups}


def _state_after_a_step(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> dict[int, dict[str, Tensor]]:
    """The tensors, by the number of their parameter, that an optimizer with such groups keeps after its first step."""
    twin = copy.deepcopy(optimizer)
    twin.load_state_dict({"state": {}, "param_groups": groups})
    for group in twin.param_groups:
        for param in group["params"]:
            param.grad = torch.zeros_like(param)
    try:
        twin.step()
    except TypeError:  # it asks for more than gradients, as L-BFGS does
        return {}
    kept = twin.state_dict()["state"]
    return {index: {key: x for key, x in each.items() if isinstance(x, Tensor)} for index, each in kept.items()}


def _setting(saved: Any, here: Any, name: str) -> Any:
    """A saved setting of an optimizer, if it may stand in the place of the present one."""
    if isinstance(here, Tensor):
        return restored(saved, here, f"the optimizer's {name}", low=0.0, high=MOST)
    if isinstance(here, (list, tuple)):
        return type(here)(_setting(*pair, name) for pair in zip(saved, here, strict=True))
    if type(here) in (int, float):
        return restored_number(saved, f"the optimizer's {name}", whole=False)
    if saved is not None and here is not None and type(saved) is not type(here):
        raise ValueError(f"its optimizer's {name} is {saved!r}, not {here!r}")
    return copy.deepcopy(saved)


class AgentChoice(Choice):
    """An agent by name, with its settings."""

    registry = registry.agents

    def build(self, env: Any) -> Agent:
        """A new agent for an environment."""
        return registry.agents[self.name](env, self.settings)
