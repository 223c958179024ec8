"""Trees of many games at once, as tensors: init, select, expand, backup, and where the next simulation goes.

A simulation takes a fixed number of tensor operations, whatever the depth of the trees, and waits for nothing. Two
things make that possible:

- Every node stores its path from the root (``path``, ``moves``), so a backup updates all of it at once.
- Every node stores the edge by which a simulation that passes through it will leave the tree (``leaf``). So selection
  is a look-up at the root instead of a walk down the tree. A backup changes statistics only on its own path, so only
  there may another edge be the best: `update_leaves` renews it there, for all of the path at once.

A worked example: the root a has moves 0 and 1, to nodes b and c; b has moves 0 and 1, both of which lead out of the
tree. Edges are written node.move.

====================  ==========  ==========  ==========  ====================================================
simulation            leaf of a   leaf of b   leaf of c   why
====================  ==========  ==========  ==========  ====================================================
before                b.0         b.0         c.1         at a move 0 is best, at b move 0: a simulation ends at b.0
new node d at b.0     c.1         b.1         c.1         the outcome was bad: b now prefers move 1, and a move 1,
                                                          whose child c is off the path, so that c's leaf holds
====================  ==========  ==========  ==========  ====================================================

The path of this simulation is a, b, d. At each of its nodes the best move is one of three kinds: it leads out of the
tree (b.1: that edge is the leaf), to a child off the path (a's move 1: the child's leaf, which has not changed), or to
the next node of the path, whose new leaf is then also this node's.

Legend: N games, M nodes per tree, A moves, S numbers per state, D length of the longest path, W that of current paths.
A node is a row of the N * M nodes of all trees, an edge is ``node * A + move``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlcore.device import sync_is_costly
from rlcore.game import DISCOUNT, Model, checked_legal, checked_step, draw
from rlcore.returns import discounted_sum
from rlcore.search.scores import Edges, Evaluator, Score, masked_prior

ROOT = 0
"""The first node of each tree."""
UNVISITED = -1
"""In place of a child: no node stands for the state after this edge."""


class SearchTree(NamedTuple):
    """N trees with room for M nodes each."""

    state: Tensor  # [N, M, S]
    prior: Tensor  # [N, M, A]
    visits: Tensor  # [N, M, A] float32
    total: Tensor  # [N, M, A]
    value: Tensor  # [N, M]
    child: Tensor  # [N, M, A] int64, node or UNVISITED
    path: Tensor  # [N, M, D + 1] int64, nodes from the root to this one; anything after it
    moves: Tensor  # [N, M, D] int64, the moves between them; arbitrary moves after them
    depth: Tensor  # [N, M] int64, moves from the root; 0 for an unused node
    leaf: Tensor  # [N, M] int64, the edge by which the next simulation through this node leaves the tree
    reward: Tensor | None  # [N, M], of the move to this node; None, as the next, for a game that alternates
    discount: Tensor | None  # [N, M], what the value of this node counts for the player who made that move
    chance: Tensor | None  # [N, M] bool, whether chance is to move; None: it never is

    def edges(self, node: int) -> Edges:
        """The edges of one node of each tree, [N]."""
        return Edges(self.prior[:, node], self.visits[:, node], self.total[:, node], self.value[:, node])

    def edges_of(self, nodes: Tensor) -> Edges:
        """The edges of nodes [N, W], given as rows of all trees."""
        rows = nodes.flatten()
        columns = self.prior, self.visits, self.total
        prior, visits, total = (x.flatten(0, 1).index_select(0, rows).view(*nodes.shape, -1) for x in columns)
        return Edges(prior, visits, total, self.value.take(nodes))


def init_tree(
    game: Model, state: Tensor, evaluate: Evaluator, num_nodes: int, max_depth: int | None = None
) -> SearchTree:
    """Trees that consist of a root each.

    Args:
        game: the rules, or a model of them.
        state: [N, S], in none of which the game has ended.
        evaluate: evaluates the roots.
        num_nodes: M.
        max_depth: D, the moves of the longest path; None: as many as there may be. Each node has a path, which is most
            of a tree where games are long.

    Raises:
        InputError: states or legal moves have another shape or dtype than they should.
    """
    prior, value, chance = evaluate_nodes(game, state, evaluate)
    (N, S), A, device = state.shape, game.num_actions, state.device
    D = longest_path(game, num_nodes) if max_depth is None else min(max_depth, longest_path(game, num_nodes))
    roots = num_nodes * torch.arange(N, device=device)
    tree = SearchTree(
        state=state.new_empty(N, num_nodes, S),
        prior=torch.empty(N, num_nodes, A, device=device),
        visits=torch.zeros(N, num_nodes, A, device=device),
        total=torch.zeros(N, num_nodes, A, device=device),
        value=torch.empty(N, num_nodes, device=device),
        child=torch.full((N, num_nodes, A), UNVISITED, device=device),
        path=torch.empty(N, num_nodes, D + 1, dtype=torch.int64, device=device),
        moves=torch.zeros(N, num_nodes, D, dtype=torch.int64, device=device),
        depth=torch.zeros(N, num_nodes, dtype=torch.int64, device=device),
        leaf=torch.empty(N, num_nodes, dtype=torch.int64, device=device),
        reward=None if game.alternates else torch.zeros(N, num_nodes, device=device),
        discount=None if game.alternates else torch.zeros(N, num_nodes, device=device),
        chance=None if chance is None else torch.zeros(N, num_nodes, dtype=torch.bool, device=device),
    )
    tree.state[:, ROOT], tree.value[:, ROOT], tree.path[:, ROOT, 0], tree.depth[:, ROOT] = state, value, roots, 0
    tree.prior[:, ROOT] = prior
    if tree.chance is not None and chance is not None:
        tree.chance[:, ROOT] = chance
    return tree


def longest_path(game: Model, num_nodes: int) -> int:
    """The most moves that there may be from the root to a node of a tree."""
    return min(game.max_moves, num_nodes)


def evaluate_nodes(game: Model, state: Tensor, evaluate: Evaluator) -> tuple[Tensor, Tensor, Tensor | None]:
    """What nodes of states [B, S] begin with: priors [B, A], values [B], and where chance is to move, [B] bool or None.

    Where it is, the priors are its probabilities, and the value is that of a state drawn by them: a network sees only
    states in which players are to move.
    """
    legal, probability = checked_legal(game, state), game.chance(state)
    if probability is None:
        logits, value = evaluate(state)
        return masked_prior(logits, legal), value, None
    chance = probability.any(1)
    after, reward, terminated = checked_step(game, state, draw(probability))
    logits, value = evaluate(torch.where(chance[:, None], after, state))
    drawn = torch.where(terminated, reward, reward + game.discount(state, after) * value)
    prior = torch.where(chance[:, None], probability.where(legal, -torch.inf), masked_prior(logits, legal))
    return prior, torch.where(chance, drawn, value), chance


def select(tree: SearchTree, root_move: Tensor | None = None) -> Tensor:
    """The edge by which the next simulation leaves each tree, [N]."""
    if root_move is None:
        return tree.leaf[:, ROOT]
    first = tree.path[:, ROOT, 0] * tree.prior.shape[-1] + root_move
    child = tree.child.take(first)
    return torch.where(child == UNVISITED, first, tree.leaf.take(child.clamp_min(0)))


def expand(
    tree: SearchTree, node: int, parent: Tensor, action: Tensor, state: Tensor, prior: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Writes a new node into each tree.

    Returns:
        Its path, padded with the node itself, [N, W + 1]; the moves on it [N, W]; and their number [N].
    """
    N, M = tree.depth.shape
    depth = tree.depth.take(parent) + 1
    W = min(node, tree.moves.shape[-1])  # no path is longer
    if not sync_is_costly(depth.device):
        W = min(W, int(depth.max()))
    places = torch.arange(W + 1, device=depth.device)
    row = M * torch.arange(N, device=depth.device) + node
    path = torch.where(places < depth[:, None], _rows(tree.path, parent, W + 1), row[:, None])
    moves = torch.where(places[:-1] == depth[:, None] - 1, action[:, None], _rows(tree.moves, parent, W))
    tree.state[:, node], tree.prior[:, node], tree.value[:, node] = state, prior, value
    tree.depth[:, node] = depth
    tree.path[:, node, : W + 1], tree.moves[:, node, :W] = path, moves
    return path, moves, depth


def _rows(field: Tensor, nodes: Tensor, width: int) -> Tensor:
    """The first columns [N, width] of a field [N, M, ...] for nodes [N]."""
    return field.flatten(0, 1)[:, :width].index_select(0, nodes)


def backup(tree: SearchTree, path: Tensor, moves: Tensor, depth: Tensor, outcome: Tensor) -> None:
    """Adds an outcome to every edge of a path, each from the view of the player who moved there.

    Args:
        tree: the trees.
        path: [N, W + 1].
        moves: [N, W].
        depth: [N], moves on the path.
        outcome: [N], for the player who made the last move.
    """
    before_last = depth[:, None] - 1 - torch.arange(moves.shape[1], device=moves.device)  # moves from here to the last
    counts = (before_last >= 0).float()
    edge = (path[:, :-1] * tree.prior.shape[-1] + moves).flatten()
    if tree.reward is None or tree.discount is None:
        seen = outcome[:, None] * torch.where(before_last % 2 == 0, counts, DISCOUNT * counts)
    else:
        reward = torch.where(before_last == 0, outcome[:, None], tree.reward.take(path[:, 1:]))
        discount = torch.where(before_last > 0, tree.discount.take(path[:, 1:]), 0)
        seen = counts * discounted_sum(reward.T, discount.T).T
    tree.visits.view(-1).index_add_(0, edge, counts.flatten())
    tree.total.view(-1).index_add_(0, edge, seen.flatten())


def update_leaves(tree: SearchTree, path: Tensor, score: Score) -> None:
    """Updates where simulations that pass through the nodes of a path [N, W + 1] will leave the tree.

    At each node the best move leads out of the tree, or to a child off the path, whose leaf is known, or to the next
    node of the path, whose leaf is then also this node's.
    """
    W = path.shape[1] - 1
    edges = tree.edges_of(path)
    scores = score(edges)
    if tree.chance is not None:  # the next move of chance is drawn, as by `rlcore.game.draw`
        clocks = torch.empty_like(scores).exponential_()
        scores = torch.where(tree.chance.take(path)[..., None], edges.prior / clocks, scores)
    best = path * tree.prior.shape[-1] + scores.max(-1).indices  # argmax is slower
    child = tree.child.take(best)
    own = torch.where(child == UNVISITED, best, tree.leaf.take(child.clamp_min(0)))
    places = torch.arange(W + 1, device=path.device)
    continues = torch.zeros_like(child, dtype=torch.bool)
    continues[:, :-1] = (child[:, :-1] == path[:, 1:]) & (path[:, :-1] != path[:, 1:])
    end = torch.where(continues, W, places).flip(1).cummin(1).values.flip(1)
    tree.leaf.view(-1)[path] = own.gather(1, end)


def subtree(tree: SearchTree, action: Tensor, state: Tensor) -> Tensor:
    """The subtree of the root's child by a move, [N, M] bool; empty where that child stands for another state.

    Args:
        tree: the trees.
        action: [N].
        state: [N, S].
    """
    child = tree.child[:, ROOT].gather(1, action[:, None])
    stands = tree.state.flatten(0, 1)[child.squeeze(1).clamp_min(0)] == state
    there = (child != UNVISITED) & stands.all(1, keepdim=True)
    return there & (tree.depth > 0) & (tree.path[:, :, 1] == child)


def copy_subtree(tree: SearchTree, kept: Tensor, into: SearchTree) -> None:
    """Copies the nodes to keep, [N, M] bool, into the first places of other trees; the topmost becomes the root."""
    N, A = len(kept), tree.prior.shape[-1]
    old = kept.flatten().nonzero().squeeze(1)
    places = into.depth.shape[1] * torch.arange(N, device=old.device)[:, None] + kept.cumsum(1) - 1
    place = torch.where(kept, places, UNVISITED).flatten()  # new row of each old node
    new = place[old]
    for source, target in zip(tree, into, strict=True):
        if source is not None and target is not None and source is not tree.path and source is not tree.moves:
            target.flatten(0, 1)[new] = source.flatten(0, 1)[old]
    into.depth.view(-1)[new] -= 1
    into.leaf.view(-1)[new] = place[into.leaf.view(-1)[new] // A] * A + into.leaf.view(-1)[new] % A
    child = into.child.flatten(0, 1)
    child[new] = torch.where(child[new] == UNVISITED, UNVISITED, place[child[new].clamp_min(0)])
    D = min(tree.moves.shape[-1], into.moves.shape[-1])  # no path that is kept is longer
    into.moves.flatten(0, 1)[new, : D - 1] = tree.moves.flatten(0, 1)[old, 1:D]
    on_path = torch.arange(D, device=old.device) <= into.depth.view(-1)[new, None]
    path = torch.where(on_path, tree.path.flatten(0, 1)[old, 1 : D + 1], 0)
    into.path.flatten(0, 1)[new, :D] = torch.where(on_path, place[path], new[:, None])
