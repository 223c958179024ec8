"""How to act where nothing is known yet."""

from typing import Any

import torch
from gymnasium import Space
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from rlcore.checkpoint import restored
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
        noise = torch.zeros_like(like) if self.noise is None else self.noise
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
