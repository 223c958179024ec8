"""One gymnasium environment: how it is made, and what its answers are turned into before they are batched."""

import importlib
import inspect
import math
import operator
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import find_highest_version, load_env_creator, parse_env_id
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from pydantic import ConfigDict, field_validator
from torch import Tensor

from rlcore import settings
from rlcore.errors import EnvironmentFailure, InputError
from rlcore.gym_saving import Saving
from rlcore.interruption import ending_signals
from rlcore.registry import did_you_mean
from rlcore.seeding import WORKER, derive_seed, seed_everything
from rlcore.spaces import ACTION_MASK

if TYPE_CHECKING:
    from rlcore.gym_environment import GymEnvironment

LARGEST = sys.float_info.max

EnvMaker = Callable[..., gymnasium.Env[Any, Any]]
"""A class of environments, or a function that makes one."""


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
            return wrapper(env, **_converted(wrapper, self.model_extra or {}))
        except (Exception, SystemExit) as error:
            raise InputError(f"env.wrappers: {self.name} cannot be made: {' '.join(str(error).split())}") from error


def _is_wrapper(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, gymnasium.Wrapper)


def _converted(function: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with lists, YAML's only sequence, as the tuples or arrays that annotations or defaults ask for."""
    lists = {name: value for name, value in arguments.items() if isinstance(value, list)}
    try:
        parameters = inspect.signature(function).parameters if lists else {}
    except (TypeError, ValueError):  # it has none to read
        return arguments
    converted: dict[str, Any] = {}
    for name, value in lists.items():
        if (parameter := parameters.get(name)) is None:
            continue
        annotated = parameter.annotation is not parameter.empty
        wanted = str(parameter.annotation if annotated else type(parameter.default)).lower()
        if "ndarray" in wanted:
            converted[name] = np.array(value)
        elif "tuple" in wanted:
            converted[name] = tuple(value)
    return arguments | converted


def own_maker(env_id: "str | EnvMaker") -> "EnvMaker | None":
    """The class or the function that makes the environments; None if gymnasium does, by an id.

    Raises:
        InputError: there is neither such an id nor such a class or function.
    """
    if not isinstance(env_id, str):
        return env_id
    module_name, _, name = env_id.rpartition(":")
    if not module_name:
        return None
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise InputError(
            f"env.id: cannot import {module_name!r}: {error}; it must be installed, in the working folder, or named "
            "under imports"
        ) from error
    if _is_registered(name):
        return None
    try:
        maker: Any = operator.attrgetter(name)(module)
    except AttributeError:
        near = did_you_mean(name, [*gymnasium.registry, *vars(module)])
        message = f"{module_name} has no class or function {name!r}, and gymnasium no such id{near}"
        if module_name == "__main__":
            message += "; what a script defines is there only in that script"
        raise InputError(f"env.id: {message}") from None
    if not callable(maker):
        raise InputError(f"env.id: {env_id} is no class or function that makes an environment: {maker!r}")
    return cast("EnvMaker", maker)


def _is_registered(name: str) -> bool:
    """Whether gymnasium makes an environment of that name; without a version it is the latest one."""
    if name in gymnasium.registry:
        return True
    try:
        namespace, plain, _ = parse_env_id(name)
    except gymnasium.error.Error:
        return False
    return find_highest_version(namespace, plain) is not None


def _made(maker: "EnvMaker", options: dict[str, Any]) -> Any:
    """What a class or a function makes; if it takes no ``render_mode``, that is set afterwards."""
    mode = options.get("render_mode")
    if mode is not None and not _takes(maker, "render_mode"):
        env = maker(**{key: value for key, value in options.items() if key != "render_mode"})
        if isinstance(env, gymnasium.Env) and mode in env.metadata.get("render_modes", ()):
            env.unwrapped.render_mode = mode
    else:
        env = maker(**options)
    if not isinstance(env, gymnasium.Env):
        raise TypeError(f"it makes no gymnasium.Env but {env!r}")
    return env


def _takes(function: Any, name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # it has none to read
        return True
    return any(parameter.name == name or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _creator(env_id: str) -> Any:
    """What makes gymnasium's environment of that id, with its keyword arguments; nothing if there is none."""
    entry_point = gymnasium.spec(env_id.rpartition(":")[2]).entry_point
    return load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point


class Maker:
    """Makes environment n; picklable, for worker processes.

    Args:
        settings: of all environments.
        n: number of this one.
    """

    def __init__(self, settings: "GymEnvironment.Settings", n: int):
        self.settings, self.n, self._pid = settings, n, os.getpid()
        self._seed = derive_seed(torch.initial_seed(), WORKER, n)  # of what the constructor draws in a worker

    def __call__(self) -> "Guarded":
        """Makes it.

        Raises:
            InputError: it cannot be made, or no tensors hold what it shows.
        """
        in_worker = os.getpid() != self._pid
        if in_worker:
            seed_everything(self._seed)
            # Signals reach the whole process group; the parent finishes its update and closes the workers itself.
            for which in ending_signals():
                signal.signal(which, signal.SIG_IGN)
        env = self._make()
        for wrapper in self.settings.wrappers:
            env = wrapper.wrap(env)
        _refuse_normalizers(env, self.settings.shown_id)
        return Guarded(env, self.n, self.settings.ignore, in_worker)

    def _make(self) -> Any:
        env_id, shown_id, options = self.settings.id, self.settings.shown_id, self.settings.options
        own = None
        try:
            own = own_maker(env_id)
            if any(isinstance(value, list) for value in options.values()):
                options = _converted(_creator(shown_id) if own is None else own, options)
            if own is not None:
                return _made(own, options)
            return gymnasium.make(shown_id, disable_env_checker=True, **options)
        except gymnasium.error.Error as error:
            near = "" if shown_id in gymnasium.registry else did_you_mean(shown_id, gymnasium.registry)
            raise InputError(f"env.id: gymnasium cannot make {shown_id!r}{near}: {error}") from error
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            message = " ".join(f"{type(error).__name__}: {error}".split())
            who = "gymnasium cannot make" if own is None else "cannot make"
            raise InputError(f"env.id: {who} {shown_id!r}: {message}") from error


class Guarded(Saving, gymnasium.Wrapper[Any, Any, Any, Any]):
    """Turns an environment's answers into what can be batched, and reports which environment failed, and how.

    Observations become arrays, flags bools, and the reward a float; of ``info``, which may vary from step to step, the
    numbers are kept, as floats, and the mask of the actions, as bools [A]. The method ``action_masks()`` gives it too
    (sb3-contrib's convention). In a worker process a reset with a seed seeds the global generators as well.

    Args:
        env: the environment.
        n: its number.
        ignore: parts of a Dict observation to leave out.
        in_worker: whether this is a process of its own, whose global generators are to be seeded.

    Raises:
        InputError: an observation, or a part of it, is neither an array nor a number; or there is no such part.
    """

    def __init__(self, env: Any, n: int, ignore: Sequence[str] = (), in_worker: bool = False):
        super().__init__(env)
        self.n, self.in_worker = n, in_worker
        self.observation_space = _without(env.observation_space, ignore)
        check_readable(self.observation_space)
        self._action_masks: Callable[[], Any] | None = None
        if env.has_wrapper_attr("action_masks"):
            self._action_masks = env.get_wrapper_attr("action_masks")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment; raises EnvironmentFailure if that fails."""
        if seed is not None and self.in_worker:
            seed_everything(derive_seed(seed, WORKER))
        try:
            obs, info = self.env.reset(seed=seed, options=options or None)  # gymnasium's reset by a mask leaves {}
        except (Exception, SystemExit) as error:
            raise self._failure("reset", error) from error
        return self._observation(obs, self.observation_space), self._kept(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steps the environment; raises EnvironmentFailure if that fails."""
        try:
            obs, reward, terminated, truncated, info = self.env.step(action)
        except (Exception, SystemExit) as error:
            raise self._failure("step", error) from error
        return (
            self._observation(obs, self.observation_space),
            self._reward(reward),
            self._flag(terminated, "terminated"),
            self._flag(truncated, "truncated"),
            self._kept(info),
        )

    def render(self) -> Any:
        """Renders the environment; raises InputError if that fails."""
        try:
            return self.env.render()
        except Exception as error:
            message = " ".join(f"environment {self.n} cannot be rendered: {type(error).__name__}: {error}".split())
            if hasattr(self.unwrapped, "mujoco_renderer"):
                given = os.environ.get("MUJOCO_GL", "not set")
                message += f"; without a screen set MUJOCO_GL=egl or MUJOCO_GL=osmesa (it is {given})"
            raise InputError(message) from error

    def close(self) -> None:
        """Closes the environment; what it raises then changes nothing any more."""
        with suppress(Exception, SystemExit):
            self.env.close()

    def _failure(self, what: str, error: BaseException) -> EnvironmentFailure:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        return EnvironmentFailure(self.n, f"failed in {what}: {message}", traceback.format_exc())

    def _require(self, holds: bool, message: str, returned: Any) -> None:
        if not holds:
            raise EnvironmentFailure(self.n, f"returned {message}: {returned!r}")

    def _reward(self, reward: Any) -> float:
        if isinstance(reward, float):  # numpy's float64 too
            return reward
        array = _array(reward)
        self._require(array.ndim == 0 and array.dtype.kind in "biuf", "a reward that is not a number", reward)
        return float(array)

    def _flag(self, flag: Any, name: str) -> bool:
        if type(flag) is bool:
            return flag
        array = _array(flag)
        self._require(array.size == 1 and array.dtype.kind in "biuf", f"a {name} that is not a bool", flag)
        return bool(array.item())

    def _kept(self, info: Any) -> dict[str, Any]:
        """The numbers and the mask in an ``info``."""
        self._require(isinstance(info, dict), "an info that is not a dict", info)
        kept: dict[str, Any] = {}
        for key, value in info.items():
            if getattr(value, "ndim", None) == 0:  # numpy's numbers, and tensors
                value = value.item()
            if isinstance(value, (int, float)) and isinstance(key, str) and abs(value) <= LARGEST:
                kept[key] = float(value)
        mask = info.get(ACTION_MASK)
        if mask is None and self._action_masks is not None:
            mask = self._action_masks()
        if mask is not None:
            kept[ACTION_MASK] = self._mask(mask)
        return kept

    def _mask(self, mask: Any) -> Any:
        """[A] bool; of several choices the masks may be a tuple, as in ``MultiDiscrete.sample``."""
        parts = mask if isinstance(mask, (tuple, list)) else [mask]
        joined = np.concatenate([np.ravel(_array(part)) for part in parts]).astype(bool)
        space = self.env.action_space
        if joined.size != num_choices(space):
            message = f"has an action_mask of {joined.size} entries; {space} needs {num_choices(space)}"
            raise EnvironmentFailure(self.n, message)
        return joined

    def _observation(self, obs: Any, space: Any, part: str = "") -> Any:
        """An observation, or a part of it, as arrays; EnvironmentFailure if it does not fit the space."""
        if isinstance(space, Dict):
            self._require(isinstance(obs, dict), f"an observation{part} that is not a dict, as its space is", obs)
            known: Any = self.env.observation_space if not part else space
            if obs.keys() != known.keys():
                wrong = sorted(obs.keys() ^ known.keys())
                raise EnvironmentFailure(
                    self.n,
                    f"returned the keys {', '.join(sorted(obs))}; its space has {', '.join(sorted(known.keys()))}; "
                    f"{', '.join(wrong)} must be in both",
                )
            return {key: self._observation(obs[key], inner, f" part {key!r}") for key, inner in space.items()}
        array = _array(obs)
        if isinstance(space, Box):
            same = array.dtype == space.dtype or np.can_cast(array.dtype, space.dtype, "same_kind")
            if array.shape != space.shape or not same:
                is_array = hasattr(obs, "dtype")
                given = f"shape {array.shape}, dtype {array.dtype}" if is_array else type(obs).__name__
                raise EnvironmentFailure(
                    self.n,
                    f"returned an observation{part} outside its space: {given}; "
                    f"the space has shape {space.shape}, dtype {space.dtype}",
                )
        else:
            if array.size == 1:
                array = array.reshape(space.shape)
            if not space.contains(array):
                raise EnvironmentFailure(self.n, f"returned an observation{part} outside its space {space}: {obs!r}")
        return array


def _array(value: Any) -> Any:
    """Numbers, lists and tensors as an array; what cannot be one, as an array of objects."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, Tensor):
        return value.numpy(force=True)
    try:
        return np.asarray(value)
    except ValueError:  # lists of different lengths
        return np.asarray(None)


def num_choices(space: Any) -> int:
    """The number of entries of a mask for these actions."""
    if isinstance(space, Discrete):
        return int(space.n)
    return int(space.nvec.sum()) if isinstance(space, MultiDiscrete) else math.prod(space.shape)


def _without(space: Any, ignore: Sequence[str]) -> Any:
    """The space without some parts."""
    if not ignore:
        return space
    known = list(space.keys()) if isinstance(space, Dict) else []
    for name in ignore:
        if name not in known:
            parts = f"parts: {', '.join(known)}" if known else f"they have none: {space}"
            raise InputError(f"env.ignore: observations have no part {name!r}{did_you_mean(name, known)}; {parts}")
    return Dict({key: part for key, part in space.items() if key not in ignore})


def check_readable(space: Any, part: str = "") -> None:
    """Raises an InputError that names what no tensor can hold, and how to go on without it."""
    if isinstance(space, Dict):
        for key, inner in space.items():
            check_readable(inner, part or key)
    elif not isinstance(space, (Box, Discrete, MultiDiscrete, MultiBinary)):
        flat = "; env.wrappers=[{name: FlattenObservation}] turns it into numbers" if _is_flattenable(space) else ""
        what = f"the part {part!r} of the observations" if part else "the observations"
        without = f"; env.ignore=[{part}] leaves it out" if part else ""
        raise InputError(f"env.id: {what}, {space}, cannot be read as an array of numbers{without}{flat}")


def _is_flattenable(space: Any) -> bool:
    try:
        return bool(space.is_np_flattenable)
    except NotImplementedError:  # a space of one's own
        return False


def _refuse_normalizers(env: Any, env_id: str) -> None:
    while isinstance(env, gymnasium.Wrapper):
        if type(env).__name__.startswith("Normalize"):
            raise InputError(
                f"env.id: {env_id} is wrapped in {type(env).__name__}, whose statistics no checkpoint would hold, so "
                "that a resumed or evaluated agent would see other numbers; make the environment without it; "
                "agent.normalize_observations and agent.normalize_rewards replace it"
            )
        env = env.env
