"""Networks for players: a body, and heads for the policy and the value."""

import math
from itertools import pairwise

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from rlcore.errors import InputError
from rlcore.networks.base import Network
from rlcore.networks.lenet import image_shape
from rlcore.networks.linear import Linear


class PolicyValue(Network):
    """Linear layers, and two heads with a hidden layer each; the last of ``out_features`` is the value."""

    class Settings(Network.Settings):
        """Settings of linear layers for a player."""

        hidden: list[PositiveInt] = [256, 256]  # noqa: RUF012 (pydantic copies it)
        """Sizes of the body's layers."""
        head: PositiveInt = 128
        """Size of each head's hidden layer."""

    reads_images = False

    def __init__(self, in_shape: tuple[int, ...], out_features: int | None, settings: Settings):
        super().__init__()
        sizes = [math.prod(in_shape), *settings.hidden]
        layers = [part for m, n in pairwise(sizes) for part in (Linear(m, n), nn.ReLU())]
        self.body = nn.Sequential(nn.Flatten(), *layers)
        self.heads = None if out_features is None else _Heads(sizes[-1], sizes[-1], settings.head, out_features)
        self.num_features = out_features or sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        """[B, *in_shape] to [B, num_features]."""
        features = self.body(x)
        return features if self.heads is None else self.heads(features, features)


class PolicyValueResNet(Network):
    """Residual blocks of 3 x 3 convolutions (He et al. 2016), and a head each for policy and value.

    Silver et al. 2017, "Mastering the game of Go without human knowledge", methods; the last of ``out_features`` is the
    value.
    """

    class Settings(Network.Settings):
        """Settings of the residual network."""

        channels: PositiveInt = 32
        """Channels of each convolution."""
        blocks: PositiveInt = 3
        """Residual blocks, of two convolutions each."""
        head_channels: PositiveInt = 4
        """Channels of each head before its linear layers."""
        head: PositiveInt = 64
        """Size of each head's hidden layer."""

    def __init__(self, in_shape: tuple[int, ...], out_features: int | None, settings: Settings):
        super().__init__()
        channels, height, width = image_shape("policy_value_resnet", in_shape)
        if min(height, width) < 2:
            raise InputError(
                f"policy_value_resnet: needs boards of 2 x 2 cells at least, got inputs of shape {in_shape}"
            )
        C, cells = settings.channels, height * width
        self.stem = nn.Sequential(*_convolved(channels, C, 3), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(*_convolved(C, C, 3), nn.ReLU(), *_convolved(C, C, 3)) for _ in range(settings.blocks)
        )
        self.heads, self.num_features = None, C * cells
        if out_features is not None:
            self.policy_cells, self.value_cells = (
                nn.Sequential(*_convolved(C, settings.head_channels, 1), nn.ReLU(), nn.Flatten()) for _ in range(2)
            )
            size = settings.head_channels * cells
            self.heads, self.num_features = _Heads(size, size, settings.head, out_features), out_features
        self._channels_last()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, num_features]."""
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return x.flatten(1) if self.heads is None else self.heads(self.policy_cells(x), self.value_cells(x))


class _Heads(nn.Module):
    """Features of policy and value to [B, A + 1]: logits, and the value before tanh."""

    def __init__(self, policy_features: int, value_features: int, hidden: int, out_features: int):
        super().__init__()
        self.policy = nn.Sequential(Linear(policy_features, hidden), nn.ReLU(), Linear(hidden, out_features - 1))
        self.value = nn.Sequential(Linear(value_features, hidden), nn.ReLU(), Linear(hidden, 1))

    def forward(self, policy_features: Tensor, value_features: Tensor) -> Tensor:
        return torch.cat([self.policy(policy_features), self.value(value_features)], 1)


def _convolved(m: int, n: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(m, n, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(n)]
