"""95 % intervals of shares of points, from games of which each opening has two, one from each side.

The two games of an opening are not independent: the same side may win both, or the player who understands it. So the
unit is the opening, as in the pentanomial model of fishtest, Stockfish's tests ("Fishtest mathematics" in its wiki).
"""

import math

from torch import Tensor

Z = 1.959964
"""The normal distribution's 97.5 % quantile."""


def effective_games(outcome: Tensor) -> float:
    """The number of independent games without draws that would tell the share of points as precisely (Kish 1965).

    n = K s (1 - s) / v,  s and v: mean and variance of the openings' shares of points

    Draws, and openings that the same side wins twice, make v small and n large. As s and v are not known
    but estimated, an opening won and one lost are added to them: so a player who won every game has n = K, that of
    openings whose two games always end alike, and n is never less.

    Args:
        outcome: of both games of K >= 1 openings, [2 K]: 1, 0 or -1, those of the one side before those of the other,
            as `rlcore.game.different_games` returns them.
    """
    share = 0.5 + 0.25 * outcome.double().view(2, -1).sum(0)
    K = len(share)
    s = (share.sum().item() + 1) / (K + 2)
    v = (share.square().sum().item() + 1) / (K + 2) - s**2
    return K * s * (1 - s) / v


def points_interval(outcome: Tensor) -> tuple[float, float]:
    """The 95 % interval of the share of points, in [0, 1]: Wilson's (1927), of `effective_games`.

    It holds the shares p whose difference from the one seen is at most `Z` of its standard errors sqrt(p (1 - p) / n),
    and is wide also where every game was won.

    Args:
        outcome: see `effective_games`.
    """
    n, share = effective_games(outcome), 0.5 + 0.5 * outcome.double().mean().item()
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)
