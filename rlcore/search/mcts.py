"""Monte Carlo tree search over many games at once, with any score; and Gumbel AlphaZero's.

Legend: N games, A moves, S numbers per state.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from rlcore.errors import InputError
from rlcore.game import Game, Model, checked_step, too_long
from rlcore.search.scores import (
    TINY,
    Evaluator,
    Score,
    best_of,
    considered_visits,
    forced_visits,
    gumbel,
    improved_logits,
    masked_prior,
    puct,
    softmax,
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
    longest_path,
    select,
    subtree,
    update_leaves,
)


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
    prior: Tensor
    """[N, A], the evaluator's probabilities, before temperature and noise; -inf for illegal moves."""


@runtime_checkable
class Searcher(Protocol):
    """An agent that can search from given positions."""

    game: Game

    def search(self, state: Tensor, simulations: int | None = None) -> "SearchResult":
        """Searches from states [N, S] without noise, with as many simulations as in evaluation or another number."""


@torch.no_grad()
def search(
    game: Model,
    state: Tensor,
    evaluate: Evaluator,
    num_simulations: int,
    score: Score | None = None,
    noise: Tensor | None = None,
    noise_fraction: float = 0.25,
    expand_after: int = 1,
    earlier: tuple[SearchTree, Tensor] | None = None,
    temperature: float = 1.0,
    forced: float = 0.0,
    max_depth: int | None = None,
) -> SearchResult:
    """Monte Carlo tree search; with `puct` and a network, that of AlphaZero (Silver et al. 2017, 2018).

    The move to make is the most visited one, and of equally visited ones that of the largest mean outcome.

    Args:
        game: the rules, or a model of them.
        state: [N, S].
        evaluate: evaluates states; `playouts` and the score `uct` make it UCT.
        num_simulations: per position.
        score: selects the moves; None means ``puct()``.
        noise: [N, A], probabilities that are mixed into the priors of the roots; see `dirichlet`.
        noise_fraction: weight of the noise.
        expand_after: simulations that must reach a state before it joins the tree.
        earlier: the trees of a search one move ago, and the moves made then [N]. Where they lead to ``state``, the
            subtree is kept, and its visits count.
        temperature: T of the priors of the roots, in proportion to P^(1/T); above 1 they are flatter, before the noise.
        forced: k of `forced_visits` at the roots, for moves that noise would have tried once only.
        max_depth: moves from the root beyond which no state joins the tree; see `init_tree`.

    Raises:
        InputError: a game has no legal move, ``num_simulations`` or ``max_depth`` is below 1, ``earlier`` trees are
            deeper than it, or the rules break their contract.
    """
    score = score or puct()
    tree, num_used = _init_trees(game, state, evaluate, num_simulations, earlier, max_depth)
    prior = tree.prior[:, ROOT].clone()
    tried = prior if temperature == 1 else masked_prior(prior.clamp_min(TINY).log() / temperature, prior >= 0)
    if noise is not None:
        tried = torch.where(prior >= 0, torch.lerp(tried, noise, noise_fraction), prior)
    tree.prior[:, ROOT] = tried
    update_leaves(tree, tree.path[:, ROOT, :1], score)
    for node in range(num_used, num_used + num_simulations):
        root_move = None
        if forced:
            root = tree.edges(ROOT)
            is_due = (root.visits > 0) & (root.visits < forced_visits(root, forced))
            root_move = score(root).masked_fill(is_due, torch.inf).argmax(-1)
        simulate(tree, game, evaluate, score, node, root_move, expand_after)
    _check(game, tree)
    root = tree.edges(ROOT)
    policy = root.visits / root.visits.sum(-1, keepdim=True)
    action = best_of(root.mean, root.visits, root.visits.amax(-1))
    return SearchResult(action, policy, root.node_value.squeeze(-1), root.visits, tree, prior)


@torch.no_grad()
def search_gumbel(
    game: Model,
    state: Tensor,
    evaluate: Evaluator,
    num_simulations: int,
    noise: Tensor | None = None,
    max_considered: int = 16,
    visit_scale: float = 50.0,
    value_scale: float = 1.0,
    max_depth: int | None = None,
) -> SearchResult:
    """Gumbel AlphaZero's search, which improves the policy with any number of simulations (Danihelka et al. 2022).

    At the root the moves of the largest logit + noise are tried, and the worse half is dropped repeatedly (sequential
    halving, algorithm 2); below the root, moves are selected by `gumbel`.

    Args:
        game: the rules, or a model of them.
        state: [N, S].
        evaluate: evaluates states.
        num_simulations: per position.
        noise: [N, A], drawn from Gumbel(0, 1); None means none, for the best play.
        max_considered: largest number of moves tried at the root.
        visit_scale: c_visit.
        value_scale: c_scale.
        max_depth: see `search`.

    Raises:
        InputError: a game has no legal move, ``num_simulations`` or ``max_depth`` is below 1, or the rules break their
            contract.
    """
    tree, num_used = _init_trees(game, state, evaluate, num_simulations, max_depth=max_depth)
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
    return SearchResult(action, softmax(logits), value, root.visits, tree, root.prior)


def simulate(
    tree: SearchTree, game: Model, evaluate: Evaluator, score: Score, node: int, root_move: Tensor | None = None,
    expand_after: int = 1,
) -> None:  # fmt: skip
    """One simulation in every tree, in place.

    Args:
        tree: the trees; `update_leaves` has been called for their roots.
        game: the rules, or a model of them.
        evaluate: evaluates the new states.
        score: selects the moves.
        node: index of the new state's node, which no simulation has used.
        root_move: [N], made at the root; None selects it by score too.
        expand_after: simulations that must reach a state before a node stands for it.
    """
    edge = select(tree, root_move)
    parent, action = edge // game.num_actions, edge % game.num_actions
    before = tree.state.flatten(0, 1).index_select(0, parent)
    new, reward, terminated = checked_step(game, before, action)
    discount = game.discount(before, new)
    prior, value, chance = evaluate_nodes(game, new, evaluate)
    path, moves, depth = expand(tree, node, parent, action, new, prior, value)
    if tree.reward is not None and tree.discount is not None:
        tree.reward[:, node], tree.discount[:, node] = reward, discount
    if tree.chance is not None and chance is not None:
        tree.chance[:, node] = chance
    backup(tree, path, moves, depth, torch.where(terminated, reward, reward + discount * value))
    grown, longest = ~terminated, tree.moves.shape[-1]
    if longest < longest_path(game, tree.depth.shape[1]):
        grown &= depth < longest
    if expand_after > 1:
        grown &= tree.visits.take(edge) >= expand_after
    tree.child.view(-1)[edge] = torch.where(grown, path[:, -1], UNVISITED)
    below = path if root_move is None else path[:, 1:]  # where moves of the root are given, its leaf is of no use
    update_leaves(tree, below, score)


def _init_trees(
    game: Model,
    state: Tensor,
    evaluate: Evaluator,
    num_simulations: int,
    earlier: tuple[SearchTree, Tensor] | None = None,
    max_depth: int | None = None,
) -> tuple[SearchTree, int]:
    """Trees with room for the simulations, and the number of their nodes in use."""
    if num_simulations < 1:
        raise InputError(f"search: simulations must be 1 or more, got {num_simulations}")
    if max_depth is not None and max_depth < 1:
        raise InputError(f"search: max_depth must be 1 or more, got {max_depth}; None is without a limit")
    if earlier is None:
        return init_tree(game, state, evaluate, 1 + num_simulations, max_depth), 1
    paths = earlier[0].moves.shape[-1]
    if max_depth is not None and paths > max_depth:
        given = f"max_depth = {max_depth}, but the earlier trees have paths of up to {paths} moves"
        raise InputError(f"search: {given}; both searches need the same limit")
    kept = subtree(*earlier, state)
    num_used = max(1, int(kept.sum(1).max()))  # one sync per search
    tree = init_tree(game, state, evaluate, num_used + num_simulations, max_depth)
    copy_subtree(earlier[0], kept, tree)
    return tree, num_used


def _check(game: Model, tree: SearchTree) -> None:
    """Raises an InputError if a root has no legal move, or if a path was cut that is longer than `Game.max_moves`."""
    stuck, cut = ~game.legal(tree.state[:, ROOT]).any(1), (tree.depth > game.max_moves).any(1)
    if not (stuck | cut).any():  # one sync per search
        return
    if stuck.any():
        n = int(stuck.nonzero()[0])
        raise InputError(f"search: game {n} has no legal move: its board is full, or the game has ended")
    raise too_long(game)
