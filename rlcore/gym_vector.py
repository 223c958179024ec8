"""gymnasium's environments that step all N themselves, such as Atari's: how they are made, and their answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.spaces import Dict
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from rlcore.errors import InputError
from rlcore.gym_maker import check_readable, num_choices, own_maker
from rlcore.gym_saving import Saving
from rlcore.spaces import ACTION_MASK

if TYPE_CHECKING:
    from rlcore.gym_environment import GymEnvironment

MODES: tuple[dict[str, Any], ...] = (
    {"autoreset_mode": AutoresetMode.DISABLED},
    {"autoreset_mode": AutoresetMode.SAME_STEP},
    {},
)
"""How environments are asked to reset, until they agree."""


class SelfVectorized(Saving, gymnasium.vector.VectorWrapper):  # no [...]: generic from gymnasium 1.4 on alone
    """Turns the answers of an environment that steps all N itself into those of one whose autoreset is disabled.

    If it resets ended episodes in the same step, `step` returns the last observations all the same, and the `reset` by
    a mask that follows returns what it has reset to.

    Args:
        settings: of the environments.

    Raises:
        InputError: it cannot be made, resets ended episodes in the next step, or no tensors hold what it shows.
    """

    def __init__(self, settings: "GymEnvironment.Settings"):
        self.name = settings.shown_id
        for name in ("wrappers", "ignore"):
            if getattr(settings, name):
                raise InputError(f"env.{name}: is of single environments; {self.name} steps all of them itself")
        super().__init__(_made(settings))
        if self.env.num_envs != settings.num_envs:
            raise InputError(f"env.num_envs: {settings.num_envs} were asked for, {self.name} makes {self.env.num_envs}")
        self.resets_itself = self.env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        self._after_reset: Any = None
        check_readable(self.env.single_observation_space)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins episodes where ``options["reset_mask"]`` says so, or everywhere."""
        if self.resets_itself and options is not None and "reset_mask" in options:
            return self._after_reset
        with self._told("reset"):
            obs, info = self.env.reset(seed=seed, options=options)
            return self._observation(obs), self._numbers(info)

    def step(self, actions: Any) -> tuple[Any, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Plays one step in every environment."""
        with self._told("step"):
            obs, reward, terminated, truncated, info = self.env.step(actions)
            obs, numbers = self._observation(obs), self._numbers(info)
            reward = self._each(reward, "reward").astype(np.float64)
            terminated, truncated = (self._each(x, "flag").astype(bool) for x in (terminated, truncated))
            done = terminated | truncated
            if self.resets_itself and done.any():
                self._after_reset = obs, numbers
                if "final_obs" not in info:
                    raise InputError("an episode has ended, and info has no final_obs")
                obs = _with(obs, info["final_obs"], done)
                numbers = _chosen(done, self._numbers(info.get("final_info", {})), numbers)
            return obs, reward, terminated, truncated, numbers

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Whatever fails in here is told in one line."""
        try:
            yield
        except (Exception, SystemExit) as error:
            found = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            raise InputError(f"{self.name} failed in {what}: {' '.join(found.split())}") from error

    def _each(self, values: Any, what: str) -> NDArray[Any]:
        """What there is one of for each environment, [N]."""
        array = np.asarray(values)
        if array.shape != (self.num_envs,) or array.dtype.kind not in "biuf":
            raise InputError(f"each environment has one {what}, got {array.dtype} of shape {list(array.shape)}")
        return array

    def _observation(self, obs: Any, space: Any = None) -> Any:
        """Observations as arrays of the space's shape and dtype, [N, ...]."""
        space = self.env.single_observation_space if space is None else space
        if isinstance(space, Dict):
            return {key: self._observation(obs[key], part) for key, part in space.spaces.items()}
        array, wanted = np.asarray(obs), (self.num_envs, *space.shape)
        if array.shape != wanted:
            raise InputError(f"observations must have the shape {list(wanted)}, have {list(array.shape)}")
        return array.astype(space.dtype, copy=False)

    def _numbers(self, info: dict[str, Any]) -> dict[str, Any]:
        """What ``info`` has of each environment: numbers, float64 [N], and the mask of the actions; and who has it."""
        kept: dict[str, Any] = {}
        for name, value in info.items():
            x = value if isinstance(value, np.ndarray) else np.empty(0, object)
            if not isinstance(name, str) or name.startswith("_") or x.dtype.kind not in "biuf":
                continue
            present = np.array(info.get(f"_{name}", np.ones(self.num_envs)), bool)
            if name == ACTION_MASK:
                kept[name] = x.reshape(self.num_envs, num_choices(self.env.single_action_space)).astype(bool)
            elif x.shape == (self.num_envs,):
                kept[name], present = x.astype(np.float64), present & np.isfinite(x)
            else:
                continue
            kept[f"_{name}"] = present
        return kept


def _made(settings: "GymEnvironment.Settings") -> VectorEnv[Any, Any, Any]:
    """The environment, asked in turn to reset in the ways of `MODES`."""
    name, own = settings.shown_id, own_maker(settings.id)
    failure: BaseException | None = None
    env: Any = None
    for mode in MODES:
        options = {**mode, **settings.options}
        try:
            if own is not None:
                env = own(num_envs=settings.num_envs, **options)
            else:
                env = gymnasium.make_vec(name, settings.num_envs, vectorization_mode="vector_entry_point", **options)
        except (Exception, SystemExit) as error:
            failure = error
            continue
        if not isinstance(env, VectorEnv):
            raise InputError(f"env.id: {name} makes no gymnasium.vector.VectorEnv but {env!r}")
        if env.metadata.get("autoreset_mode") in (AutoresetMode.DISABLED, AutoresetMode.SAME_STEP):
            return env
        env.close()
    if env is None:
        found = " ".join(f"{type(failure).__name__}: {failure}".split())
        raise InputError(f"env.vectorization: {name!r} cannot be made: {found}") from failure
    told = env.metadata.get("autoreset_mode")
    raise InputError(
        f"env.vectorization: {name} must reset an ended episode in the same step or by a mask, for the row of a reset "
        f"in the next step is no data; its autoreset_mode is {told}; use sync or async"
    )


def _chosen(which: NDArray[np.bool_], some: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """By name the rows [N, ...] of some for ``which``, those of others elsewhere; 0 where a name is missing."""
    chosen = {}
    for name, like in {**some, **others}.items():
        nothing = np.zeros_like(like)
        place = which.reshape(-1, *[1] * (like.ndim - 1))
        chosen[name] = np.where(place, some.get(name, nothing), others.get(name, nothing))
    return chosen


def _with(obs: Any, final: Any, done: NDArray[np.bool_]) -> Any:
    """Observations [N, ...], where ``done`` by last ones: a batch too, or an array of one for each environment."""
    if isinstance(obs, dict):
        of_part = (lambda key: final[key]) if isinstance(final, dict) else (lambda key: _column(final, key))
        return {key: _with(part, of_part(key), done) for key, part in obs.items()}
    replaced = np.array(obs)
    replaced[done] = np.stack(list(final[done]))
    return replaced


def _column(final: Any, key: str) -> NDArray[Any]:
    """A part of each of some Dict observations, an array of objects."""
    column = np.empty(len(final), dtype=object)
    column[:] = [None if one is None else one[key] for one in final]
    return column
