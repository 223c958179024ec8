"""Given: a network that a user gives in Python, as a class, a function or a module."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rlcore.errors import InputError
from rlcore.networks.base import Network


class Given(Network):
    """A module that need not know of `Network`: the size of its output is found by a pass of zeros.

    Args:
        given: a module, the body, of which this has a copy; or what makes one from ``(in_shape, out_features)``.
        name: what it is called in an error message.
        in_shape: of one observation.
        out_features: size of the output; None: any. On a module it is that of a linear layer.

    Raises:
        InputError: it cannot be made, cannot read observations of that shape, or has another output.
    """

    def __init__(self, given: Any, name: str, in_shape: tuple[int, ...], out_features: int | None):
        super().__init__()
        is_body = isinstance(given, nn.Module)
        self.module = copy.deepcopy(given) if is_body else _made(given, name, in_shape, out_features)
        self.module.cpu()  # as every network; the trainer moves the agent
        width = _width(self.module, name, in_shape)
        if not is_body and out_features not in (None, width):
            raise InputError(
                f"agent.network: {name} must have {out_features} outputs, as out_features says; got {width}"
            )
        self.output = self._end(width, out_features if is_body else None)

    def forward(self, x: Tensor) -> Tensor:
        """[B, *in_shape] to [B, num_features]."""
        return self.output(self.module(x))


def _made(make: Any, name: str, in_shape: tuple[int, ...], out_features: int | None) -> nn.Module:
    try:
        module = make(in_shape, out_features)
    except Exception as error:
        raise InputError(
            f"agent.network: {name}({in_shape}, {out_features}) fails: {_one_line(error)}; a class or a function is "
            "called with the shape of an observation and the number of outputs, None for a body"
        ) from error
    if not isinstance(module, nn.Module):
        raise InputError(f"agent.network: {name} must return a torch.nn.Module, got {type(module).__name__}")
    return module


def _width(module: nn.Module, name: str, in_shape: tuple[int, ...]) -> int:
    """The number of features of a module's output."""
    training = module.training
    module.eval()  # a pass of zeros moves no running statistics
    try:
        with torch.no_grad():
            found = module(torch.zeros(2, *in_shape))
    except Exception as error:
        raise InputError(
            f"agent.network: {name} cannot read observations [2, {_shape(in_shape)}]: {_one_line(error)}"
        ) from error
    finally:
        module.train(training)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2:
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"agent.network: {name} must turn [B, {_shape(in_shape)}] into [B, features]; of 2 observations it makes "
            f"{got}"
        )
    return found.shape[1]


def _shape(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
