"""Probes: toy environments with known values and optimal policies, to test an agent in seconds."""

import math
from typing import Any, Literal

import torch
from gymnasium.spaces import Box, Discrete, Space
from pydantic import PositiveInt
from torch import Tensor
from torch.nn.functional import one_hot

from rlcore.checkpoint import restored
from rlcore.environment import Environment, StepResult
from rlcore.moved import keep_former_names
from rlcore.seeding import restore_generator

FORMER = {"pay": "reward"}
"""Methods by the names that they had in rlcore 0.1."""


class Probe(Environment):
    """Episodes of ``length`` steps; a probe defines observations, rewards, and how an episode ends.

    Observations are float32 [N, O]. A subclass overrides `observe` and `reward`, and may change ``ending``.
    """

    length = 1
    """Steps per episode."""
    ending = (True, False)
    """The flags of the last step: terminated, truncated."""

    def __init__(
        self,
        settings: Environment.Settings,
        num_inputs: int,
        action_space: Space[Any],
        device: torch.device | str,
    ):
        self.settings = settings
        super().__init__(settings.num_envs, Box(-1.0, 1.0, (num_inputs,)), action_space, device)
        self._generator = torch.Generator(self.device)
        self._elapsed = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        self._hidden = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        self._obs = torch.zeros(self.num_envs, num_inputs, device=self.device)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        keep_former_names(cls, FORMER)

    def observe(self) -> Tensor:
        """The current observation, [N, O]; may draw from the generator."""
        return one_hot(self._elapsed, self.length + 1).float()

    def reward(self, action: Tensor) -> Tensor:
        """The reward of an action, [N] float32."""
        return torch.ones(self.num_envs, device=self.device)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Begins an episode in every environment."""
        if seed is not None:
            self._generator.manual_seed(seed)
        self._elapsed = torch.zeros_like(self._elapsed)
        self._hidden = torch.zeros_like(self._hidden)
        self._obs = self.observe()
        return self._obs, {}

    def step(self, actions: Tensor) -> StepResult:
        """Plays one step in every environment."""
        reward = self.reward(actions)
        self._elapsed = self._elapsed + 1
        final_obs = self.observe()
        done = self._elapsed == self.length
        self._elapsed = self._elapsed * ~done
        self._obs = torch.where(done[:, None], self.observe(), final_obs)
        terminated, truncated = (done & flag for flag in self.ending)
        return self._obs, reward, terminated, truncated, {"final_obs": final_obs}

    def checkpoint(self) -> dict[str, Any]:
        """Clocks, hidden state, observation, generator."""
        return {
            "elapsed": self._elapsed,
            "hidden": self._hidden,
            "obs": self._obs,
            "generator": self._generator.get_state(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Puts back what `checkpoint` returned."""
        self._elapsed = restored(saved["elapsed"], self._elapsed, "env.elapsed", low=0, high=self.length - 1)
        self._hidden = restored(saved["hidden"], self._hidden, "env.hidden")
        self._obs = restored(saved["obs"], self._obs, "env.obs")
        restore_generator(self._generator, saved["generator"])


keep_former_names(Probe, FORMER)


class Identity(Probe):
    """Name what you see: reward 1 for the action that is shown, else 0. The optimal return is 1."""

    class Settings(Environment.Settings):
        """Settings of the identity task."""

        num_actions: PositiveInt = 4
        """K."""

    def __init__(self, settings: Settings | None = None, device: torch.device | str = "cpu"):
        settings = settings or self.Settings()
        super().__init__(settings, settings.num_actions, Discrete(settings.num_actions), device)

    def observe(self) -> Tensor:
        """A random one-hot [N, K]."""
        num_actions = self._obs.shape[1]
        shown = torch.randint(num_actions, (self.num_envs,), generator=self._generator, device=self.device)
        return one_hot(shown, num_actions).float()

    def reward(self, action: Tensor) -> Tensor:
        """1 where the action [N] is the one shown."""
        return (action == self._obs.argmax(1)).float()


class ConstantReward(Probe):
    """Reward 1 per step for ``length`` steps. Shows the clock if episodes terminate, a constant if they are truncated.

    V(start) is 1 / (1 - gamma) if the episode is truncated, and (1 - gamma^length) / (1 - gamma) if it terminates, also
    with both flags set.
    """

    class Settings(Environment.Settings):
        """Settings of the constant reward."""

        length: PositiveInt = 8
        """Steps per episode."""
        end: Literal["terminated", "truncated", "both"] = "terminated"
        """The flags of the last step."""

    def __init__(self, settings: Settings | None = None, device: torch.device | str = "cpu"):
        settings = settings or self.Settings()
        self.length = settings.length
        self.ending = (settings.end != "truncated", settings.end != "terminated")
        super().__init__(settings, settings.length + 1, Discrete(2), device)

    def observe(self) -> Tensor:
        """A one-hot [N, length + 1]."""
        return one_hot(self._elapsed * self.ending[0], self.length + 1).float()


class TwoStep(Probe):
    """Credit assignment: the first action decides the reward of the second step, which does not show it.

    The optimal return is 1, by action 1 first.
    """

    length = 2

    def __init__(self, settings: Environment.Settings | None = None, device: torch.device | str = "cpu"):
        super().__init__(settings or self.Settings(), self.length + 1, Discrete(2), device)

    def reward(self, action: Tensor) -> Tensor:
        """0 in the first step; then 1 where the first action was 1."""
        reward = (self._hidden * (self._elapsed == 1)).float()
        self._hidden = action
        return reward


class Target(Probe):
    """Continuous: hit the number in [-1, 1] that is shown; reward minus the squared error. The optimal return is 0."""

    def __init__(self, settings: Environment.Settings | None = None, device: torch.device | str = "cpu"):
        super().__init__(settings or self.Settings(), 1, Box(-2.0, 2.0, (1,)), device)

    def observe(self) -> Tensor:
        """[N, 1], uniform in [-1, 1]."""
        return torch.rand(self.num_envs, 1, generator=self._generator, device=self.device) * 2 - 1

    def reward(self, action: Tensor) -> Tensor:
        """Minus the squared error of the action [N, 1]."""
        return -(action - self._obs).square().squeeze(1)


class Product(Probe):
    """Move a point (x, y) so that x y grows. The reward (x + a_0) (y + a_1) carries a gradient: (y, x) at a = 0."""

    class Settings(Environment.Settings):
        """Settings of the product."""

        x: float = -2.0
        y: float = 3.0

    settings: Settings

    def __init__(self, settings: Settings | None = None, device: torch.device | str = "cpu"):
        super().__init__(settings or self.Settings(), 1, Box(-math.inf, math.inf, (2,)), device)

    def observe(self) -> Tensor:
        """[N, 1], always 1."""
        return torch.ones(self.num_envs, 1, device=self.device)

    def reward(self, action: Tensor) -> Tensor:
        """The product after the action [N, 2]."""
        return (self.settings.x + action[:, 0]) * (self.settings.y + action[:, 1])


class RockPaperScissors(Probe):
    """Against an opponent who beats what was played last: the optimal policy is stochastic.

    Actions: 0 rock, 1 paper, 2 scissors. Reward 1, 0 or -1; only a constant is shown. Any deterministic policy gets -1
    at every step except the first, the uniform one 0 on average; no policy without memory gets more for certain.
    """

    length = 16

    def __init__(self, settings: Environment.Settings | None = None, device: torch.device | str = "cpu"):
        super().__init__(settings or self.Settings(), 1, Discrete(3), device)

    def observe(self) -> Tensor:
        """[N, 1], always 1."""
        return torch.ones(self.num_envs, 1, device=self.device)

    def reward(self, action: Tensor) -> Tensor:
        """The opponent plays what beats the last action."""
        outcome = (action - (self._hidden + 1)) % 3  # 0 a draw, 1 a win, 2 a loss
        self._hidden = action
        return torch.where(outcome == 2, -1.0, outcome.float())
