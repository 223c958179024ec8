"""Dots and boxes."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from rlcore.envs.games.rules.bitboard import constants
from rlcore.game import Cell, Game, Transition

LINE, MINE, THEIRS = range(3)
"""Planes."""
ACROSS = (-0.9, -0.18), (0.9, -0.18), (0.9, 0.18), (-0.9, 0.18)
DOWN = tuple((y, x) for x, y in ACROSS)
"""Outlines of lines, in cells; a box is two cells wide."""
INSIDE = (-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)


class DotsAndBoxes(Game):
    """Who draws the fourth side of a box owns it, and moves again; who owns more boxes in the end has won.

    Move e draws line e: first the horizontal ones, by row from the top, then the vertical ones. A state is four words:
    the lines, the boxes of the mover and of the opponent, as bits, and whose move it is. The planes have a cell for
    each dot, line and box, as they lie on paper. A subclass may have other ``rows`` and ``columns``, up to 62 lines.
    """

    rows, columns = 3, 3
    state_size = 4

    def __init__(self) -> None:
        R, C = self.rows, self.columns
        self.num_actions = self.max_moves = (R + 1) * C + R * (C + 1)
        self.planes_shape = (3, 2 * R + 1, 2 * C + 1)

    @cached_property
    def line_cells(self) -> tuple[int, ...]:
        """The cell of each line, A."""
        return self._cells(0, 1) + self._cells(1, 0)

    @cached_property
    def box_cells(self) -> tuple[int, ...]:
        """The cell of each box."""
        return self._cells(1, 1)

    @cached_property
    def box_lines(self) -> tuple[int, ...]:
        """The four lines around each box, as bits."""
        width, line = self.planes_shape[2], {cell: e for e, cell in enumerate(self.line_cells)}
        return tuple(sum(1 << line[cell + way] for way in (-width, width, -1, 1)) for cell in self.box_cells)

    def _cells(self, row: int, column: int) -> tuple[int, ...]:
        """Every second cell of every second row."""
        _, height, width = self.planes_shape
        return tuple(r * width + c for r in range(row, height, 2) for c in range(column, width, 2))

    def initial(self, num: int, device: torch.device | str = "cpu") -> Tensor:
        """No line is drawn."""
        return torch.zeros(num, 4, dtype=torch.int64, device=device)

    def legal(self, state: Tensor) -> Tensor:
        """The lines that are not drawn."""
        return self._bits(state[:, 0], self.num_actions) == 0

    def to_move(self, state: Tensor) -> Tensor:
        """As the state says."""
        return state[:, 3]

    def step(self, state: Tensor, action: Tensor) -> Transition:
        """Draws a line."""
        lines, mine, theirs, player = state.unbind(1)
        lines = lines | (torch.ones_like(action) << action)
        around = constants(state.device, self.box_lines)
        closed = ((lines[:, None] & around == around).long() << torch.arange(len(around), device=state.device)).sum(1)
        new = closed & ~(mine | theirs)
        again = new != 0
        mine = mine | new
        ended = lines == (1 << self.num_actions) - 1
        margin = (self._bits(mine, len(around)) - self._bits(theirs, len(around))).sum(1)
        own, other = torch.where(again, mine, theirs), torch.where(again, theirs, mine)
        after = torch.stack([lines, own, other, torch.where(again, player, 1 - player)], 1)
        return Transition(after, margin.sign() * ended.float(), ended)

    def observe(self, state: Tensor) -> Tensor:
        """Three planes: the lines, the mover's boxes and the opponent's, [B, 3, 2 R + 1, 2 C + 1]."""
        planes = torch.zeros(len(state), *self.planes_shape, device=state.device).flatten(2)
        planes[:, LINE, list(self.line_cells)] = self._bits(state[:, 0], self.num_actions).float()
        for plane in (MINE, THEIRS):
            planes[:, plane, list(self.box_cells)] = self._bits(state[:, plane], len(self.box_cells)).float()
        return planes.view(-1, *self.planes_shape)

    def num_moves(self, state: Tensor) -> Tensor:
        """The number of lines, [B] int64."""
        return self._bits(state[:, 0], self.num_actions).sum(1)

    def render(self, state: Tensor) -> str:
        """Dots, lines, A and B in the boxes of who began and of the other; the numbers of lines not drawn."""
        lines, *boxes, player = state.tolist()
        text = dict.fromkeys(self.box_cells, "   ")
        for name, owned in zip("AB" if player == 0 else "BA", boxes, strict=True):
            text |= {cell: f" {name} " for box, cell in enumerate(self.box_cells) if owned >> box & 1}
        _, height, width = self.planes_shape
        for e, cell in enumerate(self.line_cells):
            drawn = "---" if cell // width % 2 == 0 else " | "
            text[cell] = drawn if lines >> e & 1 else f"{self.action_name(e):^3}"
        return "\n".join("".join(text.get(r * width + c, "+") for c in range(width)) for r in range(height))

    def board(self, state: Tensor) -> Sequence[Cell]:
        """Lines and boxes; a click draws a line."""
        lines, *boxes, player = state.tolist()
        width = self.planes_shape[2]
        shown = []
        for e, cell in enumerate(self.line_cells):
            row, column = divmod(cell, width)
            label = "" if lines >> e & 1 == 0 else "─" if row % 2 == 0 else "│"
            shown.append(Cell(column / 2, row / 2, e, label=label, outline=_half(ACROSS if row % 2 == 0 else DOWN)))
        for box, cell in enumerate(self.box_cells):
            row, column = divmod(cell, width)
            owner = next(
                (who for who, owned in zip((player, 1 - player), boxes, strict=True) if owned >> box & 1), None
            )
            shown.append(Cell(column / 2, row / 2, None, owner, filled=True, outline=_half(INSIDE)))
        return shown

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """The rotations and reflections that leave the board's shape as it is: 8 of a square, else 4."""
        _, height, width = self.planes_shape
        board = torch.arange(height * width).view(height, width)
        turns = range(4) if height == width else (0, 2)
        cells = torch.stack([side.rot90(k).flatten() for side in (board, board.flip(1)) for k in turns])
        lines = torch.tensor(self.line_cells)
        line_of = torch.zeros(height * width, dtype=torch.int64).index_fill(0, board.flatten(), -1)
        line_of[lines] = torch.arange(len(lines))
        return cells, line_of[cells[:, lines]]

    @staticmethod
    def _bits(words: Tensor, number: int) -> Tensor:
        """The lowest bits of words [B], [B, number] int64."""
        return words[:, None] >> torch.arange(number, device=words.device) & 1


def _half(outline: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    return tuple((x / 2, y / 2) for x, y in outline)
