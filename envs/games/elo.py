"""The report ``elo``: playing strength, estimated from games between players."""

import itertools
import math

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from rlcore import settings
from rlcore.agent import Agent
from rlcore.environment import Environment
from rlcore.envs.games.game_env import two_players
from rlcore.envs.games.players import PlayerChoice, make_players
from rlcore.evaluation import Report, ReportMaker, evaluating
from rlcore.game import describe_count, different_games, points, random_openings
from rlcore.seeding import ACTING, derive_seed, seed_everything
from rlcore.settings import Seed


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
            The rating of each player, by the `different_games` of each pair; as text, the points that each player took
            from each other one.

        Raises:
            InputError: the environment is not a game, or two players have the same name.
        """
        env = two_players("report elo", env)
        s = self.settings
        players = make_players(s.players, env.game, env.device, "report elo") | {"agent": env.player(agent)}
        names = list(players)
        begin = random_openings(env.game, s.num, s.random_moves, torch.Generator(env.device).manual_seed(s.seed))
        shares = torch.full((len(players), len(players)), 0.5, dtype=torch.float64)
        num_games, repeated = torch.zeros_like(shares), ""
        with evaluating(agent):
            for (i, one), (j, other) in itertools.combinations(enumerate(players.values()), 2):
                seed_everything(derive_seed(s.seed, ACTING))
                outcome = different_games(env.game, one, other, begin)
                shares[i, j] = points(outcome)
                shares[j, i] = 1 - shares[i, j]
                num_games[i, j] = num_games[j, i] = len(outcome)
                if len(outcome) < 2 * s.num:
                    repeated += f"\n{names[i]}, {names[j]}: {describe_count(outcome, 2 * s.num)}"
        rating = ratings(shares, num_games)
        return Report(dict(zip(names, rating.tolist(), strict=True)), _table(names, shares, rating) + repeated)


def ratings(shares: Tensor, num_games: Tensor | int) -> Tensor:
    """Maximum-likelihood ratings [K], the first of them 0, by Hunter 2004 ("MM algorithms", equation 3).

    A drawn game is added to each pair, so that the rating of a player who lost or won every game is finite.

    Args:
        shares: [K, K] float64, the share of the points that the row's player took from the column's.
        num_games: per pair, [K, K] or the same for all.
    """
    K = len(shares)
    off_diagonal = 1 - torch.eye(K, dtype=torch.float64)
    won = ((shares * num_games + 0.5) * off_diagonal).sum(1)
    strength = torch.ones(K, dtype=torch.float64)
    for _ in range(10_000):
        meetings = (num_games + 1) / (strength[:, None] + strength) * off_diagonal
        renewed = won / meetings.sum(1)
        renewed /= renewed.log().mean().exp()
        done = torch.allclose(renewed, strength, rtol=1e-9, atol=0)
        strength = renewed
        if done:
            break
    rating = 400 / math.log(10) * strength.log()
    return rating - rating[0]


def _table(names: list[str], shares: Tensor, rating: Tensor) -> str:
    """A table, the strongest player first."""
    order = rating.argsort(descending=True).tolist()
    width = max(map(len, names))
    lines = [f"{'':{width}}     Elo   points in %, against each in this order"]
    for i in order:
        row = " ".join("  - " if i == j else f"{100 * shares[i, j]:4.0f}" for j in order)
        lines.append(f"{names[i]:{width}}  {rating[i]:6.0f}   {row}")
    return "\n".join(lines)
