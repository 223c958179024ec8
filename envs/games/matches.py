"""The report ``matches``: games against other players."""

from typing import Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from rlcore import settings
from rlcore.agent import Agent
from rlcore.environment import Environment
from rlcore.envs.games.game_env import GameEnv, two_players
from rlcore.envs.games.intervals import points_interval
from rlcore.envs.games.players import PlayerChoice, make_players
from rlcore.errors import InputError
from rlcore.evaluation import Report, ReportMaker, evaluating
from rlcore.game import describe_count, different_games, points, random_openings
from rlcore.seeding import ACTING, derive_seed, seed_everything
from rlcore.settings import Seed


class MatchesReport(ReportMaker):
    """Games against other players, both sides of each opening."""

    class Settings(settings.Settings):
        """Settings of the report."""

        opponents: list[PlayerChoice] = Field(min_length=1)
        """The opponents: ``[{name: uct, simulations: 1000}, {name: minmax, depth: 4}]``."""
        num: PositiveInt = 50
        """Openings, each played from both sides."""
        random_moves: NonNegativeInt = 4
        """Random moves in an opening."""
        balanced: bool = False
        """Instead of random openings, begin in positions of ``env.positions`` that are draws under perfect play, those
        with the fewest moves first."""
        seed: Seed = 1
        """Seed of openings and players."""

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        two_players("report matches", env)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`.

        Returns:
            For each opponent ``<name>_points``, the share of wins plus half of the draws, its 95 % interval
            ``<name>_points_low`` and ``<name>_points_high`` (see `points_interval`), and ``<name>_wins``, all of the
            `different_games`.

        Raises:
            InputError: the environment is not a game, has no balanced positions, or two opponents have the same name.
        """
        env = two_players("report matches", env)
        s = self.settings
        begin = self._openings(env)
        scalars: dict[str, float] = {}
        lines = []
        for name, opponent in make_players(s.opponents, env.game, env.device, "report matches").items():
            with evaluating(agent):
                seed_everything(derive_seed(s.seed, ACTING))
                outcome = different_games(env.game, env.player(agent), opponent, begin)
            won, drawn = int((outcome > 0).sum()), int((outcome == 0).sum())
            low, high = points_interval(outcome)
            scalars |= {f"{name}_points": points(outcome), f"{name}_points_low": low, f"{name}_points_high": high}
            scalars[f"{name}_wins"] = won / len(outcome)
            lost = len(outcome) - won - drawn
            share = f"{points(outcome):.1%} of the points [{low:.1%}, {high:.1%}]"
            played = f"{describe_count(outcome, 2 * len(begin))} from {self._describe(begin)}"
            lines.append(f"{name}: {share}, {won} won, {drawn} drawn, {lost} lost of {played}")
        return Report(scalars, "\n".join(lines))

    def _openings(self, env: GameEnv) -> torch.Tensor:
        s = self.settings
        if not s.balanced:
            return random_openings(env.game, s.num, s.random_moves, torch.Generator(env.device).manual_seed(s.seed))
        if env.truth is None:
            raise InputError("report matches: balanced openings are taken from env.positions, which is null; set it")
        drawn = env.truth.state[env.truth.score.amax(1) == 0]
        if not len(drawn):
            raise InputError("report matches: no position of env.positions is a draw; use balanced=false")
        return drawn[env.game.num_moves(drawn).argsort(stable=True)][: s.num]

    def _describe(self, begin: Any) -> str:
        return f"{len(begin)} {'balanced' if self.settings.balanced else 'random'} openings"
