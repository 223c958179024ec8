"""Random positions of connect four with exact scores: python examples/label_positions.py OUT.csv [NUM] [SEED] [--hard]

With 14 to 34 stones; the format is that of `rlcore.envs.games.truth.read`. About a second each. ``--hard``: with 16 or
more, and only those whose moves differ in outcome and on which two searches of 500 random playouts do not agree.
"""

import argparse
import csv
from collections.abc import Iterator

import torch
from torch import Tensor

from rlcore.envs.games import ConnectFour
from rlcore.envs.games.solver import Solver
from rlcore.envs.games.truth import FULL_COLUMN
from rlcore.game import random_moves
from rlcore.search import playouts, search, uct

FEWEST, FEWEST_HARD, MOST = 14, 16, 34
BATCH, PLAYOUTS = 420, 500


def random_positions(game: ConnectFour, num_moves: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random games of some numbers of moves [B] that have not ended by then: positions [b, S], and moves [b, MOST]."""
    state, moves = game.initial(len(num_moves)), torch.full((len(num_moves), MOST), -1)
    on = torch.ones(len(num_moves), dtype=torch.bool)
    for ply in range(MOST):
        action, plays = random_moves(game.legal(state), generator), ply < num_moves
        after, _, terminated = game.step(state, action)
        state, moves[:, ply] = torch.where(plays[:, None], after, state), torch.where(plays, action, -1)
        on &= ~(terminated & plays)
    return state[on], moves[on]


def labelled(game: ConnectFour, seed: int, hard: bool) -> Iterator[tuple[str, list[int]]]:
    """Moves by name, and the score of each column for the player to move; without end."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    fewest = FEWEST_HARD if hard else FEWEST
    while True:
        state, moves = random_positions(game, torch.arange(BATCH) % (MOST - fewest + 1) + fewest, generator)
        if hard:
            one, other = (search(game, state, playouts(game), PLAYOUTS, uct()).action for _ in range(2))
            state, moves = state[one != other], moves[one != other]
        for position, line in zip(state.tolist(), moves.tolist(), strict=True):
            scores = [FULL_COLUMN if score is None else score for score in Solver().scores(*position)]
            outcomes = {(score > 0) - (score < 0) for score in scores if score != FULL_COLUMN}
            if len(outcomes) > 1 or not hard:
                yield "".join(game.action_name(move) for move in line if move >= 0), scores


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("num", nargs="?", type=int, default=420)
    parser.add_argument("seed", nargs="?", type=int, default=1)
    parser.add_argument("--hard", action="store_true")
    given = parser.parse_args()
    with open(given.out, "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["moves", *(f"score{column}" for column in range(1, 8))])
        for (moves, scores), _ in zip(labelled(ConnectFour(), given.seed, given.hard), range(given.num), strict=False):
            rows.writerow([moves, *scores])
            file.flush()


if __name__ == "__main__":
    main()
