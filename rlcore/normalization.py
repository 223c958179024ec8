"""Normalises observations and rewards by running means and variances, which are buffers of the agent."""

from typing import Any

import torch
from gymnasium import Space
from gymnasium.spaces import Box, Dict
from torch import Tensor, nn

from rlcore import distributed
from rlcore.errors import InputError
from rlcore.returns import discounted_sum
from rlcore.rollout import Rollout
from rlcore.spaces import ACTION_MASK
from rlcore.trees import Tree

EPSILON = 1e-8
"""Added to a variance before taking its square root."""
CLIP = 10.0
"""Normalised numbers are clipped to [-CLIP, CLIP]."""


class RunningMoments(nn.Module):
    """Mean and variance of all rows so far, however they were batched (Chan, Golub & LeVeque 1979, equation 2.1).

    Before the first row they are 0 and 1.

    Args:
        shape: of a row.
    """

    count: Tensor  # 0-d float64
    mean: Tensor  # [*shape] float64
    var: Tensor  # [*shape] float64, dividing by the count
    shift: Tensor  # [*shape] float32, the mean
    scale: Tensor  # [*shape] float32, one over the standard deviation; 1 before the second row

    def __init__(self, shape: tuple[int, ...] = ()):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    def update(self, x: Tensor) -> None:
        """Includes rows [B, *shape]; those of all processes, if there are several."""
        count, mean, var = distributed.moments(x)
        total = self.count + count
        delta = mean - self.mean
        # torch.where: before the first rows the variance represents no data
        old = torch.where(self.count > 0, self.var, 0.0) * self.count
        self.var.copy_((old + var * count + delta.square() * self.count * count / total) / total)
        self.mean.add_(delta * count / total)
        self.count.copy_(total)
        self.shift.copy_(self.mean)
        self.scale.copy_(torch.where(total > 1, (self.var + EPSILON).rsqrt(), 1.0))


class ObservationNormalizer(nn.Module):
    """Scales floats to mean 0 and variance 1; other parts stay unchanged.

    Args:
        space: of one observation.

    Raises:
        InputError: there are no floats in it.
    """

    def __init__(self, space: Space[Any]):
        super().__init__()
        parts = dict(space.items()) if isinstance(space, Dict) else {"": space}
        floats = {key: part for key, part in parts.items() if isinstance(part, Box) and part.dtype.kind == "f"}
        floats.pop(ACTION_MASK, None)
        if not floats:
            raise InputError(f"agent.normalize_observations: there are no floats in {space}")
        self.single = None if isinstance(space, Dict) else RunningMoments(floats[""].shape)
        self.keys = [] if self.single is not None else list(floats)
        self.parts = nn.ModuleList(RunningMoments(floats[key].shape) for key in self.keys)

    def forward(self, obs: Tree) -> Tree:
        """[..., *O], the floats of float32 or float64, to the same shape of float32, clipped to [-10, 10]."""
        if self.single is not None:
            return _normalized(obs, self.single)
        normalized = {key: _normalized(obs[key], part) for key, part in zip(self.keys, self.parts, strict=True)}
        return obs | normalized

    def update(self, obs: Tree) -> None:
        """Includes observations [B, *O]."""
        if self.single is not None:
            self.single.update(obs)
        for key, moments in zip(self.keys, self.parts, strict=True):
            assert isinstance(moments, RunningMoments)
            moments.update(obs[key])


def _normalized(x: Tensor, moments: Any) -> Tensor:
    centred = (x - moments.mean).float() if x.dtype == torch.float64 else x - moments.shift
    return (centred * moments.scale).clamp(-CLIP, CLIP)


class RewardNormalizer(nn.Module):
    """Divides rewards by the standard deviation of their discounted return up to each step (Engstrom et al. 2020).

    Args:
        gamma: discount.
        num_envs: N.
    """

    running: Tensor  # [N] the return up to the last step, 0 where the episode ended there

    def __init__(self, gamma: float, num_envs: int):
        super().__init__()
        self.gamma = gamma
        self.moments = RunningMoments()
        self.register_buffer("running", torch.zeros(num_envs))

    def returns(self, rollout: Rollout) -> Tensor:
        """The discounted return up to each step, from the beginning of its episode, [T, N]."""
        reward = rollout.reward.clone()
        if not rollout.ragged:
            reward[0] += self.gamma * self.running
        return discounted_sum(reward.flip(0), self.gamma * ~rollout.episode_starts.flip(0)).flip(0)

    def forward(self, rollout: Rollout) -> Tensor:
        """The rewards [T, N] of a rollout, divided and clipped to [-10, 10]; the first rollout uses its own statistics.

        Call `update` once they have been learned from.
        """
        num, var = _spread(rollout.rows(self.returns(rollout)))
        scale = self.moments.scale
        if num > 1:  # a single one has no deviation
            scale = torch.where(self.moments.count > 1, scale, (var + EPSILON).rsqrt())
        return (rollout.reward * scale).clamp(-CLIP, CLIP)

    def update(self, rollout: Rollout) -> None:
        """Includes a rollout's returns."""
        returns = self.returns(rollout)
        self.moments.update(rollout.rows(returns))
        self.running = returns[-1] * ~rollout.done[-1]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Of another number of environments, begins new returns: those that were running are of other episodes."""
        key = f"{prefix}running"
        if key in state_dict and state_dict[key].shape != self.running.shape:
            state_dict[key] = torch.zeros_like(self.running)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _spread(x: Tensor) -> tuple[float, Tensor]:
    """How many rows [B] all processes have, and their variance, 0-d."""
    if distributed.size() == 1:
        return len(x), x.var(correction=0)
    num, _, var = distributed.moments(x)
    return num.item(), var.float()
