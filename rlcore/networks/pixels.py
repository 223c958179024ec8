"""Networks for pixels that are common in reinforcement learning."""

from itertools import pairwise

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from rlcore.errors import InputError
from rlcore.networks.base import Network
from rlcore.networks.lenet import image_shape
from rlcore.networks.linear import Linear

SQRT_2 = 2**0.5


class NatureCNN(Network):
    """Three convolutions and a linear layer (Mnih et al. 2015, "Human-level control", methods).

    8 x 8 with stride 4 to 32 channels, 4 x 4 with stride 2 to 64, 3 x 3 to 64; each followed by ReLU. For images of at
    least 36 x 36 pixels.
    """

    class Settings(Network.Settings):
        """Settings of the network."""

        features: PositiveInt = 512
        """Units of the linear layer."""

    def __init__(self, in_shape: tuple[int, ...], out_features: int | None, settings: Settings):
        super().__init__()
        channels, height, width = image_shape("nature_cnn", in_shape)
        if min(height, width) < 36:
            raise InputError(f"nature_cnn: needs images of 36 x 36 pixels at least, got inputs of shape {in_shape}")
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 8, 4), nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
            nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        with torch.no_grad():
            size = self.convolutions(torch.zeros(1, *in_shape)).shape[1]
        self.hidden = Linear(size, settings.features)
        self.output = self._end(settings.features, out_features)
        _orthogonal(self, SQRT_2)
        self._channels_last()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, num_features]."""
        features = self.convolutions(x)
        return self.output(self.hidden(features).relu())


class ImpalaCNN(Network):
    """Residual convolutions (Espeholt et al. 2018, "IMPALA", figure 3, right), for images of any size.

    A section is a 3 x 3 convolution, 3 x 3 max pooling with stride 2, and two residual blocks of two convolutions each.
    """

    class Settings(Network.Settings):
        """Settings of the network."""

        channels: list[PositiveInt] = Field(default=[16, 32, 32], min_length=1)
        """Channels of each section."""
        features: PositiveInt = 256
        """Units of the linear layer."""

    def __init__(self, in_shape: tuple[int, ...], out_features: int | None, settings: Settings):
        super().__init__()
        channels, height, width = image_shape("impala_cnn", in_shape)
        sections: list[nn.Module] = []
        for m, n in zip([channels, *settings.channels], settings.channels, strict=False):
            sections += [nn.Conv2d(m, n, 3, padding=1), nn.MaxPool2d(3, 2, 1), _Residual(n), _Residual(n)]
            height, width = (height + 1) // 2, (width + 1) // 2
        self.sections = nn.Sequential(*sections, nn.ReLU(), nn.Flatten())
        self.hidden = Linear(settings.channels[-1] * height * width, settings.features)
        self.output = self._end(settings.features, out_features)
        self._channels_last()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, num_features]."""
        features = self.sections(x)
        return self.output(self.hidden(features).relu())


class CNN(Network):
    """Convolutions, each followed by ReLU, and a linear layer; for images of any size, such as MinAtar's 10 x 10."""

    class Settings(Network.Settings):
        """Settings of the network."""

        channels: list[PositiveInt] = Field(default=[16], min_length=1)
        """Channels of each convolution."""
        kernel: PositiveInt = 3
        """Pixels that a convolution spans, in both directions."""
        stride: PositiveInt = 1
        """Pixels between two places of it."""
        features: PositiveInt = 128
        """Units of the linear layer."""
        layer_norm: bool = False
        """Layer norm before each ReLU (Ba et al. 2016); of images over channels and pixels."""

    def __init__(self, in_shape: tuple[int, ...], out_features: int | None, settings: Settings):
        super().__init__()
        s, (channels, height, width) = settings, image_shape("cnn", in_shape)
        layers: list[nn.Module] = []
        for m, n in pairwise([channels, *s.channels]):
            if min(height, width) < s.kernel:
                raise InputError(
                    f"cnn: a kernel of {s.kernel} does not fit {height} x {width} pixels; lower network.kernel"
                )
            layers += [nn.Conv2d(m, n, s.kernel, s.stride), *([nn.GroupNorm(1, n)] if s.layer_norm else []), nn.ReLU()]
            height, width = ((size - s.kernel) // s.stride + 1 for size in (height, width))
        layers += [nn.Flatten(), Linear(s.channels[-1] * height * width, s.features)]
        self.layers = nn.Sequential(*layers, *([nn.LayerNorm(s.features)] if s.layer_norm else []), nn.ReLU())
        self.output = self._end(s.features, out_features)
        _orthogonal(self.layers, SQRT_2)
        self._channels_last()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, num_features]."""
        return self.output(self.layers(x))


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.one, self.two = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(self.one(x.relu()).relu())


def _orthogonal(network: nn.Module, gain: float) -> None:
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
