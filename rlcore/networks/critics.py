"""Critics: several networks that say what an action is worth, evaluated as one batch."""

import torch
from torch import Tensor, nn

from rlcore.errors import InputError
from rlcore.networks.batch_renorm import BatchRenorm
from rlcore.networks.linear import batched_linear
from rlcore.networks.mlp import ACTIVATIONS, MLP

ROWS_IN_CACHE = 1024
"""Of larger batches a core's cache does not hold what a layer says: they are evaluated in parts, faster by a third."""


class Critics(nn.Module):
    """N multi-layer perceptrons of the same shape, side by side: their matrix products are one batched product.

    Each is made, and initialised, as an `MLP`; they may have layer norm.

    Args:
        num: N.
        in_features: inputs.
        out_features: outputs.
        settings: of each.

    Raises:
        InputError: a setting is not supported here.
    """

    def __init__(self, num: int, in_features: int, out_features: int, settings: MLP.Settings):
        super().__init__()
        if (
            settings.batch_norm
            or any(settings.chances)
            or not settings.bias
            or settings.output_activation != "identity"
        ):
            raise InputError("agent.network: critics have no batch_norm, dropout, output_activation, and bias=true")
        each = [MLP((in_features,), out_features, settings) for _ in range(num)]
        layers = [[*one.hidden, one.output] for one in each]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for column in zip(*layers, strict=True):
            self.weights.append(torch.stack([layer.weight.detach().T for layer in column]).contiguous())
            self.biases.append(torch.stack([layer.bias.detach()[None] for layer in column]))
        self.has_norms = settings.layer_norm
        self.activation = torch.relu_ if settings.activation == "relu" else ACTIVATIONS[settings.activation]
        self.norms = nn.ParameterList()
        """Scale and shift after each hidden layer, [N, 1, H] each, if they have layer norm."""
        for width in settings.hidden if settings.layer_norm else ():
            self.norms.extend([torch.ones(num, 1, width), torch.zeros(num, 1, width)])

    def forward(self, x: Tensor, frozen: bool = False, which: slice | Tensor | None = None) -> Tensor:
        """[B, in_features] to [N, B, out_features].

        Args:
            x: the same for each of them.
            frozen: whether gradients go to the inputs alone.
            which: of them to evaluate, by their numbers, [K, B, out_features]; None: all.
        """
        if len(x) > ROWS_IN_CACHE and x.device.type == "cpu":
            return torch.cat([self(part, frozen, which) for part in x.split(ROWS_IN_CACHE)], 1)

        def used(parameter: Tensor) -> Tensor:
            parameter = parameter.detach() if frozen else parameter
            return parameter if which is None else parameter[which]

        for layer, (weight, bias) in enumerate(zip(map(used, self.weights), map(used, self.biases), strict=True)):
            if not layer:
                x = x.expand(len(weight), *x.shape)
            else:
                if self.has_norms:
                    x = nn.functional.layer_norm(x, x.shape[-1:])
                    x = torch.addcmul(used(self.norms[2 * layer - 1]), x, used(self.norms[2 * layer - 2]))
                x = self.activation(x)
            x = batched_linear(x, weight, bias)
        return x


class RenormalizedCritics(Critics):
    """Critics that normalise what each of their layers reads, by `BatchRenorm` (Bhatt et al. 2024, "CrossQ").

    Args:
        num: N.
        in_features: inputs.
        out_features: outputs.
        settings: of each, without layer norm.
    """

    def __init__(self, num: int, in_features: int, out_features: int, settings: MLP.Settings):
        super().__init__(num, in_features, out_features, settings)
        if self.has_norms:
            raise InputError("agent.network.layer_norm: there is batch renormalisation already; choose one")
        self.renorms = nn.ModuleList(BatchRenorm(num, width) for width in [in_features, *settings.hidden])

    def forward(self, x: Tensor, frozen: bool = False, which: slice | Tensor | None = None) -> Tensor:
        """[B, in_features] to [N, B, out_features]; the same arguments, but that all are evaluated."""
        assert which is None
        x = x.expand(len(self.weights[0]), *x.shape)
        for layer, (weight, bias, norm) in enumerate(zip(self.weights, self.biases, self.renorms, strict=True)):
            x = norm(self.activation(x) if layer else x, frozen)
            x = batched_linear(x, *(p.detach() if frozen else p for p in (weight, bias)))
        return x
