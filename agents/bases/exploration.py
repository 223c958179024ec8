"""How to act where nothing is known yet."""

import math
from typing import Any

import torch
from gymnasium import Space
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from rlcore.checkpoint import restored
from rlcore.distributions import DiagonalGaussian, Head, box_scale
from rlcore.errors import InputError
from rlcore.observations import action_mask
from rlcore.trees import Tree, leaves


def random_actions(space: Space[Any], obs: Tree) -> Tensor:
    """Actions [N, *A] of a bounded Box or a Discrete, uniformly of those that are allowed in observations [N, *O]."""
    first = next(leaves(obs))
    N, device = len(first), first.device
    if isinstance(space, Box):
        low, high = (torch.as_tensor(x, dtype=torch.float32, device=device) for x in (space.low, space.high))
        return low + (high - low) * torch.rand(N, *low.shape, device=device)
    assert isinstance(space, Discrete)
    mask = action_mask(obs)
    if mask is None:
        return torch.randint(int(space.n), (N,), device=device)
    return ((torch.rand(mask.shape, device=device) + 1) * mask).argmax(1)  # 0 where it is not allowed


SMALLEST_VARIANCE = 1e-6
"""Of state-dependent noise, where all features are 0."""


class OrnsteinUhlenbeck:
    """Noise that drifts: each step takes a share of it away, and adds some (Lillicrap et al. 2016, section 7).

    Args:
        std: of what is added.
        reversion: theta, the share.
    """

    def __init__(self, std: float, reversion: float = 0.15):
        self.std, self.reversion = std, reversion
        self.noise: Tensor | None = None  # [N, D]

    def step(self, like: Tensor) -> Tensor:
        """The next noise, [N, D], on the device of ``like`` [N, D]."""
        noise = torch.zeros_like(like) if self.noise is None else self.noise.to(like.device)
        self.noise = (1 - self.reversion) * noise + self.std * torch.randn_like(like)
        return self.noise

    def begin(self, begins: Tensor | None = None) -> None:
        """Begins anew, from 0, where ``begins`` [N] bool; None: everywhere."""
        self.noise = None if self.noise is None or begins is None else self.noise * ~begins[:, None]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs."""
        return {"noise": self.noise}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        noise = saved["noise"]
        self.noise = None if noise is None else restored(noise, torch.zeros(noise.shape), "noise")


class StateDependentNoise(nn.Module):
    """Noise that is a linear function of the state, the same one until `draw` (gSDE, Raffin et al. 2021).

    noise = features E,  E_ij ~ N(0, sigma_ij): a draw of N(0, features^2 sigma^2), but in one state always the same.

    Args:
        num_features: F, of what the policy has seen.
        num_numbers: D.
        num_envs: N, each with an E of its own.
        log_std: of sigma, at first.
    """

    matrices: Tensor  # [N, F, D]

    def __init__(self, num_features: int, num_numbers: int, num_envs: int, log_std: float):
        super().__init__()
        self.log_sigma = nn.Parameter(torch.full((num_features, num_numbers), log_std))
        self.register_buffer("matrices", torch.zeros(num_envs, num_features, num_numbers))
        self.draw()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Of another number of environments, keeps noise of its own."""
        key = f"{prefix}matrices"
        if key in state_dict and state_dict[key].shape[1:] == self.matrices.shape[1:]:
            state_dict[key] = state_dict[key] if len(state_dict[key]) == len(self.matrices) else self.matrices
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @torch.no_grad()
    def draw(self) -> None:
        """Draws another E for each environment, from torch's global generator of the device."""
        self.matrices.normal_().mul_(self.log_sigma.exp())

    def log_std(self, features: Tensor) -> Tensor:
        """Log of the standard deviation given features [B, F], [B, D]; no gradient goes to them."""
        variance = features.detach().square() @ (2 * self.log_sigma).exp()
        return 0.5 * (variance + SMALLEST_VARIANCE).log()

    def forward(self, features: Tensor) -> Tensor:
        """The noise of each environment in its state; features [N, F] to [N, D]."""
        return torch.bmm(features[:, None], self.matrices).squeeze(1)


class SmoothGaussianHead(Head):
    """Features [B, F] to the mean and, by `StateDependentNoise`, the log standard deviation of a normal, [B, 2 D].

    What is drawn in training is the mean and the noise, which is the same function of the state until `renew`.

    Args:
        num_features: F.
        space: of an action, a Box.
        num_envs: N.
        log_std: of the noise per feature, at first.
        scale: whether means and standard deviations are in units of the box; see `BoxScale`.

    Raises:
        InputError: the action is no Box.
    """

    low: Tensor
    high: Tensor

    def __init__(self, num_features: int, space: Space[Any], num_envs: int, log_std: float, scale: bool):
        if not isinstance(space, Box) or not space.shape:
            raise InputError(f"agent.state_dependent_noise: is for actions in a Box, got {space}")
        super().__init__(num_features, math.prod(space.shape))
        nn.init.orthogonal_(self.weight, 0.01)
        nn.init.zeros_(self.bias)
        self.shape, self.scale = space.shape, box_scale(space) if scale else None
        self.noise = StateDependentNoise(num_features, math.prod(space.shape), num_envs, log_std)
        self.seen: Tensor | None = None
        """The latest features, [B, F], detached; what `draw` adds is of these."""
        self.register_buffer("low", torch.as_tensor(space.low).float(), persistent=False)
        self.register_buffer("high", torch.as_tensor(space.high).float(), persistent=False)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, F] to [B, 2 D]; a mask is of discrete actions, and refused."""
        if mask is not None:
            raise InputError("an action mask says which discrete actions are allowed; this action is a Box")
        self.seen = features.detach()
        return torch.cat([super().forward(features), self.noise.log_std(features)], 1)

    def distribution(self, outputs: Tensor) -> DiagonalGaussian:
        """Outputs [B, 2 D] as a distribution; actions are [B, *A]."""
        mean, log_std = (x.unflatten(-1, self.shape) for x in outputs.chunk(2, 1))
        if self.scale is None:
            return DiagonalGaussian(mean, log_std)
        return DiagonalGaussian(self.scale.forward(mean), log_std + self.scale.log_half_width)

    def draw(self, outputs: Tensor) -> Tensor:
        """Actions [N, *A] by the outputs of the latest forward pass: the mean, and the noise of each state."""
        pi = self.distribution(outputs)
        if self.seen is None or not self.training or len(self.seen) != len(self.noise.matrices):
            return pi.sample()
        noise = self.noise(self.seen).unflatten(-1, self.shape)
        return pi.mean + (noise if self.scale is None else noise * self.scale.half_width)

    def renew(self) -> None:
        """Draws another function of the state for each environment."""
        self.noise.draw()

    @torch.no_grad()
    def metrics(self, action: Tensor) -> dict[str, Tensor | float]:
        """``action_std``, its mean in the latest states, and ``clipped_share``, of the numbers of actions [B, *A]."""
        assert self.seen is not None
        clipped = (action < self.low) | (action > self.high)
        return {"action_std": self.noise.log_std(self.seen).exp().mean(), "clipped_share": clipped.float().mean()}
