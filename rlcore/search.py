"""Tree search over many games at once: select, expand, evaluate, backup, each on whole tensors.

A simulation takes a fixed number of tensor operations, whatever the depth of the trees, and waits for nothing. Two
things make that possible. Every node stores its path from the root, so a backup updates all of it at once. And every
node stores where a simulation that passes through it will leave the tree (``leaf``): this changes only for the nodes on
the path of a backup, so it is updated there, and selection is a look-up at the root.

Legend: N games, M nodes per tree, A moves, S numbers per state, D length of the longest path, W that of current paths.
A node is a row of the N * M nodes of all trees, an edge is ``node * A + move``.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from rlcore.device import reading_waits
from rlcore.errors import InputError
from rlcore.game import DISCOUNT, Game, checked_legal, checked_step, random_moves, too_long

ROOT = 0
"""The first node of each tree."""
UNVISITED = -1
"""In place of a child: no node stands for the state after this edge."""
TINY = 1e-30
"""In place of a probability of 0, whose logarithm is not finite."""

Evaluator = Callable[[Tensor], tuple[Tensor, Tensor]]
"""States [B, S] to logits of the moves [B, A] and the value for the player to move [B], in [-1, 1]."""


class Edges(NamedTuple):
    """Statistics of some nodes and of their moves; leading dimensions [...] are those of the nodes."""

    prior: Tensor  # [..., A] probability that the evaluator gives the move; -inf if illegal
    visits: Tensor  # [..., A] float32, simulations that made it
    total: Tensor  # [..., A] sum of its outcomes, for the mover
    value: Tensor  # [...] the evaluator's value of the node, for the mover

    @property
    def mean(self) -> Tensor:
        """Q [..., A], the mean outcome of each move; 0 if it was never made."""
        return self.total / self.visits.clamp_min(1)

    @property
    def illegal(self) -> Tensor:
        """[..., A], -inf for illegal moves, else 0."""
        return self.prior - self.prior.clamp_min(0)

    @property
    def node_value(self) -> Tensor:
        """[..., 1], the mean of the outcomes of the node, its own evaluation included."""
        return (self.value[..., None] + self.total.sum(-1, keepdim=True)) / (1 + self.visits.sum(-1, keepdim=True))


Score = Callable[[Edges], Tensor]
"""Edges [...] to scores [..., A], -inf for illegal moves; the best is tried next."""


class SearchTree(NamedTuple):
    """N trees with room for M nodes each."""

    state: Tensor  # [N, M, S] int64
    prior: Tensor  # [N, M, A]
    visits: Tensor  # [N, M, A] float32
    total: Tensor  # [N, M, A]
    value: Tensor  # [N, M]
    child: Tensor  # [N, M, A] int64, node or UNVISITED
    path: Tensor  # [N, M, D + 1] int64, nodes from the root to this one; anything after it
    moves: Tensor  # [N, M, D] int64, the moves between them; arbitrary moves after them
    depth: Tensor  # [N, M] int64, moves from the root; 0 for an unused node
    leaf: Tensor  # [N, M] int64, the edge by which the next simulation through this node leaves the tree

    def edges(self, node: int) -> Edges:
        """The edges of one node of each tree, [N]."""
        return Edges(self.prior[:, node], self.visits[:, node], self.total[:, node], self.value[:, node])

    def edges_of(self, nodes: Tensor) -> Edges:
        """The edges of nodes [N, W], given as rows of all trees."""
        rows = nodes.flatten()
        columns = self.prior, self.visits, self.total
        prior, visits, total = (x.flatten(0, 1).index_select(0, rows).view(*nodes.shape, -1) for x in columns)
        return Edges(prior, visits, total, self.value.take(nodes))


def puct(exploration: float = 1.25, first_play: float | None = 0.0) -> Score:
    """Q + c P sqrt(N) / (1 + n), with N = 1 + the sum of n, where the 1 lets the prior decide the first visit.

    Silver et al. 2017, "Mastering the game of Go without human knowledge", methods.

    Args:
        exploration: c > 0.
        first_play: Q of a move never made; None means the mean value of the node.
    """

    def score(e: Edges) -> Tensor:
        Q = e.mean
        if first_play is None:
            Q = torch.where(e.visits > 0, Q, e.node_value)
        elif first_play:
            Q = torch.where(e.visits > 0, Q, first_play)
        return Q + exploration * e.prior * (1 + e.visits.sum(-1, keepdim=True)).sqrt() / (1 + e.visits)

    return score


def uct(exploration: float = 1.4) -> Score:
    """Q + c sqrt(log N / n), untried moves first (Kocsis & Szepesvari 2006, UCB1 in each node).

    Args:
        exploration: c > 0.
    """

    def score(e: Edges) -> Tensor:
        log_N = (1 + e.visits.sum(-1, keepdim=True)).log()
        bonus = torch.where(e.visits > 0, exploration * (log_N / e.visits.clamp_min(1)).sqrt(), torch.inf)
        return torch.where(e.prior >= 0, e.mean + bonus, -torch.inf)

    return score


def gumbel(visit_scale: float = 50.0, value_scale: float = 1.0) -> Score:
    """By how much the improved policy pi' exceeds the visits so far, pi' - n / N (Danihelka et al. 2022, equation 14).

    Args:
        visit_scale: c_visit.
        value_scale: c_scale, for values rescaled from [-1, 1] to [0, 1].
    """

    def score(e: Edges) -> Tensor:
        policy = softmax(improved_logits(e, visit_scale, value_scale))
        return policy - e.visits / (1 + e.visits.sum(-1, keepdim=True)) + e.illegal

    return score


def improved_logits(e: Edges, visit_scale: float, value_scale: float) -> Tensor:
    """Logits + sigma(completed Q), -inf where illegal, [..., A] (Danihelka et al. 2022, equations 8, 10 and 33).

    A move never made gets the mixed value: the evaluator's, averaged with the prior-weighted mean of the moves made.
    """
    visited, mean = e.visits.clamp_max(1), e.mean  # 1 where it was made; the mean of the others is 0
    prior = e.prior.clamp_min(TINY)
    seen = prior * visited
    N = e.visits.sum(-1, keepdim=True)
    found = (seen * mean).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp_min(TINY)
    mixed = (e.value[..., None] + N * found) / (1 + N)
    Q = 0.5 * (1 + mean + mixed * (1 - visited))
    return prior.log() + (visit_scale + e.visits.amax(-1, keepdim=True)) * value_scale * Q + e.illegal


def plant(game: Game, state: Tensor, evaluate: Evaluator, num_nodes: int) -> SearchTree:
    """Trees that consist of a root each.

    Args:
        game: the rules.
        state: [N, S], in none of which the game has ended.
        evaluate: evaluates the roots.
        num_nodes: M.

    Raises:
        InputError: states or legal moves have another shape or dtype than they should.
    """
    legal = checked_legal(game, state)
    (N, S), A, D, device = state.shape, game.num_actions, game.max_moves, state.device
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
    )
    logits, value = evaluate(state)
    tree.state[:, ROOT], tree.value[:, ROOT], tree.path[:, ROOT, 0], tree.depth[:, ROOT] = state, value, roots, 0
    tree.prior[:, ROOT] = masked_prior(logits, legal)
    return tree


def masked_prior(logits: Tensor, legal: Tensor) -> Tensor:
    """Probabilities of the legal moves, -inf for the others, [B, A].

    Args:
        logits: [B, A].
        legal: [B, A] bool.
    """
    illegal = 1 - legal.float().reciprocal()  # 0 or -inf
    return softmax(logits + illegal) + illegal


def softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension; torch's own kernel takes four times as long for so few columns."""
    e = (logits - logits.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def simulate(
    tree: SearchTree, game: Game, evaluate: Evaluator, score: Score, node: int, root_move: Tensor | None = None,
    expand_after: int = 1,
) -> None:  # fmt: skip
    """One simulation in every tree, in place.

    Args:
        tree: the trees; `renew` has been called for their roots.
        game: the rules.
        evaluate: evaluates the new states.
        score: selects the moves.
        node: index of the new state's node, which no simulation has used.
        root_move: [N], made at the root; None selects it by score too.
        expand_after: simulations that must reach a state before a node stands for it.
    """
    edge = select(tree, root_move)
    parent, action = edge // game.num_actions, edge % game.num_actions
    new, reward, terminated = checked_step(game, tree.state.flatten(0, 1).index_select(0, parent), action)
    logits, value = evaluate(new)
    path, moves, depth = expand(tree, node, parent, action, new, masked_prior(logits, game.legal(new)), value)
    outcome = torch.where(terminated, reward, reward + DISCOUNT * value)
    backup(tree, path, moves, depth, outcome)
    grown = ~terminated
    if expand_after > 1:
        grown &= tree.visits.take(edge) >= expand_after
    tree.child.view(-1)[edge] = torch.where(grown, path[:, -1], UNVISITED)
    renew(tree, path, score)


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
    if not reading_waits(depth.device):
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
    seen = outcome[:, None] * torch.where(before_last % 2 == 0, counts, DISCOUNT * counts)
    tree.visits.view(-1).index_add_(0, edge, counts.flatten())
    tree.total.view(-1).index_add_(0, edge, seen.flatten())


def renew(tree: SearchTree, path: Tensor, score: Score) -> None:
    """Updates where simulations that pass through the nodes of a path [N, W + 1] will leave the tree.

    At each node the best move leads out of the tree, or to a child off the path, whose leaf is known, or to the next
    node of the path, whose leaf is then also this node's.
    """
    W = path.shape[1] - 1
    best = path * tree.prior.shape[-1] + score(tree.edges_of(path)).max(-1).indices  # argmax is slower
    child = tree.child.take(best)
    own = torch.where(child == UNVISITED, best, tree.leaf.take(child.clamp_min(0)))
    places = torch.arange(W + 1, device=path.device)
    goes_on = torch.zeros_like(child, dtype=torch.bool)
    goes_on[:, :-1] = (child[:, :-1] == path[:, 1:]) & (path[:, :-1] != path[:, 1:])
    stops_at = torch.where(goes_on, W, places).flip(1).cummin(1).values.flip(1)
    tree.leaf.view(-1)[path] = own.gather(1, stops_at)


@runtime_checkable
class Searcher(Protocol):
    """An agent that can search from given positions."""

    game: Game

    def search(self, state: Tensor, simulations: int | None = None) -> "SearchResult":
        """Searches from states [N, S] without noise, with as many simulations as in evaluation or another number."""


class SearchResult(NamedTuple):
    """The results of a search from N positions."""

    action: Tensor
    """[N] int64, the move to make."""
    policy: Tensor
    """[N, A], the target for the network: the shares of the visits, or the improved policy of `search_gumbel`."""
    value: Tensor
    """[N], values of the positions, for the mover: of `search` the mean outcome of all simulations; of `search_gumbel`,
    where many of them try out worse moves, that of the move to make, its Q at the root."""
    visits: Tensor
    """[N, A] float32, simulations that began with each move."""
    tree: SearchTree
    """The whole trees; see ``earlier`` of `search`."""


@torch.no_grad()
def search(
    game: Game,
    state: Tensor,
    evaluate: Evaluator,
    num_simulations: int,
    score: Score | None = None,
    noise: Tensor | None = None,
    noise_fraction: float = 0.25,
    expand_after: int = 1,
    earlier: tuple[SearchTree, Tensor] | None = None,
) -> SearchResult:
    """Monte Carlo tree search; with `puct` and a network, that of AlphaZero (Silver et al. 2017, 2018).

    The move to make is the most visited one, and of equally visited ones that of the largest mean outcome.

    Args:
        game: the rules.
        state: [N, S].
        evaluate: evaluates states; `playouts` and the score `uct` make it UCT.
        num_simulations: per position.
        score: selects the moves; None means ``puct()``.
        noise: [N, A], probabilities that are mixed into the priors of the roots; see `dirichlet`.
        noise_fraction: weight of the noise.
        expand_after: simulations that must reach a state before it joins the tree.
        earlier: the trees of a search one move ago, and the moves made then [N]. Where they lead to ``state``, the
            subtree is kept, and its visits count.

    Raises:
        InputError: a game has no legal move, ``num_simulations`` is below 1, or the rules break their contract.
    """
    score = score or puct()
    tree, num_used = _planted(game, state, evaluate, num_simulations, earlier)
    if noise is not None:
        prior = tree.prior[:, ROOT]
        tree.prior[:, ROOT] = torch.where(prior >= 0, torch.lerp(prior, noise, noise_fraction), prior)
    renew(tree, tree.path[:, ROOT, :1], score)
    for node in range(num_used, num_used + num_simulations):
        simulate(tree, game, evaluate, score, node, expand_after=expand_after)
    _check(game, tree)
    root = tree.edges(ROOT)
    policy = root.visits / root.visits.sum(-1, keepdim=True)
    action = best_of(root.mean, root.visits, root.visits.amax(-1))
    return SearchResult(action, policy, root.node_value.squeeze(-1), root.visits, tree)


@torch.no_grad()
def search_gumbel(
    game: Game,
    state: Tensor,
    evaluate: Evaluator,
    num_simulations: int,
    noise: Tensor | None = None,
    max_considered: int = 16,
    visit_scale: float = 50.0,
    value_scale: float = 1.0,
) -> SearchResult:
    """Gumbel AlphaZero's search, which improves the policy with any number of simulations (Danihelka et al. 2022).

    At the root the moves of the largest logit + noise are tried, and the worse half is dropped repeatedly (sequential
    halving, algorithm 2); below the root, moves are selected by `gumbel`.

    Args:
        game: the rules.
        state: [N, S].
        evaluate: evaluates states.
        num_simulations: per position.
        noise: [N, A], drawn from Gumbel(0, 1); None means none, for the best play.
        max_considered: largest number of moves tried at the root.
        visit_scale: c_visit.
        value_scale: c_scale.

    Raises:
        InputError: a game has no legal move, ``num_simulations`` is below 1, or the rules break their contract.
    """
    tree, num_used = _planted(game, state, evaluate, num_simulations)
    score = gumbel(visit_scale, value_scale)
    noise = torch.zeros_like(tree.prior[:, ROOT]) if noise is None else noise
    num_considered = game.legal(state).sum(1).clamp_max(max_considered)
    plan = considered_visits(max_considered, num_simulations, state.device)[num_considered]  # [N, simulations]

    for node in range(num_used, num_used + num_simulations):
        root = tree.edges(ROOT)
        scores = noise + improved_logits(root, visit_scale, value_scale)
        simulate(tree, game, evaluate, score, node, best_of(scores, root.visits, plan[:, node - num_used]))
    _check(game, tree)
    root = tree.edges(ROOT)
    logits = improved_logits(root, visit_scale, value_scale)
    action = best_of(noise + logits, root.visits, root.visits.amax(-1))
    value = root.mean.gather(1, action[:, None]).squeeze(1)
    return SearchResult(action, softmax(logits), value, root.visits, tree)


def best_of(scores: Tensor, visits: Tensor, wanted: Tensor) -> Tensor:
    """The move of the best score among those with as many visits as wanted, [N].

    Args:
        scores: [N, A].
        visits: [N, A].
        wanted: [N].
    """
    return scores.where(visits == wanted[:, None], -torch.inf).argmax(-1)


@cache
def considered_visits(max_considered: int, num_simulations: int, device: torch.device | str = "cpu") -> Tensor:
    """Sequential halving as a plan: visits that a move must have to be tried next, int64.

    [max_considered + 1, num_simulations]; row m is for m moves considered (as in DeepMind's mctx). Of the moves with
    that many visits the best is tried.
    """
    plan = torch.zeros(max_considered + 1, num_simulations, dtype=torch.int64)
    for m in range(1, max_considered + 1):
        sequence: list[int] = []
        rounds, left, visits = max(1, math.ceil(math.log2(m))), m, 0
        while len(sequence) < num_simulations:
            for _ in range(max(1, num_simulations // (rounds * left))):
                sequence += [visits] * left
                visits += 1
            left = max(2, left // 2) if m > 1 else 1
        plan[m] = torch.tensor(sequence[:num_simulations])
    return plan.to(device)


def _planted(
    game: Game,
    state: Tensor,
    evaluate: Evaluator,
    num_simulations: int,
    earlier: tuple[SearchTree, Tensor] | None = None,
) -> tuple[SearchTree, int]:
    """Trees with room for the simulations, and the number of their nodes in use."""
    if num_simulations < 1:
        raise InputError(f"search: simulations must be 1 or more, got {num_simulations}")
    if earlier is None:
        return plant(game, state, evaluate, 1 + num_simulations), 1
    kept = below(*earlier, state)
    num_used = max(1, int(kept.sum(1).max()))  # one sync per search
    tree = plant(game, state, evaluate, num_used + num_simulations)
    transplant(earlier[0], kept, tree)
    return tree, num_used


def _check(game: Game, tree: SearchTree) -> None:
    """Raises an InputError if a root has no legal move, or if a path was cut that is longer than `Game.max_moves`."""
    stuck, cut = ~game.legal(tree.state[:, ROOT]).any(1), (tree.depth > game.max_moves).any(1)
    if not (stuck | cut).any():  # one sync per search
        return
    if stuck.any():
        n = int(stuck.nonzero()[0])
        raise InputError(f"search: game {n} has no legal move: its board is full, or the game has ended")
    raise too_long(game)


def below(tree: SearchTree, action: Tensor, state: Tensor) -> Tensor:
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


def transplant(tree: SearchTree, kept: Tensor, into: SearchTree) -> None:
    """Copies the nodes to keep, [N, M] bool, into the first places of other trees; the topmost becomes the root."""
    N, A = len(kept), tree.prior.shape[-1]
    old = kept.flatten().nonzero().squeeze(1)
    places = into.depth.shape[1] * torch.arange(N, device=old.device)[:, None] + kept.cumsum(1) - 1
    place = torch.where(kept, places, UNVISITED).flatten()  # new row of each old node
    new = place[old]
    for source, target in zip(tree, into, strict=True):
        if source is not tree.path and source is not tree.moves:
            target.flatten(0, 1)[new] = source.flatten(0, 1)[old]
    into.depth.view(-1)[new] -= 1
    into.leaf.view(-1)[new] = place[into.leaf.view(-1)[new] // A] * A + into.leaf.view(-1)[new] % A
    child = into.child.flatten(0, 1)
    child[new] = torch.where(child[new] == UNVISITED, UNVISITED, place[child[new].clamp_min(0)])
    D = tree.moves.shape[-1]
    into.moves.flatten(0, 1)[new, : D - 1] = tree.moves.flatten(0, 1)[old, 1:]
    on_path = torch.arange(D, device=old.device) <= into.depth.view(-1)[new, None]
    path = torch.where(on_path, tree.path.flatten(0, 1)[old, 1:], 0)
    into.path.flatten(0, 1)[new, :D] = torch.where(on_path, place[path], new[:, None])


def dirichlet(legal: Tensor, alpha: float) -> Tensor:
    """Probabilities drawn from a Dirichlet distribution over the legal moves, 0 for the others, [N, A].

    Args:
        legal: [N, A] bool.
        alpha: concentration; AlphaZero's is about 10 / the number of moves.
    """
    # clamped, as gamma draws of a small alpha may all be 0 in float32
    draws = torch._standard_gamma(torch.full_like(legal, alpha, dtype=torch.float32)).clamp_min(TINY) * legal
    return draws / draws.sum(-1, keepdim=True)


def gumbels(legal: Tensor) -> Tensor:
    """Draws from Gumbel(0, 1), [N, A]."""
    return -torch.empty_like(legal, dtype=torch.float32).exponential_().log()


def playouts(game: Game) -> Evaluator:
    """Evaluates a state by a game of random moves from there, and all its moves equally."""

    def evaluate(state: Tensor) -> tuple[Tensor, Tensor]:
        value, sign = torch.zeros(len(state), device=state.device), 1.0
        running = game.legal(state).any(1)
        for _ in range(game.max_moves):
            if not reading_waits(state.device) and not running.any():
                break
            state, reward, terminated = game.step(state, random_moves(game.legal(state)))
            value += sign * reward * running
            running = running & ~terminated
            sign *= DISCOUNT
        if not reading_waits(state.device) and running.any():
            raise too_long(game)
        return torch.zeros(len(state), game.num_actions, device=state.device), value

    return evaluate


def mixed(network: Evaluator, rollouts: Evaluator, value_weight: float) -> Evaluator:
    """The network's priors, and (1 - w) its value + w that of playouts, as AlphaGo (Silver et al. 2016, methods).

    Args:
        network: gives priors and values.
        rollouts: gives values.
        value_weight: w, [0, 1].
    """

    def evaluate(state: Tensor) -> tuple[Tensor, Tensor]:
        logits, value = network(state)
        return logits, (1 - value_weight) * value + value_weight * rollouts(state)[1]

    return evaluate
