"""Batch renormalisation."""

import torch
from torch import Tensor, nn

MOMENTUM = 0.99
"""Share of the running statistics that an update keeps."""
EPSILON = 1e-3
"""Added to variances."""
LARGEST = 3.0, 5.0
"""Bounds of r, and of |d|."""
WARM_UP = 100_000
"""Updates in which the batch's statistics alone count; those of before are not known well enough."""


class BatchRenorm(nn.Module):
    """Normalises by the statistics of a batch, corrected towards the running ones (Ioffe 2017), for N networks at once.

    y = gamma ((x - mu_B) / sigma_B r + d) + beta,  r = clip(sigma_B / sigma),  d = clip((mu_B - mu) / sigma)

    So what it answers in training is, within bounds, what it answers in evaluation, by the running mu and sigma.

    Args:
        num: N.
        width: F.
    """

    mean: Tensor  # [N, 1, F]
    variance: Tensor  # [N, 1, F]
    num_updates: Tensor  # 0-d int64

    def __init__(self, num: int, width: int):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(num, 1, width)), nn.Parameter(torch.zeros(num, 1, width))
        self.register_buffer("mean", torch.zeros(num, 1, width))
        self.register_buffer("variance", torch.ones(num, 1, width))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """[N, B, F] to the same shape; ``frozen``: gradients go to x alone."""
        gamma, beta = (p.detach() if frozen else p for p in (self.gamma, self.beta))
        if not self.training:
            return torch.addcmul(beta, x - self.mean, gamma * (self.variance + EPSILON).rsqrt())
        variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        normal = (x - mean) * (variance + EPSILON).rsqrt()
        with torch.no_grad():
            std, largest_r, largest_d = (self.variance + EPSILON).sqrt(), *LARGEST
            warm = self.num_updates >= WARM_UP
            r = torch.where(warm, ((variance + EPSILON).sqrt() / std).clamp(1 / largest_r, largest_r), 1.0)
            d = torch.where(warm, ((mean - self.mean) / std).clamp(-largest_d, largest_d), 0.0)
            self.mean.lerp_(mean, 1 - MOMENTUM)
            self.variance.lerp_(variance, 1 - MOMENTUM)
            self.num_updates += 1
        return torch.addcmul(beta, normal * r + d, gamma)
