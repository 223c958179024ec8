"""Trees of tensors: what observations, memories and recurrent states are made of."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

Tree = Any
"""A tensor, or a dict, NamedTuple, tuple or list of trees."""
LONGEST = 80
"""Characters that `difference` quotes of a value, at most."""


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


def difference(tree: Tree, like: Tree, free: int | None = None) -> str:
    """What a tree that should be like another has else: its structure, a dtype, a shape; empty if it is like it.

    Args:
        tree: to be compared, which may be anything.
        like: what it should be like.
        free: a dimension whose size may differ.

    Returns:
        Where it differs, what is there and what should be, to be read after the tree's name: ``[0] is None, not ...``.
    """
    if isinstance(like, Tensor) or like is None:
        alike = describe(tree, free) == describe(like, free)
    elif isinstance(like, dict):
        alike = isinstance(tree, dict) and tree.keys() == like.keys()
    else:
        alike = isinstance(tree, (list, tuple)) and len(tree) == len(like)
    if not alike:
        return f" is {describe(tree)}, not {describe(like, free)}"
    if isinstance(like, Tensor) or like is None:
        return ""
    keys = like if isinstance(like, dict) else range(len(like))
    inner = ((key, difference(tree[key], like[key], free)) for key in keys)
    return next((f"[{key!r}]{found}" for key, found in inner if found), "")


def describe(tree: Tree, free: int | None = None) -> str:
    """What a tree is, in a few words of one line: the dtype and shape of a tensor, the keys of a dict, or a value.

    Args:
        tree: anything.
        free: a dimension whose size is given as ``any``.
    """
    if isinstance(tree, Tensor):
        shape = ["any" if i == free else str(size) for i, size in enumerate(tree.shape)]
        return f"a tensor of {tree.dtype} [{', '.join(shape)}]" + f" ({tree.layout})" * (tree.layout != torch.strided)
    if isinstance(tree, dict):
        return f"a dict of {', '.join(map(repr, tree)) or 'nothing'}"[:LONGEST]
    return f"{len(tree)} items" if isinstance(tree, (list, tuple)) else repr(tree)[:LONGEST]


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


def num_rows(tree: Tree) -> int:
    """B of a tree of tensors [B, ...]."""
    return len(next(leaves(tree)))


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


def as_float32(tree: Tree) -> Tree:
    """The same, with float64 rounded to float32."""
    return tree_map(lambda x: x.float() if x.dtype == torch.float64 else x, tree)


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
