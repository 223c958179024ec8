"""Batch norm in a policy, where minibatch statistics would make the policy that learns differ from the one that acted.

So an agent that learns from its own actions normalises by the running statistics, both in acting and in learning, and
updates them once it has learned.
"""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlcore.trees import Tree


def freeze_batch_norm(network: nn.Module) -> list[_BatchNorm]:
    """Makes every batch norm of a network normalise by its running statistics; returns those that may be updated.

    A batch norm with frozen parameters keeps its statistics too.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.eval()
    return [norm for norm in norms if norm.weight is None or norm.weight.requires_grad]


@torch.no_grad()
def update_batch_norm(network: nn.Module, norms: list[_BatchNorm], obs: Tree) -> None:
    """Updates the running statistics with observations [B, *O], by one forward pass of the network."""
    for norm in norms:
        norm.train()
    network(obs)
    for norm in norms:
        norm.eval()
