"""Networks with one bit per weight, and their form for inference on packed bits."""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from rlcore.networks.base import Network
from rlcore.networks.linear import linear

NEVER = np.iinfo(np.int64).max
"""A threshold that no sum reaches."""


class Sign(torch.autograd.Function):
    """+1 for x >= 0, else -1; the gradient passes straight through where |x| <= 1, and is 0 elsewhere.

    Hubara et al. 2016, "Binarized neural networks", equation 4.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Any shape."""
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """The straight-through estimate."""
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1)


class BinarizedLinear(nn.Linear):
    """A linear layer that computes with the signs of its weights, and has no bias."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_features] to [B, out_features]."""
        if self.training:
            with torch.no_grad():  # beyond 1 no gradient passes: a weight there would never return
                self.weight.clamp_(-1, 1)
        return linear(x, Sign.apply(self.weight))


class BinarizedMLP(Network):
    """Weights and activations are signs; batch norm follows every layer, also the output layer (Hubara et al. 2016).

    The first layer reads real inputs. The latent weights, which are learned, stay in [-1, 1].
    """

    class Settings(Network.Settings):
        """Settings of the binarized multi-layer perceptron."""

        hidden: list[PositiveInt] = Field(default=[1200, 200], min_length=1)
        """Sizes of the hidden layers."""

    reads_images = False

    def __init__(self, in_shape: tuple[int, ...], out_features: int | None, settings: Settings):
        super().__init__()
        sizes = [math.prod(in_shape), *settings.hidden, *([] if out_features is None else [out_features])]
        self.layers = nn.ModuleList(BinarizedLinear(m, n) for m, n in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(n) for n in sizes[1:])
        self.has_output = out_features is not None
        self.num_features = sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        """[B, *in_shape] to [B, num_features]; without an output layer, features are -1 or 1."""
        x = x.flatten(1)
        for index, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True), 1):
            x = norm(layer(x))
            if index < len(self.layers) or not self.has_output:
                x = Sign.apply(x)
        return x


class PackedLayer(NamedTuple):
    """A hidden layer as bits: a unit is 1 if the sum of its inputs lies between two integers."""

    weights: NDArray[np.uint8]  # [out, ceil(in / 8)], one bit per weight, 1 for +1
    num_inputs: int
    low: NDArray[np.int64]  # [out], the least sum that gives 1
    high: NDArray[np.int64]  # [out], the greatest


class PackedMLP:
    """A trained `BinarizedMLP` on bytes and bits, in numpy alone; hidden units are exact, scores so up to rounding.

    A hidden unit's batch norm and sign compare an integer with a threshold. The thresholds are found by bisection on
    torch's own batch norm, which is monotonic in the sum: so rounding cannot make the two forms differ. The first layer
    sums bytes; further ones count equal bits (XNOR). A weight takes one bit instead of 32.

    Args:
        network: with an output layer, trained on bytes as they are (``scaling: raw``).
    """

    def __init__(self, network: BinarizedMLP):
        assert network.has_output
        norms = [norm for norm in network.norms if isinstance(norm, nn.BatchNorm1d)]
        layers = [layer for layer in network.layers if isinstance(layer, BinarizedLinear)]
        weights = [layer.weight.detach().cpu().numpy() for layer in layers]
        bounds = [255 * weights[0].shape[1], *(weight.shape[1] for weight in weights[1:])]
        self.layers = [
            PackedLayer(np.packbits(weight >= 0, axis=1), weight.shape[1], *_thresholds(norm, bound))
            for weight, norm, bound in zip(weights[:-1], norms[:-1], bounds, strict=False)
        ]
        self.output = np.packbits(weights[-1] >= 0, axis=1)
        self.output_inputs = weights[-1].shape[1]
        self.scale, self.shift = _affine(norms[-1])

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Scores [B, K] of images [B, *in_shape], uint8."""
        first, *further = self.layers
        signs = np.unpackbits(first.weights, axis=1, count=first.num_inputs)
        x = images.reshape(len(images), -1)
        sums = (x.astype(np.float32) @ (2.0 * signs.T - 1).astype(np.float32)).astype(np.int64)  # exact below 2^24
        bits = _fire(first, sums)
        for layer in further:
            bits = _fire(layer, _xnor_sums(bits, layer.weights, layer.num_inputs))
        return _xnor_sums(bits, self.output, self.output_inputs) * self.scale + self.shift

    @property
    def num_weights(self) -> int:
        """Number of weights of all layers."""
        hidden = sum(len(layer.weights) * layer.num_inputs for layer in self.layers)
        return hidden + len(self.output) * self.output_inputs

    @property
    def num_bytes(self) -> int:
        """Bytes of weights, thresholds (counted as the four bytes they need) and the output's scale and shift."""
        bits = sum(layer.weights.nbytes for layer in self.layers) + self.output.nbytes
        return bits + 4 * sum(len(layer.low) + len(layer.high) for layer in self.layers) + 8 * len(self.scale)


def _fire(layer: PackedLayer, sums: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Sums [B, out] to packed bits [B, ceil(out / 8)]."""
    return np.packbits((sums >= layer.low) & (sums <= layer.high), axis=1)


def _xnor_sums(x: NDArray[np.uint8], weights: NDArray[np.uint8], num_inputs: int) -> NDArray[np.int64]:
    """Sums of num_inputs products of signs, [B, out]: equal bits minus unequal ones; the padding bits are equal."""
    unequal = np.stack([_bit_count(x ^ row).sum(1, dtype=np.int64) for row in weights], 1)
    return num_inputs - 2 * unequal


def _bit_count(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(x)
    return np.array([bin(byte).count("1") for byte in range(256)], np.uint8)[x]  # numpy 1


@torch.no_grad()
def _thresholds(norm: nn.BatchNorm1d, bound: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The least and the greatest integer in [-bound, bound] whose batch norm is not negative, per unit."""
    device = norm.running_mean.device  # type: ignore[union-attr]

    def fires(sums: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            sums[None].float(), norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
        )[0].ge(0)

    least = torch.full((norm.num_features,), -bound, dtype=torch.int64, device=device)
    at_least, at_most = fires(least), fires(-least)
    low, high = least, -least
    while (high - low).max() > 1:  # fires(low) and fires(high) stay as they are if they differ
        middle = (low + high) // 2
        as_low = fires(middle) == at_least
        low, high = torch.where(as_low, middle, low), torch.where(as_low, high, middle)
    lower = torch.where(at_least, least, torch.where(at_most, high, torch.full_like(low, NEVER)))
    upper = torch.where(at_most, -least, torch.where(at_least, low, torch.full_like(low, -NEVER)))
    return lower.cpu().numpy(), upper.cpu().numpy()


def _affine(norm: nn.BatchNorm1d) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Batch norm as scale and shift."""
    state = {name: tensor.cpu().double().numpy() for name, tensor in norm.state_dict().items()}
    mean, var, weight, bias = (state[name] for name in ("running_mean", "running_var", "weight", "bias"))
    scale = weight / np.sqrt(var + norm.eps)
    return scale, bias - mean * scale
