"""Which examples to ask labels of: scores by what T answers say, and batches of examples that say more together.

Answers are class probabilities p [T, B, K], of T samples of the parameters: members of an ensemble, or passes of Monte
Carlo dropout, for `batch_bald` such that drop the same units for all examples (``shared`` of `MCDropout`).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 64
"""Candidates whose gain is computed at once."""


class Batch(NamedTuple):
    """Examples chosen one after another."""

    chosen: Tensor
    """Their indices, [n] int64."""
    gain: Tensor
    """I(y_i; omega | y_1 .. y_i-1), what each label is expected to say beside those before it, [n] nats; the sum is
    the mutual information of all n labels and the parameters."""


def margin(p: Tensor) -> Tensor:
    """Minus the distance of the two most likely classes, in [-1, 0], [B] (Scheffer et al. 2001).

    Args:
        p: mean probabilities [B, K].
    """
    first, second = p.topk(2).values.unbind(-1)
    return second - first


def batch_bald(
    p: Tensor, size: int, num_configurations: int = 10_000, generator: torch.Generator | None = None
) -> Batch:
    """Chooses examples whose labels together say most of the parameters, greedily (Kirsch et al. 2019, algorithm 1).

    I(y_1 .. y_n; omega) = H[y_1 .. y_n] - sum_i E H[y_i | omega]

    The joint entropy is exact while the labels of those chosen have at most ``num_configurations`` configurations; from
    then on, that many are drawn by their probabilities. As the mutual information is submodular, a gain only shrinks
    while others are chosen: examples whose gain was smaller before than the best one is now are not looked at (Minoux
    1978), which changes no choice while it is exact.

    Args:
        p: [T, B, K].
        size: n, how many to choose, at most B.
        num_configurations: see above.
        generator: what draws configurations.
    """
    T, B, K = p.shape
    entropy = torch.special.entr(p).sum(-1)  # [T, B]
    share = p.new_ones(1)  # [M], of each configuration of the labels chosen
    posterior = p.new_full((1, T), 1 / T)  # [M, T], of the parameters given a configuration
    bound, is_chosen = p.new_full((B,), math.inf), torch.zeros(B, dtype=torch.bool, device=p.device)
    chosen, gains = [], []
    for _ in range(size):
        best = p.new_tensor(-math.inf)
        for rows in bound.argsort(descending=True).split(CHUNK):
            if best >= bound[rows[0]]:  # one sync
                break
            predictive = (posterior @ p[:, rows].flatten(1)).unflatten(1, (-1, K))  # [M, C, K]
            expected = share @ posterior @ entropy[:, rows]
            gain = share @ torch.special.entr(predictive).sum(-1) - expected
            bound[rows] = gain.masked_fill(is_chosen[rows], -math.inf)
            best = torch.maximum(best, bound[rows].max())
        index = bound.argmax()
        chosen.append(index)
        gains.append(bound[index].clone())
        bound[index], is_chosen[index] = -math.inf, True
        joint = posterior.unsqueeze(1) * p[:, index].T  # [M, K, T]
        likelihood = joint.sum(-1)  # [M, K], of the label given a configuration of those before
        share = (share.unsqueeze(1) * likelihood).flatten()
        posterior = (joint / likelihood.clamp_min(torch.finfo(p.dtype).tiny).unsqueeze(2)).flatten(0, 1)
        if len(share) > num_configurations:
            drawn = share.multinomial(num_configurations, replacement=True, generator=generator)
            share, posterior = p.new_full((num_configurations,), 1 / num_configurations), posterior[drawn]
    return Batch(torch.stack(chosen), torch.stack(gains))
