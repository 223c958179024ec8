"""The precision of a network's products and convolutions."""

from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from torch import Tensor

from rlcore.trees import tree_map

Outputs = TypeVar("Outputs")

Precision = Literal["float32", "bfloat16", "auto"]
"""auto: bfloat16 on devices that have instructions for it, where it is faster, else float32."""


def computed(network: Callable[[Tensor], Outputs], x: Tensor, precision: Precision) -> Outputs:
    """What a network makes of x [B, ...], by ``torch.autocast``; its parameters and outputs stay float32.

    Args:
        network: or a function that asks one.
        x: on its device.
        precision: of its products and convolutions.
    """
    if precision == "float32" or (precision == "auto" and not has_bfloat16(x.device)):
        return network(x)
    with torch.autocast(x.device.type, torch.bfloat16):
        return tree_map(Tensor.float, network(x))


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; without them it is emulated, which is slow."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
