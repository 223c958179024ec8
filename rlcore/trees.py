"""Trees of tensors: what observations, memories and recurrent states are made of."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

Tree = Any
"""A tensor, or a dict, NamedTuple, tuple or list of trees."""


def tree_map(function: Any, tree: Tree, *others: Tree) -> Tree:
    """Applies a function to the tensors of a tree, and to those in the same places of the others."""
    if isinstance(tree, Tensor):
        return function(tree, *others)
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {key: tree_map(function, tree[key], *(other[key] for other in others)) for key in tree}
    columns = [tree_map(function, *items) for items in zip(tree, *others, strict=True)]
    return type(tree)(*columns) if hasattr(tree, "_fields") else type(tree)(columns)


def take(tree: Tree, index: Any) -> Tree:
    """``x[index]`` of each tensor."""
    return tree_map(lambda x: x[index], tree)


def leaves(tree: Tree) -> Iterator[Tensor]:
    """The tensors of a tree, in the order of `tree_map`; those of a batch have the same length."""
    if isinstance(tree, Tensor):
        yield tree
    elif tree is not None:
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(branch)


def stack(items: list[Tree]) -> Tree:
    """Trees of tensors [...] to one tree of tensors [len(items), ...]."""
    first = items[0]
    if isinstance(first, Tensor):
        return first.unsqueeze(0) if len(items) == 1 else torch.stack(items)
    if first is None:
        return None
    if isinstance(first, dict):
        return {key: stack([item[key] for item in items]) for key in first}
    columns = [stack(list(column)) for column in zip(*items, strict=True)]
    return type(first)(*columns) if hasattr(first, "_fields") else type(first)(columns)


def repeated(tree: Tree, times: int) -> Tree:
    """Trees of tensors [B, ...] to one of tensors [times B, ...], all rows once before any comes again."""
    return tree_map(lambda x: x.repeat(times, *[1] * (x.ndim - 1)), tree)


def concat(trees: list[Tree]) -> Tree:
    """Trees of tensors [B_i, ...] to one of tensors [sum of B_i, ...]."""
    first, *others = trees
    return tree_map(lambda *parts: torch.cat(parts), first, *others)


def where(mask: Tensor, chosen: Tree, other: Tree) -> Tree:
    """``torch.where`` on trees, by rows: mask [N], leaves [N, ...]."""
    return tree_map(lambda a, b: torch.where(mask.view(-1, *[1] * (a.ndim - 1)), a, b), chosen, other)
