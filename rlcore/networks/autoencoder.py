"""Autoencoders: networks that encode their inputs, and decode the code."""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from rlcore.errors import InputError
from rlcore.networks.base import Network
from rlcore.networks.linear import Linear
from rlcore.networks.mlp import ACTIVATIONS, Activate, Activation


class Code(NamedTuple):
    """The code of an input: a point, or a normal with independent coordinates."""

    mean: Tensor
    """[B, *L]."""
    log_var: Tensor | None = None
    """[B, *L], log of the variances; None for a point."""


class Autoencoder(Network):
    """An encoder of hidden layers, a code of L numbers, and a decoder that mirrors the encoder: 784-400-L-400-784.

    As a body it outputs the code (its mean); ``encoder`` and ``decoder`` are parts that can be taken out.
    """

    class Settings(Network.Settings):
        """Settings of the autoencoder."""

        latent: PositiveInt = 2
        """L, numbers in the code."""
        hidden: list[PositiveInt] = Field(default=[400], min_length=1)
        """Sizes of the encoder's hidden layers; the decoder has them in reverse."""
        activation: Activation = "relu"
        """Activation after each hidden layer."""
        code_activation: Activation = "identity"
        """Activation of the code; tanh bounds it."""

    reads_images = False
    is_variational = False
    """Whether the code is a distribution."""

    def __init__(self, in_shape: tuple[int, ...], out_features: int | None, settings: Settings):
        super().__init__()
        self.in_shape = in_shape
        self.encoder, num_features = self._encoder(settings)
        self.code = Linear(num_features, (2 if self.is_variational else 1) * settings.latent)
        self.code_activation = ACTIVATIONS[settings.code_activation]
        self.decoder = self._decoder(settings)
        self.output = self._end(settings.latent, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """[B, *in_shape] to [B, num_features], from the code's mean."""
        return self.output(self.encode(x).mean)

    def encode(self, x: Tensor) -> Code:
        """[B, *in_shape] to the code."""
        outputs = self.code(self.encoder(x))
        if not self.is_variational:
            return Code(self.code_activation(outputs))
        mean, log_var = outputs.chunk(2, 1)
        return Code(self.code_activation(mean), log_var)

    def decode(self, code: Tensor) -> Tensor:
        """[B, L] to [B, *in_shape]: log-odds, or means, unbounded."""
        return self.decoder(code)

    def _encoder(self, settings: Settings) -> tuple[nn.Module, int]:
        """From inputs to features, and their number."""
        layers = _layers([math.prod(self.in_shape), *settings.hidden], settings.activation)
        return nn.Sequential(nn.Flatten(), *layers), settings.hidden[-1]

    def _decoder(self, settings: Settings) -> nn.Module:
        """From the code to inputs."""
        layers = _layers([settings.latent, *reversed(settings.hidden)], settings.activation)
        last = Linear(settings.hidden[0], math.prod(self.in_shape))
        return nn.Sequential(*layers, last, nn.Unflatten(1, self.in_shape))


class VAE(Autoencoder):
    """The variational autoencoder's network: the code is a normal, mean and log-variance from two heads.

    Kingma & Welling 2014, "Auto-Encoding Variational Bayes". The heads are the halves of one layer.
    """

    is_variational = True


class ConvVAE(VAE):
    """Convolutions 1-32 4x4, 32-64 4x4, 64-128 3x3, stride 2; decoder: linear to 1,024, then 256 4x4, 128 6x6, 1 6x6.

    For images of any number of channels whose sides are multiples of 4, from 20 pixels on; these sizes are for 28 x 28.
    The decoder's first kernel grows with the image: 5 x 5 for 32 x 32.
    """

    reads_images = True

    class Settings(VAE.Settings):
        """Settings of the convolutional VAE."""

        hidden: list[PositiveInt] = Field(default=[], max_length=0)
        """Must be empty: the layers are fixed."""

    def _encoder(self, settings: Autoencoder.Settings) -> tuple[nn.Module, int]:
        if len(self.in_shape) != 3 or any(side < 20 or side % 4 for side in self.in_shape[1:]):
            raise InputError(
                "conv_vae: needs images whose sides are multiples of 4, from 20 pixels on, got inputs of shape "
                f"{self.in_shape}"
            )
        activation = Activate(settings.activation)
        sizes = (self.in_shape[0], 32, 4), (32, 64, 4), (64, 128, 3)
        layers = [part for m, n, kernel in sizes for part in (nn.Conv2d(m, n, kernel, stride=2), activation)]
        encoder = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            return encoder, encoder(torch.zeros(1, *self.in_shape)).shape[1]

    def _decoder(self, settings: Autoencoder.Settings) -> nn.Module:
        activation = Activate(settings.activation)
        height, width = ((side - 12) // 4 for side in self.in_shape[1:])  # which the two after it make the whole image
        return nn.Sequential(
            Linear(settings.latent, 1024),
            nn.Unflatten(1, (1024, 1, 1)),
            _TransposedOfOnePixel(1024, 256, (height, width)),
            activation,
            nn.ConvTranspose2d(256, 128, 6, stride=2),
            activation,
            nn.ConvTranspose2d(128, self.in_shape[0], 6, stride=2),
        )


class _TransposedOfOnePixel(nn.ConvTranspose2d):
    """For inputs of 1 x 1 pixels: a matrix product, which on a CPU is six times as fast as the convolution."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return (x.flatten(1) @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:]) + self.bias[:, None, None]  # type: ignore[index]


def _layers(sizes: list[int], activation: Activation) -> list[nn.Module]:
    """Linear layers, an activation after each."""
    return [part for m, n in pairwise(sizes) for part in (Linear(m, n), Activate(activation))]


def kl_from_standard_normal(code: Code) -> Tensor:
    """KL(q || N(0, 1)) of each coordinate, [B, *L] nats; 0 for a point (Kingma & Welling 2014, appendix B)."""
    if code.log_var is None:
        return torch.zeros_like(code.mean)
    return 0.5 * (code.mean.square() + code.log_var.exp() - 1 - code.log_var)
