"""Critics: several networks that say what an action is worth, evaluated as one batch."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from rlcore.networks.mlp import ACTIVATIONS, Activation


class Critics(nn.Module):
    """N multi-layer perceptrons of the same shape, side by side: their matrix products are one batched product.

    Each is initialised as torch initialises ``nn.Linear``.

    Args:
        num: N.
        in_features: inputs.
        hidden: sizes of the hidden layers.
        out_features: outputs.
        activation: after each hidden layer.
    """

    def __init__(
        self, num: int, in_features: int, hidden: Sequence[int], out_features: int = 1, activation: Activation = "relu"
    ):
        super().__init__()
        self.num, self.activation = num, torch.relu_ if activation == "relu" else ACTIVATIONS[activation]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for m, n in pairwise([in_features, *hidden, out_features]):
            bound = 1 / math.sqrt(m)
            self.weights.append(torch.empty(num, m, n).uniform_(-bound, bound))
            self.biases.append(torch.empty(num, 1, n).uniform_(-bound, bound))

    def forward(self, x: Tensor, frozen: bool = False, first: bool = False) -> Tensor:
        """[B, in_features] to [N, B, out_features].

        Args:
            x: the same for each of them.
            frozen: whether gradients go to the inputs alone.
            first: evaluate the first one alone, [1, B, out_features].
        """
        x = x.expand(1 if first else self.num, *x.shape)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if layer:
                x = self.activation(x)
            if frozen:
                weight, bias = weight.detach(), bias.detach()
            if first:
                weight, bias = weight[:1], bias[:1]
            x = torch.baddbmm(bias, x, weight)
        return x
