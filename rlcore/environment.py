"""Environment: the base class of what data comes from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Annotated, Any

import numpy as np
import torch
from gymnasium.spaces import Discrete, MultiDiscrete, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from rlcore import registry, settings
from rlcore.agent import Agent
from rlcore.collector import Collector
from rlcore.distributed import rank
from rlcore.env_spec import EnvSpec
from rlcore.errors import ContractError, InputError
from rlcore.evaluation import Report, play
from rlcore.moved import keep_former_names
from rlcore.settings import Choice
from rlcore.trees import Tree

StepResult = tuple[Tree, Tensor, Tensor, Tensor, dict[str, Any]]
"""obs [N, *O], reward [N] float32, terminated [N] bool, truncated [N] bool, info."""


RENAMED = {"watch": "on_attach", "learned": "on_update"}
"""Methods by the names that they had in rlcore 0.1."""


class Environment(VectorEnv, ABC):
    """N environments in lockstep, exchanging tensors on one device: a ``gymnasium.vector.VectorEnv``.

    The contract, which `rlcore.check_environment` tests:

    - ``step`` resets automatically (SAME_STEP): after an episode's end it returns the next one's first observation, and
      the true last ones, for all N, in ``info["final_obs"]``, which may be missing if nothing was truncated.
    - The tensors that it returns are never written to again; their floats are float32.
    - ``terminated`` means that the episode reached its end, ``truncated`` that it was cut short, e.g. by a time limit.
    - Discrete actions are counted from 0, whatever ``start`` the space has; an ``action_mask`` is bool.
    - All random numbers come from a generator seeded by ``reset(seed=...)``.

    A subclass declares its ``Settings`` and implements ``reset``, ``step`` and, if its state can be saved, `checkpoint`
    and `restore`. It is constructed as ``Class(settings, device)``.

    Args:
        num_envs: N.
        observation_space: of one environment.
        action_space: of one environment.
        device: of every tensor returned.
    """

    class Settings(settings.Settings):
        """Settings that every environment has."""

        num_envs: Annotated[int, Field(gt=0, le=2**22)] = 8
        """N, environments in lockstep."""

    criterion = "return"
    """The main figure of `score`, by which the best checkpoint is chosen."""
    score_names: Sequence[str] | None = None
    """The names of the figures of `score`, of which one that ends in ``*`` stands for all that begin so; None: they are
    not known before. Those of a base class do not count where `score` is overridden."""
    select_best: bool = True
    """Whether the best checkpoint is chosen; False if that would use the very examples that results are reported on."""
    float64 = False
    """Whether observations of a float64 space are returned as float64, for an agent that does; see `on_attach`."""
    deterministic = True
    """Whether `score` evaluates the agent's best actions, or those that it takes while learning."""
    max_episode_steps = 27_000
    """Steps after which `play` and rollouts of whole episodes cut an episode that has not ended."""
    num_examples: int | None = None
    """For a data set, the length of an epoch in steps; None for other environments."""
    classes: tuple[str, ...] | None = None
    """The names of the classes that answers are about, in the order of their numbers; None if there are none."""
    target_names: tuple[str, ...] | None = None
    """The names of the numbers that an answer has, in order; None if they have none."""
    kept_by_agents: Sequence[str] = ()
    """Settings that say what is fitted in training and saved with the agent: later changes have no effect."""
    described_with: Mapping[str, Sequence[str]] = {}
    """Of a setting, those that are about its value: an evaluation that changes it sets these to their defaults."""
    remarks: Sequence[str] = ()
    """What a user should know of it, a line each; the trainer shows them when it begins."""
    why_unsaved = ""
    """Why `checkpoint` returned None, for the line that says that new episodes begin."""
    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    settings: Any
    """An instance of the class's own ``Settings``, as a subclass declares it for type checkers."""

    def __init__(
        self,
        num_envs: int,
        observation_space: Space[Any],
        action_space: Space[Any],
        device: torch.device | str = "cpu",
    ):
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.device = torch.device(device)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        keep_former_names(cls, RENAMED)

    @abstractmethod
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tree, dict[str, Any]]:
        """Begins an episode in every environment.

        Args:
            seed: seeds the generator; None continues with it.
            options: not used here.

        Returns:
            obs [N, *O], info.
        """

    @abstractmethod
    def step(self, actions: Tensor) -> StepResult:
        """Plays one step in every environment.

        Args:
            actions: [N, *A].
        """

    def random_actions(self) -> Tensor:
        """Random actions that are currently allowed, [N, *A]. The default ignores masks."""
        actions, space = self.action_space.sample(), self.single_action_space
        if isinstance(space, (Discrete, MultiDiscrete)):
            actions = actions - space.start
        return torch.as_tensor(actions, device=self.device)

    @classmethod
    def for_agent(cls, settings: Any, device: torch.device | str, spec: EnvSpec) -> "Environment":
        """An environment for an agent that exists already. The default is ``cls(settings, device)``.

        Args:
            settings: perhaps not those that the agent was trained with.
            device: of the environment.
            spec: of the agent.
        """
        return cls(settings, device)  # type: ignore[call-arg, arg-type]

    @property
    def first(self) -> int:
        """The number of the first of these environments among those of all processes; their seeds follow from it.

        0 where what is shown is drawn for all of them, as from a data set.
        """
        return rank() * self.num_envs

    @property
    def evaluated(self) -> "Environment":
        """Where agents that learn here are evaluated: here. A subclass in which nobody can act may have another one."""
        return self

    def evaluation(self, num_envs: int) -> "Environment":
        """A twin for evaluation. The default has the same settings, with that many environments.

        It may be this environment itself, if there can be no other; its episodes in progress are then abandoned.

        Raises:
            ContractError: it has no settings, or its constructor takes other arguments.
        """
        kind = type(self)
        how = f"set self.settings and let {kind.__name__}(settings, device) construct it, or override evaluation"
        if not isinstance(getattr(self, "settings", None), settings.Settings):
            raise ContractError(f"{kind.__name__}.evaluation: it has no rlcore.Settings in self.settings; {how}")
        arguments = self.settings.model_copy(update={"num_envs": num_envs}), self.device
        try:
            signature(kind).bind(*arguments)
        except TypeError as error:
            raise ContractError(f"{kind.__name__}.evaluation: {error}; {how}") from None
        return kind(*arguments)  # type: ignore[call-arg, arg-type]

    def test(self, num_envs: int) -> "Environment | None":
        """A twin on what is kept for the end of a run, as a test split; None: there is only what `evaluation` shows.

        Neither is the best checkpoint chosen by it, nor a run ended.
        """
        return None

    def filming(self) -> "Environment":
        """A twin that `render` shows. The default is ``evaluation(1)``."""
        return self.evaluation(1)

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """What each of the N environments shows, for films. A subclass that can be filmed overrides it.

        ``metadata["render_fps"]`` are the frames of a second, 30 if it is not there.

        Returns:
            N RGB frames [H, W, 3]; after a step that ended an episode, its last one, not the first of the next.

        Raises:
            InputError: it cannot be filmed.
        """
        raise InputError(f"{type(self).__name__} cannot be filmed: it does not override render")

    def score(self, agent: Agent, num_episodes: int, seed: int) -> Report:
        """Evaluates an agent in this twin, made by `evaluation`. The default is `rlcore.evaluation.play`."""
        return play(agent, self, num_episodes, seed, self.deterministic)

    def collector(self, seed: int) -> Collector:
        """What collects rollouts here. A subclass may bring its own, e.g. of data that exists already.

        Args:
            seed: of the run.
        """
        return Collector(self, seed)

    def on_attach(self, agent: Agent) -> None:
        """Called once by the trainer with the agent that will learn here, for an environment that depends on it."""

    def on_update(self) -> None:
        """Called by the trainer after each update of that agent."""

    def checkpoint(self) -> dict[str, Any] | None:
        """The state, as tensors and plain containers; None if it cannot be saved, so that a resumed run resets it."""
        return None

    def restore(self, saved: dict[str, Any]) -> None:
        """Restores what `checkpoint` returned.

        Raises:
            EnvironmentChangedError: it cannot go on from there, so that new episodes must begin.
        """


keep_former_names(Environment, RENAMED)


class EnvironmentChoice(Choice):
    """An environment by name, with its settings."""

    registry = registry.envs

    def build(self, device: torch.device | str) -> Environment:
        """A new environment on a device."""
        made: Environment = registry.envs[self.name](self.settings, device)
        return made
