"""The base class of networks."""

import torch
from torch import nn

from rlcore import settings


class Network(nn.Module):
    """Turns [B, *in_shape] into [B, num_features]; constructed as ``Class(in_shape, out_features, settings)``.

    - ``in_shape``: shape of one observation, without the batch: ``(4,)``, ``(1, 28, 28)``;
    - ``out_features``: size of the output layer, or None for the body alone;
    - ``settings``: an instance of the class's own ``Settings``.
    """

    class Settings(settings.Settings):
        """Settings of a network without any."""

    num_features: int
    """F, size of the output."""
    reads_images: bool = True
    """Whether three dimensions mean an image [C, H, W]; False for a network that flattens its input."""

    def _end(self, width: int, out_features: int | None) -> nn.Module:
        """The output layer after a body of that width, or nothing; sets ``num_features``."""
        self.num_features = out_features or width
        return nn.Identity() if out_features is None else nn.Linear(width, out_features)

    def _channels_last(self) -> None:
        """Keeps the weights of convolutions, and so the images between them, with channels last in memory.

        Convolutions and pooling are faster there on a CPU (docs/performance.md); shapes are unchanged.
        """
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
