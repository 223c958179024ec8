"""What learning towards targets that a network itself says needs."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlcore.agent import Agent
from rlcore.errors import InputError
from rlcore.networks.dropout import dropouts


def refuse_noise(agent: Agent) -> None:
    """Raises an InputError if a network has dropout or batch norm, by which target and prediction would differ."""
    if dropouts(agent) or any(isinstance(module, _BatchNorm) for module in agent.modules()):
        raise InputError(f"agent.network: {type(agent).__name__} does not support dropout or batch norm")


@torch.no_grad()
def track(target: nn.Module, source: nn.Module, tau: float) -> None:
    """Moves the parameters of a target network towards those of another: theta' <- theta' + tau (theta - theta')."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), tau)
