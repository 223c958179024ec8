"""What positions are worth: by listing all of a small game, or from a file."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rlcore.errors import InputError
from rlcore.game import DISCOUNT, Game

SMALL = 100_000
"""Positions up to which a game may be listed."""
FULL_COLUMN = -1000
"""In a file, in place of the score of a move that is illegal."""


class Truth(NamedTuple):
    """Positions, and what each move is worth to the mover: positive a win, negative a loss, 0 a draw."""

    state: Tensor  # [P, S] int64
    score: Tensor  # [P, A] float32; -inf is illegal

    def judge(self, action: Tensor) -> dict[str, float]:
        """The share of moves [P] that are right, and perfect; where moves differ in sign, and ``_all``."""
        chosen = self.score.gather(1, action[:, None]).squeeze(1)
        best = self.score.amax(1)
        right, perfect = chosen.sign() == best.sign(), chosen == best
        differ = self.differ
        told = {"right": right[differ], "right_all": right, "perfect": perfect[differ], "perfect_all": perfect}
        return {name: which.double().mean().item() for name, which in told.items()}

    @property
    def differ(self) -> Tensor:
        """[P] bool: some legal moves are worth another sign than others."""
        legal = self.score > -torch.inf
        return (self.score.sign() != self.score.amax(1, keepdim=True).sign()).logical_and(legal).any(1)

    def misses(self, game: Game, action: Tensor, most: int = 10) -> str:
        """The first positions in which a move [P] is not right, drawn."""
        chosen = self.score.gather(1, action[:, None]).squeeze(1)
        wrong = (chosen.sign() != self.score.amax(1).sign()).nonzero().flatten().tolist()
        blocks = [f"{len(wrong):,} of {len(action):,} moves are not right"]
        for p in wrong[:most]:
            best = (self.score[p] == self.score[p].amax()).nonzero().flatten().tolist()
            names = ", ".join(map(game.action_name, best))
            board = game.render(self.state[p])
            blocks.append(f"{board}\nmoved {game.action_name(int(action[p]))}, best: {names}")
        return "\n\n".join(blocks)


def truth_of(game: Game, positions: str, device: torch.device | str = "cpu") -> Truth:
    """``all`` positions of a small game, or those of a file.

    Raises:
        InputError: the game is not small, or the file is not as `read` wants it.
    """
    found = enumerate_positions(game) if positions == "all" else read(game, Path(positions))
    return Truth(*(tensor.to(device) for tensor in found))


def enumerate_positions(game: Game) -> Truth:
    """Every position that can be reached and in which the game has not ended, from the beginning on.

    Raises:
        InputError: they are more than can be listed.
    """
    plies: list[tuple[Tensor, ...]] = []
    state, num_positions = game.initial(1), 0
    while len(state):
        num_positions += len(state)
        if num_positions > SMALL:
            raise InputError(f"env.positions: {type(game).__name__} has more than {SMALL:,} positions; give a file")
        row, move = game.legal(state).nonzero(as_tuple=True)
        after, reward, terminated = game.step(state[row], move)
        next_state, index = torch.unique(after[~terminated], dim=0, return_inverse=True)
        plies.append((state, row, move, reward, terminated, index))
        state = next_state
    scores: list[Tensor] = []
    best = torch.zeros(0)
    for state, row, move, reward, terminated, index in reversed(plies):
        value = reward.clone()
        value[~terminated] = DISCOUNT * best[index]
        score = torch.full((len(state), game.num_actions), -torch.inf)
        score[row, move] = value
        scores.insert(0, score)
        best = score.amax(1)
    return Truth(torch.cat([ply[0] for ply in plies]), torch.cat(scores))


def read(game: Game, path: Path) -> Truth:
    """Positions from a CSV file: ``moves``, the moves made, as characters; then a score for each move.

    Raises:
        InputError: there is no such file, or a row is wrong; its line is named.
    """
    states, scores = [], []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            next(rows, None)
            for row in rows:
                state, score = _position(game, row, f"env.positions: {path}, line {rows.line_num}")
                states.append(state)
                scores.append(score)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"env.positions: {path} cannot be read: {error}") from None
    if not states:
        raise InputError(f"env.positions: {path} has no positions: a header, then a row each")
    return Truth(torch.cat(states), torch.tensor(scores))


def _position(game: Game, row: list[str], where: str) -> tuple[Tensor, list[float]]:
    if len(row) != 1 + game.num_actions:
        raise InputError(f"{where}: {len(row)} fields; expected the moves and {game.num_actions} scores")
    state = game.initial(1)
    for number, name in enumerate(row[0], 1):
        move = game.parse_action(name)
        if move is None or not game.legal(state)[0, move]:
            raise InputError(f"{where}: move {number} of {row[0]}, {name!r}, is no legal move")
        state, _, terminated = game.step(state, torch.tensor([move]))
        if terminated:
            raise InputError(f"{where}: the game ends with move {number} of {row[0]}")
    try:
        numbers = [float(text) for text in row[1:]]
    except ValueError as error:
        raise InputError(f"{where}: a score is no number: {error}") from None
    for index, legal in enumerate(game.legal(state)[0].tolist()):
        if legal == (numbers[index] == FULL_COLUMN):
            told = "legal" if legal else "illegal"
            name = game.action_name(index)
            raise InputError(f"{where}: the move {name} is {told} there, and its score is {row[1 + index]}")
    return state, [-math.inf if number == FULL_COLUMN else number for number in numbers]
