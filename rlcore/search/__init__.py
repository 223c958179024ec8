"""Search: Monte Carlo tree search on whole tensors, for many games at once.

``scores``: which move is tried next; ``tree``: the trees; ``mcts``: the searches; ``evaluators``: playouts;
``learned``: what is searched if only a model of the rules is known.
"""

from rlcore.moved import former_names
from rlcore.search.evaluators import mixed, playouts
from rlcore.search.learned import LearnedGame
from rlcore.search.mcts import Searcher, SearchResult, search, search_gumbel, simulate
from rlcore.search.scores import (
    TINY,
    Edges,
    Evaluator,
    Score,
    best_of,
    considered_visits,
    dirichlet,
    forced_visits,
    gumbel,
    gumbels,
    improved_logits,
    masked_prior,
    pruned_visits,
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
    evaluate_nodes,
    expand,
    init_tree,
    select,
    subtree,
    update_leaves,
)

__all__ = [
    "ROOT",
    "TINY",
    "UNVISITED",
    "Edges",
    "Evaluator",
    "LearnedGame",
    "Score",
    "SearchResult",
    "SearchTree",
    "Searcher",
    "backup",
    "best_of",
    "considered_visits",
    "copy_subtree",
    "dirichlet",
    "evaluate_nodes",
    "expand",
    "forced_visits",
    "gumbel",
    "gumbels",
    "improved_logits",
    "init_tree",
    "masked_prior",
    "mixed",
    "playouts",
    "pruned_visits",
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

__getattr__ = former_names(
    __name__, {"plant": init_tree, "renew": update_leaves, "below": subtree, "transplant": copy_subtree}
)
