"""The adapter for gymnasium, where its arrays become tensors."""

import copy
import logging
import math
import multiprocessing
import pickle
import signal
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, TypedDict

import gymnasium
import numpy as np
import torch
from gymnasium import logger
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, ValidationError, field_serializer, field_validator
from torch import Tensor
from typing_extensions import Unpack

from rlcore import distributed
from rlcore.agent import Agent
from rlcore.environment import Environment, StepResult
from rlcore.errors import EnvironmentChangedError, EnvironmentFailure, InputError
from rlcore.gym_maker import EnvMaker, Maker, WrapperChoice, num_choices
from rlcore.gym_saving import why_not_saved
from rlcore.gym_vector import SelfVectorized
from rlcore.interruption import ending_signals
from rlcore.plain_state import UnsavedError
from rlcore.registry import qualified_name
from rlcore.settings import mistakes
from rlcore.spaces import ACTION_MASK, Channels, dtype_of_tensor, with_channels
from rlcore.trees import Tree

WANTED = "give an id, a class, or a function that makes an environment"


class GymSettings(TypedDict, total=False):
    """`GymEnvironment.Settings` but for the id, as keyword arguments; there they are explained."""

    num_envs: int
    vectorization: Literal["sync", "async", "vector_entry_point"]
    options: dict[str, Any]
    wrappers: list[WrapperChoice] | list[dict[str, Any]]
    ignore: list[str]
    channels: Channels | None
    action_mask: bool | None
    single_instance: bool
    context: Literal["fork", "spawn", "forkserver"] | None
    timeout: float | None


class GymEnvironment(Environment):
    """N copies of any gymnasium environment.

    In Python, with settings as keyword arguments::

        GymEnvironment("CartPole-v1", num_envs=8)
        GymEnvironment(MyEnv, num_envs=8, options={"size": 3})
        GymEnvironment(lambda: TimeLimit(MyEnv(size=3), 200), vectorization="async")

    gymnasium's own vector environments run with autoreset disabled, and ended episodes are reset by a mask: so the true
    successor is the plain observation before the reset, and there are no filler rows.

    If the environment tells which actions are allowed (``action_mask`` in ``info``, or a method ``action_masks()``),
    that becomes a part of the observation: ``{"observation": ..., "action_mask": [N, A] bool}``, or one more part of a
    Dict. Of the rest of ``info``, numbers are returned, as float64 [N] with a bool [N] ``_<name>``: which have it.

    Args:
        env: an id, as in ``gymnasium.make``; a class of environments or a function that makes one, called with
            ``options``; or all settings, as a `Settings`.
        device: of every tensor returned.
        settings: further settings, if ``env`` is not a `Settings`.

    Raises:
        InputError: a setting is invalid, the environment cannot be made or itself normalises, or no tensors hold what
            it shows.
    """

    class Settings(Environment.Settings):
        """Settings of a gymnasium environment."""

        num_envs: Annotated[int, Field(gt=0, le=2**16)] = 8
        """N, environments in lockstep."""
        id: str | EnvMaker
        """As in ``gymnasium.make``: ``Acrobot-v1``, or ``module:Id-v0`` to import a module first; or ``module:Name`` of
        a class or function that is not registered. In Python also the class or function itself, which is saved as
        such a name."""
        vectorization: Literal["sync", "async", "vector_entry_point"] = "sync"
        """``sync``: one after the other in this process. ``async``: a process each, for slow environments.
        ``vector_entry_point``: as the environment itself does it, if it does, e.g. that of Atari."""
        options: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
        """Keyword arguments of ``gymnasium.make``, or of the class or function."""
        wrappers: list[WrapperChoice] = []  # noqa: RUF012
        """gymnasium wrappers, innermost first."""
        ignore: list[str] = []  # noqa: RUF012
        """Parts of a Dict observation to leave out: ``[mission]``."""
        channels: Channels | None = None
        """Where the channels of images are; null: at the end that has 1, 3 or 4, if only one has."""
        action_mask: bool | None = None
        """Whether actions are masked, with all of them allowed where no mask is given; null: if the first reset gives a
        mask."""
        single_instance: bool = False
        """The simulator allows no further instance (a licence, hardware): evaluation uses the environments of training,
        whose episodes in progress are abandoned."""
        context: Literal["fork", "spawn", "forkserver"] | None = None
        """How processes are started; null is Python's default."""
        timeout: PositiveFloat | None = 300.0
        """Seconds that a process may take for a step or a reset before it counts as hung; null waits forever."""

        @field_validator("id", mode="before")
        @classmethod
        def _check_id(cls, given: Any) -> Any:
            if isinstance(given, (gymnasium.Env, VectorEnv)):
                raise InputError(f"is an environment, {given}, of which no copies can be made: {WANTED}")
            if not isinstance(given, str) and not callable(given):
                raise InputError(f"{WANTED}, got {given!r}")
            return given

        @property
        def shown_id(self) -> str:
            """The id; of a class or a function, ``module:Name``."""
            return self.id if isinstance(self.id, str) else qualified_name(self.id)

        @field_serializer("id")
        def _write_id(self, given: Any) -> str:
            return self.shown_id

    closed = True  # until there are environments to close, which deleting a half-made object would try

    def __init__(
        self,
        env: str | EnvMaker | Settings,
        device: torch.device | str = "cpu",
        **settings: Unpack[GymSettings],
    ):
        self.settings: GymEnvironment.Settings = _settings(self.Settings, env, settings)
        s = self.settings
        by_itself = s.vectorization == "vector_entry_point"
        first: Any = SelfVectorized(s) if by_itself else Maker(s, 0)()
        _, info = first.reset(seed=None if by_itself else 0)
        self.spec = getattr(first if by_itself else first.env, "spec", None)
        limit = None if self.spec is None else self.spec.max_episode_steps
        self.max_episode_steps = max(limit or 0, Environment.max_episode_steps)
        if not by_itself:
            first.close()
        self.envs: VectorEnv[Any, Any, Any] = first if by_itself else self._side_by_side([first])
        self.closed = False
        self.metadata = self.envs.metadata | self.metadata
        self._filmed = False
        self._final_frames: Any = None
        space, action = self.envs.single_observation_space, self.envs.single_action_space
        if s.channels is not None:
            space = with_channels(space, s.channels)
        self._masked = ACTION_MASK in info if s.action_mask is None else s.action_mask
        self._mask: Any = None
        if self._masked:
            self._mask = np.ones((s.num_envs, num_choices(action)), dtype=bool)
            parts = space.spaces if isinstance(space, Dict) else {"observation": space}
            space = Dict({**parts, ACTION_MASK: MultiBinary(self._mask.shape[1:])})
        self._allowed: Tensor | None = None
        super().__init__(s.num_envs, space, action, device)
        self._box = action if isinstance(action, Box) else None
        self._start = action.start if isinstance(action, (Discrete, MultiDiscrete)) and np.any(action.start) else None
        self._seed: int | None = None
        self._tried_saving = False
        if isinstance(space, Dict) and ACTION_MASK in space.spaces:
            size, needed = math.prod(space[ACTION_MASK].shape or ()), num_choices(action)
            if size != needed:
                raise InputError(f"env.id: the action_mask of {s.shown_id} has {size} entries; {action} needs {needed}")

    def _side_by_side(self, others: Sequence[Any] = ()) -> VectorEnv[Any, Any, Any]:
        """N environments, other ones than those given, in this process or one each."""
        s = self.settings
        makers: list[Callable[[], Any]] = [Maker(s, n) for n in range(s.num_envs)]
        if s.vectorization == "sync":
            envs = SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.DISABLED)
            if not s.single_instance:
                _check_apart([*others, *envs.envs], s.shown_id)
            return envs
        try:
            with _signals_held_back():
                processes = AsyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.DISABLED, context=s.context)
        except (EOFError, OSError) as error:
            raise InputError(
                f"env.id: a process ended while it made {s.shown_id!r}; where processes are not forked, the id "
                "must name its module: module:Id-v0"
            ) from error
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise InputError(
                f"env.id: {s.shown_id} cannot be sent to another process: {error}; use env.vectorization=sync, or, "
                "where there is one, env.context=fork"
            ) from error
        # they ignore SIGTERM, with which Python would end them at exit, and it would wait for them forever
        weakref.finalize(self, _kill, processes.processes)
        return processes

    def on_attach(self, agent: Agent) -> None:
        """Returns observations of float64 as such, if the agent subtracts a mean from them first."""
        self.float64 = agent.reads_float64

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
        self._final_frames = None
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
        if (box := self._box) is not None:
            array = np.clip(array, box.low, box.high)
            array = (np.rint(array) if box.dtype.kind in "iu" else array).astype(box.dtype, copy=False)
        elif self._start is not None:
            array = array + self._start
        obs, reward, terminated, truncated, info = self._call("step", actions=array)
        done = terminated | truncated
        self._final_frames = self.envs.render() if self._filmed and done.any() else None
        if done.any():
            info["final_obs"] = self._observed(obs, info, final=True)
            obs, info["reset_info"] = self._call("reset", options={"reset_mask": done})
            observed = self._observed(obs, info["reset_info"], done)
        else:
            observed = self._observed(obs, info)
        flags = self._to_device(terminated), self._to_device(truncated)
        return observed, self._to_device(reward.astype(np.float32)), *flags, info

    def evaluation(self, num_envs: int) -> "GymEnvironment":
        """A twin with that many environments; with no more processes than the run has, if it has any.

        With ``single_instance`` it is this one.
        """
        if self.settings.single_instance:
            return self
        if self.settings.vectorization == "async":
            num_envs = min(num_envs, self.num_envs * distributed.size())
        twin = type(self)(self.settings.model_copy(update={"num_envs": num_envs}), self.device)
        twin.float64 = self.float64
        return twin

    def filming(self) -> "GymEnvironment":
        """A twin that `render` shows: ``evaluation(1)``, in this process, with ``render_mode: rgb_array``.

        Raises:
            InputError: the environment steps all N itself, so that there is none to be filmed.
        """
        if self.settings.vectorization == "vector_entry_point":
            raise InputError("env.vectorization: of environments that step themselves there are no videos; use sync")
        options = {**self.settings.options, "render_mode": "rgb_array"}
        model = copy.copy(self)
        model.closed = True  # it shares the environments, which deleting it must not close
        model.settings = self.settings.model_copy(update={"options": options, "vectorization": "sync"})
        twin = model.evaluation(1)
        twin._filmed = True
        return twin

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """What the environments render; a twin made by `filming` returns frames as the base class says.

        Raises:
            InputError: one of them cannot be rendered.
        """
        frames: Any = self._final_frames or self.envs.render()
        return frames

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the environments, and ends their processes."""
        self.envs.close(**kwargs)

    def checkpoint(self) -> dict[str, Any] | None:
        """The state of every environment, with its wrappers and generators; None if it cannot be saved.

        Before the first one it is tried, with two further environments, whether what goes on from a saved state equals
        what would have gone on; see `rlcore.gym_saving.why_not_saved`.
        """
        if not self._tried_saving:
            self._tried_saving, self.why_unsaved = True, self._why_not_saved()
        if self.why_unsaved:
            return None
        try:
            return self.read_states()
        except (UnsavedError, EOFError, OSError) as error:
            self.why_unsaved = f"{self.settings.shown_id}: {error}"
            return None

    def restore(self, saved: dict[str, Any]) -> None:
        """Restores what `checkpoint` returned.

        Raises:
            EnvironmentChangedError: the environment is made of other objects than the one that was saved.
        """
        if self.envs.closed:  # a signal has ended the processes
            self.envs = self._side_by_side()
            self.reset()
        try:
            self.take_states(saved)
        except EnvironmentChangedError:
            self.envs.close()  # some have the state, or a part of it
            by_itself = isinstance(self.envs, SelfVectorized)
            self.envs = SelfVectorized(self.settings) if by_itself else self._side_by_side()
            raise

    def read_states(self) -> dict[str, Any]:
        """What `checkpoint` returns, without a trial.

        Raises:
            UnsavedError: it cannot be read.
        """
        envs: Any = self.envs
        states = [envs.read_state()] if isinstance(envs, SelfVectorized) else envs.call("read_state")
        if reason := next((state for state in states if isinstance(state, str)), None):
            raise UnsavedError(reason)
        return {
            "envs": [pickle.loads(state) if isinstance(state, bytes) else state for state in states],
            "seed": self._seed,
            "mask": None if self._mask is None else torch.from_numpy(self._mask.copy()),
            "allowed": self._allowed,
        }

    def take_states(self, saved: dict[str, Any]) -> None:
        """Gives the environments what `read_states` returned.

        Raises:
            EnvironmentChangedError: it does not fit; some of them may then have a part of it.
        """
        envs: Any = self.envs
        states = saved["envs"]
        if isinstance(envs, SelfVectorized):
            envs.given_state = states[0]
            reasons = [envs.take_state()]
        else:
            in_workers = isinstance(envs, AsyncVectorEnv)
            envs.set_attr("given_state", [pickle.dumps(state) if in_workers else state for state in states])
            reasons = envs.call("take_state")
        if reason := next(filter(None, reasons), None):
            raise EnvironmentChangedError(f"{self.settings.shown_id}: {reason}")
        self._seed, self._allowed = saved["seed"], saved["allowed"]
        if self._mask is not None:
            self._mask[...] = saved["mask"].numpy(force=True)

    def _why_not_saved(self) -> str:
        """One line; empty if the environment can be saved."""
        s = self.settings
        if s.single_instance:
            return f"{s.shown_id}: env.single_instance allows no other one to try it with"
        here = s if s.vectorization == "vector_entry_point" else s.model_copy(update={"vectorization": "sync"})
        one = here.model_copy(update={"num_envs": 1})
        found = why_not_saved(lambda: type(self)(one, self.device))
        return found and f"{s.shown_id}: {found}"

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

    def _observed(self, obs: Any, info: dict[str, Any], fresh: Any = slice(None), final: bool = False) -> Tree:
        """Observations as tensors, with the mask if there is one.

        Args:
            obs: of all environments.
            info: with their masks.
            fresh: the environments that ``info`` is about.
            final: whether these are last observations, in which no action is to be chosen.

        Raises:
            EnvironmentFailure: no action is allowed where one is to be chosen, or there is an unexpected mask.
        """
        if self._masked:
            self._mask[fresh] = True
            if ACTION_MASK in info:
                present = info[f"_{ACTION_MASK}"]
                self._mask[present] = info[ACTION_MASK][present]
            obs = {**(obs if isinstance(obs, dict) else {"observation": obs}), ACTION_MASK: self._mask}
        elif ACTION_MASK in info:
            n = int(np.argmax(info[f"_{ACTION_MASK}"]))
            message = "has an action_mask in info, though its first reset had none; set env.action_mask=true"
            raise self._seeded(EnvironmentFailure(n, message))
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
        """A copy, as gymnasium reuses its buffers."""
        if isinstance(obs, dict):
            return {key: self._to_tensor(value) for key, value in obs.items()}
        return self._to_device(np.array(obs, dtype=dtype_of_tensor(obs.dtype, self.float64)))

    def _to_device(self, array: Any) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device)


def _settings(
    kind: type[GymEnvironment.Settings], env: str | EnvMaker | GymEnvironment.Settings, further: GymSettings
) -> GymEnvironment.Settings:
    """The settings, however they are given."""
    if isinstance(env, kind):
        if further:
            raise InputError(f"GymEnvironment: give {', '.join(further)} in the Settings, not beside them")
        return env
    try:
        return kind.model_validate({"id": env, **further})
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(path)}: {text}" for path, text in mistakes(error, kind))
        raise InputError(" ".join(f"GymEnvironment: {found}".split())) from None


def _check_apart(envs: Sequence[Any], name: str) -> None:
    """Raises an InputError if two environments are the same."""
    if len({id(env.unwrapped) for env in envs}) < len(envs):
        raise InputError(f"env.id: {name} returns the same environment each time; it must make a new one")


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Processes started in here never receive the signals that end one; this one receives them afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(ending_signals()))
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
