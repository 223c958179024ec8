"""Tic-tac-toe and connect four, on bitboards."""

from functools import cache, reduce

import torch
from torch import Tensor

from rlcore.game import Game, Transition

SYMBOLS = "XO"
"""Of the player who began, and of the other one."""


class BitBoardGame(Game):
    """Stones on cells; a state is two 64-bit words, [B, 2]: the mover's stones and the opponent's.

    A subclass defines which bit is which cell, and which lines win.
    """

    state_size = 2
    cells: tuple[tuple[int, ...], ...]
    """The bit of each cell, by row from top to bottom."""
    directions: tuple[tuple[int, int], ...]
    """Winning lines: the distance in bits between neighbours, and the number of cells."""

    def initial(self, num: int, device: torch.device | str = "cpu") -> Tensor:
        """Empty boards."""
        return torch.zeros(num, 2, dtype=torch.int64, device=device)

    def place(self, state: Tensor, stone: Tensor) -> Transition:
        """Places a stone, [B] int64 of one bit each."""
        mine, theirs = state.unbind(1)
        mine = mine | stone
        won = self.has_line(mine)
        full = (mine | theirs) == self.full
        return Transition(torch.stack([theirs, mine], 1), won.float(), won | full)

    def has_line(self, stones: Tensor) -> Tensor:
        """Whether stones [B] int64 contain a line, [B] bool."""
        return reduce(torch.bitwise_or, (self.lines(stones, *line) for line in self.directions)) != 0

    def lines(self, stones: Tensor, distance: int, count: int) -> Tensor:
        """The bits [B] where a line of ``count`` begins."""
        while count > 1:  # 4: pairs, then pairs of pairs; 3: pairs, then a third
            half = count // 2
            stones = stones & (stones >> distance * half)
            count -= half
        return stones

    def observe(self, state: Tensor) -> Tensor:
        """Two planes, the mover's stones and the opponent's, [B, 2, H, W]."""
        masks = _on(state.device, tuple(tuple(1 << bit for bit in row) for row in self.cells))
        return (state[:, :, None, None] & masks != 0).float()

    def num_moves(self, state: Tensor) -> Tensor:
        """The number of stones on the board, [B] int64."""
        return self.observe(state).flatten(1).sum(1).long()

    def render(self, state: Tensor) -> str:
        """The board, with X for the player who began."""
        mine, theirs = state.tolist()
        turn = int(self.num_moves(state[None])) % 2
        mover, other = SYMBOLS[turn], SYMBOLS[1 - turn]
        rows = (
            [mover if mine >> bit & 1 else other if theirs >> bit & 1 else "." for bit in row] for row in self.cells
        )
        return "\n".join(" ".join(row) for row in rows)

    @property
    def full(self) -> int:
        """All cells, as bits."""
        return sum(1 << bit for row in self.cells for bit in row)


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
        return taken[:, None] & _on(state.device, tuple(1 << cell for cell in range(9))) == 0

    def step(self, state: Tensor, action: Tensor) -> Transition:
        """Places a stone on a cell."""
        return self.place(state, 1 << action)

    def has_line(self, stones: Tensor) -> Tensor:
        """Whether stones [B] int64 contain one of the eight lines, [B] bool."""
        rows = _on(stones.device, self.rows)
        return ((stones[:, None] & rows) == rows).any(1)

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """The four rotations of the board and of its mirror image."""
        board = torch.arange(9).view(3, 3)
        ways = [side.rot90(turns) for side in (board, board.flip(1)) for turns in range(4)]
        cells = torch.stack(ways).flatten(1)
        return cells, cells


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
        return taken[:, None] & _on(state.device, self.tops) == 0

    def step(self, state: Tensor, action: Tensor) -> Transition:
        """Drops a stone into a column."""
        taken = state[:, 0] | state[:, 1]
        bottom = torch.ones_like(action) << 7 * action
        # adding the lowest bit of a column carries up to its first empty cell
        return self.place(state, (taken + bottom) & (bottom * 0b111_111))

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """The board and its mirror image."""
        board, moves = torch.arange(42).view(6, 7), torch.arange(7)
        return torch.stack([board, board.flip(1)]).flatten(1), torch.stack([moves, moves.flip(0)])

    def render(self, state: Tensor) -> str:
        """The board, with X for the player who began, above the numbers of the columns."""
        return super().render(state) + "\n" + " ".join(map(str, range(1, 8)))


@cache
def _on(device: torch.device, constants: tuple[int, ...] | tuple[tuple[int, ...], ...]) -> Tensor:
    """Constants as a tensor; made once, as copying them to a GPU waits for it."""
    return torch.tensor(constants, device=device)
