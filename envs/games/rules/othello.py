"""Othello."""

import torch
from torch import Tensor

from rlcore.envs.games.rules.bitboard import bits, constants
from rlcore.envs.games.rules.square import SquareGame, square_symmetries
from rlcore.game import Transition


class Othello(SquareGame):
    """Reversi that begins with four stones: a stone is placed where it flips at least one of the opponent's.

    In each of the eight directions it flips the row of opponent's stones between it and one of the mover's. The last
    move, size * size, is to pass: it is legal if, and only if, no other is. The game ends when neither player can place
    a stone, which is before both would pass; who has more stones wins.

    A state is [B, 3]: the mover's stones and the opponent's, as words in which bit and cell have the same number, and
    the moves made, passes included. On 8 x 8 cells bit 63 is a word's sign. Perfect play is a draw (Takizawa 2023).
    """

    size = 8
    sizes = range(4, 9, 2)

    def __init__(self) -> None:
        super().__init__()
        n = self.size
        self.pass_move = n**2
        self.num_actions, self.state_size = n**2 + 1, 3
        self.max_moves = 2 * (n**2 - 4) - 1  # a pass is followed by a stone, and the first move places one
        inner_columns = sum(1 << cell for cell in range(n**2) if 0 < cell % n < n - 1)
        inner_rows = sum(1 << cell for cell in range(n**2) if 0 < cell // n < n - 1)
        inner = inner_columns & inner_rows
        self.distances = (1, n, n + 1, n - 1)
        """From a cell to its next in a row, a column and the diagonals, in bits."""
        self.between = (inner_columns, inner_rows, inner, inner)
        """The cells that have a next one on both sides, for each of the distances; never bit 63."""

    def initial(self, num: int, device: torch.device | str = "cpu") -> Tensor:
        """Two stones of each player in the middle; those of the one who begins are at its top right and bottom left."""
        corner = (self.size + 1) * (self.size // 2 - 1)  # of the four, the top left one
        mine, theirs = 0b10 | 1 << self.size, 0b01 | 0b10 << self.size
        return constants(torch.device(device), (mine << corner, theirs << corner, 0)).repeat(num, 1)

    def legal(self, state: Tensor) -> Tensor:
        """The cells where a stone flips another; else to pass."""
        cells = bits(self.placements(state[:, 0], state[:, 1]), self.size**2).bool()
        return torch.cat([cells, ~cells.any(1, keepdim=True)], 1)

    def step(self, state: Tensor, action: Tensor) -> Transition:
        """Places a stone, or passes."""
        mine, theirs, moves = state.unbind(1)
        stone = torch.where(action == self.pass_move, 0, 1 << action)
        row, behind = self.rows(stone, theirs)
        flipped = union(torch.where(behind & mine[:, None] != 0, row, 0))
        mine, theirs = mine | stone | flipped, theirs & ~flipped
        over = (self.placements(mine, theirs) | self.placements(theirs, mine)) == 0
        lead = self.count(mine) - self.count(theirs)
        return Transition(torch.stack([theirs, mine, moves + 1], 1), (lead.sign() * over).float(), over)

    def placements(self, mine: Tensor, theirs: Tensor) -> Tensor:
        """The cells where a stone of mine flips one of theirs, as bits; [B] each."""
        _, behind = self.rows(mine, theirs)
        return union(behind) & ~(mine | theirs)

    def rows(self, start: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        """The opponent's stones in rows that begin beside a start, in each of the eight directions.

        Args:
            start: [B], any cells, as bits.
            theirs: [B], the opponent's stones.

        Returns:
            These stones [B, 8]; and the cells [B, 8] that are next to one of them, away from the start.
        """
        between = constants(theirs.device, 2 * self.between) & theirs[:, None]
        row = self.neighbours(start[:, None]) & between
        for _ in range(self.size - 3):
            row = row | self.neighbours(row) & between
        return row, self.neighbours(row)

    def neighbours(self, cells: Tensor) -> Tensor:
        """The neighbours [B, 8] of cells [B, 8 or 1] in each direction.

        Cells at the edge of the board have wrong ones beyond it, and bit 63 fills a word from above when it is shifted
        down: none of these lies `between`.
        """
        up = constants(cells.device, (*self.distances, 0, 0, 0, 0))
        down = constants(cells.device, (0, 0, 0, 0, *self.distances))
        return cells << up >> down

    def count(self, stones: Tensor) -> Tensor:
        """How many stones there are, [B] to [B]."""
        return bits(stones, self.size**2).sum(1)

    def observe(self, state: Tensor) -> Tensor:
        """Two planes, the mover's stones and the opponent's, [B, 2, H, W]."""
        return bits(state[:, :2], self.size**2).view(-1, *self.planes_shape).float()

    def num_moves(self, state: Tensor) -> Tensor:
        """The moves made, passes included, [B] int64."""
        return state[:, 2]

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """The half turn and the two diagonal mirrors; the others exchange the colours of the first four stones."""
        cells = square_symmetries(self.size)[[0, 2, 5, 7]]
        return cells, torch.cat([cells, torch.full((4, 1), self.pass_move)], 1)

    def action_name(self, action: int) -> str:
        """As d3, or ``pass``."""
        return "pass" if action == self.pass_move else super().action_name(action)


class Othello6(Othello):
    """Othello on 6 x 6 cells; the second player wins by 4 stones (Feinstein 1993)."""

    size = 6


def union(words: Tensor) -> Tensor:
    """The bits of any of eight words, [B, 8] to [B]."""
    four = words[:, :4] | words[:, 4:]
    two = four[:, :2] | four[:, 2:]
    return two[:, 0] | two[:, 1]
