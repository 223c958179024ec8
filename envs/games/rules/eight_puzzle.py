"""The 8-puzzle."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlcore.envs.games.rules.bitboard import constants
from rlcore.game import Cell, Game, Transition

SIDE = 3
CELLS = SIDE * SIDE
BLANK = 0
GOAL = (1, 2, 3, 4, 5, 6, 7, 8, BLANK)
HARDEST = (8, 6, 7, 2, 5, 4, 3, BLANK, 1)
"""One of the two positions that need 31 moves (Reinefeld 1993)."""
WAYS = {"up": -SIDE, "down": SIDE, "left": -1, "right": 1}
LONGEST = 60
"""Moves of the random walk from the goal by which a puzzle is made."""


class EightPuzzle(Game):
    """Eight tiles on 3 x 3 cells, to be slid into order: a game of one player, who gets 1 for it.

    A move slides the blank up, down, left or right. The reward is discounted by 0.97 a move: the sooner, the better.
    After 80 moves the game has ended, without a reward. A state is the tile of each cell, 0 for the blank, and the
    moves made.
    """

    num_players = 1
    gamma = 0.97
    num_actions = len(WAYS)
    state_size = CELLS + 1
    planes_shape = (CELLS, SIDE, SIDE)
    max_moves = 80

    def initial(self, num: int, device: torch.device | str = "cpu") -> Tensor:
        """A position that needs 31 moves, the most there are."""
        return constants(torch.device(device), (*HARDEST, 0)).repeat(num, 1)

    def start(self, num: int, generator: torch.Generator) -> Tensor:
        """After random walks from the goal, of 1 to `LONGEST` moves, each length as likely as another."""
        device = generator.device
        state = constants(device, (*GOAL, 0)).repeat(num, 1)
        length = torch.randint(1, LONGEST + 1, (num,), generator=generator, device=device)
        for walked in range(LONGEST):
            weight = self.legal(state) * torch.rand(num, self.num_actions, generator=generator, device=device)
            after = self._slide(state, weight.argmax(1))
            goes_on = (walked < length) | self._solved(state)  # one move more, from the goal
            state = torch.where(goes_on[:, None], after, state)
        return state

    def legal(self, state: Tensor) -> Tensor:
        """The ways in which the blank stays on the board."""
        blank = self._blank(state)
        row, column = blank // SIDE, blank % SIDE
        return torch.stack([row > 0, row < SIDE - 1, column > 0, column < SIDE - 1], 1)

    def step(self, state: Tensor, action: Tensor) -> Transition:
        """Slides the blank."""
        after = self._slide(state, action)
        after[:, -1] += 1
        solved = self._solved(after)
        return Transition(after, solved.float(), solved | (after[:, -1] >= self.max_moves))

    def observe(self, state: Tensor) -> Tensor:
        """A plane for each tile, the blank's first, [B, 9, 3, 3]; what is left of the moves is not seen."""
        tiles = torch.arange(CELLS, device=state.device)
        return (state[:, None, :CELLS] == tiles[:, None]).float().view(-1, *self.planes_shape)

    def num_moves(self, state: Tensor) -> Tensor:
        """Moves made, [B] int64."""
        return state[:, -1]

    def render(self, state: Tensor) -> str:
        """The tiles."""
        rows = state[:CELLS].view(SIDE, SIDE).tolist()
        return "\n".join(" ".join(str(tile) if tile else "." for tile in row) for row in rows)

    def board(self, state: Tensor) -> Sequence[Cell]:
        """The tiles; a click on one beside the blank slides it."""
        tiles = state[:CELLS].tolist()
        blank = divmod(tiles.index(BLANK), SIDE)
        ways = {divmod(blank[0] * SIDE + blank[1] + way, SIDE): action for action, way in enumerate(WAYS.values())}
        cells = ((divmod(cell, SIDE), tile) for cell, tile in enumerate(tiles))
        return [
            Cell(c, r, ways.get((r, c)) if abs(r - blank[0]) + abs(c - blank[1]) == 1 else None, label=str(tile or ""))
            for (r, c), tile in cells
        ]

    def action_name(self, action: int) -> str:
        """Where the blank goes: up, down, left or right."""
        return list(WAYS)[action]

    def _blank(self, state: Tensor) -> Tensor:
        """The cell of the blank, [B]."""
        return (state[:, :CELLS] == BLANK).int().argmax(1)

    def _slide(self, state: Tensor, action: Tensor) -> Tensor:
        blank = self._blank(state)
        there = (blank + constants(state.device, tuple(WAYS.values()))[action]).clamp(0, CELLS - 1)[:, None]
        return state.scatter(1, blank[:, None], state.gather(1, there)).scatter(1, there, BLANK)

    def _solved(self, state: Tensor) -> Tensor:
        return (state[:, :CELLS] == constants(state.device, GOAL)).all(1)
