"""NoisyLinear: a linear layer that explores by noise in its weights."""

import math

import torch
from torch import Tensor, nn

from rlcore.networks.linear import linear


class NoisyLinear(nn.Module):
    """y = (W + S_w e_w) x + b + S_b e_b, with factorised noise e, drawn anew in each pass while training.

    Fortunato et al. 2018, "Noisy Networks for Exploration", equations 9 to 11; all rows of a batch share the noise. In
    evaluation mode there is none.

    Args:
        in_features: inputs.
        out_features: outputs.
        std: sigma_0, by which S begins at sigma_0 / sqrt(in_features).
    """

    def __init__(self, in_features: int, out_features: int, std: float = 0.5):
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))
        self.weight_std = nn.Parameter(torch.full((out_features, in_features), std * bound))
        self.bias_std = nn.Parameter(torch.full((out_features,), std * bound))

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_features] to [B, out_features]."""
        if not self.training:
            return linear(x, self.weight, self.bias)
        out_features, in_features = self.weight.shape
        draws = torch.randn(in_features + out_features, device=x.device)
        noise = draws.sign() * draws.abs().sqrt()
        e_in, e_out = noise[:in_features], noise[in_features:]
        weight = self.weight + self.weight_std * (e_out[:, None] * e_in)
        return linear(x, weight, self.bias + self.bias_std * e_out)
