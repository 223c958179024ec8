"""Game: the rules of a two-player game as functions on batches of positions.

Legend: B positions, A moves, S numbers a state, C planes of H x W cells, K symmetries.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rlcore.errors import InputError

DISCOUNT = -1.0
"""What is good for one player is as bad for the other: the value of a move is its reward + DISCOUNT * V(next state)."""


class Transition(NamedTuple):
    """What comes of a move."""

    state: Tensor
    """[B, S] int64, as the opponent sees it, who is to move now."""
    reward: Tensor
    """[B] float32 in [-1, 1], the mover's; 0 unless the game has ended."""
    terminated: Tensor
    """[B] bool, the game has ended."""


class Game(ABC):
    """Rules without state of their own, of two players who move in turn, one's gain being the other's loss.

    A state is as seen by the player to move, and holds all there is to know. All methods are batched, work on the
    device of their arguments and wait for nothing. An illegal move, or one after the end, gives some state or other:
    whoever moves asks `legal` first.
    """

    num_actions: int
    """A."""
    state_size: int
    """S."""
    planes_shape: tuple[int, int, int]
    """(C, H, W)."""
    max_moves: int
    """No game is longer."""

    @abstractmethod
    def initial(self, num: int, device: torch.device | str = "cpu") -> Tensor:
        """The beginning, [num, S] int64."""

    @abstractmethod
    def legal(self, state: Tensor) -> Tensor:
        """The moves there are, [B, A] bool; at least one wherever the game has not ended."""

    @abstractmethod
    def step(self, state: Tensor, action: Tensor) -> Transition:
        """Makes a move.

        Args:
            state: [B, S] int64.
            action: [B] int64, legal ones.
        """

    @abstractmethod
    def observe(self, state: Tensor) -> Tensor:
        """What a network reads, [B, C, H, W] float32."""

    @abstractmethod
    def num_moves(self, state: Tensor) -> Tensor:
        """Moves made so far, [B] int64."""

    @abstractmethod
    def render(self, state: Tensor) -> str:
        """A position [S] for the terminal."""

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """The ways to turn the board that leave the game as it is.

        Returns:
            Cells [K, H * W] and moves [K, A], int64: cell i of the k-th is cell ``cells[k, i]`` of the board, and
            likewise moves. The default has the board as it is alone.
        """
        _, height, width = self.planes_shape
        return torch.arange(height * width)[None], torch.arange(self.num_actions)[None]

    def action_name(self, action: int) -> str:
        """What people call a move; `parse_action` reads it."""
        return str(action + 1)

    def parse_action(self, text: str) -> int | None:
        """The move that a person means; None if it is none."""
        names = [self.action_name(action) for action in range(self.num_actions)]
        return names.index(text.strip()) if text.strip() in names else None


Player = Callable[[Tensor], Tensor]
"""Positions [B, S] to legal moves [B]."""


def contest(game: Game, first: Player, second: Player, state: Tensor) -> Tensor:
    """Plays games to their ends.

    Args:
        game: the rules.
        first: who moves at first.
        second: who moves then.
        state: [B, S], where they begin.

    Returns:
        What ``first`` has of each, [B]: 1, 0 or -1.
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
    """Both sides of each position: what ``one`` has of the games that it begins, and then of the others, [2 B]."""
    return torch.cat([contest(game, one, other, state), -contest(game, other, one, state)])


def points(outcome: Tensor) -> float:
    """Wins and half of the draws, as a share of the games."""
    return (0.5 + 0.5 * outcome.double().mean()).item()


def random_moves(legal: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One of the legal moves of each position, [B, A] bool to [B]; all are as likely."""
    draws = torch.rand(legal.shape, generator=generator, device=legal.device)
    return ((draws + 1) * legal).argmax(1)  # of an illegal move 0, of the others 1 or more


def openings(game: Game, num_moves: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Positions after random moves from the beginning, in none of which the game has ended, [B, S].

    Args:
        game: the rules.
        num_moves: [B] int64, in each; a move that would end the game is not made, nor any after it.
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
    """`openings` of the same number of moves, [num, S]."""
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
