"""Environment: where data comes from; and the adapter for gymnasium, the only crossing between numpy and torch."""

import multiprocessing
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from pydantic import PositiveInt
from torch import Tensor

from rlcore import settings
from rlcore.agent import Agent
from rlcore.errors import InputError
from rlcore.evaluation import Report, play
from rlcore.registry import did_you_mean
from rlcore.rollout import Tree

StepResult = tuple[Tree, Tensor, Tensor, Tensor, dict[str, Any]]
"""obs [N, *O], reward [N] float32, terminated [N] bool, truncated [N] bool, info."""


DTYPES = {"f": np.float32, "i": np.int64}
"""Kind of a numpy array to the dtype of its tensor."""


class Environment(VectorEnv, ABC):
    """N environments in lockstep, speaking tensors on one device: a ``gymnasium.vector.VectorEnv``.

    The contract, which `rlcore.check_environment` tests:

    - ``step`` resets by itself (SAME_STEP): behind an episode's end it returns the next one's first observation, and
      the true last one, for all N, in ``info["final_obs"]``, which may be missing where nothing was truncated.
    - The tensors that it returns are never written again.
    - ``terminated`` says that the episode reached its end, ``truncated`` that it was cut, by a time limit say.
    - All that is random comes from a generator seeded by ``reset(seed=...)``.

    A subclass declares its ``Settings`` and writes ``reset``, ``step`` and, where its state can be saved, `checkpoint`
    and `restore`. It is made as ``Class(settings, device)``.

    Args:
        num_envs: N.
        observation_space: of one environment.
        action_space: of one environment.
        device: of every tensor returned.
    """

    class Settings(settings.Settings):
        """Settings that every environment has."""

        num_envs: PositiveInt = 8
        """N, environments in lockstep."""

    criterion = "return"
    """The figure of `score` that counts; more is better, where the best checkpoint is chosen by it."""
    select_best = True
    """Whether the best checkpoint is chosen; not where that would be on the very examples that a result is told of."""
    num_examples: int | None = None
    """Of a data set: the length of an epoch, in steps; None where there is none."""
    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    settings: Settings

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

    @abstractmethod
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tree, dict[str, Any]]:
        """Begins an episode in every environment.

        Args:
            seed: seeds the generator; None goes on with it.
            options: none are known here.

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
        """Actions that are allowed now, drawn at random, [N, *A]. The default draws from the action space."""
        return torch.as_tensor(self.action_space.sample(), device=self.device)

    def evaluation(self, num_envs: int) -> "Environment":
        """A twin for evaluation. The default is a new one of the same settings with that many environments."""
        return type(self)(self.settings.model_copy(update={"num_envs": num_envs}), self.device)  # type: ignore[call-arg, arg-type]

    def score(self, agent: Agent, num_episodes: int, seed: int) -> Report:
        """Evaluates an agent here, in a twin made by `evaluation`. The default plays; see `rlcore.evaluation.play`."""
        return play(agent, self, num_episodes, seed)

    def watch(self, agent: Agent) -> None:
        """Called once by the trainer with the agent that will learn here, for an environment that depends on it."""

    def learned(self) -> None:
        """Called by the trainer after each update of that agent."""

    def checkpoint(self) -> dict[str, Any] | None:
        """The state, as tensors and plain containers; None if it cannot be saved, so that a resumed run resets it."""
        return None

    def restore(self, saved: dict[str, Any]) -> None:
        """Puts back what `checkpoint` returned."""


class GymEnvironment(Environment):
    """Any registered gymnasium environment, N copies of it.

    gymnasium's own vector environments run with their autoreset disabled, and the ended episodes are reset by a mask:
    so the true successor is the plain observation before the reset, and no filler row exists.

    Raises:
        InputError: gymnasium does not know the id, or the environment normalises by itself.
    """

    class Settings(Environment.Settings):
        """Settings of a gymnasium environment."""

        id: str
        """As in ``gymnasium.make``: ``Acrobot-v1``, or ``module:Id-v0`` to import a module first."""
        vectorization: Literal["sync", "async"] = "sync"
        """``sync``: one after the other in this process. ``async``: a process each, for slow environments."""
        options: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
        """Keyword arguments of ``gymnasium.make``."""

    def __init__(self, settings: Settings, device: torch.device | str = "cpu"):
        self.settings: GymEnvironment.Settings = settings
        make = _Maker(settings.id, settings.options)
        first = make()
        _refuse_normalizers(first, settings.id)
        first.close()
        makers: list[Callable[[], Any]] = [make] * settings.num_envs
        self.envs: VectorEnv[Any, Any, Any]
        if settings.vectorization == "sync":
            self.envs = SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        else:
            self.envs = AsyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        super().__init__(settings.num_envs, self.envs.single_observation_space, self.envs.single_action_space, device)
        space = self.single_action_space
        self._bounds = (space.low, space.high) if isinstance(space, Box) else None
        self._start = int(space.start) if isinstance(space, Discrete) else 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tree, dict[str, Any]]:
        """Begins an episode in every environment; environment n is seeded with ``seed + n``."""
        obs, info = self.envs.reset(seed=seed, options=options)
        return self._to_tensor(obs), info

    def step(self, actions: Tensor) -> StepResult:
        """Plays one step in every environment.

        Args:
            actions: [N] int64, counted from 0; or [N, *A] float32, clipped to the bounds of the space.
        """
        array = actions.numpy(force=True)
        if self._bounds is not None:
            array = np.clip(array, *self._bounds)
        elif self._start:
            array = array + self._start
        obs, reward, terminated, truncated, info = self.envs.step(array)
        done = terminated | truncated
        if done.any():
            info["final_obs"] = self._to_tensor(obs)
            obs, info["reset_info"] = self.envs.reset(options={"reset_mask": done})
        flags = self._to_device(terminated), self._to_device(truncated)
        return self._to_tensor(obs), self._to_device(reward.astype(np.float32)), *flags, info

    def evaluation(self, num_envs: int) -> "GymEnvironment":
        """A twin of that many environments; of no more processes than this one has, if it has any."""
        if self.settings.vectorization == "async":
            num_envs = min(num_envs, self.num_envs)
        return GymEnvironment(self.settings.model_copy(update={"num_envs": num_envs}), self.device)

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the environments, and their processes."""
        self.envs.close(**kwargs)

    def _to_tensor(self, obs: Any) -> Tree:
        """A copy (gymnasium reuses its buffers): floats as float32, integers as int64, the rest as it is."""
        if isinstance(obs, dict):
            return {key: self._to_tensor(value) for key, value in obs.items()}
        return self._to_device(np.array(obs, dtype=DTYPES.get(obs.dtype.kind, obs.dtype)))

    def _to_device(self, array: Any) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device)


class _Maker:
    """Makes one environment; picklable, for worker processes."""

    def __init__(self, env_id: str, options: dict[str, Any]):
        self.env_id, self.options = env_id, options

    def __call__(self) -> "gymnasium.Env[Any, Any]":
        if multiprocessing.parent_process() is not None:
            # Signals reach the whole process group; the parent finishes its update and closes the workers itself.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            return gymnasium.make(self.env_id, disable_env_checker=True, **self.options)
        except gymnasium.error.Error as error:
            near = "" if self.env_id in gymnasium.registry else did_you_mean(self.env_id, gymnasium.registry)
            raise InputError(f"env.id: gymnasium cannot make {self.env_id!r}{near}: {error}") from error
        except (ImportError, TypeError) as error:
            raise InputError(f"env.id: gymnasium cannot make {self.env_id!r}: {error}") from error


def _refuse_normalizers(env: Any, env_id: str) -> None:
    while isinstance(env, gymnasium.Wrapper):
        if type(env).__name__.startswith("Normalize"):
            raise InputError(
                f"env.id: {env_id} is wrapped in {type(env).__name__}, whose statistics no checkpoint would hold, so "
                "that a resumed or evaluated agent would see other numbers; make the environment without it"
            )
        env = env.env
