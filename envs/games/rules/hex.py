"""Hex."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rlcore.envs.games.rules.bitboard import SYMBOLS, constants, owners
from rlcore.envs.games.rules.square import SquareGame
from rlcore.game import Cell, Transition

HEXAGON = tuple((math.sin(k * math.pi / 3) / math.sqrt(3), math.cos(k * math.pi / 3) / math.sqrt(3)) for k in range(6))
"""The outline of a cell as wide as a square."""


class Hex(SquareGame):
    """Stones on a rhombus of six-sided cells: who connects his two edges wins, and there is no draw.

    The mover always connects the top to the bottom: the board is mirrored at its long diagonal after every move, and a
    move is a cell of the board as the mover sees it. There is no swap rule, so the first player can win (Nash 1952).

    A cell (r, c) touches (r, c - 1), (r, c + 1), (r - 1, c), (r - 1, c + 1), (r + 1, c) and (r + 1, c - 1).

    A state is [B, (size + 2)^2], the board in a frame, by rows. The frame's top and bottom are groups of the mover's
    stones, left and right of the opponent's. A stone of the mover is the label of its group, which is the least number
    of a cell in it; a stone of the opponent is minus the label that its owner sees; 0 is an empty cell, or a corner of
    the frame. So a move joins groups in a fixed number of operations.
    """

    size = 11
    sizes = range(2, 27)

    def __init__(self) -> None:
        super().__init__()
        self.width = self.size + 2
        """Of the board in its frame."""
        self.state_size = self.width**2
        self.near = (0, -1, 1, -self.width, 1 - self.width, self.width, self.width - 1)
        """From a cell to itself and to those that it touches."""

    def initial(self, num: int, device: torch.device | str = "cpu") -> Tensor:
        """The frame alone."""
        board = torch.zeros(self.width, self.width, dtype=torch.int64, device=device)
        board[0, 1:-1] = 1
        board[-1, 1:-1] = (self.width - 1) * self.width + 1
        return (board - board.T).flatten().repeat(num, 1)

    def legal(self, state: Tensor) -> Tensor:
        """The empty cells."""
        return self.inside(state).flatten(1) == 0

    def step(self, state: Tensor, action: Tensor) -> Transition:
        """Places a stone on a cell."""
        cell = ((action // self.size + 1) * self.width + action % self.size + 1)[:, None]
        board = state.scatter(1, cell, cell)
        near = board.gather(1, cell + constants(state.device, self.near))
        joined = torch.where(near > 0, near, cell)
        joins = torch.zeros_like(board, dtype=torch.bool).scatter(1, joined, True)  # by label; no group's is 0
        board = torch.where(joins.gather(1, board.clamp_min(0)), joined.amin(1, keepdim=True), board)
        won = board[:, 1] == board[:, -2]  # the top and the bottom are one group
        return Transition(-board.unflatten(1, (self.width, -1)).mT.flatten(1), won.float(), won)

    def inside(self, state: Tensor) -> Tensor:
        """The board without its frame, [B, H, W] int64."""
        return state.unflatten(1, (self.width, -1))[:, 1:-1, 1:-1]

    def observe(self, state: Tensor) -> Tensor:
        """Two planes, the mover's stones and the opponent's, [B, 2, H, W], as the mover sees the board."""
        board = self.inside(state)
        return torch.stack([board > 0, board < 0], 1).float()

    def num_moves(self, state: Tensor) -> Tensor:
        """The number of stones on the board, [B] int64."""
        return (self.inside(state) != 0).flatten(1).sum(1)

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """The board and its half turn."""
        cells = torch.arange(self.size**2)
        both = torch.stack([cells, cells.flip(0)])
        return both, both

    def render(self, state: Tensor) -> str:
        """The board as the mover sees it, and who has to connect what."""
        turn = int(self.num_moves(state[None])) % 2
        aims = f"{SYMBOLS[turn]}: top to bottom, {SYMBOLS[1 - turn]}: left to right"
        rows = super().render(state).splitlines()
        return "\n".join([aims, *(" " * r + row for r, row in enumerate(rows))])

    def board(self, state: Tensor) -> Sequence[Cell]:
        """The rhombus as the player who began sees it, who connects the top to the bottom."""
        placed = owners(self, state)
        mirrored = int(self.num_moves(state[None])) % 2 == 1
        return [
            Cell(
                c + r / 2,
                r * math.sqrt(3) / 2,
                action,
                placed[action // self.size][action % self.size],
                outline=HEXAGON,
            )
            for r in range(self.size)
            for c in range(self.size)
            for action in [c * self.size + r if mirrored else r * self.size + c]
        ]


class Hex5(Hex):
    """Hex on 5 x 5 cells."""

    size = 5


class Hex7(Hex):
    """Hex on 7 x 7 cells."""

    size = 7
