"""The report ``elo``: playing strength, estimated from games between players."""

import itertools
import math

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn.functional import one_hot

from rlcore import settings
from rlcore.agent import Agent
from rlcore.environment import Environment
from rlcore.envs.games.game_env import two_players
from rlcore.envs.games.intervals import Z, effective_games
from rlcore.envs.games.players import PlayerChoice, make_players
from rlcore.evaluation import Report, ReportMaker, evaluating
from rlcore.game import describe_count, different_games, points, random_openings
from rlcore.seeding import ACTING, derive_seed, seed_everything
from rlcore.settings import Seed

ELO = 400 / math.log(10)
"""Elo points of a nat of the odds."""
LARGEST = 4000.0
"""Elo points, odds of 10 billion to one, beyond which no end of an interval is looked for."""


class EloReport(ReportMaker):
    """A round-robin tournament, and the ratings that fit it best (Elo 1978): 400 points are odds of 10 to 1."""

    class Settings(settings.Settings):
        """Settings of the report."""

        players: list[PlayerChoice] = Field(min_length=1)
        """Besides the agent: ``[{name: random}, {name: run, run: runs/another}]``. The first is rated 0."""
        num: PositiveInt = 20
        """Openings, each played from both sides by each pair."""
        random_moves: NonNegativeInt = 4
        """Random moves in an opening."""
        seed: Seed = 1
        """Seed of openings and players."""

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        two_players("report elo", env)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`.

        Returns:
            The rating of each player, by the `different_games` of each pair, and its 95 % interval relative to the
            first one, ``<name>_low`` and ``<name>_high``, of which an open end is left out; as text, also the points
            that each player took from each other one.

        Raises:
            InputError: the environment is not a game, or two players have the same name.
        """
        env = two_players("report elo", env)
        s = self.settings
        players = make_players(s.players, env.game, env.device, "report elo") | {"agent": env.player(agent)}
        names = list(players)
        begin = random_openings(env.game, s.num, s.random_moves, torch.Generator(env.device).manual_seed(s.seed))
        shares = torch.full((len(players), len(players)), 0.5, dtype=torch.float64)
        num_games, effective, repeated = torch.zeros_like(shares), torch.ones_like(shares), ""
        with evaluating(agent):
            for (i, one), (j, other) in itertools.combinations(enumerate(players.values()), 2):
                seed_everything(derive_seed(s.seed, ACTING))
                outcome = different_games(env.game, one, other, begin)
                shares[i, j] = points(outcome)
                shares[j, i] = 1 - shares[i, j]
                num_games[i, j] = num_games[j, i] = len(outcome)
                effective[i, j] = effective[j, i] = effective_games(outcome)
                if len(outcome) < 2 * s.num:
                    repeated += f"\n{names[i]}, {names[j]}: {describe_count(outcome, 2 * s.num)}"
        rating, interval = ratings(shares, num_games), rating_intervals(shares, num_games, effective)
        scalars = dict(zip(names, rating.tolist(), strict=True))
        for name, (low, high) in zip(names[1:], interval[1:].tolist(), strict=True):
            ends = {f"{name}_low": low, f"{name}_high": high}
            scalars |= {key: end for key, end in ends.items() if math.isfinite(end)}
        return Report(scalars, _table(names, shares, rating, interval) + repeated)


def ratings(shares: Tensor, num_games: Tensor | int) -> Tensor:
    """Maximum-likelihood ratings [K], the first of them 0, of the model by Bradley and Terry (1952).

    One drawn game of each player is added, shared among its pairs, so that the rating of a player who lost or won every
    game is finite. How far off it may be is told by `rating_intervals`, to which nothing is added.

    Args:
        shares: [K, K] float64, the share of the points that the row's player took from the column's.
        num_games: per pair, [K, K] or the same for all.
    """
    K = len(shares)
    drawn = 1 / (K - 1)
    total = torch.as_tensor(num_games, dtype=torch.float64) + drawn
    anchor = torch.arange(K) == 0
    rating = _most_likely((shares * num_games + 0.5 * drawn) / total, total, anchor[None], torch.zeros(1, K))
    return ELO * rating[0]


def rating_intervals(shares: Tensor, num_games: Tensor, effective: Tensor) -> Tensor:
    """The 95 % interval of each rating relative to the first player's, [K, 2] float64.

    Those ratings that a score test does not refuse, the other players' being the most likely given it. Its variance is
    that observed between openings (Boos 1992), not the model's of independent games without draws; games of different
    pairs count as independent. Of two players it is `points_interval`, as Elo. No rating is too large for a
    player who won every game: the upper end is open. So are ends not found between minus and plus `LARGEST`.

    Args:
        shares: [K, K] float64, the share of the points that the row's player took from the column's.
        num_games: per pair, [K, K].
        effective: the `effective_games` of each pair, [K, K] float64.

    Returns:
        The lower and upper ends; -inf or inf where open.
    """
    K = len(shares)
    player = torch.arange(1, K).repeat(2)  # a search for the lower end of each, and one for the upper
    bound = torch.tensor([Z, -Z], dtype=torch.float64).repeat_interleave(K - 1)
    fixed = (torch.arange(K) == player[:, None]) | (torch.arange(K) == 0)
    rows = torch.arange(len(player))
    high = torch.full_like(bound, LARGEST / ELO)
    low, rating = -high, torch.zeros(len(player), K, dtype=torch.float64)
    for _ in range(30):  # halves: to less than 0.00001
        middle = (low + high) / 2
        rating[rows, player] = middle
        rating = _most_likely(shares, num_games, fixed, rating)
        above = _score_test(shares, num_games, effective, fixed, player, rating) > bound
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    lower, upper = ELO * low[: K - 1], ELO * high[K - 1 :]
    ends = torch.stack([lower.masked_fill(lower <= -LARGEST, -math.inf), upper.masked_fill(upper >= LARGEST, math.inf)])
    return torch.cat([torch.zeros(1, 2, dtype=torch.float64), ends.T])


def _most_likely(shares: Tensor, num_games: Tensor, fixed: Tensor, rating: Tensor) -> Tensor:
    """The most likely ratings, by Newton's method, B problems at once, [B, K] float64, in nats of the odds.

    Args:
        shares: [K, K].
        num_games: [K, K].
        fixed: the players whose rating is given, [B, K] bool.
        rating: those, and where to begin, [B, K].
    """
    rating, enough = rating.double(), 1e-10 * num_games.max()
    for _ in range(500):
        surplus, information = _score(shares, num_games, rating)
        surplus = surplus.masked_fill(fixed | (surplus.abs() < enough), 0)  # who won every game would rise for ever
        step = torch.linalg.solve(_of_the_free(information, fixed), surplus)
        # steps that change no pair's odds by more than e make the likelihood larger each time, from any beginning
        rating = rating + step / (step.amax(1) - step.amin(1)).clamp(min=1)[:, None]
        if not surplus.any():
            break
    return rating


def _score_test(
    shares: Tensor, num_games: Tensor, effective: Tensor, fixed: Tensor, player: Tensor, rating: Tensor
) -> Tensor:
    """How many standard errors the points of a player [B] are above those that ratings [B, K] expect, [B]."""
    surplus, information = _score(shares, num_games, rating)
    variance = _score(shares, num_games**2 / effective, rating)[1]
    mine = one_hot(player, len(shares)).double()
    others = torch.linalg.solve(_of_the_free(information, fixed), (information @ mine[..., None])[..., 0] * ~fixed)
    direction = mine - others  # the others' ratings are estimated, too
    return (direction * surplus).sum(1) / torch.einsum("bi,bij,bj->b", direction, variance, direction).sqrt()


def _score(shares: Tensor, num_games: Tensor, rating: Tensor) -> tuple[Tensor, Tensor]:
    """Points taken above those expected of ratings [B, K], the gradient of the log-likelihood, and its information.

    Returns:
        [B, K], and [B, K, K].
    """
    won = (rating[:, :, None] - rating[:, None]).sigmoid()
    lost = won.mT  # 1 - won would round to 0
    surplus = (num_games * (shares * lost - shares.mT * won)).sum(2)
    weight = num_games * won * lost * (1 - torch.eye(len(shares), dtype=torch.float64))
    return surplus, torch.diag_embed(weight.sum(2)) - weight


def _of_the_free(matrix: Tensor, fixed: Tensor) -> Tensor:
    """A matrix [B, K, K] in which rows and columns of fixed players [B, K] are those of the identity."""
    free = ~fixed
    return matrix * (free[:, :, None] & free[:, None]) + torch.diag_embed(fixed.double())


def _table(names: list[str], shares: Tensor, rating: Tensor, interval: Tensor) -> str:
    """A table, the strongest player first."""
    order = rating.argsort(descending=True).tolist()
    width = max(map(len, names))
    lines = [f"{'':{width}}     Elo     95 % interval   points in %, against each in this order"]
    for i in order:
        low, high = interval[i].tolist()
        row = " ".join("  - " if i == j else f"{100 * shares[i, j]:4.0f}" for j in order)
        lines.append(f"{names[i]:{width}}  {rating[i]:6.0f}   {low:6.0f} to {high:5.0f}   {row}")
    return "\n".join(lines)
