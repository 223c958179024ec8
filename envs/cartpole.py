"""CartPole as batched tensors on any device."""

import math
from itertools import cycle, islice
from typing import Annotated, Any

import numpy as np
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from pydantic import Discriminator, PositiveInt, Tag, model_validator
from torch import Tensor

from rlcore import settings
from rlcore.checkpoint import restored
from rlcore.environment import Environment, StepResult
from rlcore.errors import InputError
from rlcore.seeding import restore_generator

ANGLE_LIMIT = 12 * 2 * math.pi / 360  # radians
POSITION_LIMIT = 2.4
TIME_STEP = 0.02  # seconds


class Range(settings.Settings):
    """A constant drawn uniformly for each episode."""

    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low > self.high:
            raise InputError(f"low must not be above high, got {self.low} and {self.high}")
        return self


def _kind(value: Any) -> str:
    """Which of the three is meant, so that an error message is about that one alone."""
    return "list" if isinstance(value, list) else "range" if isinstance(value, (dict, Range)) else "number"


Constant = Annotated[
    Annotated[float, Tag("number")] | Annotated[list[float], Tag("list")] | Annotated[Range, Tag("range")],
    Discriminator(_kind),
]
CONSTANTS = ("gravity", "masscart", "masspole", "length", "force_mag")


class CartPole(Environment):
    """CartPole-v1 (Barto, Sutton & Anderson 1983; gymnasium's constants), N poles in lockstep.

    The state is float64 and computed in gymnasium's order of operations: in float32 a balancing pole, which is an
    unstable system, drifts away from gymnasium's within an episode. Observations are float32 [N, 4]: position,
    velocity, angle (radians), angular velocity; without velocities [N, 2]. Actions: 0 left, 1 right. The reward is 1
    per step.

    The expressions below are valid in numpy and in torch. On the CPU numpy evaluates them: on small arrays its
    operations cost a third of torch's.
    """

    class Settings(Environment.Settings):
        """Settings of CartPole; a constant may also be a list, one value per environment, or a `Range`."""

        gravity: Constant = 9.8
        """m / s^2."""
        masscart: Constant = 1.0
        """kg."""
        masspole: Constant = 0.1
        """kg."""
        length: Constant = 0.5
        """Half the pole's length, m."""
        force_mag: Constant = 10.0
        """N."""
        velocities: bool = True
        """Observe the velocities of cart and pole; without them an agent needs memory to infer them."""
        max_episode_steps: PositiveInt = 500
        """Time limit, at which the episode is truncated."""

    metadata = Environment.metadata | {"render_fps": round(1 / TIME_STEP)}

    def __init__(self, settings: Settings | None = None, device: torch.device | str = "cpu"):
        self.settings: CartPole.Settings = settings or self.Settings()
        high = np.array([2 * POSITION_LIMIT, np.inf, 2 * ANGLE_LIMIT, np.inf], dtype=np.float32)
        self._shown = slice(None, None, 1 if self.settings.velocities else 2)
        super().__init__(self.settings.num_envs, Box(-high[self._shown], high[self._shown]), Discrete(2), device)
        self.xp = _array_namespace(self.device)
        self._generator = torch.Generator(self.device)
        self.ranges = {name: value for name, value in self.settings if isinstance(value, Range)}
        """Of the constants drawn for each episode, by name."""
        self.constants = {name: self._constant(name) for name in CONSTANTS}
        """By name, a scalar or [N], float64."""
        self._set_physics()
        self._reward = torch.ones(self.num_envs, device=self.device)
        self._state = self._start()  # [4, N] float64
        self._elapsed = self._array(torch.zeros(self.num_envs, dtype=torch.int64))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Begins an episode in every environment, with each state variable uniform in [-0.05, 0.05]."""
        if seed is not None:
            self._generator.manual_seed(seed)
        self._state = self._start()
        self._elapsed = self._elapsed * 0
        self._randomize(self._elapsed == 0)
        self._in_view = self._state, self.length
        return self._observe(self._state), {}

    def step(self, actions: Tensor) -> StepResult:
        """Plays one step in every environment.

        Args:
            actions: [N] int64, 0 or 1.
        """
        state = self._physics(self._array(actions))
        elapsed = self._elapsed + 1
        terminated = (abs(state[0]) > POSITION_LIMIT) | (abs(state[2]) > ANGLE_LIMIT)
        truncated = elapsed >= self.settings.max_episode_steps
        done = terminated | truncated
        self._in_view = state, self.length
        info = {}
        if self.xp is torch or done.any():  # reading done would stall a GPU
            info["final_obs"] = self._observe(state)
            state = self.xp.where(done, self._start(), state)
            elapsed = elapsed * ~done
            self._randomize(done)
        self._state, self._elapsed = state, elapsed
        return self._observe(state), self._reward, torch.as_tensor(terminated), torch.as_tensor(truncated), info

    def evaluation(self, num_envs: int) -> "CartPole":
        """A twin of that many environments; lists of constants are repeated in order."""
        lists = {name: value for name, value in self.settings if isinstance(value, list)}
        cycled = {name: list(islice(cycle(value), num_envs)) for name, value in lists.items()}
        return type(self)(self.settings.model_copy(update={"num_envs": num_envs, **cycled}), self.device)

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """What gymnasium draws, with each pole as long as it is: N frames [400, 600, 3]; see the base class."""
        state, length = map(torch.as_tensor, self._in_view)
        frames = []
        for x, half_length in zip(state.T.tolist(), length.expand(self.num_envs).tolist(), strict=True):
            drawing = CartPoleEnv(render_mode="rgb_array")
            drawing.state, drawing.length = x, half_length
            frames.append(drawing.render())
        return tuple(frames)

    def checkpoint(self) -> dict[str, Any]:
        """State, clocks, generator and drawn constants."""
        return {
            "state": torch.as_tensor(self._state),
            "elapsed": torch.as_tensor(self._elapsed),
            "generator": self._generator.get_state(),
            "drawn": {name: torch.as_tensor(self.constants[name]) for name in self.ranges},
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Puts back what `checkpoint` returned."""
        self._state = self._array(restored(saved["state"], torch.as_tensor(self._state), "env.state"))
        self._elapsed = self._array(restored(saved["elapsed"], torch.as_tensor(self._elapsed), "env.elapsed", low=0))
        restore_generator(self._generator, saved["generator"])
        drawn = saved.get("drawn", {})
        for name in self.ranges.keys() & drawn.keys():
            like = torch.as_tensor(self.constants[name])
            self.constants[name] = self._array(restored(drawn[name], like, f"env.drawn.{name}"))
        self._set_physics()
        self._in_view = self._state, self.length

    def _randomize(self, begins: Any) -> None:
        """Draws the constants that have a range, where an episode begins ([N] bool)."""
        if not self.ranges:
            return
        for name, between in self.ranges.items():
            drawn = torch.empty(self.num_envs, dtype=torch.float64, device=self.device)
            drawn.uniform_(between.low, between.high, generator=self._generator)
            self.constants[name] = self.xp.where(begins, self._array(drawn), self.constants[name])
        self._set_physics()

    def _set_physics(self) -> None:
        """Computes the terms of the equations from the constants."""
        constants = self.constants
        self.gravity, self.length, self.force_mag = (constants[name] for name in ("gravity", "length", "force_mag"))
        self.masspole = constants["masspole"]
        self.total_mass = self.masspole + constants["masscart"]
        self.polemass_length = self.masspole * self.length

    def _physics(self, action: Any) -> Any:
        """The next state [4, N], in gymnasium's order of operations (Florian 2007, equations 23 and 24; Euler)."""
        xp = self.xp
        _, velocity, angle, spin = self._state
        force = xp.where(action == 1, self.force_mag, -self.force_mag)
        cos, sin = xp.cos(angle), xp.sin(angle)
        temp = (force + self.polemass_length * xp.square(spin) * sin) / self.total_mass
        spin_rate = (self.gravity * sin - cos * temp) / (
            self.length * (4.0 / 3.0 - self.masspole * xp.square(cos) / self.total_mass)
        )
        acceleration = temp - self.polemass_length * spin_rate * cos / self.total_mass
        return self._state + TIME_STEP * xp.stack([velocity, acceleration, spin, spin_rate])

    def _start(self) -> Any:
        state = torch.empty(4, self.num_envs, dtype=torch.float64, device=self.device)
        return self._array(state.uniform_(-0.05, 0.05, generator=self._generator))

    def _observe(self, state: Any) -> Tensor:
        if self.xp is np:
            return torch.from_numpy(state[self._shown].T.astype(np.float32, order="C"))
        return state[self._shown].t().float()

    def _array(self, tensor: Tensor) -> Any:
        """The tensor on the device; on the CPU as a numpy array that shares its memory."""
        return tensor.numpy() if self.xp is np else tensor.to(self.device)

    def _constant(self, name: str) -> Any:
        value = getattr(self.settings, name)
        if isinstance(value, Range):
            value = [value.low] * self.num_envs
        if isinstance(value, list) and len(value) != self.num_envs:
            raise InputError(f"env.{name}: {len(value)} values for num_envs={self.num_envs}; give one per environment")
        return self._array(torch.tensor(value, dtype=torch.float64))


def _array_namespace(device: torch.device) -> Any:
    return np if device.type == "cpu" else torch
