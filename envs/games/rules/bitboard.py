"""Stones on bitboards: what games of lines have in common."""

from collections.abc import Sequence
from functools import cache, reduce

import torch
from torch import Tensor

from rlcore.game import Cell, Game, Transition

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
        masks = constants(state.device, tuple(tuple(1 << bit for bit in row) for row in self.cells))
        return (state[:, :, None, None] & masks != 0).float()

    def num_moves(self, state: Tensor) -> Tensor:
        """The number of stones on the board, [B] int64."""
        return self.observe(state).flatten(1).sum(1).long()

    def render(self, state: Tensor) -> str:
        """The board, with X for the player who began."""
        return "\n".join(" ".join(row) for row in symbols(self, state))

    def board(self, state: Tensor) -> Sequence[Cell]:
        """The stones, and the line that won."""
        line = int(self.line_of(state[1]))  # only who has just moved may have one
        return [
            Cell(column, row, self.action_of(row, column), owner, decisive=bool(line >> self.cells[row][column] & 1))
            for row, owned in enumerate(owners(self, state))
            for column, owner in enumerate(owned)
        ]

    def action_of(self, row: int, column: int) -> int:
        """The move that a click on a cell makes: the cell's number, by row from top to bottom."""
        return row * self.planes_shape[2] + column

    def line_of(self, stones: Tensor) -> Tensor:
        """The bits of all lines in stones [...] int64, 0 without one."""
        whole = torch.zeros_like(stones)
        for distance, count in self.directions:
            begin = self.lines(stones, distance, count)
            whole = reduce(torch.bitwise_or, (begin << distance * k for k in range(count)), whole)
        return whole

    @property
    def full(self) -> int:
        """All cells, as bits."""
        return sum(1 << bit for row in self.cells for bit in row)


def owners(game: Game, state: Tensor) -> list[list[int | None]]:
    """Who has a stone on each cell of a position [S], by row: 0, the player who began, 1, or None.

    Args:
        game: observes the mover's stones and the opponent's.
        state: [S].
    """
    mine, theirs = game.observe(state[None])[0].bool().tolist()
    mover = int(game.to_move(state[None]))
    owner = {(True, False): mover, (False, True): 1 - mover, (False, False): None}
    return [[owner[cell] for cell in zip(*row, strict=True)] for row in zip(mine, theirs, strict=True)]


def symbols(game: Game, state: Tensor) -> list[list[str]]:
    """As `owners`: X for the player who began, O for the other one, or a dot."""
    return [["." if owner is None else SYMBOLS[owner] for owner in row] for row in owners(game, state)]


def bits(words: Tensor, num: int) -> Tensor:
    """The lowest ``num`` bits of words, [...] int64 to [..., num] int64 of 0 and 1; 64 are all, the sign's included."""
    return words[..., None] >> torch.arange(num, device=words.device) & 1


@cache
def constants(device: torch.device, values: tuple[int, ...] | tuple[tuple[int, ...], ...]) -> Tensor:
    """Values as a tensor; made once, as copying them to a GPU waits for it."""
    return torch.tensor(values, device=device)
