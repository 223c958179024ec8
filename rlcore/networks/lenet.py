"""LeNet."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from rlcore.errors import InputError
from rlcore.networks.base import Network
from rlcore.networks.linear import Linear
from rlcore.networks.mlp import ACTIVATIONS, Activation

KERNEL, POOL = 5, 2


class LeNet(Network):
    """LeNet-5 as it is taught (after LeCun et al. 1998): two convolutions of 5 x 5 with max pooling, 120, 84, output.

    The convolutions have no bias; with 6 and 16 channels it has 61,684 parameters for 28 x 28 pixels and ten classes.
    """

    class Settings(Network.Settings):
        """Settings of LeNet."""

        activation: Activation = "relu"
        """Activation after each layer except the output."""
        batch_norm: bool = False
        """Batch norm between each convolution and its activation."""
        channels: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] = [6, 16]  # noqa: RUF012
        """Channels of the two convolutions."""
        padding: Annotated[list[NonNegativeInt], Field(min_length=2, max_length=2)] = [2, 0]  # noqa: RUF012
        """Padding of the two convolutions, pixels; [2, 2] supports images from 4 x 4 on."""
        dropout: float = Field(default=0.0, ge=0, lt=1)
        """Probability that a unit of the last hidden layer is dropped while training."""
        channel_dropout: float = Field(default=0.0, ge=0, lt=1)
        """Probability that a channel of the second convolution is dropped while training."""

    def __init__(self, in_shape: tuple[int, ...], out_features: int | None, settings: Settings):
        super().__init__()
        channels, height, width = image_shape("lenet", in_shape)
        for padding in settings.padding:
            height, width = ((side + 2 * padding - KERNEL + 1) // POOL for side in (height, width))
        if min(height, width) < 1:
            raise InputError(
                f"lenet: inputs of shape {in_shape} are too small; network.padding=[2, 2] supports 4 x 4 pixels"
            )
        first, second = settings.channels
        self.convolutions = nn.ModuleList(
            nn.Conv2d(m, n, KERNEL, padding=padding, bias=False)
            for m, n, padding in zip((channels, first), (first, second), settings.padding, strict=True)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(n) if settings.batch_norm else nn.Identity() for n in settings.channels
        )
        self.channel_dropout = nn.Dropout2d(settings.channel_dropout) if settings.channel_dropout else nn.Identity()
        self.pool = nn.MaxPool2d(POOL)
        self.hidden = nn.ModuleList([Linear(second * height * width, 120), Linear(120, 84)])
        self.dropout = nn.Dropout(settings.dropout) if settings.dropout else nn.Identity()
        self.activation = ACTIVATIONS[settings.activation]
        self.output = self._end(84, out_features)
        self._channels_last()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, num_features]."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = self.pool(self.activation(norm(convolution(x))))
        x = self.channel_dropout(x).flatten(1)
        for layer in self.hidden:
            x = self.activation(layer(x))
        return self.output(self.dropout(x))


def image_shape(name: str, in_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The input shape, checked to be that of an image; InputError if it is not."""
    if len(in_shape) != 3:
        raise InputError(f"{name} reads images (channels, height, width), got inputs of shape {in_shape}")
    return in_shape
