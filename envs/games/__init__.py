"""Games: their rules, environments that play them, players, and how strength is measured.

``rules``: a file a game; ``selfplay`` and ``versus``: environments; ``players``: opponents by name; ``truth`` and
``solver``: exact scores of positions; ``elo`` and ``matches``: reports; ``intervals``: how sure their figures are;
``replay``: positions to learn from; ``play``: the command.
"""

from rlcore.envs.games.rules.bitboard import BitBoardGame
from rlcore.envs.games.rules.connect_four import ConnectFour
from rlcore.envs.games.rules.dots_and_boxes import DotsAndBoxes
from rlcore.envs.games.rules.eight_puzzle import EightPuzzle
from rlcore.envs.games.rules.einstein import Einstein
from rlcore.envs.games.rules.gomoku import Gomoku, Gomoku9
from rlcore.envs.games.rules.hex import Hex, Hex5, Hex7
from rlcore.envs.games.rules.othello import Othello, Othello6
from rlcore.envs.games.rules.square import SquareGame
from rlcore.envs.games.rules.tic_tac_toe import TicTacToe

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
