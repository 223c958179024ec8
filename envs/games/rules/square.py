"""Games of stones on a square board: its size, the names of its cells, its picture."""

from collections.abc import Sequence
from string import ascii_lowercase

import torch
from torch import Tensor

from rlcore.envs.games.rules.bitboard import owners, symbols
from rlcore.errors import InputError
from rlcore.game import Cell, Game


class SquareGame(Game):
    """Stones on ``size`` x ``size`` cells; cell and move r * size + c are row r, from the top, and column c.

    A board of another size is a subclass with another ``size``; what follows from it is set when the game is made.

    Raises:
        InputError: the size is none of ``sizes``.
    """

    size: int
    """Cells of a row and of a column."""
    sizes: range
    """What ``size`` may be; the columns have letters for names, so at most 26."""

    def __init__(self) -> None:
        if self.size not in self.sizes:
            given = f"{type(self).__name__}.size must be one of {', '.join(map(str, self.sizes))}"
            raise InputError(f"{given}; got {self.size!r}")
        self.num_actions = self.max_moves = self.size**2
        self.planes_shape = (2, self.size, self.size)

    def render(self, state: Tensor) -> str:
        """The board, with X for the player who began, between the names of its columns and rows."""
        columns = " ".join(ascii_lowercase[: self.size])
        rows = (f"{r:2} {' '.join(row)}" for r, row in enumerate(symbols(self, state), 1))
        return "\n".join([f"   {columns}", *rows])

    def board(self, state: Tensor) -> Sequence[Cell]:
        """The stones; a click on a cell places one."""
        placed = enumerate(owners(self, state))
        return [Cell(c, r, r * self.size + c, owner) for r, row in placed for c, owner in enumerate(row)]

    def action_name(self, action: int) -> str:
        """Column and row of a cell: a1 is the one at the top left."""
        row, column = divmod(action, self.size)
        return f"{ascii_lowercase[column]}{row + 1}"


def square_symmetries(size: int) -> Tensor:
    """The four rotations of a square board and of its mirror image, as cells [8, size * size]."""
    board = torch.arange(size**2).view(size, size)
    ways = [side.rot90(turns) for side in (board, board.flip(1)) for turns in range(4)]
    return torch.stack(ways).flatten(1)
