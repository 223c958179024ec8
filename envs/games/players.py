"""Players to play against, by name: they map positions to moves."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import PositiveFloat, PositiveInt, field_validator
from torch import Tensor

from rlcore import registry, settings
from rlcore.agent import Agent
from rlcore.envs.games.game_env import observed
from rlcore.errors import InputError
from rlcore.game import Game, Player, expected, random_moves
from rlcore.run import load
from rlcore.search import playouts, search, uct
from rlcore.settings import Choice, ResolvedPath
from rlcore.trees import Tree

SOONER = 1e-3
"""Share of a value that each move of delay takes off, so that sooner wins are preferred."""


class PlayerChoice(Choice):
    """A player by name, with its settings: ``{name: uct, simulations: 1000}``."""

    registry = registry.players

    def make(self, game: Game, device: torch.device) -> Player:
        """Makes the player."""
        made: Player = registry.players[self.name](self.settings, game, device)
        return made

    def __str__(self) -> str:
        """``uct_1000``; of a path only the last part, without ``.pt``."""
        changed = self.settings.model_dump(exclude_defaults=True).values()
        return "_".join([self.name, *(Path(str(value)).name.removesuffix(".pt") for value in changed)])


def make_players(choices: Sequence[PlayerChoice], game: Game, device: torch.device, where: str) -> dict[str, Player]:
    """The players by name.

    Raises:
        InputError: two have the same name; the message begins with ``where``.
    """
    players = {str(choice): choice.make(game, device) for choice in choices}
    if len(players) < len(choices):
        raise InputError(f"{where}: player names must be unique, got {', '.join(map(str, choices))}")
    return players


class RandomPlayer:
    """A random legal move, from torch's global generator of the device."""

    class Settings(settings.Settings):
        """No settings."""

    def __init__(self, settings: Settings, game: Game, device: torch.device):
        self.game = game

    def __call__(self, state: Tensor) -> Tensor:
        """Maps states [B, S] to moves [B]."""
        return random_moves(self.game.legal(state))


class MinmaxPlayer:
    """Searches all continuations of ``depth`` moves, with value 0 where the game goes on; plays a best move.

    Where chance is to move, which counts as a move, the value is the mean. Ties are broken at random, by torch's global
    generator of the device.
    """

    class Settings(settings.Settings):
        """Settings of the player."""

        depth: PositiveInt
        """Moves to look ahead; the positions searched are the number of moves to that power."""

    def __init__(self, settings: Settings, game: Game, device: torch.device):
        self.depth, self.game = settings.depth, game

    def __call__(self, state: Tensor) -> Tensor:
        """Maps states [B, S] to moves [B]."""
        value = self.worth(state, self.depth)
        best = value == value.amax(1, keepdim=True)
        return torch.rand_like(value).where(best, -1.0).argmax(1)

    def worth(self, state: Tensor, depth: int) -> Tensor:
        """The value of each legal move, and -inf of the others, [B, A]; of two players in (-1, 1]."""
        B, A = len(state), self.game.num_actions
        legal = self.game.legal(state)
        each = torch.arange(A, device=state.device).repeat(B)
        before = state.repeat_interleave(A, 0)
        after, reward, terminated = self.game.step(before, each)
        live = ~terminated & legal.flatten()
        value = reward.clone()
        if depth > 1 and live.any():
            discount = self.game.discount(before, after) * torch.ones_like(reward)
            sequel = expected(self.game, after[live], self.worth(after[live], depth - 1))
            value[live] += (1 - SOONER) * discount[live] * sequel
        return value.view(B, A).masked_fill(~legal, -torch.inf)


class UCTPlayer:
    """Monte Carlo tree search with random playouts (Kocsis & Szepesvari 2006); plays the most visited move."""

    class Settings(settings.Settings):
        """Settings of the player."""

        simulations: PositiveInt = 1000
        exploration: PositiveFloat = 1.4
        """The exploration constant c."""

    def __init__(self, settings: Settings, game: Game, device: torch.device):
        self.settings, self.game = settings, game
        self.evaluate, self.score = playouts(game), uct(settings.exploration)

    def __call__(self, state: Tensor) -> Tensor:
        """Maps states [B, S] to moves [B]."""
        return search(self.game, state, self.evaluate, self.settings.simulations, self.score).action


class SavedPlayer:
    """The agent of a run of the same game, as it plays in evaluation."""

    class Settings(settings.Settings):
        """Settings of the player."""

        run: ResolvedPath
        """The run's folder."""
        checkpoint: str | None = None
        """``best``, ``last``, one that was kept, or a path; null is ``best`` if there is one, else ``last``."""

        @field_validator("checkpoint")
        @classmethod
        def _absolute(cls, path: str | None) -> str | None:
            """Makes a path absolute, so that a run resumed from another folder finds it."""
            return str(Path(path).resolve()) if path is not None and Path(path).suffix else path

    def __init__(self, settings: Settings, game: Game, device: torch.device):
        self.agent, self.observe = load_for(game, settings.run, settings.checkpoint, device, "player run")

    def __call__(self, state: Tensor) -> Tensor:
        """Maps states [B, S] to moves [B]."""
        return self.agent.predict(self.observe(state)).action


def load_for(
    game: Game, run: str, checkpoint: str | None, device: torch.device, where: str
) -> tuple[Agent, Callable[[Tensor], Tree]]:
    """The agent of a run of the same game, and what it observes of states [B, S].

    Raises:
        InputError: there is no such run, or it is of another game; the message begins with ``where``.
    """
    agent = load(run, checkpoint, device)
    try:
        played, observe = observed(agent.observation_space)
    except InputError:
        raise InputError(f"{where}: {run} plays no game, the game here is {type(game).__name__}") from None
    if type(played) is not type(game):
        message = f"{run} plays {type(played).__name__}, the game here is {type(game).__name__}"
        raise InputError(f"{where}: {message}")
    return agent, observe
