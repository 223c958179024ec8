"""Batch norm in a policy, where a minibatch's own statistics would make another policy learn than the one that acted.

So an agent that learns from what it did normalises by the running statistics, while acting and learning alike, and
moves these once its learning is done.
"""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlcore.trees import Tree


def freeze_batch_norm(network: nn.Module) -> list[_BatchNorm]:
    """Lets every batch norm of a network normalise by its running statistics; returns those that are to move them.

    One whose parameters are frozen keeps its statistics too.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.eval()
    return [norm for norm in norms if norm.weight is None or norm.weight.requires_grad]


@torch.no_grad()
def update_batch_norm(network: nn.Module, norms: list[_BatchNorm], obs: Tree) -> None:
    """Moves the running statistics towards those of observations [B, *O], by one forward pass of the network."""
    for norm in norms:
        norm.train()
    network(obs)
    for norm in norms:
        norm.eval()
