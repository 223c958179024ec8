"""Agent: the base class that users subclass; it acts and learns."""

import math
import warnings
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from gymnasium import Space
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from rlcore import registry, settings
from rlcore.checkpoint import fitting
from rlcore.deployment import answer, bounds, takes_arrays
from rlcore.device import sync_is_costly
from rlcore.distributed import average_gradients
from rlcore.distributions import Distribution, figures_of
from rlcore.env_spec import EnvSpec
from rlcore.errors import CheckpointError, InputError, NonFiniteError
from rlcore.exporting.programs import Program, policy_program
from rlcore.moved import keep_former_names
from rlcore.optimizers import Accumulation, FusedOptimizer, clip_grad_norm
from rlcore.rollout import Rollout, Step
from rlcore.seeding import seeded
from rlcore.settings import Choice
from rlcore.stateful import CountersKept, attributes_of_type, restore_state, saved_state
from rlcore.trees import Tree, tree_map
from rlcore.uncertainty import Answers, answers_of, uncertainty

if TYPE_CHECKING:
    from rlcore.environment import Environment

RENAMED = {"drop_running": "on_reset"}
"""Methods by the names that they had in rlcore 0.1."""

Metrics = dict[str, Tensor | float]
"""Names to detached 0-d tensors or numbers; TensorBoard shows them under ``train/``."""


class Agent(nn.Module, ABC, metaclass=CountersKept):
    """Acts in an environment and learns from the results.

    A subclass declares its ``Settings``, creates its networks and its ``optimizer`` in ``__init__``, and implements
    `act` and `learn`. Saved in checkpoints are its parameters and buffers, and among its attributes, also in lists,
    dicts and modules: optimizers, generators, whatever else has ``state_dict`` and ``load_state_dict``; and attributes
    of its own that are numbers, if they change after it is made.

    Args:
        env: the environment, or what an agent needs to know of it: a subclass should read the fields of `EnvSpec`
            alone, so that the agent can be loaded where the environment cannot be made.
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
    offline: bool = False
    """Whether it learns from recorded episodes, in which it does not act, instead of its own."""
    max_grad_norm: float | None = None
    """Bound on the gradient's 2-norm in `minimize`; None disables clipping."""
    accumulation: Accumulation | None = None
    """What averages the gradients of several losses in `minimize` before each step; None: each loss is a step."""
    reads_float64: bool = False
    """Whether observations of a float64 space come as float64, so that subtracting a mean loses nothing."""
    optimizer: torch.optim.Optimizer
    action_low: Tensor | None  # [*A] float32, to which `predict` clips
    action_high: Tensor | None  # [*A] float32

    def __init__(self, env: "Environment | EnvSpec", settings: settings.Settings | None = None):
        super().__init__()
        _check_arguments(type(self), env, settings)
        self.settings = settings if settings is not None else self.Settings()
        self.spec = EnvSpec.of(env)
        """Where the agent acts."""
        self.observation_space: Space[Any] = env.single_observation_space
        self.action_space: Space[Any] = env.single_action_space
        low, high = bounds(self.action_space)
        self.register_buffer("action_low", low, persistent=False)
        self.register_buffer("action_high", high, persistent=False)
        self.nonfinite: Tensor | None = None
        """0-d bool, used except on the CPU: a loss was NaN or infinite; the trainer reads it at the next log."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        keep_former_names(cls, RENAMED)
        if "predict" in vars(cls):
            cls.predict = takes_arrays(cls.predict)  # type: ignore[method-assign]

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

    @takes_arrays
    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """Chooses actions in evaluation: greedy or mean ones. The default acts as while learning.

        A subclass that overrides it is given tensors [N, *O] of the space's dtype. Callers may also give numpy arrays,
        other floats, or a single observation [*O]; actions are clipped to the bounds of their space.

        Args:
            obs: [N, *O], or [*O].
            state: as in `act`; None is that of a beginning.

        Raises:
            InputError: the observations are not of the observation space.
        """
        return self.act(obs, state)

    def forward(self, obs: Any, state: Tree = None) -> Any:
        """Answers where the agent is deployed: ``action = agent(obs)``, in evaluation mode and without a graph.

        Args:
            obs: a batch [N, *O] or one observation [*O], as the environment gives them: arrays or tensors.
            state: recurrent agents only: what the last call returned; None at the beginning of an episode.

        Returns:
            Actions as the environment takes them, inside its space: arrays for arrays, tensors for tensors. Of a
            recurrent agent ``(action, state)``.

        Raises:
            InputError: the observations are not of the observation space.
        """
        return answer(self, obs, state)

    def distribution(self, obs: Tree) -> Distribution:
        """The distribution over answers to observations [B, *O], in the current modes of the modules.

        That of an agent with a memory also takes the state, as `predict`; by default, that of a beginning.

        Raises:
            InputError: this agent has none.
        """
        raise InputError(f"the agent {type(self).__name__} has no distribution over its answers (Agent.distribution)")

    def answers(self, obs: Tree) -> Answers:
        """The T answers to observations [B, *O], for `rlcore.uncertainty`; T = 1 unless the agent has members."""
        return tree_map(lambda x: x.unsqueeze(0), answers_of(self.distribution(obs)))

    @torch.no_grad()
    def inspect(self, rollout: Rollout) -> dict[str, Tensor]:
        """What it makes of a rollout that it has not learned from, by name, [T, N, ...]; see `rlcore.replaying`.

        The default: what its `distribution` says of the observations, its `details`, and of several `answers` their
        uncertainty. Parameters and statistics must stay; random numbers may be drawn.
        """
        obs = rollout.rows(rollout.obs)
        found: dict[str, Tensor] = {}
        with suppress(InputError):  # it has no distribution, or none that is read without a memory
            found |= figures_of(self.distribution(obs), None if self.differentiable else rollout.rows(rollout.action))
        with suppress(InputError):
            found |= self.details(obs)
        with suppress(InputError):
            answers = self.answers(obs)
            found |= uncertainty(answers)._asdict() if len(answers[0]) > 1 else {}
        return {name: rollout.spread(x) for name, x in found.items()}

    def details(self, obs: Tree, state: Tree = None) -> dict[str, Tensor]:
        """What it says beside the action, [B, ...] by name, exported too: the parameters of its distribution, if any.

        Args:
            obs: [B, *O].
            state: recurrent agents only.
        """
        if type(self).distribution is Agent.distribution:
            return {}
        pi = self.distribution(obs) if state is None else self.distribution(obs, state)  # type: ignore[call-arg]
        return getattr(pi, "parameters", {})

    def programs(self, obs: Tree, sample: bool = False) -> dict[str, Program]:
        """What `rlcore.export` writes, by name; one program is in a file of no other name.

        The default is `predict`, to be traced by ``torch.export``: it must compute with tensors alone, and keep the
        rows of a batch apart.

        Args:
            obs: examples of observations, [B, *O].
            sample: actions are drawn from `distribution`, by noise that is an input.

        Raises:
            InputError: it cannot be exported so.
        """
        return {"policy": policy_program(self, obs, sample)}

    def initial_state(self, num_envs: int) -> Tree:
        """Recurrent agents only: the state at the beginning of an episode, fields [num_envs, ...]."""
        return None

    def remarks(self, metrics: dict[str, float]) -> list[str]:
        """What a user should know of an update's metrics, a line each; the trainer shows each line once."""
        return []

    def fit_normalizer(self, obs: Tree) -> None:
        """Called by an environment that has its observations beforehand, before learning, with some of them at a time.

        The default has nothing to fit.

        Args:
            obs: [B, *O].
        """

    def reinitialize(self, seed: int) -> None:
        """Forgets all that was learned and counted, as a new agent with other initial parameters.

        Args:
            seed: of these parameters; torch's global generator is not moved.
        """
        with seeded(seed, torch.device("cpu")):
            new = type(self)(self.spec, self.settings)
        self.restore(new.checkpoint())

    def on_reset(self) -> None:
        """Called by the trainer when the episodes in progress were abandoned: forget what was remembered of them."""

    def minimize(self, loss: Tensor, optimizer: torch.optim.Optimizer | None = None) -> Metrics:
        """Takes one optimizer step down the gradient of the loss; the only place where optimizers step.

        With an `accumulation` only each k-th call steps, down the mean of k gradients.

        Several processes all take the same step, down the mean of their gradients; see `rlcore.distributed.weigh`.

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
        if self.accumulation is None:
            for param in params:
                param.grad = None
            loss.backward()
        elif not self.accumulation.add(loss):
            self._check_finite({"loss": loss.detach()}, optimizer)
            return {"loss": loss.detach()}
        metrics: Metrics = {"loss": average_gradients(params, loss.detach())}
        if self.max_grad_norm is not None:
            grads = [param.grad for param in params if param.grad is not None]
            metrics["grad_norm"] = clip_grad_norm(grads, self.max_grad_norm)
        self._check_finite(metrics, optimizer)
        optimizer.step()
        return metrics

    def _check_finite(self, metrics: Metrics, optimizer: torch.optim.Optimizer) -> None:
        if not sync_is_costly(metrics["loss"].device):  # type: ignore[union-attr]
            for name, value in metrics.items():
                if not math.isfinite(value):
                    raise NonFiniteError(f"{name} is {float(value)}")
            return
        bad = torch.as_tensor(sum(metrics.values())) * 0 != 0  # true for NaN and infinities
        self.nonfinite = bad if self.nonfinite is None else self.nonfinite | bad
        if isinstance(optimizer, FusedOptimizer):
            optimizer.found_inf = self.nonfinite.float()

    def checkpoint(self) -> dict[str, Any]:
        """What answers, settings and parameters with buffers; and what else learning changes, see `saved_state`."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "parameters": self.state_dict(),
            **saved_state(self),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Restores what `checkpoint` returned, or the part of it that answers.

        If the settings have changed, optimizers follow the new ones.

        Raises:
            CheckpointError: it is of another agent, a network of other shapes or dtypes, or another optimizer.
        """
        with fitting(f"the agent {type(self).__name__}"):
            restore_parameters(self, saved["parameters"])
            restore_state(self, saved, changed=not _equal(self.settings, saved.get("settings")))

    def held(self, kind: type) -> list[tuple[str, Any]]:
        """Formerly `rlcore.stateful.attributes_of_type`."""
        warnings.warn("Agent.held is now rlcore.stateful.attributes_of_type", DeprecationWarning, stacklevel=2)
        return attributes_of_type(self, kind)


keep_former_names(Agent, RENAMED)


def _equal(here: BaseModel, saved: Any) -> bool:
    """Whether saved settings, where they do not know a key its default, are those here; True if none were saved."""
    if saved is None or saved == here.model_dump(mode="json"):
        return True
    try:
        return type(here).model_validate(saved) == here
    except (ValidationError, InputError):  # of a class that was given in Python, or of another version
        return False


def _check_arguments(kind: Any, env: Any, settings: Any) -> None:
    name = kind.__name__
    if not hasattr(env, "single_action_space"):
        raise InputError(f"{name} acts in N environments at once; make them by rlcore.GymEnvironment, got {env}")
    if not isinstance(settings, kind.Settings | None):
        raise InputError(f"{name} needs {name}.Settings(...), got {settings!r}")


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


class AgentChoice(Choice):
    """An agent by name, with its settings."""

    registry = registry.agents

    def build(self, env: "Environment | EnvSpec") -> Agent:
        """A new agent for an environment."""
        made: Agent = registry.agents[self.name](env, self.settings)
        return made
