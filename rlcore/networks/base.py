"""What every network has."""

from torch import nn

from rlcore import settings


class Network(nn.Module):
    """Turns [B, *in_shape] into [B, num_features]; made as ``Class(in_shape, out_features, settings)``.

    - ``in_shape``: shape of one observation, without the batch: ``(4,)``, ``(1, 28, 28)``;
    - ``out_features``: size of the output layer, or None for the body alone;
    - ``settings``: an instance of the class's own ``Settings``.
    """

    class Settings(settings.Settings):
        """Settings of a network that has none."""

    num_features: int
    """F, size of the output."""
