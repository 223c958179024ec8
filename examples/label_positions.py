"""Random positions of connect four with exact scores: python examples/label_positions.py OUT.csv [NUM] [SEED]

With 14 to 34 stones, equally many of each; the format is that of `rlcore.envs.games.truth.read`. About a second each.
"""

import csv
import random
import sys

import torch

from rlcore.envs.games import ConnectFour
from rlcore.envs.games.solver import Solver
from rlcore.envs.games.truth import FULL_COLUMN

FEWEST, MOST = 14, 34


def random_game(game: ConnectFour, num_moves: int, draws: random.Random) -> tuple[list[int], torch.Tensor] | None:
    """The moves and the position of a random game after ``num_moves``; None if the game has ended by then."""
    state, moves = game.initial(1), []
    for _ in range(num_moves):
        moves.append(draws.choice(game.legal(state)[0].nonzero().flatten().tolist()))
        state, _, terminated = game.step(state, torch.tensor([moves[-1]]))
        if terminated:
            return None
    return moves, state[0]


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    num, seed = int(sys.argv[2]) if len(sys.argv) > 2 else 420, int(sys.argv[3]) if len(sys.argv) > 3 else 1
    game, draws, written = ConnectFour(), random.Random(seed), 0
    with open(sys.argv[1], "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["moves", *(f"score{column}" for column in range(1, 8))])
        while written < num:
            found = random_game(game, FEWEST + written % (MOST - FEWEST + 1), draws)
            if found is None:
                continue
            moves, state = found
            scores = Solver().scores(*state.tolist())
            names = "".join(map(game.action_name, moves))
            rows.writerow([names, *(FULL_COLUMN if score is None else score for score in scores)])
            written += 1


if __name__ == "__main__":
    main()
