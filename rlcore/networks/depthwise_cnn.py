"""Depthwise separable convolutions."""

from itertools import pairwise

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from rlcore.networks.base import Network
from rlcore.networks.lenet import image_shape


class DepthwiseCNN(Network):
    """A convolution per channel, then one that mixes them (Howard et al. 2017, MobileNets, section 3.1).

    A 3 x 3 convolution; then blocks of 2 x 2 max pooling, a 3 x 3 depthwise and a 1 x 1 pointwise convolution; each
    with batch norm and ReLU; the mean over the image; the output layer. Where a 3 x 3 convolution from m to n channels
    has 9 m n weights, a block has m (9 + n).
    """

    class Settings(Network.Settings):
        """Settings of the depthwise separable network."""

        channels: list[PositiveInt] = Field(default=[16, 32, 64], min_length=1)
        """Channels of the first convolution and of each block."""

    def __init__(self, in_shape: tuple[int, ...], out_features: int | None, settings: Settings):
        super().__init__()
        channels, *sides = image_shape("depthwise_cnn", in_shape)
        widths = settings.channels
        self.stem = nn.Sequential(*_normalized(nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)))
        self.blocks = nn.ModuleList()
        for m, n in pairwise(widths):
            pool = [nn.MaxPool2d(2)] if min(sides) >= 2 else []
            sides = [side // 2 for side in sides] if pool else sides
            depthwise = nn.Conv2d(m, m, 3, padding=1, groups=m, bias=False)
            pointwise = nn.Conv2d(m, n, 1, bias=False)
            self.blocks.append(nn.Sequential(*pool, *_normalized(depthwise), *_normalized(pointwise)))
        self.output = self._end(widths[-1], out_features)
        self._channels_last()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, num_features]."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.output(x.mean((2, 3)))


def _normalized(convolution: nn.Conv2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]
