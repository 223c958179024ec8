"""The adapter for gymnasium, where its arrays become tensors."""

import importlib
import logging
import math
import multiprocessing
import signal
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import logger
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from pydantic import ConfigDict, PositiveFloat, field_validator
from torch import Tensor

from rlcore import settings
from rlcore.environment import Environment, StepResult
from rlcore.errors import EnvironmentFailure, InputError
from rlcore.registry import did_you_mean
from rlcore.spaces import ACTION_MASK, dtype_of_tensor
from rlcore.trees import Tree


class WrapperChoice(settings.Settings):
    """A gymnasium wrapper by name, with its arguments: ``{name: TimeLimit, max_episode_steps: 200}``."""

    model_config = ConfigDict(extra="allow")

    name: str
    """As in ``gymnasium.wrappers``, or ``module:Class``."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name.startswith("Normalize"):
            option = "normalize_rewards" if "Reward" in name else "normalize_observations"
            raise InputError(
                f"{name} keeps statistics that no checkpoint would hold; let the agent normalise and save them: "
                f"agent.{option}=true"
            )
        if ":" not in name and not _is_wrapper(getattr(gymnasium.wrappers, name, None)):
            known = [key for key, value in vars(gymnasium.wrappers).items() if _is_wrapper(value)]
            raise InputError(f"gymnasium has no wrapper {name!r}{did_you_mean(name, known)}")
        return name

    def wrap(self, env: Any) -> Any:
        """Wraps an environment.

        Raises:
            InputError: the wrapper cannot be made with these arguments.
        """
        module, _, kind = self.name.rpartition(":")
        try:
            wrapper = getattr(importlib.import_module(module), kind) if module else getattr(gymnasium.wrappers, kind)
            return wrapper(env, **(self.model_extra or {}))
        except Exception as error:
            raise InputError(f"env.wrappers: {self.name} cannot be made: {' '.join(str(error).split())}") from error


def _num_choices(space: Any) -> int:
    """Number of entries of a mask for these actions."""
    if isinstance(space, Discrete):
        return int(space.n)
    return int(space.nvec.sum()) if isinstance(space, MultiDiscrete) else math.prod(space.shape)


def _is_wrapper(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, gymnasium.Wrapper)


class GymEnvironment(Environment):
    """N copies of any registered gymnasium environment.

    gymnasium's own vector environments run with autoreset disabled, and ended episodes are reset by a mask: so the true
    successor is the plain observation before the reset, and there are no filler rows.

    If ``info`` has an ``action_mask``, it becomes a part of the observation: ``{"observation": ..., "action_mask":
    [N, A] bool}``, or one more part of a Dict.

    Raises:
        InputError: gymnasium does not know the id, or the environment itself normalises.
    """

    class Settings(Environment.Settings):
        """Settings of a gymnasium environment."""

        id: str
        """As in ``gymnasium.make``: ``Acrobot-v1``, or ``module:Id-v0`` to import a module first."""
        vectorization: Literal["sync", "async"] = "sync"
        """``sync``: one after the other in this process. ``async``: a process each, for slow environments."""
        options: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
        """Keyword arguments of ``gymnasium.make``."""
        wrappers: list[WrapperChoice] = []  # noqa: RUF012
        """gymnasium wrappers, innermost first."""
        context: Literal["fork", "spawn", "forkserver"] | None = None
        """How processes are started; null is Python's default."""
        timeout: PositiveFloat | None = 300.0
        """Seconds that a process may take for a step or a reset before it counts as hung; null waits forever."""

    closed = True  # until there are environments to close, which deleting a half-made object would try

    def __init__(self, settings: Settings, device: torch.device | str = "cpu"):
        self.settings: GymEnvironment.Settings = settings
        s = settings
        first = _Maker(s, 0)()
        _refuse_normalizers(first, s.id)
        _, info = first.reset(seed=0)
        first.close()
        makers: list[Callable[[], Any]] = [_Maker(s, n) for n in range(s.num_envs)]
        self.envs: VectorEnv[Any, Any, Any]
        if s.vectorization == "sync":
            self.envs = SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        else:
            try:
                with _signals_held_back():
                    self.envs = AsyncVectorEnv(
                        makers, copy=False, autoreset_mode=AutoresetMode.DISABLED, context=s.context
                    )
            except (EOFError, OSError) as error:
                raise InputError(
                    f"env.id: a process ended while it made {s.id!r}; where processes are not forked, the id must name "
                    "its module: module:Id-v0"
                ) from error
            # they ignore SIGTERM, with which Python would end them at exit, and it would wait for them forever
            weakref.finalize(self, _kill, self.envs.processes)
        self.closed = False
        space = self.envs.single_observation_space
        self._mask: Any = None
        if ACTION_MASK in info:
            self._mask = np.ones((s.num_envs, *np.shape(info[ACTION_MASK])), dtype=bool)
            parts = space.spaces if isinstance(space, Dict) else {"observation": space}
            space = Dict({**parts, ACTION_MASK: MultiBinary(self._mask.shape[1:])})
        self._allowed: Tensor | None = None
        super().__init__(s.num_envs, space, self.envs.single_action_space, device)
        action = self.single_action_space
        self._bounds = (action.low, action.high) if isinstance(action, Box) else None
        self._whole = action.dtype if isinstance(action, Box) and action.dtype.kind in "iu" else None
        self._start = action.start if isinstance(action, (Discrete, MultiDiscrete)) and np.any(action.start) else None
        self._seed: int | None = None
        if isinstance(space, Dict) and ACTION_MASK in space.spaces:
            size, needed = math.prod(space[ACTION_MASK].shape or ()), _num_choices(action)
            if size != needed:
                raise InputError(f"env.id: the action_mask of {s.id} has {size} entries; {action} needs {needed}")

    def random_actions(self) -> Tensor:
        """Random actions that are currently allowed, counted from 0, [N, *A]."""
        space = self.single_action_space
        if self._allowed is not None and isinstance(space, (Discrete, MultiDiscrete)):
            sizes = [int(space.n)] if isinstance(space, Discrete) else space.nvec.flatten().tolist()
            drawn = [torch.multinomial(allowed.float(), 1) for allowed in self._allowed.flatten(1).split(sizes, 1)]
            return torch.cat(drawn, 1).view(self.action_space.shape or ())
        return super().random_actions()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tree, dict[str, Any]]:
        """Begins an episode in every environment; environment n is seeded with ``seed + n``.

        Raises:
            EnvironmentFailure: one of them raised an error, died or hung.
        """
        self._seed = self._seed if seed is None else seed
        obs, info = self._call("reset", seed=seed, options=options)
        return self._observed(obs, info), info

    def step(self, actions: Tensor) -> StepResult:
        """Plays one step in every environment.

        Args:
            actions: [N] or [N, D] int64, counted from 0; or [N, *A] float32, clipped to the bounds of the space, and
                rounded for a Box of integers.

        Raises:
            EnvironmentFailure: one of them raised an error, died or hung.
        """
        array = actions.numpy(force=True)
        if self._bounds is not None:
            array = np.clip(array, *self._bounds)
            if self._whole is not None:
                array = np.rint(array).astype(self._whole)
        elif self._start is not None:
            array = array + self._start
        obs, reward, terminated, truncated, info = self._call("step", actions=array)
        done = terminated | truncated
        if done.any():
            info["final_obs"] = self._observed(obs, info, final=True)
            obs, info["reset_info"] = self._call("reset", options={"reset_mask": done})
            observed = self._observed(obs, info["reset_info"])
        else:
            observed = self._observed(obs, info)
        flags = self._to_device(terminated), self._to_device(truncated)
        return observed, self._to_device(reward.astype(np.float32)), *flags, info

    def evaluation(self, num_envs: int) -> "GymEnvironment":
        """A twin with that many environments; with no more processes than this one has, if it has any."""
        if self.settings.vectorization == "async":
            num_envs = min(num_envs, self.num_envs)
        return type(self)(self.settings.model_copy(update={"num_envs": num_envs}), self.device)

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the environments, and ends their processes."""
        self.envs.close(**kwargs)

    def _call(self, what: str, **arguments: Any) -> Any:
        """Calls ``reset`` or ``step`` of all environments; a failure leaves no process behind."""
        envs: Any = self.envs
        try:
            if not isinstance(envs, AsyncVectorEnv):
                return getattr(envs, what)(**arguments)
            with _gymnasiums_log_off():
                getattr(envs, f"{what}_async")(**arguments)
                return getattr(envs, f"{what}_wait")(timeout=self.settings.timeout)
        except EnvironmentFailure as error:
            failure = error
        except multiprocessing.TimeoutError:
            slow = next((n for n, pipe in enumerate(envs.parent_pipes) if pipe is None or not pipe.poll(0)), 0)
            failure = EnvironmentFailure(
                slow, f"hung: no answer to {what} within {self.settings.timeout:g} s (env.timeout)"
            )
        except (EOFError, OSError):
            n, code = _dead(envs.processes)
            failure = EnvironmentFailure(n, f"died in {what}, exit code {code}")
        except BaseException:  # a signal: do not wait for those that have not answered
            self._abandon()
            raise
        self._abandon()
        raise self._seeded(failure)

    def _abandon(self) -> None:
        """Kills the processes, if there are any."""
        if isinstance(self.envs, AsyncVectorEnv):
            _kill(self.envs.processes)
            self.envs.closed = True

    def _seeded(self, failure: EnvironmentFailure) -> EnvironmentFailure:
        """The failure, with the seed of its environment."""
        seed = None if self._seed is None else self._seed + failure.env
        return EnvironmentFailure(failure.env, failure.message, failure.traceback, seed)

    def _observed(self, obs: Any, info: dict[str, Any], final: bool = False) -> Tree:
        """Observations as tensors, with the mask if there is one.

        Raises:
            EnvironmentFailure: no action is allowed where one is to be chosen.
        """
        if self._mask is not None:
            if ACTION_MASK in info:
                present = info[f"_{ACTION_MASK}"]
                self._mask[present] = np.stack(list(info[ACTION_MASK][present])).astype(bool)
            obs = {**(obs if isinstance(obs, dict) else {"observation": obs}), ACTION_MASK: self._mask}
        masked = isinstance(obs, dict) and ACTION_MASK in obs
        if masked and not final:
            self._check_mask(np.asarray(obs[ACTION_MASK]).astype(bool))
        tensors = self._to_tensor(obs)
        if masked:
            tensors[ACTION_MASK] = tensors[ACTION_MASK].bool()
            self._allowed = tensors[ACTION_MASK]
        return tensors

    def _check_mask(self, mask: Any) -> None:
        if isinstance(self.single_action_space, MultiBinary):
            return
        space = self.single_action_space
        borders = np.cumsum(space.nvec)[:-1].tolist() if isinstance(space, MultiDiscrete) else []
        for part in np.split(mask, borders, 1):
            if not part.any(1).all():
                n = int(part.any(1).argmin())
                raise self._seeded(EnvironmentFailure(n, "has an action_mask that allows no action"))

    def _to_tensor(self, obs: Any) -> Tree:
        """A copy (gymnasium reuses its buffers): floats as float32, integers as int64, the rest unchanged."""
        if isinstance(obs, dict):
            return {key: self._to_tensor(value) for key, value in obs.items()}
        return self._to_device(np.array(obs, dtype=dtype_of_tensor(obs.dtype)))

    def _to_device(self, array: Any) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device)


class _Maker:
    """Makes environment n; picklable, for worker processes."""

    def __init__(self, settings: GymEnvironment.Settings, n: int):
        self.settings, self.n = settings, n

    def __call__(self) -> "gymnasium.Env[Any, Any]":
        if multiprocessing.parent_process() is not None:
            # Signals reach the whole process group; the parent finishes its update and closes the workers itself.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        env_id = self.settings.id
        try:
            env = gymnasium.make(env_id, disable_env_checker=True, **self.settings.options)
        except gymnasium.error.Error as error:
            near = "" if env_id in gymnasium.registry else did_you_mean(env_id, gymnasium.registry)
            raise InputError(f"env.id: gymnasium cannot make {env_id!r}{near}: {error}") from error
        except Exception as error:
            message = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"env.id: gymnasium cannot make {env_id!r}: {message}") from error
        for wrapper in self.settings.wrappers:
            env = wrapper.wrap(env)
        return Guarded(env, self.n)


class Guarded(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Reports which environment failed, and how; and checks what it returned.

    Args:
        env: the environment.
        n: its number.
    """

    def __init__(self, env: Any, n: int):
        super().__init__(env)
        self.n = n

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment; raises EnvironmentFailure if that fails."""
        try:
            obs, info = self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise self._failure("reset", error) from error
        self._look(obs, self.env.observation_space)
        self._require(isinstance(info, dict), "an info that is not a dict", info)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment; raises EnvironmentFailure if that fails."""
        try:
            obs, reward, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            raise self._failure("step", error) from error
        self._look(obs, self.env.observation_space)
        self._check_flow(reward, info)
        return obs, reward, terminated, truncated, info

    def _failure(self, what: str, error: Exception) -> EnvironmentFailure:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        return EnvironmentFailure(self.n, f"failed in {what}: {message}", traceback.format_exc())

    def _check_flow(self, reward: Any, info: Any) -> None:
        self._require(isinstance(info, dict), "an info that is not a dict", info)
        if not isinstance(reward, (float, int)):
            self._require(np.ndim(reward) == 0 and reward is not None, "a reward that is not a number", reward)

    def _require(self, holds: bool, message: str, returned: Any) -> None:
        if not holds:
            raise EnvironmentFailure(self.n, f"returned {message}: {returned!r}")

    def _look(self, obs: Any, space: Any, part: str = "") -> None:
        """Raises an EnvironmentFailure if shape, kind of dtype or keys are not those of the space."""
        if isinstance(space, Dict):
            self._require(isinstance(obs, dict), f"an observation{part} that is not a dict, as its space is", obs)
            if obs.keys() != space.keys():
                wrong = sorted(obs.keys() ^ space.keys())
                raise EnvironmentFailure(
                    self.n,
                    f"returned the keys {', '.join(sorted(obs))}; its space has {', '.join(sorted(space.keys()))}; "
                    f"{', '.join(wrong)} must be in both",
                )
            for key, value in obs.items():
                self._look(value, space[key], f" part {key!r}")
        elif isinstance(space, Box):
            shape, dtype = getattr(obs, "shape", None), getattr(obs, "dtype", np.dtype(object))
            if shape != space.shape or not (dtype == space.dtype or np.can_cast(dtype, space.dtype, "same_kind")):
                given = type(obs).__name__ if shape is None else f"shape {shape}, dtype {dtype}"
                raise EnvironmentFailure(
                    self.n,
                    f"returned an observation{part} outside its space: {given}; "
                    f"the space has shape {space.shape}, dtype {space.dtype}",
                )
        elif isinstance(space, (Discrete, MultiDiscrete, MultiBinary)) and not space.contains(obs):
            raise EnvironmentFailure(self.n, f"returned an observation{part} outside its space {space}: {obs!r}")


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Processes started in here never receive SIGINT and SIGTERM; this one receives them afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _gymnasiums_log_off() -> Iterator[None]:
    """Silences gymnasium, which would print the tracebacks of workers that the failure contains anyway."""
    level, logger.min_level = logger.min_level, logging.CRITICAL
    try:
        yield
    finally:
        logger.min_level = level


def _kill(processes: Any) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()


def _dead(processes: Any) -> tuple[int, int | None]:
    """The first process that has ended, and its exit code, which may take a moment to appear."""
    for _ in range(100):
        for n, process in enumerate(processes):
            if process.exitcode is not None:
                return n, process.exitcode
        time.sleep(0.02)
    return 0, None


def _refuse_normalizers(env: Any, env_id: str) -> None:
    while isinstance(env, gymnasium.Wrapper):
        if type(env).__name__.startswith("Normalize"):
            raise InputError(
                f"env.id: {env_id} is wrapped in {type(env).__name__}, whose statistics no checkpoint would hold, so "
                "that a resumed or evaluated agent would see other numbers; make the environment without it; "
                "agent.normalize_observations and agent.normalize_rewards replace it"
            )
        env = env.env
