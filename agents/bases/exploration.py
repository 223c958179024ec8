"""How to act where nothing is known yet."""

from typing import Any

import torch
from gymnasium import Space
from gymnasium.spaces import Box, Discrete
from torch import Tensor

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
