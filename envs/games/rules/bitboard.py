"""Stones on bitboards: what games of lines have in common."""

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
        masks = constants(state.device, tuple(tuple(1 << bit for bit in row) for row in self.cells))
        return (state[:, :, None, None] & masks != 0).float()

    def num_moves(self, state: Tensor) -> Tensor:
        """The number of stones on the board, [B] int64."""
        return self.observe(state).flatten(1).sum(1).long()

    def render(self, state: Tensor) -> str:
        """The board, with X for the player who began."""
        return "\n".join(" ".join(row) for row in symbols(self, state))

    @property
    def full(self) -> int:
        """All cells, as bits."""
        return sum(1 << bit for row in self.cells for bit in row)


def symbols(game: Game, state: Tensor) -> list[list[str]]:
    """The rows of a position [S] of a game that observes the mover's stones and the opponent's.

    A cell is X for the player who began, O for the other one, or a dot.
    """
    mine, theirs = game.observe(state[None])[0].bool().tolist()
    turn = int(game.num_moves(state[None])) % 2
    symbol = {(True, False): SYMBOLS[turn], (False, True): SYMBOLS[1 - turn], (False, False): "."}
    return [[symbol[cell] for cell in zip(*row, strict=True)] for row in zip(mine, theirs, strict=True)]


def bits(words: Tensor, num: int) -> Tensor:
    """The lowest ``num`` bits of words, [...] int64 to [..., num] int64 of 0 and 1; 64 are all, the sign's included."""
    return words[..., None] >> torch.arange(num, device=words.device) & 1


@cache
def constants(device: torch.device, values: tuple[int, ...] | tuple[tuple[int, ...], ...]) -> Tensor:
    """Values as a tensor; made once, as copying them to a GPU waits for it."""
    return torch.tensor(values, device=device)
