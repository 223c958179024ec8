"""Batch norm in a policy, where minibatch statistics would make the policy that learns differ from the one that acted.

So an agent that learns from its own actions normalises by the running statistics, both in acting and in learning, and
updates them once it has learned.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlcore.errors import InputError
from rlcore.trees import Tree

Function = TypeVar("Function", bound=Callable[..., Any])
ONE_ROW = "Expected more than 1 value per channel"
"""Begins torch's error where a batch norm that learns is given a single row."""


def needs_rows(function: Function) -> Function:
    """A function that runs a network that may learn by batch norm: one line says what to set if it has only one row."""

    @wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except ValueError as error:
            if not str(error).startswith(ONE_ROW):
                raise
            raise InputError(
                "batch norm needs more than one row at a time to learn from, got one; set a larger env.num_envs or "
                "agent.horizon, or choose a network without batch norm"
            ) from None

    return run  # type: ignore[return-value]


def freeze_batch_norm(network: nn.Module) -> list[_BatchNorm]:
    """Makes every batch norm of a network normalise by its running statistics; returns those that may be updated.

    A batch norm with frozen parameters keeps its statistics too.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.eval()
    return [norm for norm in norms if norm.weight is None or norm.weight.requires_grad]


@needs_rows
@torch.no_grad()
def update_batch_norm(network: nn.Module, norms: list[_BatchNorm], obs: Tree) -> None:
    """Updates the running statistics with observations [B, *O], by one forward pass of the network."""
    for norm in norms:
        norm.train()
    network(obs)
    for norm in norms:
        norm.eval()
