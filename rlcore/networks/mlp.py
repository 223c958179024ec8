"""The multi-layer perceptron."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from rlcore.networks.base import Network
from rlcore.settings import Settings

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "elu": nn.functional.elu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
}


class MLP(Network):
    """Linear layers with an activation after each hidden one; inputs of more than one dimension are flattened."""

    class Settings(Settings):
        """Settings of the multi-layer perceptron."""

        hidden: list[PositiveInt] = [64, 64]  # noqa: RUF012 (pydantic copies it)
        """Sizes of the hidden layers, from input to output."""
        activation: Literal["identity", "sigmoid", "tanh", "relu", "elu", "gelu", "silu"] = "tanh"
        """After each hidden layer."""
        init: Literal["orthogonal", "torch"] = "orthogonal"
        """Initial weights: orthogonal with gain sqrt(2) in hidden layers and zero biases (Saxe et al. 2014; usual in
        PPO), or torch's default."""

    def __init__(self, in_shape: tuple[int, ...], out_features: int | None, settings: Settings):
        super().__init__()
        sizes = [math.prod(in_shape), *settings.hidden]
        layers = [nn.Linear(m, n) for m, n in pairwise(sizes)]
        self.hidden = nn.ModuleList(layers)
        self.activation = ACTIVATIONS[settings.activation]
        self.output = None if out_features is None else nn.Linear(sizes[-1], out_features)
        self.num_features = sizes[-1] if out_features is None else out_features
        if settings.init == "orthogonal":
            for layer in layers:
                nn.init.orthogonal_(layer.weight, math.sqrt(2))
                nn.init.zeros_(layer.bias)
            if self.output is not None:
                nn.init.orthogonal_(self.output.weight)
                nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, *in_shape] to [B, num_features]."""
        if x.ndim > 2:
            x = x.flatten(1)
        for layer in self.hidden._modules.values():
            # The dicts behind nn.Module's attributes: to ask for those costs PPO 3 % of its steps per second.
            parameters: dict[str, Any] = layer._parameters
            x = self.activation(nn.functional.linear(x, parameters["weight"], parameters["bias"]))
        return x if self.output is None else self.output(x)
