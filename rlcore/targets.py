"""What a network says of standardised targets, in the units of the targets."""

import math
from typing import Any

import torch
from gymnasium import Space
from torch import Tensor, nn

from rlcore.spaces import Normals, Values

LEAST_VARIANCE = 1e-6
"""Of a standardised target, for numerical stability (Lakshminarayanan et al. 2017, section 2.2.1)."""


class TargetScale(nn.Module):
    """Outputs x of a network to answers in the units of the targets, shift + scale x; saved with the agent.

    Of a normal this is the mean. Its variance, of which a network says the logarithm, is scale^2 (exp(x) + 1e-6).

    Args:
        space: of an answer.
    """

    shift: Tensor  # [*D] float32
    scale: Tensor  # [*D] float32

    def __init__(self, space: Values):
        super().__init__()
        self.is_normal = isinstance(space, Normals)
        for name, numbers in (("shift", space.shift), ("scale", space.scale)):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """[B, *A] to answers [B, *A]."""
        if not self.is_normal:
            return torch.addcmul(self.shift, self.scale, x)
        mean, log_var = x.unbind(1)
        log_var = torch.logaddexp(log_var, log_var.new_tensor(math.log(LEAST_VARIANCE))) + 2 * self.scale.log()
        return torch.stack([torch.addcmul(self.shift, self.scale, mean), log_var], 1)


def target_scale(space: Space[Any]) -> TargetScale | None:
    """What an agent does to the outputs of its network; None if nothing."""
    if not isinstance(space, Values):
        return None
    is_raw = not space.shift.any() and (space.scale == 1).all()
    return None if is_raw and not isinstance(space, Normals) else TargetScale(space)
