"""Search: Monte Carlo tree search on whole tensors, for many games at once.

``scores``: which move is tried next; ``tree``: the trees; ``mcts``: the searches; ``evaluators``: playouts.
"""

import warnings
from typing import Any

from rlcore.search.evaluators import mixed, playouts
from rlcore.search.mcts import Searcher, SearchResult, search, search_gumbel, simulate
from rlcore.search.scores import (
    Edges,
    Evaluator,
    Score,
    best_of,
    considered_visits,
    dirichlet,
    gumbel,
    gumbels,
    improved_logits,
    masked_prior,
    puct,
    softmax,
    uct,
)
from rlcore.search.tree import (
    ROOT,
    UNVISITED,
    SearchTree,
    backup,
    copy_subtree,
    expand,
    init_tree,
    select,
    subtree,
    update_leaves,
)

__all__ = [
    "ROOT",
    "UNVISITED",
    "Edges",
    "Evaluator",
    "Score",
    "SearchResult",
    "SearchTree",
    "Searcher",
    "backup",
    "best_of",
    "considered_visits",
    "copy_subtree",
    "dirichlet",
    "expand",
    "gumbel",
    "gumbels",
    "improved_logits",
    "init_tree",
    "masked_prior",
    "mixed",
    "playouts",
    "puct",
    "search",
    "search_gumbel",
    "select",
    "simulate",
    "softmax",
    "subtree",
    "uct",
    "update_leaves",
]

RENAMED = {"plant": init_tree, "renew": update_leaves, "below": subtree, "transplant": copy_subtree}
"""Functions by the names that they had in rlcore 0.1."""


def __getattr__(name: str) -> Any:
    """A function by its former name, with a warning."""
    if name not in RENAMED:
        raise AttributeError(f"module 'rlcore.search' has no attribute {name!r}")
    warnings.warn(
        f"rlcore.search.{name} is now rlcore.search.{RENAMED[name].__name__}", DeprecationWarning, stacklevel=2
    )
    return RENAMED[name]
