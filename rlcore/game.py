"""Game: the rules of a two-player game as functions on batches of positions.

Legend: B positions, A moves, S numbers per state, C planes of H x W cells, K symmetries.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlcore.errors import InputError
from rlcore.moved import former_names

DISCOUNT = -1.0
"""One player's gain is the other's loss: the value of a move is its reward + DISCOUNT * V(next state)."""


class Transition(NamedTuple):
    """The result of a move."""

    state: Tensor
    """[B, S] int64, as seen by the opponent, who moves next."""
    reward: Tensor
    """[B] float32 in [-1, 1], for the player who moved; 0 unless the game has ended."""
    terminated: Tensor
    """[B] bool, whether the game has ended."""


class Game(ABC):
    """Stateless rules of a zero-sum game of two players who move in turn.

    A state is as seen by the player to move, and is complete. All methods are batched, work on the device of their
    arguments and never wait for it. The result of an illegal move, or of one after the end, is arbitrary: check `legal`
    first.
    """

    num_actions: int
    """A."""
    state_size: int
    """S."""
    planes_shape: tuple[int, int, int]
    """(C, H, W)."""
    max_moves: int
    """Upper bound on the moves of a game."""

    @abstractmethod
    def initial(self, num: int, device: torch.device | str = "cpu") -> Tensor:
        """Initial states, [num, S] int64."""

    @abstractmethod
    def legal(self, state: Tensor) -> Tensor:
        """Legal moves, [B, A] bool; at least one unless the game has ended."""

    @abstractmethod
    def step(self, state: Tensor, action: Tensor) -> Transition:
        """Makes a move.

        Args:
            state: [B, S] int64.
            action: [B] int64, legal moves.
        """

    @abstractmethod
    def observe(self, state: Tensor) -> Tensor:
        """The input of a network, [B, C, H, W] float32."""

    @abstractmethod
    def num_moves(self, state: Tensor) -> Tensor:
        """Moves made so far, [B] int64."""

    @abstractmethod
    def render(self, state: Tensor) -> str:
        """A position [S] as text for the terminal."""

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """The symmetries of the board that leave the game unchanged.

        Returns:
            Cells [K, H * W] and moves [K, A], int64: cell i of the k-th is cell ``cells[k, i]`` of the board, and
            likewise for moves. The default is the identity alone.
        """
        _, height, width = self.planes_shape
        return torch.arange(height * width)[None], torch.arange(self.num_actions)[None]

    def action_name(self, action: int) -> str:
        """The name of a move for people; `parse_action` reads it."""
        return str(action + 1)

    def parse_action(self, text: str) -> int | None:
        """The move that a person names; None if there is no such move."""
        names = [self.action_name(action) for action in range(self.num_actions)]
        return names.index(text.strip()) if text.strip() in names else None


Player = Callable[[Tensor], Tensor]
"""Positions [B, S] to legal moves [B]."""


class Games(NamedTuple):
    """Games that were played to their ends."""

    outcome: Tensor
    """[B] float32, for the player who moved first: 1, 0 or -1."""
    moves: Tensor
    """[B, max_moves] int64, -1 after the end."""


def play_games(game: Game, first: Player, second: Player, state: Tensor) -> Games:
    """Plays games to their ends.

    Args:
        game: the rules.
        first: the player who moves first.
        second: the other player.
        state: [B, S], where the games begin.

    Raises:
        InputError: a player makes an illegal move, or the rules break their contract.
    """
    outcome = torch.zeros(len(state), device=state.device)
    moves = torch.full((len(state), game.max_moves), -1, device=state.device)
    running = torch.arange(len(state), device=state.device)
    mover, other, sign = first, second, 1.0
    for ply in range(game.max_moves):
        if not len(running):
            break
        action = mover(state)
        check_legal(game, state, action)
        state, reward, terminated = checked_step(game, state, action)
        outcome[running], moves[running, ply] = sign * reward, action
        state, running = state[~terminated], running[~terminated]
        mover, other, sign = other, mover, DISCOUNT * sign
    if len(running):
        raise too_long(game)
    return Games(outcome, moves)


def contest(game: Game, first: Player, second: Player, state: Tensor) -> Tensor:
    """The outcomes of `play_games` for ``first``, [B]: 1, 0 or -1."""
    return play_games(game, first, second, state).outcome


def mirrored_contest(game: Game, one: Player, other: Player, state: Tensor) -> Tensor:
    """Plays both sides of each position: outcomes for ``one`` of the games it begins, then of the others, [2 B]."""
    return torch.cat([contest(game, one, other, state), -contest(game, other, one, state)])


def different_games(game: Game, one: Player, other: Player, state: Tensor) -> Tensor:
    """`mirrored_contest`, where games that are always the same are evidence only once.

    A position that comes several times counts once if all its games were the same, from either side. If two differ,
    someone plays at random, and all of them count.

    Returns:
        The outcomes that count, for ``one``: of the games it begins, then of as many others, [2 K], K <= B.
    """
    begun, answered = play_games(game, one, other, state), play_games(game, other, one, state)
    position = state.unique(dim=0, return_inverse=True)[1]
    places = torch.arange(len(state), device=state.device)
    first = torch.full_like(places, len(state)).scatter_reduce(0, position, places, "amin")[position]
    moves = torch.cat([begun.moves, answered.moves], 1)
    repeats = (moves == moves[first]).all(1)
    varies = torch.zeros_like(repeats).index_fill(0, position[~repeats], True)[position]
    counts = varies | (places == first)
    return torch.cat([begun.outcome[counts], -answered.outcome[counts]])


def describe_count(outcome: Tensor, num_played: int) -> str:
    """How many games count of those played: ``40``, or ``2 different games of 40``; see `different_games`."""
    return f"{len(outcome)} different games of {num_played}" if len(outcome) < num_played else str(num_played)


def points(outcome: Tensor) -> float:
    """Wins and half of the draws, as a share of the games."""
    return (0.5 + 0.5 * outcome.double().mean()).item()


def random_moves(legal: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A legal move of each position, uniformly at random, [B, A] bool to [B]."""
    draws = torch.rand(legal.shape, generator=generator, device=legal.device)
    return ((draws + 1) * legal).argmax(1)  # 0 for illegal moves, at least 1 for the others


def openings(game: Game, num_moves: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Positions after random moves from the initial state, in none of which the game has ended, [B, S].

    Args:
        game: the rules.
        num_moves: [B] int64, moves in each; one that would end the game is not made, nor any after it.
        most: the largest of them.
        generator: of the moves, on the device of ``num_moves``.
    """
    state, left = game.initial(len(num_moves), num_moves.device), num_moves
    for _ in range(most):
        after, _, terminated = game.step(state, random_moves(game.legal(state), generator))
        left = torch.where(terminated, 0, left)
        state = torch.where((left > 0)[:, None], after, state)
        left = left - 1
    return state


def random_openings(game: Game, num: int, num_moves: int, generator: torch.Generator) -> Tensor:
    """`openings` with the same number of moves each, [num, S]."""
    return openings(game, torch.full((num,), num_moves, device=generator.device), num_moves, generator)


def check_legal(game: Game, state: Tensor, action: Tensor) -> None:
    """Raises an InputError that names the first game in which a move [B] is illegal in its position [B, S]."""
    legal = checked_legal(game, state)
    inside = (action >= 0) & (action < game.num_actions)
    wrong = ~(inside & legal.gather(1, action.clamp(0, game.num_actions - 1)[:, None]).squeeze(1))
    if wrong.any():
        n = int(wrong.nonzero()[0])
        allowed = ", ".join(map(str, legal[n].nonzero().flatten().tolist())) or "none, the game has ended"
        raise InputError(f"game {n}: the move {int(action[n])} is illegal; legal there: {allowed}")


def check_rules(game: Game, num_games: int = 8) -> None:
    """Plays random games to their ends, on the CPU, and checks the sizes, shapes and dtypes of the rules.

    Raises:
        InputError: names the class, what it gave and what was expected.
    """
    name = type(game).__name__
    for size in ("num_actions", "state_size", "max_moves"):
        value = getattr(game, size, None)
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name}.{size} must be a whole number of 1 or more, got {value!r}")
    planes: Any = getattr(game, "planes_shape", None)
    if not isinstance(planes, Sequence) or len(planes) != 3:
        raise InputError(f"{name}.planes_shape must be (C, H, W), got {planes!r}")
    generator = torch.Generator().manual_seed(0)
    state = game.initial(num_games, "cpu")
    _require(game, "initial", state, (num_games, game.state_size), torch.int64, "[num, state_size]")
    for _ in range(game.max_moves):
        legal, B = checked_legal(game, state), len(state)
        if not legal.any(1).all():
            raise InputError(f"{name}.legal allows no move in a position in which step has not terminated the game")
        _require(game, "observe", game.observe(state), (B, *planes), torch.float32, "[B, *planes_shape]")
        _require(game, "num_moves", game.num_moves(state), (B,), torch.int64, "[B]")
        state, reward, terminated = checked_step(game, state, random_moves(legal, generator))
        wrong = ~(reward.abs() <= terminated)
        if wrong.any():
            ended = "has" if terminated[wrong][0] else "has not"
            given = f"got {reward[wrong][0]:g} where it {ended}"
            raise InputError(f"{name}.step: a reward must lie in [-1, 1], and be 0 unless the game has ended; {given}")
        state = state[~terminated]
        if not len(state):
            return
    raise too_long(game)


def checked_legal(game: Game, state: Tensor) -> Tensor:
    """`Game.legal`, [B, A] bool; waits for nothing.

    Raises:
        InputError: the states, or what it returned, are of another shape or dtype.
    """
    B = len(state)
    if state.shape != (B, game.state_size) or state.dtype != torch.int64:
        given = f"{state.dtype} {list(state.shape)}"
        raise InputError(f"{type(game).__name__}: states must be torch.int64 [B, {game.state_size}], got {given}")
    legal = game.legal(state)
    _require(game, "legal", legal, (B, game.num_actions), torch.bool, "[B, num_actions]")
    return legal


def checked_step(game: Game, state: Tensor, action: Tensor) -> Transition:
    """`Game.step`; waits for nothing.

    Raises:
        InputError: what it returned is no `Transition`, or of another shape or dtype.
    """
    made = game.step(state, action)
    if not isinstance(made, tuple) or len(made) != 3:
        given = type(made).__name__
        raise InputError(f"{type(game).__name__}.step must return Transition(state, reward, terminated), got {given}")
    made = Transition(*made)
    B = len(state)
    _require(game, "step().state", made.state, (B, game.state_size), torch.int64, "[B, state_size]")
    _require(game, "step().reward", made.reward, (B,), torch.float32, "[B]")
    _require(game, "step().terminated", made.terminated, (B,), torch.bool, "[B]")
    return made


def too_long(game: Game) -> InputError:
    """The error of a game that goes on after `Game.max_moves`."""
    return InputError(
        f"{type(game).__name__}: a game goes on after max_moves = {game.max_moves} moves; every game must end, and "
        "max_moves must be the most that one can have"
    )


def _require(game: Game, what: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype, legend: str) -> None:
    if not isinstance(value, Tensor) or value.shape != shape or value.dtype != dtype:
        given = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        expected = f"{dtype} {legend} = {list(shape)}"
        raise InputError(f"{type(game).__name__}.{what} must be {expected}, got {given}")


__getattr__ = former_names(__name__, {"count_told": describe_count})
