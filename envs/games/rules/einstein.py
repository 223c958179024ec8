"""EinStein würfelt nicht."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlcore.envs.games.rules.bitboard import SYMBOLS, constants
from rlcore.game import Cell, Game, Transition

SIDE = 5
CELLS = SIDE * SIDE
STONES = 6
CORNER = (0, 1, 2, 5, 6, 10)
"""Where the mover's stones begin: the upper left corner."""
WAYS = {"right": 1, "down": SIDE, "diagonal": SIDE + 1}
GONE = -1
"""In place of a cell."""
MINE, THEIRS, DIE, MOVES, PLAYER = slice(0, STONES), slice(STONES, 2 * STONES), 12, 13, 14


class Einstein(Game):
    """Six stones each, from corner to corner on 5 x 5 cells, by the throw of a die (Althöfer 2004).

    The die, which is thrown before each move, says which stone moves; if it is gone, the next lower or the next higher
    one. It moves one cell towards the far corner, right, down or both, and takes what stands there, whosever it is. Who
    reaches the far corner, or has taken all stones of the other, has won. Where the stones begin within their corner is
    random.

    Move 3 s + w moves stone s to the right, down, or both; chance's move d is a throw of d + 1. A state is the cell of
    each stone of the mover and of the opponent, `GONE` if it was taken; the die, 0 before it is thrown; the moves made;
    and whose move it is. The mover always goes right and down.
    """

    num_actions = STONES * len(WAYS)
    state_size = 2 * STONES + 3
    planes_shape = (3 * STONES, SIDE, SIDE)
    max_moves = 2 * (2 * STONES * 2 * (SIDE - 1))  # each stone goes at most 8 cells, each time after a throw

    def initial(self, num: int, device: torch.device | str = "cpu") -> Tensor:
        """Stones in order."""
        theirs = tuple(CELLS - 1 - cell for cell in CORNER)
        return constants(torch.device(device), (*CORNER, *theirs, 0, 0, 0)).repeat(num, 1)

    def start(self, num: int, generator: torch.Generator) -> Tensor:
        """Stones in any order."""
        state = self.initial(num, generator.device)
        for stones in (MINE, THEIRS):
            order = torch.rand(num, STONES, generator=generator, device=generator.device).argsort(1)
            state[:, stones] = state[:, stones].gather(1, order)
        return state

    def to_move(self, state: Tensor) -> Tensor:
        """As the state says."""
        return state[:, PLAYER]

    def chance(self, state: Tensor) -> Tensor:
        """The six throws, before the die is thrown."""
        to_throw = (state[:, DIE] == 0)[:, None] & (torch.arange(self.num_actions, device=state.device) < STONES)
        return to_throw.float() / STONES

    def legal(self, state: Tensor) -> Tensor:
        """The ways of the stones that the die allows, or the throws."""
        stones, die = state[:, MINE], state[:, DIE, None]
        number = torch.arange(1, STONES + 1, device=state.device)
        there = stones != GONE
        lower = (number * (there & (number <= die))).amax(1, keepdim=True)
        higher = (number + 2 * STONES * (~there | (number < die))).amin(1, keepdim=True)
        movable = there & ((number == lower) | ((number == higher) & (lower != die)))
        right, down = stones % SIDE < SIDE - 1, stones < CELLS - SIDE
        ways = movable[:, :, None] & torch.stack([right, down, right & down], 2)
        return torch.where(die == 0, self.chance(state) > 0, ways.flatten(1))

    def step(self, state: Tensor, action: Tensor) -> Transition:
        """Throws the die, or moves a stone."""
        throws = (state[:, DIE] == 0)[:, None]
        thrown = state.clone()
        thrown[:, DIE], thrown[:, MOVES] = action + 1, state[:, MOVES] + 1
        stone = (action // len(WAYS))[:, None]
        cell = (
            state[:, MINE].gather(1, stone) + constants(state.device, tuple(WAYS.values()))[action % len(WAYS)][:, None]
        )
        stones = state[:, : 2 * STONES]
        stones = torch.where(stones == cell, GONE, stones).scatter(1, stone, cell)
        mine, theirs = (torch.where(x == GONE, GONE, CELLS - 1 - x) for x in stones.split(STONES, 1))
        none = torch.zeros_like(cell)
        moved = torch.cat([theirs, mine, none, state[:, MOVES, None] + 1, 1 - state[:, PLAYER, None]], 1)
        won = ((cell == CELLS - 1) | (theirs == GONE).all(1, keepdim=True)) & ~throws
        return Transition(torch.where(throws, thrown, moved), won.squeeze(1).float(), won.squeeze(1))

    def observe(self, state: Tensor) -> Tensor:
        """A plane for each stone of the mover, of the opponent, and for each throw, [B, 18, 5, 5]."""
        cells = torch.arange(CELLS, device=state.device)
        stones = state[:, : 2 * STONES, None] == cells
        throws = torch.arange(1, STONES + 1, device=state.device)
        die = (state[:, DIE, None] == throws)[:, :, None].expand(-1, -1, CELLS)
        return torch.cat([stones, die], 1).float().view(-1, *self.planes_shape)

    def num_moves(self, state: Tensor) -> Tensor:
        """Moves and throws, [B] int64."""
        return state[:, MOVES]

    def render(self, state: Tensor) -> str:
        """The board as the one who began sees it: X for that player's stones, O for the other's; and the die."""
        text = {cell: f"{SYMBOLS[owner]}{number}" for cell, (owner, number) in self._stones(state).items()}
        rows = [" ".join(text.get(row * SIDE + column, " .") for column in range(SIDE)) for row in range(SIDE)]
        return "\n".join([*rows, f"die: {int(state[DIE]) or 'to be thrown'}"])

    def board(self, state: Tensor) -> Sequence[Cell]:
        """The stones with their numbers, as the one who began sees them, and the die; moves are named, not clicked."""
        stones = self._stones(state)
        shown = [Cell(cell % SIDE, cell // SIDE, None, *_owned(stones.get(cell))) for cell in range(CELLS)]
        return [*shown, Cell(SIDE + 0.5, (SIDE - 1) / 2, label=f"{int(state[DIE]) or '?'}")]

    @staticmethod
    def _stones(state: Tensor) -> dict[int, tuple[int, int]]:
        """By cell, as the one who began sees it: whose stone stands there, 0 or 1, and its number."""
        numbers = state.tolist()
        mover = numbers[PLAYER]
        return {
            CELLS - 1 - cell if mover else cell: (owner, number)
            for owner, stones in ((mover, MINE), (1 - mover, THEIRS))
            for number, cell in enumerate(numbers[stones], 1)
            if cell != GONE
        }

    def action_name(self, action: int) -> str:
        """The stone, and where it goes as its player sees it: ``4-down``."""
        return f"{action // len(WAYS) + 1}-{list(WAYS)[action % len(WAYS)]}"


def _owned(stone: tuple[int, int] | None) -> tuple[int | None, str]:
    return (None, "") if stone is None else (stone[0], str(stone[1]))
