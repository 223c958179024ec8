"""GameEnv: N games, and how well an agent plays them."""

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from gymnasium.spaces import Dict, Discrete, Space
from pydantic import Field, NonNegativeInt, field_validator
from torch import Tensor

from rlcore.agent import Agent
from rlcore.checkpoint import restored
from rlcore.environment import Environment
from rlcore.envs.games.intervals import points_interval
from rlcore.envs.games.truth import Truth, positions_file, truth_of
from rlcore.errors import InputError
from rlcore.evaluation import Report, evaluating
from rlcore.game import (
    Game,
    Player,
    check_legal,
    contest,
    describe_count,
    different_games,
    openings,
    points,
    random_moves,
    start_games,
)
from rlcore.game_checks import check_once
from rlcore.seeding import restore_generator, seed_everything
from rlcore.spaces import ACTION_MASK, Planes, Positions
from rlcore.trees import Tree

EVALUATION_BATCH = 512
"""Positions evaluated at once."""
STOCK = 1024
"""Openings made at once, which takes hardly longer than making one."""


class GameEnv(Environment):
    """N games in lockstep: the base of game environments.

    A subclass defines who moves when, and what space an agent's observations are of; see `observed`.
    """

    class Settings(Environment.Settings):
        """Settings of games."""

        num_envs: Annotated[int, Field(gt=0, le=2**22)] = 256
        """N, games in lockstep."""
        game: str = "tictactoe"
        """Its name, one of ``rlcore list games``."""
        random_openings: NonNegativeInt = 0
        """A game begins after 0 to this many random moves, or fewer where they would end it."""
        positions: str | None = None
        """Positions with known scores, for evaluation: ``all``, for a game small enough to enumerate, or a file (see
        `rlcore.envs.games.truth.read`): its path, or the name of one shipped with the configs."""

        @field_validator("positions")
        @classmethod
        def _absolute(cls, positions: str | None) -> str | None:
            """Makes the path absolute, so that a run resumed from another folder finds the file."""
            return positions if positions in (None, "all") else str(positions_file(str(positions)).resolve())

    settings: Settings
    select_best = False

    def __init__(self, settings: Settings, space: Space[Any], device: torch.device | str, truth: Truth | None):
        self.settings = settings
        self.game, self.observe = observed(space)
        game = self.game
        check_once(game)
        self.criterion = "points_random" if game.num_players == 2 else "return"
        super().__init__(settings.num_envs, space, Discrete(game.num_actions), device)
        self.truth = truth
        if truth is None and settings.positions is not None:
            self.truth = truth_of(game, settings.positions, self.device)
        self._generator = torch.Generator(self.device)
        self._state = game.initial(self.num_envs, self.device)
        self._stock = self._state[:0]
        """Openings not yet used, [K, S]."""
        self._truncated = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)

    def seed(self, seed: int | None) -> None:
        """Seeds the generator, and drops unused openings; None continues with both."""
        if seed is not None:
            self._generator.manual_seed(seed)
            self._stock = self._stock[:0]

    def player(self, agent: Agent) -> Player:
        """The agent as a player, as it plays in evaluation."""
        return lambda state: agent.predict(self.observe(state)).action

    def policy(self, agent: Agent) -> Player:
        """The agent as a player of the most likely move of its distribution, without search."""
        return lambda state: agent.distribution(self.observe(state)).mode

    def movers(self, agent: Agent) -> dict[str, Player]:
        """The agent's ways to choose a move, by name, whose moves `score` checks."""
        return {"policy": self.policy(agent)}

    def opponents(self) -> dict[str, Player]:
        """The opponents in `score`, by name."""
        return {"random": lambda state: random_moves(self.game.legal(state))}

    def random_actions(self) -> Tensor:
        """Legal moves, drawn at random, [N] int64."""
        return random_moves(self.game.legal(self._state))

    def score(self, agent: Agent, num_episodes: int, seed: int) -> Report:
        """Plays the opponents, and compares the agent's moves with the known scores of positions, if any.

        Returns:
            ``points_<opponent>``: wins plus half of the draws, as a share of ``num_episodes`` games, half of them begun
            by the agent; of the `different_games`, where the same ones come again and again; and its 95 % interval,
            ``points_<opponent>_low`` and ``points_<opponent>_high`` (see `points_interval`). In a game of one player
            instead ``return``, and ``return_<opponent>``: the mean returns of as many games. For each of `movers`, the
            share of moves that are ``<name>_right``, keeping the outcome of the position, and ``<name>_perfect``, with
            the best score: over positions whose moves differ in outcome, and with ``_all`` over all positions. As text,
            how many games were different, if not all, and positions in which the first of `movers` is not right.
        """
        scalars: dict[str, float] = {}
        repeated: list[str] = []
        misses: list[str] = []
        with evaluating(agent):
            if self.game.num_players == 1:
                players = {"return": self.player(agent)} | {f"return_{n}": one for n, one in self.opponents().items()}
                for name, player in players.items():
                    begin = self._begun(num_episodes, seed)
                    scalars[name] = contest(self.game, player, player, begin).mean().item()
            for name, opponent in self.opponents().items() if self.game.num_players == 2 else ():
                begin = self._begun(math.ceil(num_episodes / 2), seed)
                outcome = different_games(self.game, self.player(agent), opponent, begin)
                low, high = points_interval(outcome)
                scalars |= {f"points_{name}": points(outcome), f"points_{name}_low": low, f"points_{name}_high": high}
                if len(outcome) < 2 * len(begin):
                    repeated.append(f"points_{name}: {describe_count(outcome, 2 * len(begin))}")
            if self.truth is not None:
                for name, mover in self.movers(agent).items():
                    action = torch.cat([mover(state) for state in self.truth.state.split(EVALUATION_BATCH)])
                    check_legal(self.game, self.truth.state, action)
                    scalars |= {f"{name}_{key}": value for key, value in self.truth.accuracy(action).items()}
                    misses = misses or [self.truth.misses(self.game, action)]
        return Report(scalars, "\n".join(repeated + misses))

    def evaluation(self, num_envs: int) -> "GameEnv":
        """A twin with the same known positions; `score` decides how many games it plays."""
        settings = self.settings.model_copy(update={"num_envs": num_envs})
        return type(self)(settings, device=self.device, truth=self.truth)  # type: ignore[call-arg]

    def checkpoint(self) -> dict[str, Any]:
        """The games, the unused openings, and the generator."""
        return {"state": self._state, "stock": self._stock, "generator": self._generator.get_state()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Puts back what `checkpoint` returned."""
        self._state = restored(saved["state"], self._state, "env.state")
        self._stock = restored(saved["stock"], self._stock, "env.stock", free=0)
        restore_generator(self._generator, saved["generator"])

    def _begun(self, num: int, seed: int) -> Tensor:
        """Where games of an evaluation begin, [num, S]; seeds what their players draw from as well."""
        seed_everything(seed)
        return start_games(self.game, num, torch.Generator(self.device).manual_seed(seed))

    def _openings(self, num: int) -> Tensor:
        """The initial states of games, [num, S]."""
        if num > len(self._stock):
            k = self.settings.random_openings
            num_moves = torch.randint(k + 1, (max(num, STOCK),), generator=self._generator, device=self.device)
            self._stock = torch.cat([self._stock, openings(self.game, num_moves, k, self._generator)])
        taken, self._stock = self._stock[:num], self._stock[num:]
        return taken.clone()


def observed(space: Space[Any]) -> tuple[Game, Callable[[Tensor], Tree]]:
    """The game that a space's observations are of, and what an agent observes of states [B, S] in which it is to move.

    Args:
        space: `Positions`, the states themselves; or `Planes` beside the moves that are allowed.

    Raises:
        InputError: its observations are not of a game.
    """
    if isinstance(space, Positions):
        return space.game, lambda state: state
    planes = space.get("observation") if isinstance(space, Dict) else None
    if not isinstance(planes, Planes):
        raise InputError(f"needs positions of a game (env.name=selfplay or versus), got {space}")
    game = planes.game
    return game, lambda state: {"observation": game.observe(state), ACTION_MASK: game.legal(state)}


def game_of(what: str, env: Environment) -> GameEnv:
    """The environment as a game.

    Args:
        what: the name of what needs one, for the message.
        env: must be a game.

    Raises:
        InputError: it is not.
    """
    if not isinstance(env, GameEnv):
        raise InputError(f"{what}: needs a game (env.name=selfplay)")
    return env


def two_players(what: str, env: Environment) -> GameEnv:
    """As `game_of`, of two players.

    Raises:
        InputError: it is not.
    """
    env = game_of(what, env)
    if env.game.num_players != 2:
        raise InputError(f"{what}: needs a game of two players; {env.settings.game} has one")
    return env
