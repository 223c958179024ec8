"""gymnasium's environments that step all N themselves, such as Atari's: how they are made, and their answers."""

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from rlcore.errors import InputError
from rlcore.gym_maker import check_readable, own_maker
from rlcore.spaces import ACTION_MASK

if TYPE_CHECKING:
    from rlcore.gym_environment import GymEnvironment

MODES: tuple[dict[str, Any], ...] = (
    {"autoreset_mode": AutoresetMode.DISABLED},
    {"autoreset_mode": AutoresetMode.SAME_STEP},
    {},
)
"""How environments are asked to reset, until they agree."""


class SelfVectorized(gymnasium.vector.VectorWrapper[Any, Any, Any]):
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
        mode = self.env.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.DISABLED, AutoresetMode.SAME_STEP):
            raise InputError(
                f"env.vectorization: {self.name} resets an ended episode in its next step, whose row is no data, and "
                "cannot be told otherwise (autoreset_mode); use sync or async"
            )
        self.resets_itself = mode is AutoresetMode.SAME_STEP
        self._after_reset: Any = None
        check_readable(self.env.single_observation_space)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins episodes where ``options["reset_mask"]`` says so, or everywhere."""
        if self.resets_itself and options is not None and "reset_mask" in options:
            return self._after_reset
        obs, info = self._called("reset", seed=seed, options=options)
        return obs, self._numbers(info)

    def step(self, actions: Any) -> tuple[Any, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Plays one step in every environment."""
        obs, reward, terminated, truncated, info = self._called("step", actions)
        terminated, truncated = np.array(terminated, bool), np.array(truncated, bool)
        numbers, done = self._numbers(info), terminated | truncated
        if self.resets_itself and done.any():
            self._after_reset = obs, numbers
            obs = _with(obs, info["final_obs"], done)
            numbers = _chosen(done, self._numbers(info.get("final_info", {})), numbers)
        return obs, np.asarray(reward), terminated, truncated, numbers

    def _called(self, what: str, *arguments: Any, **named: Any) -> Any:
        try:
            return getattr(self.env, what)(*arguments, **named)
        except (Exception, SystemExit) as error:
            message = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"{self.name} failed in {what}: {message}") from error

    def _numbers(self, info: dict[str, Any]) -> dict[str, Any]:
        """What ``info`` has of each environment: numbers, float64 [N], and the mask of the actions; and who has it."""
        kept: dict[str, Any] = {}
        for name, value in info.items():
            x = np.asarray(value)
            if x.dtype.kind not in "biuf" or x.shape[:1] != (self.num_envs,) or name.startswith("_"):
                continue
            if name == ACTION_MASK:
                kept[name] = x.reshape(self.num_envs, -1).astype(bool)
            elif x.ndim == 1:
                kept[name] = x.astype(np.float64)
            else:
                continue
            kept[f"_{name}"] = np.array(info.get(f"_{name}", np.ones(self.num_envs)), bool)
        return kept


def _made(settings: "GymEnvironment.Settings") -> VectorEnv[Any, Any, Any]:
    name, own = settings.shown_id, own_maker(settings.id)
    for mode in MODES:
        options = {**mode, **settings.options}
        try:
            if own is not None:
                env: Any = own(num_envs=settings.num_envs, **options)
            else:
                env = gymnasium.make_vec(name, settings.num_envs, vectorization_mode="vector_entry_point", **options)
            break
        except (Exception, SystemExit) as error:
            message = " ".join(f"{type(error).__name__}: {error}".split())
            if not mode or "autoreset_mode" not in message:
                raise InputError(f"env.vectorization: {name!r} cannot be made: {message}") from error
    if not isinstance(env, VectorEnv):
        raise InputError(f"env.id: {name} makes no gymnasium.vector.VectorEnv but {env!r}")
    return env


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
