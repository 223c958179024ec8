"""MultiInput: a body for observations of several parts."""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from rlcore.errors import InputError
from rlcore.networks import NetworkChoice
from rlcore.networks.base import Network
from rlcore.networks.recurrent import Recurrent
from rlcore.registry import did_you_mean


class MultiInput(Network):
    """Each part goes through its own body; then all, joined, through linear layers with tanh.

    Constructed like every network, except that ``in_shape`` is a dict of shapes and the input a dict of tensors.
    """

    class Settings(Network.Settings):
        """Settings of the network."""

        vector: NetworkChoice = NetworkChoice.model_validate({"name": "mlp", "hidden": [64]})
        """Network for parts that are not of three dimensions."""
        image: NetworkChoice = NetworkChoice.model_validate({"name": "nature_cnn"})
        """Network for parts of three dimensions."""
        parts: dict[str, NetworkChoice] = {}  # noqa: RUF012 (pydantic copies it)
        """Networks for parts by name, instead of those."""
        hidden: list[PositiveInt] = [64]  # noqa: RUF012
        """Sizes of the layers that read all parts, joined."""

    def __init__(self, in_shape: dict[str, tuple[int, ...]], out_features: int | None, settings: Settings):
        super().__init__()
        if not isinstance(in_shape, dict):
            raise InputError(
                "multi_input reads a Dict of parts, but observations are one array; use mlp or a network for pixels"
            )
        unknown = [name for name in settings.parts if name not in in_shape]
        if unknown:
            near = did_you_mean(unknown[0], in_shape)
            raise InputError(f"multi_input.parts: there is no part {unknown[0]!r}{near}; parts: {', '.join(in_shape)}")
        chosen = {
            key: settings.parts.get(key, settings.image if len(shape) == 3 else settings.vector)
            for key, shape in in_shape.items()
        }
        self.keys = list(chosen)
        bodies = [choice.build(in_shape[key]) for key, choice in chosen.items()]
        self.bodies = nn.ModuleList(bodies)
        if any(isinstance(body, Recurrent) for body in bodies):
            raise InputError(
                "multi_input: a part cannot have a memory; use network={name: gru, body: {name: multi_input}}"
            )
        joint: NetworkChoice = NetworkChoice.model_validate({"name": "mlp", "hidden": settings.hidden})
        self.joint = joint.build((sum(body.num_features for body in bodies),), out_features)
        self.num_features = self.joint.num_features

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Parts [B, ...] to [B, num_features]."""
        return self.joint(torch.cat([body(obs[key]) for key, body in zip(self.keys, self.bodies, strict=True)], 1))
