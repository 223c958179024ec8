"""Gomoku."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlcore.envs.games.rules.bitboard import bits, constants, owners
from rlcore.envs.games.rules.square import SquareGame, square_symmetries
from rlcore.game import Cell, Transition


class Gomoku(SquareGame):
    """Freestyle gomoku: five stones or more in a row, in any direction, win; a full board is a draw.

    On 15 x 15 cells the first player can win (Allis, van den Herik & Huntjens 1993).

    A state is [B, 2 * size], a word for each row: those of the mover's stones, then those of the opponent's. Bit c is
    column c.
    """

    size = 15
    sizes = range(5, 27)

    def __init__(self) -> None:
        super().__init__()
        n = self.size
        self.state_size = 2 * n
        self.shears = (n * (0,), tuple(range(n)), tuple(reversed(range(n))))
        """By how much rows are shifted so that columns, diagonals and the other diagonals stand upright."""

    def initial(self, num: int, device: torch.device | str = "cpu") -> Tensor:
        """Empty boards."""
        return torch.zeros(num, self.state_size, dtype=torch.int64, device=device)

    def legal(self, state: Tensor) -> Tensor:
        """The empty cells."""
        mine, theirs = state.chunk(2, 1)
        return bits(mine | theirs, self.size).flatten(1) == 0

    def step(self, state: Tensor, action: Tensor) -> Transition:
        """Places a stone on a cell."""
        mine, theirs = state.chunk(2, 1)
        row, column = (action // self.size)[:, None], (action % self.size)[:, None]
        here = row == torch.arange(self.size, device=state.device)
        mine = torch.where(here, mine | 1 << column, mine)
        won = self.has_five(mine)
        full = (mine | theirs == (1 << self.size) - 1).all(1)
        return Transition(torch.cat([theirs, mine], 1), won.float(), won | full)

    def has_five(self, rows: Tensor) -> Tensor:
        """Whether stones, as rows [B, size], contain five in a line, [B] bool."""
        across, upright = rows, rows[:, None] << constants(rows.device, self.shears)
        for step in (2, 1, 1):  # a cell and the second after it; then four in a line; then five
            across = across & across >> step
            upright = upright[:, :, :-step] & upright[:, :, step:]
        return (across != 0).any(1) | (upright != 0).flatten(1).any(1)

    def observe(self, state: Tensor) -> Tensor:
        """Two planes, the mover's stones and the opponent's, [B, 2, H, W]."""
        return bits(state, self.size).view(-1, *self.planes_shape).float()

    def num_moves(self, state: Tensor) -> Tensor:
        """The number of stones on the board, [B] int64."""
        return bits(state, self.size).flatten(1).sum(1)

    def board(self, state: Tensor) -> Sequence[Cell]:
        """The stones, and the line that won."""
        placed, n = owners(self, state), self.size
        lines = (
            [(r + k * down, c + k * right) for k in range(5)]
            for r in range(n)
            for c in range(n)
            for down, right in ((0, 1), (1, 0), (1, 1), (1, -1))
            if r + 4 * down < n and 0 <= c + 4 * right < n
        )
        decisive = {cell for line in lines if {placed[r][c] for r, c in line} in ({0}, {1}) for cell in line}
        return [cell._replace(decisive=(cell.y, cell.x) in decisive) for cell in super().board(state)]

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """The four rotations of the board and of its mirror image."""
        cells = square_symmetries(self.size)
        return cells, cells


class Gomoku9(Gomoku):
    """Gomoku on 9 x 9 cells."""

    size = 9
