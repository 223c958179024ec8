"""EnvPool: environments in C++, stepped by a pool of threads."""

from typing import Annotated, Any

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, Space
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor

from rlcore.environment import Environment, StepResult
from rlcore.errors import InputError
from rlcore.imports import optional
from rlcore.registry import did_you_mean
from rlcore.seeding import derive_seed
from rlcore.spaces import Channels, dtype_of_tensor, with_channels
from rlcore.trees import Tree

TAKEN = ("num_envs", "batch_size", "seed", "env_type")
"""Arguments of ``envpool.make`` that are no options."""
OWN = ("env_id", "players")
"""What it says of itself in ``info``."""


class EnvPool(Environment):
    """N environments of EnvPool (Weng et al. 2022): Atari, MuJoCo, DeepMind Control, Procgen and others, in C++.

    Ended episodes are reset by their numbers in the same step, so that the true successor is the plain observation
    before the reset, and there are no filler rows. EnvPool seeds when it makes environments, so a reset with a seed
    makes new ones; it cannot save them, so a resumed run begins new episodes.
    """

    class Settings(Environment.Settings):
        """Settings of a pool."""

        num_envs: Annotated[int, Field(gt=0, le=2**16)] = 64
        """N, environments in lockstep."""
        id: str
        """As in ``envpool.make``: ``Pong-v5``, ``HalfCheetah-v4``, ``WalkerWalk-v1``."""
        options: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
        """Keyword arguments of ``envpool.make``: ``{stack_num: 4, episodic_life: true, reward_clip: true}``."""

        @field_validator("options")
        @classmethod
        def _check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
            if taken := [name for name in TAKEN if name in options]:
                raise InputError(f"{', '.join(taken)}: rlcore itself says that; for the number, set env.num_envs")
            return options

        num_threads: PositiveInt | None = None
        """Of the pool; null is EnvPool's choice."""
        channels: Channels | None = None
        """Where the channels of images are; null: at the end that has 1, 3 or 4, if only one has."""

    settings: Settings

    def __init__(self, settings: Settings, device: torch.device | str = "cpu"):
        self.settings = settings
        self._envpool = optional("envpool", "env.name: it needs")
        known = self._envpool.list_all_envs()
        if settings.id not in known:
            raise InputError(f"env.id: EnvPool has no {settings.id!r}{did_you_mean(settings.id, known)}")
        self.envs = self._made(seed=0)
        action: Space[Any] = self.envs.action_space
        if not isinstance(action, (Box, Discrete)):
            raise InputError(f"env.id: {settings.id} has the action space {action}; supported: Box, Discrete")
        if isinstance(action, Box):
            action = Box(action.low.astype(np.float32), action.high.astype(np.float32), dtype=np.float32)
        space = _plain(self.envs.observation_space, settings.id)
        space = space if settings.channels is None else with_channels(space, settings.channels)
        super().__init__(settings.num_envs, space, action, device)
        self.max_episode_steps = int(self.envs.config.get("max_episode_steps") or self.max_episode_steps)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tree, dict[str, Any]]:
        """Begins an episode in every environment."""
        if seed is not None:
            self.envs.close()
            self.envs = self._made(derive_seed(seed))
        obs, info = self.envs.reset()
        return self._tensors(obs), _numbers(info)

    def step(self, actions: Tensor) -> StepResult:
        """Plays one step in every environment.

        Args:
            actions: [N] int64; or [N, *A] float32, clipped to the bounds of the space.
        """
        space, array = self.envs.action_space, actions.numpy(force=True)
        if isinstance(space, Box):
            array = np.clip(array, space.low, space.high)
        obs, reward, terminated, truncated, info = self.envs.step(array.astype(space.dtype))
        numbers, observed = _numbers(info), self._tensors(obs)
        truncated = truncated & ~terminated  # which EnvPool may set beside it
        done = terminated | truncated
        if done.any():
            numbers["final_obs"] = observed
            fresh, told = self.envs.reset(np.flatnonzero(done).astype(np.int32))
            observed = _with(observed, self._tensors(fresh), told["env_id"])
        flags = (torch.from_numpy(x.copy()).to(self.device) for x in (terminated, truncated))
        return observed, torch.from_numpy(reward.astype(np.float32)).to(self.device), *flags, numbers

    def evaluation(self, num_envs: int) -> "EnvPool":
        """A twin with that many environments."""
        return type(self)(self.settings.model_copy(update={"num_envs": num_envs}), self.device)

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the threads."""
        self.envs.close()

    def _made(self, seed: int) -> Any:
        s = self.settings
        threads = {} if s.num_threads is None else {"num_threads": s.num_threads}
        arguments = {"num_envs": s.num_envs, "seed": seed, **threads, **s.options}
        try:
            return self._envpool.make(s.id, env_type="gymnasium", **arguments)
        except Exception as error:
            raise InputError(f"env.options: {s.id} cannot be made: {' '.join(str(error).split())}") from error

    def _tensors(self, obs: Any) -> Tree:
        """Copies: EnvPool may write to what it returned again."""
        if isinstance(obs, dict):
            return {key: self._tensors(part) for key, part in obs.items()}
        return torch.from_numpy(obs.astype(dtype_of_tensor(obs.dtype))).to(self.device)


def _plain(space: Space[Any], env_id: str) -> Space[Any]:
    """A Box, or a Dict of them; floats are float32."""
    if isinstance(space, Dict):
        return Dict({key: _plain(part, env_id) for key, part in space.items()})
    if not isinstance(space, Box):
        raise InputError(f"env.id: {env_id} shows {space}; supported: Box, and Dict of Box")
    if space.dtype.kind != "f":
        return space
    with np.errstate(over="ignore"):  # the largest float64 is how some say that there is no bound
        return Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)


def _numbers(info: dict[str, Any]) -> dict[str, Any]:
    """What ``info`` says of each environment in one number, float64 [N]."""
    parts = {name: np.asarray(x) for name, x in info.items() if name not in OWN and not isinstance(x, dict)}
    return {name: x.astype(np.float64) for name, x in parts.items() if x.ndim == 1 and x.dtype.kind in "fiub"}


def _with(obs: Tree, fresh: Tree, places: Any) -> Tree:
    """Observations [N, *O], those at some places by fresh ones [K, *O]."""
    if isinstance(obs, dict):
        return {key: _with(part, fresh[key], places) for key, part in obs.items()}
    replaced: Tensor = obs.clone()
    replaced[torch.as_tensor(places, dtype=torch.int64, device=obs.device)] = fresh
    return replaced
