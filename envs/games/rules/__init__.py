"""Rules of games, a file each."""

from rlcore.envs.games.rules.bitboard import BitBoardGame
from rlcore.envs.games.rules.connect_four import ConnectFour
from rlcore.envs.games.rules.tic_tac_toe import TicTacToe

__all__ = ["BitBoardGame", "ConnectFour", "TicTacToe"]
