"""Linear layers: large products on a CPU by oneDNN."""

from typing import Any

import torch
from torch import Tensor, nn

WORTHWHILE = 2**23
"""Multiplications of a product from which on oneDNN saves more than it costs to call it."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear``: x [B, K], weight [M, K] and bias [M] to [B, M].

    The library that torch multiplies by on a CPU has its fastest kernels for one maker's processors alone, and is half
    as fast on others that have AVX-512. oneDNN, which torch has for convolutions, is as fast on all of them.
    """
    if not torch.compiler.is_compiling() and x.ndim == 2 and x.numel() * weight.shape[0] >= WORTHWHILE:
        fits = x.shape[1] == weight.shape[1] and (bias is None or bias.shape == weight.shape[:1])
        if fits and _by_onednn(x, weight):
            return _Linear.apply(x, weight, bias) if torch.is_grad_enabled() else _product(x, weight, bias)
    return nn.functional.linear(x, weight, bias)


class Linear(nn.Linear):
    """``torch.nn.Linear`` by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, K] to [B, M]."""
        return linear(x, self.weight, self.bias)


def batched_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """N linear layers side by side: x [N, B, K], weight [N, K, M] and bias [N, 1, M] to [N, B, M]."""
    if weight.shape[2] == 1:  # for which batched products are slow
        return (x * weight.mT).sum(2, keepdim=True) + bias
    if not torch.compiler.is_compiling() and x[0].numel() * weight.shape[2] >= WORTHWHILE and _by_onednn(x, weight):
        each = zip(x.unbind(), weight.mT.unbind(), bias.squeeze(1).unbind(), strict=True)
        return torch.stack([linear(*one) for one in each])
    return torch.baddbmm(bias, x, weight)


class _Linear(torch.autograd.Function):
    """A linear layer whose gradients are linear layers too, to any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), needed = ctx.saved_tensors, ctx.needs_input_grad
        return (
            linear(grad, weight.t()) if needed[0] else None,
            linear(grad.t(), x.t()) if needed[1] else None,
            grad.sum(0) if needed[2] else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    bias = None if bias is None else bias.contiguous()  # of which oneDNN reads no strides
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN has this product, and nothing looks on that would not know it."""
    return (
        AVAILABLE
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and torch.autograd.forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
    )


AVAILABLE = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
