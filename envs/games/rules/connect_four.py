"""Connect four."""

import torch
from torch import Tensor

from rlcore.envs.games.rules.bitboard import BitBoardGame, constants
from rlcore.game import Transition


class ConnectFour(BitBoardGame):
    """Four in a row on 7 columns of 6 cells, into which stones fall; move c is column c, from the left.

    Bit 7 c + h is the cell of column c at height h; the seventh bit of a column stays empty, so that no line wraps
    around (Tromp's layout).
    """

    num_actions = 7
    planes_shape = (2, 6, 7)
    max_moves = 42
    cells = tuple(tuple(7 * column + height for column in range(7)) for height in reversed(range(6)))
    directions = ((1, 4), (7, 4), (6, 4), (8, 4))
    tops = tuple(1 << 7 * column + 5 for column in range(7))

    def legal(self, state: Tensor) -> Tensor:
        """The columns that are not full."""
        taken = state[:, 0] | state[:, 1]
        return taken[:, None] & constants(state.device, self.tops) == 0

    def step(self, state: Tensor, action: Tensor) -> Transition:
        """Drops a stone into a column."""
        taken = state[:, 0] | state[:, 1]
        bottom = torch.ones_like(action) << 7 * action
        # adding the lowest bit of a column carries up to its first empty cell
        return self.place(state, (taken + bottom) & (bottom * 0b111_111))

    def action_of(self, row: int, column: int) -> int:
        """A click anywhere in a column drops a stone there."""
        return column

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """The board and its mirror image."""
        board, moves = torch.arange(42).view(6, 7), torch.arange(7)
        return torch.stack([board, board.flip(1)]).flatten(1), torch.stack([moves, moves.flip(0)])

    def render(self, state: Tensor) -> str:
        """The board, with X for the player who began, above the numbers of the columns."""
        return super().render(state) + "\n" + " ".join(map(str, range(1, 8)))
