"""Game: the rules of a two-player game as functions on batches of positions.

Legend: B positions, A moves, S numbers per state, C planes of H x W cells, K symmetries.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rlcore.errors import InputError

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


def contest(game: Game, first: Player, second: Player, state: Tensor) -> Tensor:
    """Plays games to their ends.

    Args:
        game: the rules.
        first: the player who moves first.
        second: the other player.
        state: [B, S], where the games begin.

    Returns:
        The outcome of each for ``first``, [B]: 1, 0 or -1.
    """
    outcome = torch.zeros(len(state), device=state.device)
    running = torch.arange(len(state), device=state.device)
    mover, other, sign = first, second, 1.0
    while len(running):
        action = mover(state)
        check_legal(game, state, action)
        state, reward, terminated = game.step(state, action)
        outcome[running] = sign * reward
        state, running = state[~terminated], running[~terminated]
        mover, other, sign = other, mover, DISCOUNT * sign
    return outcome


def mirrored_contest(game: Game, one: Player, other: Player, state: Tensor) -> Tensor:
    """Plays both sides of each position: outcomes for ``one`` of the games it begins, then of the others, [2 B]."""
    return torch.cat([contest(game, one, other, state), -contest(game, other, one, state)])


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
    legal = game.legal(state)
    inside = (action >= 0) & (action < game.num_actions)
    wrong = ~(inside & legal.gather(1, action.clamp(0, game.num_actions - 1)[:, None]).squeeze(1))
    if wrong.any():
        n = int(wrong.nonzero()[0])
        allowed = ", ".join(map(str, legal[n].nonzero().flatten().tolist())) or "none, the game has ended"
        raise InputError(f"game {n}: the move {int(action[n])} is illegal; legal there: {allowed}")
