"""Tic-tac-toe."""

from functools import reduce

import torch
from torch import Tensor

from rlcore.envs.games.rules.bitboard import BitBoardGame, constants
from rlcore.envs.games.rules.square import square_symmetries
from rlcore.game import Transition


class TicTacToe(BitBoardGame):
    """Three in a row on 3 x 3 cells; bit and move r * 3 + c are row r, column c."""

    num_actions = 9
    planes_shape = (2, 3, 3)
    max_moves = 9
    cells = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
    rows = (0o7, 0o70, 0o700, 0o111, 0o222, 0o444, 0o124, 0o421)  # an octal digit is a row of the board

    def legal(self, state: Tensor) -> Tensor:
        """The empty cells."""
        taken = state[:, 0] | state[:, 1]
        return taken[:, None] & constants(state.device, tuple(1 << cell for cell in range(9))) == 0

    def step(self, state: Tensor, action: Tensor) -> Transition:
        """Places a stone on a cell."""
        return self.place(state, 1 << action)

    def has_line(self, stones: Tensor) -> Tensor:
        """Whether stones [B] int64 contain one of the eight lines, [B] bool."""
        rows = constants(stones.device, self.rows)
        return ((stones[:, None] & rows) == rows).any(1)

    def line_of(self, stones: Tensor) -> Tensor:
        """The bits of all lines in stones [...] int64, 0 without one."""
        rows = constants(stones.device, self.rows)
        whole = torch.where((stones[..., None] & rows) == rows, rows, 0)
        return reduce(torch.bitwise_or, whole.unbind(-1))

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """The four rotations of the board and of its mirror image."""
        cells = square_symmetries(3)
        return cells, cells
