"""Scores: which move of a node is tried next; and the noise of the root.

Legend: A moves; leading dimensions [...] are those of the nodes.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

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


def puct(
    exploration: float = 1.25, first_play: float | None = 0.0, reduction: float = 0.0, base: float | None = None
) -> Score:
    """Q + c P sqrt(N) / (1 + n), with N = 1 + the sum of n, where the 1 lets the prior decide the first visit.

    Silver et al. 2017, "Mastering the game of Go without human knowledge", methods.

    Args:
        exploration: c > 0; with a base c grows as log((N + base) / base) + c (Silver et al. 2018, pseudocode).
        first_play: Q of a move never made; None means the mean value of the node.
        reduction: with None, what is taken off that, times the root of the priors of all moves made (Wu 2019).
        base: of the growth, 19652 in AlphaZero; None: c is constant.
    """

    def score(e: Edges) -> Tensor:
        Q, N = e.mean, 1 + e.visits.sum(-1, keepdim=True)
        if first_play is None:
            unseen = e.node_value
            if reduction:
                unseen = unseen - reduction * (e.prior * (e.visits > 0)).nansum(-1, keepdim=True).sqrt()
            Q = torch.where(e.visits > 0, Q, unseen)
        elif first_play:
            Q = torch.where(e.visits > 0, Q, first_play)
        return Q + _growing(exploration, base, N) * e.prior * N.sqrt() / (1 + e.visits)

    return score


def _growing(exploration: float, base: float | None, N: Tensor) -> Tensor | float:
    """The c of `puct` after N visits."""
    return exploration if base is None else exploration + ((N + base) / base).log()


def forced_visits(e: Edges, forced: float) -> Tensor:
    """The visits sqrt(k P N) that a move once made at the root gets in any case, [..., A] (Wu 2019, section 3.2).

    Args:
        e: edges of roots.
        forced: k; 2 in KataGo.
    """
    return (forced * e.prior.clamp_min(0) * e.visits.sum(-1, keepdim=True)).sqrt()


def pruned_visits(e: Edges, forced: float, exploration: float = 1.25, base: float | None = None) -> Tensor:
    """Visits without those that only `forced_visits` made, [..., A], as a target (Wu 2019, section 3.2).

    Of each move but the most visited one, as many forced visits are taken off as leave its `puct` below that one's; and
    a move that is left with a single visit loses it too.

    Args:
        e: edges of roots.
        forced: k.
        exploration: c of `puct`.
        base: of its growth.
    """
    visits, most = e.visits, e.visits.amax(-1, keepdim=True)
    best = visits == most
    N = 1 + visits.sum(-1, keepdim=True)
    bonus = _growing(exploration, base, N) * e.prior.clamp_min(0) * N.sqrt()
    bar = (e.mean + bonus / (1 + visits)).where(best, -torch.inf).amax(-1, keepdim=True)
    gap = (bar - e.mean).clamp_min(TINY)
    needed = torch.where(bar > e.mean, (bonus / gap).floor(), torch.inf)  # the fewest that stay below the bar
    kept = torch.maximum((visits - forced_visits(e, forced)).ceil(), torch.minimum(visits, needed)).clamp_min(0)
    return torch.where(best, visits, kept.where(kept > 1, 0))


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
