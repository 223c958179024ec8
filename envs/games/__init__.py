"""Games: their rules, environments that play them, players, and how strength is measured.

``rules``: a file a game; ``selfplay`` and ``versus``: environments; ``players``: opponents by name; ``truth`` and
``solver``: exact scores of positions; ``elo`` and ``matches``: reports; ``intervals``: how sure their figures are;
``replay``: positions to learn from; ``play``: the command.
"""

from rlcore.envs.games.rules import (
    BitBoardGame,
    ConnectFour,
    DotsAndBoxes,
    EightPuzzle,
    Einstein,
    Gomoku,
    Gomoku9,
    Hex,
    Hex5,
    Hex7,
    Othello,
    Othello6,
    SquareGame,
    TicTacToe,
)

__all__ = [
    "BitBoardGame",
    "ConnectFour",
    "DotsAndBoxes",
    "EightPuzzle",
    "Einstein",
    "Gomoku",
    "Gomoku9",
    "Hex",
    "Hex5",
    "Hex7",
    "Othello",
    "Othello6",
    "SquareGame",
    "TicTacToe",
]
