"""Game: the rules of a game of one or two players as functions on batches of positions.

Legend: B positions, A moves, S numbers per state, C planes of H x W cells, K symmetries.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rlcore.errors import InputError
from rlcore.moved import former_names

DISCOUNT = -1.0
"""One player's gain is the other's loss: the value of a move is its reward + DISCOUNT * V(next state) where the other
player moves next. See `Game.discount` for the others."""


class Transition(NamedTuple):
    """The result of a move."""

    state: Tensor
    """[B, S], as seen by the player who moves next."""
    reward: Tensor
    """[B] float32, for the player who moved. Of two players: in [-1, 1], and 0 unless the game has ended."""
    terminated: Tensor
    """[B] bool, whether the game has ended."""


class Model(Protocol):
    """What a search asks for: the moves, and where they lead. A `Game` is one; another may have been learned."""

    num_actions: int
    """A."""
    state_size: int
    """S."""
    state_dtype: torch.dtype
    """Of states."""
    max_moves: int
    """Upper bound on the moves of a path."""

    @property
    def alternates(self) -> bool:
        """Whether `discount` is `DISCOUNT` everywhere."""

    def legal(self, state: Tensor) -> Tensor:
        """Moves that may be made in states [B, S], [B, A] bool."""

    def chance(self, state: Tensor) -> Tensor | None:
        """The probabilities of chance's moves, [B, A]; None: chance never moves."""

    def step(self, state: Tensor, action: Tensor) -> Transition:
        """Makes moves [B] in states [B, S]."""

    def discount(self, state: Tensor, next_state: Tensor) -> Tensor | float:
        """What the values of the next states count for the players who moved, [B], or the same for all."""


SQUARE = (-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)
"""The outline of a square cell."""


class Cell(NamedTuple):
    """A part of a board as it is drawn and clicked; lengths are in squares, x to the right and y downwards."""

    x: float
    """Of its centre."""
    y: float
    """Of its centre."""
    action: int | None = None
    """The move that a click makes, where it is legal. Several cells may share one, as those of a column in connect
    four: the last of them on which nothing stands is where it goes."""
    owner: int | None = None
    """Whose piece stands here: 0, the player who began, or 1."""
    label: str = ""
    """What is written on it: the number of a tile, the seeds in a pit."""
    decisive: bool = False
    """Whether it decided the game, as a part of the winning line."""
    filled: bool = False
    """The owner's colour fills the cell, as in Dots and Boxes; otherwise it is that of a stone on the cell."""
    outline: tuple[tuple[float, float], ...] = SQUARE
    """Its corners, from its centre."""


class Game(ABC):
    """Stateless rules of a zero-sum game of two players, or of a game of one.

    A state is as seen by the player to move, and is complete. All methods are batched, work on the device of their
    arguments and never wait for it. The result of an illegal move, or of one after the end, is arbitrary: check `legal`
    first. `rlcore.check_game` checks that rules keep to this.

    Two players who move in turn are the default. Where a player may have to pass, a move that is legal only then keeps
    it so, as in Othello: such games are the cheapest to search. `to_move` says otherwise, where a player moves again;
    ``num_players = 1`` makes a puzzle; `chance` makes dice.
    """

    num_actions: int
    """A."""
    state_size: int
    """S."""
    state_dtype: torch.dtype = torch.int64
    """Of states."""
    planes_shape: tuple[int, int, int]
    """(C, H, W)."""
    max_moves: int
    """Upper bound on the moves of a game, those of chance included."""
    num_players: int = 2
    """2, or 1: then rewards may come with any move, and returns lie in [-1, 1]."""
    impartial: bool = False
    """Nothing on the board belongs to a player, as in Nim: a position looks the same from either side."""
    gamma: float = 1.0
    """Discount of what comes after a player's move, (0, 1]; below 1 sooner is better."""

    @abstractmethod
    def initial(self, num: int, device: torch.device | str = "cpu") -> Tensor:
        """Initial states, [num, S] int64."""

    def start(self, num: int, generator: torch.Generator) -> Tensor:
        """Where games begin, [num, S] int64: `initial`, unless a game draws its beginnings.

        Args:
            num: games.
            generator: to draw from, on the device of the states.
        """
        return self.initial(num, generator.device)

    @abstractmethod
    def legal(self, state: Tensor) -> Tensor:
        """Legal moves, [B, A] bool; at least one unless the game has ended. If chance is to move, those it may make."""

    def to_move(self, state: Tensor) -> Tensor:
        """Whose move it is, [B] int64: 0 for the player who began, or the only one, and 1 for the other.

        The default is for players who move in turn. Where chance is to move: the player whose view the state is; so a
        game of two players with chance overrides it.
        """
        return torch.zeros_like(state[:, 0]) if self.num_players == 1 else self.num_moves(state) % 2

    def chance(self, state: Tensor) -> Tensor | None:
        """The probabilities of chance's moves, [B, A] float32; 0 in states in which a player is to move.

        A state in which chance is to move is as seen by one of the players, and a player moves after chance. None, the
        default: chance never moves.
        """
        return None

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
        """Moves made so far, those of chance included, [B] int64."""

    @abstractmethod
    def render(self, state: Tensor) -> str:
        """A position [S] as text for the terminal."""

    def board(self, state: Tensor) -> Sequence[Cell]:
        """A position [S] as it is drawn and clicked, in `rlcore play`.

        Moves of no cell become buttons. The default has no cells: `render` is shown instead.
        """
        return ()

    @property
    def alternates(self) -> bool:
        """Whether two players move in turn, and sooner is no better: then `discount` is `DISCOUNT` everywhere."""
        return self.num_players == 2 and self.gamma == 1 and type(self).to_move is Game.to_move

    def discount(self, state: Tensor, next_state: Tensor) -> Tensor | float:
        """What the values of the next states count for the players who moved, [B], or the same for all.

        The value of a move is its reward + discount * V(next state): `DISCOUNT` where the other player moves next.

        Args:
            state: [B, S].
            next_state: [B, S].
        """
        if self.alternates:
            return DISCOUNT
        sign = torch.where(self.to_move(state) == self.to_move(next_state), 1.0, DISCOUNT)
        probability = self.chance(state)
        return self.gamma * sign if probability is None else sign * torch.where(probability.any(1), 1.0, self.gamma)

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """The symmetries of the board that leave the game unchanged.

        Returns:
            Cells [K, H * W] and moves [K, A], int64: cell i of the k-th is cell ``cells[k, i]`` of the board, and
            likewise for moves. The default is the identity alone.
        """
        _, height, width = self.planes_shape
        return torch.arange(height * width)[None], torch.arange(self.num_actions)[None]

    def action_name(self, action: int) -> str:
        """The name of a move for people, one word without a comma; `parse_action` reads it."""
        return str(action + 1)

    def parse_action(self, text: str) -> int | None:
        """The move that a person names; None if there is no such move."""
        names = [self.action_name(action) for action in range(self.num_actions)]
        return names.index(text.strip()) if text.strip() in names else None


def start_games(game: Game, num: int, generator: torch.Generator) -> Tensor:
    """Where games begin, [num, S], after chance's move, if it has the first."""
    state = game.start(num, generator)
    probability = game.chance(state)
    if probability is None:
        return state
    after = checked_step(game, state, draw(probability, generator)).state
    return torch.where(probability.any(1, keepdim=True), after, state)


def make_move(game: Game, state: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Transition:
    """A player's move, and chance's after it, if it is chance's turn: then a player is to move, or the game has ended.

    Args:
        game: the rules.
        state: [B, S], in which players are to move.
        action: [B], legal moves.
        generator: of chance's moves; None: torch's global one.

    Raises:
        InputError: the rules break their contract.
    """
    made = checked_step(game, state, action)
    probability = game.chance(made.state)
    if probability is None:
        return made
    answer = checked_step(game, made.state, draw(probability, generator))
    turn = probability.any(1) & ~made.terminated
    return Transition(
        torch.where(turn[:, None], answer.state, made.state),
        torch.where(turn, made.reward + game.discount(state, made.state) * answer.reward, made.reward),
        torch.where(turn, answer.terminated, made.terminated),
    )


def draw(probability: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A move of each row, drawn by probabilities [B, A], [B]; any, where they are all 0.

    The first of exponential clocks to ring, whose rates are the probabilities.
    """
    clocks = torch.empty_like(probability).exponential_(generator=generator)
    return (probability / clocks).argmax(1)


def expected(game: Game, state: Tensor, worth: Tensor) -> Tensor:
    """The values of states [B, S], [B]: what the best move is worth, or the mean of chance's.

    Args:
        game: the rules.
        state: [B, S].
        worth: of their moves, [B, A]; -inf if illegal.
    """
    value, probability = worth.amax(1), game.chance(state)
    if probability is None:
        return value
    mean = (probability * worth.masked_fill(probability == 0, 0)).sum(1)
    return torch.where(probability.any(1), mean, value)


Player = Callable[[Tensor], Tensor]
"""Positions [B, S] to legal moves [B]."""


class Games(NamedTuple):
    """Games that were played to their ends."""

    outcome: Tensor
    """[B] float32, for the player who moved first: 1, 0 or -1; of one player the return."""
    moves: Tensor
    """[B, max_moves] int64, the players', -1 after the end."""


def play_games(game: Game, first: Player, second: Player, state: Tensor) -> Games:
    """Plays games to their ends.

    Args:
        game: the rules.
        first: the player who moves first.
        second: the other player, of two.
        state: [B, S], where the games begin; players are to move there.

    Raises:
        InputError: a player makes an illegal move, or the rules break their contract.
    """
    outcome = torch.zeros(len(state), device=state.device)
    moves = torch.full((len(state), game.max_moves), -1, device=state.device)
    running, begins = torch.arange(len(state), device=state.device), game.to_move(state)
    for ply in range(game.max_moves):
        if not len(running):
            break
        action, is_first = torch.zeros_like(running), game.to_move(state) == begins[running]
        for player, turn in ((first, is_first), (second, ~is_first)):
            if turn.any():
                action[turn] = player(state[turn])
        check_legal(game, state, action)
        state, reward, terminated = make_move(game, state, action)
        if game.num_players == 1:
            outcome[running] += game.gamma**ply * reward
        else:  # a win is a win, however late or large
            outcome[running] += torch.where(is_first, reward, -reward).sign()
        moves[running, ply] = action
        state, running = state[~terminated], running[~terminated]
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

    A position that comes several times counts once if all its games were the same, from either side. If two differ, in
    a move or the outcome, someone plays at random, or dice do, and all of them count.

    Returns:
        The outcomes that count, for ``one``: of the games it begins, then of as many others, [2 K], K <= B.
    """
    begun, answered = play_games(game, one, other, state), play_games(game, other, one, state)
    position = state.unique(dim=0, return_inverse=True)[1]
    places = torch.arange(len(state), device=state.device)
    first = torch.full_like(places, len(state)).scatter_reduce(0, position, places, "amin")[position]
    played = torch.cat([torch.cat([games.moves, games.outcome[:, None]], 1) for games in (begun, answered)], 1)
    repeats = (played == played[first]).all(1)
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
    """Positions after random moves from where games start, in none of which the game has ended, [B, S].

    Args:
        game: the rules.
        num_moves: [B] int64, moves in each; one that would end the game is not made, nor any after it.
        most: the largest of them.
        generator: of the moves, on the device of ``num_moves``.
    """
    state, left = start_games(game, len(num_moves), generator), num_moves
    for _ in range(most):
        after, _, terminated = make_move(game, state, random_moves(game.legal(state), generator), generator)
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


def checked_legal(game: Model, state: Tensor) -> Tensor:
    """`Game.legal`, [B, A] bool; waits for nothing.

    Raises:
        InputError: the states, or what it returned, are of another shape or dtype.
    """
    B = len(state)
    if state.shape != (B, game.state_size) or state.dtype != game.state_dtype:
        given = f"{state.dtype} {list(state.shape)}"
        raise InputError(
            f"{type(game).__name__}: states must be {game.state_dtype} [B, {game.state_size}], got {given}"
        )
    legal = game.legal(state)
    require(game, "legal", legal, (B, game.num_actions), torch.bool, "[B, num_actions]")
    return legal


def checked_step(game: Model, state: Tensor, action: Tensor) -> Transition:
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
    require(game, "step().state", made.state, (B, game.state_size), game.state_dtype, "[B, state_size]")
    require(game, "step().reward", made.reward, (B,), torch.float32, "[B]")
    require(game, "step().terminated", made.terminated, (B,), torch.bool, "[B]")
    return made


def too_long(game: Model) -> InputError:
    """The error of a game that goes on after `Game.max_moves`."""
    return InputError(
        f"{type(game).__name__}: a game goes on after max_moves = {game.max_moves} moves; every game must end, and "
        "max_moves must be the most that one can have"
    )


def require(game: Model, what: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype, legend: str) -> None:
    """Raises an InputError that names the class, unless what it gave is a tensor of this shape and dtype."""
    if not isinstance(value, Tensor) or value.shape != shape or value.dtype != dtype:
        given = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        expected = f"{dtype} {legend} = {list(shape)}"
        raise InputError(f"{type(game).__name__}.{what} must be {expected}, got {given}")


__getattr__ = former_names(__name__, {"count_told": describe_count, "check_rules": "rlcore.game_checks.check_game"})
