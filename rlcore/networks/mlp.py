"""The multi-layer perceptron."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor, nn

from rlcore.errors import InputError
from rlcore.module_internals import modules_of, parameters_of
from rlcore.networks.base import Network
from rlcore.networks.linear import WORTHWHILE, Linear, linear

Activation = Literal["identity", "sigmoid", "tanh", "relu", "elu", "gelu", "silu"]


def _identity(x: Tensor) -> Tensor:  # not a lambda, which cannot be pickled
    return x


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "identity": _identity,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "elu": nn.functional.elu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
}

Init = Literal["zeros", "constant", "normal", "lecun", "xavier", "he", "orthogonal", "torch"]


class Activate(nn.Module):
    """An activation as a part of ``nn.Sequential``."""

    def __init__(self, name: Activation):
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return ACTIVATIONS[self.name](x)

    def extra_repr(self) -> str:
        """The activation's name."""
        return self.name


class MLP(Network):
    """Linear layers with an activation after each hidden one; inputs of more than one dimension are flattened."""

    class Settings(Network.Settings):
        """Settings of the multi-layer perceptron."""

        hidden: list[PositiveInt] = [64, 64]  # noqa: RUF012 (pydantic copies it)
        """Sizes of the hidden layers, from input to output; [] is a perceptron."""
        activation: Activation = "tanh"
        """Activation after each hidden layer."""
        output_activation: Activation = "identity"
        """Activation after the output layer."""
        init: Init = "orthogonal"
        """Initial weights: ``zeros``; ``constant`` (``gain``); ``normal`` (standard deviation ``gain``); ``lecun``,
        ``xavier`` and ``he`` (normal of variance 1 / fan-in, 2 / (fan-in + fan-out) and 2 / fan-in, times gain^2;
        LeCun et al. 1998, Glorot & Bengio 2010, He et al. 2015); ``orthogonal`` (times sqrt(2) in hidden layers, and
        ``gain``; Saxe et al. 2014; usual in PPO); ``torch``'s default, weights and biases."""
        gain: float = 1.0
        """Scale of the initial weights, as described under ``init``."""
        bias: bool = True
        """Whether layers add a bias. Those before batch norm never do, as it would subtract it again."""
        bias_std: NonNegativeFloat = 0.0
        """Initial biases are normal with this standard deviation."""
        batch_norm: bool = False
        """Batch norm between each hidden layer and its activation (Ioffe & Szegedy 2015)."""
        layer_norm: bool = False
        """Layer norm between each hidden layer and its activation (Ba et al. 2016)."""
        dropout: float | list[float] = 0.0
        """Probability in [0, 1) that a hidden unit is dropped while training, after its activation; a list has one per
        hidden layer (Srivastava et al. 2014)."""

        @model_validator(mode="after")
        def _check(self) -> "MLP.Settings":
            if not all(0 <= chance < 1 for chance in self.chances):
                raise InputError(f"dropout: must be in [0, 1), got {self.dropout}")
            if len(self.chances) != len(self.hidden):
                raise InputError(f"dropout: {len(self.chances)} probabilities for {len(self.hidden)} hidden layers")
            if self.batch_norm and self.layer_norm:
                raise InputError("layer_norm: there is batch_norm already; choose one")
            if self.init == "torch" and (self.gain != 1.0 or self.bias_std != 0.0):
                raise InputError("init: torch's default has neither gain nor bias_std; choose another init")
            return self

        @property
        def chances(self) -> list[float]:
            """The dropout of each hidden layer."""
            return self.dropout if isinstance(self.dropout, list) else [self.dropout] * len(self.hidden)

    reads_images = False

    def __init__(self, in_shape: tuple[int, ...], out_features: int | None, settings: Settings):
        super().__init__()
        sizes = [math.prod(in_shape), *settings.hidden]
        layers = [Linear(m, n, bias=settings.bias and not settings.batch_norm) for m, n in pairwise(sizes)]
        self.hidden = nn.ModuleList(layers)
        self.activation = ACTIVATIONS[settings.activation]
        self.output = None if out_features is None else Linear(sizes[-1], out_features, bias=settings.bias)
        self.output_activation = ACTIVATIONS[settings.output_activation]
        self.num_features = sizes[-1] if out_features is None else out_features
        for layer in layers:
            _initialize(layer, settings, math.sqrt(2) if settings.init == "orthogonal" else 1.0)
        if self.output is not None:
            _initialize(self.output, settings)
        self._largest = max((layer.weight.numel() for layer in layers), default=0)
        chances = settings.chances
        self._plain = not (settings.batch_norm or settings.layer_norm or any(chances))
        self.after = nn.ModuleList()
        """What follows each hidden layer, if more than the activation."""
        if not self._plain:
            pairs = zip(settings.hidden, chances, strict=True)
            self.after.extend(_after(width, chance, settings) for width, chance in pairs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, *in_shape] to [B, num_features]."""
        if x.ndim > 2:
            x = x.flatten(1)
        if not self._plain:
            for layer, after in zip(self.hidden, self.after, strict=True):
                x = after(layer(x))
        else:
            # asked once, not in each layer: to act is a few small products
            large = not torch.compiler.is_compiling() and x.shape[0] * self._largest >= WORTHWHILE
            product = linear if large else nn.functional.linear
            for layer in modules_of(self.hidden).values():
                parameters = parameters_of(layer)
                x = self.activation(product(x, parameters["weight"], parameters["bias"]))
        return x if self.output is None else self.output_activation(self.output(x))


def _after(width: int, dropout: float, settings: MLP.Settings) -> nn.Sequential:
    """A norm, activation, dropout."""
    parts: list[nn.Module] = [nn.BatchNorm1d(width)] if settings.batch_norm else []
    if settings.layer_norm:
        parts.append(nn.LayerNorm(width))
    parts.append(Activate(settings.activation))
    if dropout:
        parts.append(nn.Dropout(dropout))
    return nn.Sequential(*parts)


def _initialize(layer: nn.Linear, settings: MLP.Settings, gain: float = 1.0) -> None:
    """Draws weights and biases from torch's global generator."""
    weight, (fan_out, fan_in) = layer.weight, layer.weight.shape
    gain *= settings.gain
    match settings.init:
        case "torch":
            return
        case "zeros" | "constant":
            nn.init.constant_(weight, gain if settings.init == "constant" else 0.0)
        case "orthogonal":
            nn.init.orthogonal_(weight, gain)
        case _:
            variance = {"normal": 1.0, "lecun": 1 / fan_in, "xavier": 2 / (fan_in + fan_out), "he": 2 / fan_in}
            nn.init.normal_(weight, std=abs(gain) * math.sqrt(variance[settings.init]))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
        if settings.bias_std:
            nn.init.normal_(layer.bias, std=settings.bias_std)
