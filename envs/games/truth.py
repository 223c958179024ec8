"""Scores of positions: by enumerating a small game, or from a file."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rlcore.config import SHIPPED
from rlcore.errors import InputError
from rlcore.game import Game, expected

SMALL = 100_000
"""The most positions that are enumerated."""
DECIMALS = 6
"""Of enumerated scores: what chance makes even is a draw, whose sum of products may not be 0 in float32."""
FULL_COLUMN = -1000
"""In a file, the score of an illegal move."""


class Truth(NamedTuple):
    """Positions, and the score of each move for the mover: positive for a win, negative for a loss, 0 for a draw."""

    state: Tensor  # [P, S] int64
    score: Tensor  # [P, A] float32; -inf for illegal moves

    def accuracy(self, action: Tensor) -> dict[str, float]:
        """The share of moves [P] that are right, and perfect: in positions that `differ`, if any, and in ``_all``."""
        chosen = self.score.gather(1, action[:, None]).squeeze(1)
        best = self.score.amax(1)
        right, perfect = chosen.sign() == best.sign(), torch.isclose(chosen, best)  # expectations are not exact
        differ = self.differ
        shares = {"right": right[differ], "right_all": right, "perfect": perfect[differ], "perfect_all": perfect}
        return {name: which.double().mean().item() for name, which in shares.items() if len(which)}

    @property
    def differ(self) -> Tensor:
        """[P] bool: the scores of the legal moves differ in sign."""
        legal = self.score > -torch.inf
        return (self.score.sign() != self.score.amax(1, keepdim=True).sign()).logical_and(legal).any(1)

    def misses(self, game: Game, action: Tensor) -> str:
        """The first ten positions in which a move [P] is not right, rendered."""
        chosen = self.score.gather(1, action[:, None]).squeeze(1)
        wrong = (chosen.sign() != self.score.amax(1).sign()).nonzero().flatten().tolist()
        blocks = [f"{len(wrong):,} of {len(action):,} moves are not right"]
        for p in wrong[:10]:
            best = (self.score[p] == self.score[p].amax()).nonzero().flatten().tolist()
            names = ", ".join(map(game.action_name, best))
            board = game.render(self.state[p])
            blocks.append(f"{board}\nmoved {game.action_name(int(action[p]))}, best: {names}")
        return "\n\n".join(blocks)


def truth_of(game: Game, positions: str, device: torch.device | str = "cpu") -> Truth:
    """``all`` positions of a small game, or those of a file.

    Raises:
        InputError: the game is too large, or the file is not as `read` expects it.
    """
    found = enumerate_positions(game) if positions == "all" else read(game, positions_file(positions))
    return Truth(*(tensor.to(device) for tensor in found))


def positions_file(name: str) -> Path:
    """The path of a file, or of one shipped with the configs."""
    return SHIPPED / name if not Path(name).is_file() and (SHIPPED / name).is_file() else Path(name)


def enumerate_positions(game: Game) -> Truth:
    """Every reachable position in which a player is to move.

    Raises:
        InputError: there are more than `SMALL`.
    """
    plies: list[tuple[Tensor, ...]] = []
    state, num_positions = game.initial(1), 0
    while len(state):
        num_positions += len(state)
        if num_positions > SMALL:
            raise InputError(f"env.positions: {type(game).__name__} has more than {SMALL:,} positions; give a file")
        row, move = game.legal(state).nonzero(as_tuple=True)
        after, reward, terminated = game.step(state[row], move)
        discount = game.discount(state[row], after) * ~terminated
        next_state, index = torch.unique(after[~terminated], dim=0, return_inverse=True)
        plies.append((state, row, move, reward, terminated, discount, index))
        state = next_state
    scores: list[Tensor] = []
    best = torch.zeros(0)
    for state, row, move, reward, terminated, discount, index in reversed(plies):
        value = reward.clone()
        value[~terminated] += discount[~terminated] * best[index]
        score = torch.full((len(state), game.num_actions), -torch.inf)
        score[row, move] = value.round(decimals=DECIMALS)
        scores.insert(0, score)
        best = expected(game, state, score)
    state, score = torch.cat([ply[0] for ply in plies]), torch.cat(scores)
    probability = game.chance(state)
    players = torch.ones(len(state), dtype=torch.bool) if probability is None else ~probability.any(1)
    return Truth(state[players], score[players])


def read(game: Game, path: Path) -> Truth:
    """Positions from a CSV file: a header, then one row each of the moves made, as characters, and a score per move.

    Raises:
        InputError: there is no such file, or a row is wrong; the message names its line.
    """
    where, games, scores = [], [], []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            if next(rows, [""])[0] != "moves":
                raise InputError(f"env.positions: {path} has no header; expected moves, then a name for each score")
            for row in rows:
                where.append(f"env.positions: {path}, line {rows.line_num}")
                if len(row) != 1 + game.num_actions:
                    message = f"{len(row)} fields; expected the moves and {game.num_actions} scores"
                    raise InputError(f"{where[-1]}: {message}")
                games.append(row[0])
                scores.append([_number(text, where[-1]) for text in row[1:]])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"env.positions: {path} cannot be read: {error}") from None
    if not games:
        raise InputError(f"env.positions: {path} has no positions; expected one row each below the header")
    state, score = _played(game, games, where), torch.tensor(scores)
    wrong = (game.legal(state) == (score == FULL_COLUMN)).nonzero().tolist()
    if wrong:
        row, move = wrong[0]
        legality = "illegal" if score[row, move] != FULL_COLUMN else "legal"
        raise InputError(
            f"{where[row]}: the move {game.action_name(move)} is {legality} there, but its score is "
            f"{score[row, move]:g}; {FULL_COLUMN} is for illegal moves"
        )
    return Truth(state, score.masked_fill(score == FULL_COLUMN, -torch.inf))


def _played(game: Game, games: list[str], where: list[str]) -> Tensor:
    """The positions [P, S] after games given as characters, one per move; all are played at once."""
    state = game.initial(len(games))
    for ply in range(max(map(len, games))):
        rows = [row for row, moves in enumerate(games) if len(moves) > ply]
        actions = [game.parse_action(games[row][ply]) for row in rows]
        legal = game.legal(state[rows]).tolist()
        for row, action, allowed in zip(rows, actions, legal, strict=True):
            if action is None or not allowed[action]:
                message = f"move {ply + 1} of {games[row]}, {games[row][ply]!r}, is not legal"
                raise InputError(f"{where[row]}: {message}")
        after, _, terminated = game.step(state[rows], torch.tensor(actions))
        state = state.index_put((torch.tensor(rows),), after)
        if terminated.any():
            row = rows[int(terminated.float().argmax())]
            raise InputError(f"{where[row]}: the game ends with move {ply + 1} of {games[row]}")
    return state


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: a score is not a number: {text!r}")
    return number
