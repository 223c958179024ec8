"""A game in progress, for a person to play: no input, no output."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from rlcore.errors import InputError
from rlcore.game import Cell, Game


class Session:
    """The positions of a game from its beginning, and the moves between them.

    Args:
        game: the rules.
        moves: made already.

    Raises:
        InputError: one of them cannot be made.
    """

    def __init__(self, game: Game, moves: Iterable[int] = ()):
        self.game = game
        self.moves: list[int] = []
        self.states = [game.initial(1)]
        """[1, S] each, one more than moves."""
        self.players = [0]
        """Who is to move in each of them: 0, the player who began, or 1."""
        self.outcome: int | None = None
        """For the player who began: 1, 0 or -1; None while the game goes on."""
        for action in moves:
            self.play(action)

    @property
    def state(self) -> Tensor:
        """The present position, [1, S]."""
        return self.states[-1]

    @property
    def player(self) -> int:
        """Who is to move, 0 or 1."""
        return self.players[-1]

    @property
    def legal(self) -> list[int]:
        """The moves that can be made now; none once the game has ended."""
        return [] if self.outcome is not None else self.game.legal(self.state)[0].nonzero().flatten().tolist()

    def play(self, action: int) -> None:
        """Makes a move.

        Raises:
            InputError: it cannot be made now.
        """
        if action not in self.legal:
            raise InputError(f"{self._name(action)} cannot be played now; legal: {self._legal_names()}")
        made = self.game.step(self.state, torch.tensor([action]))
        if made.terminated:
            reward = int(made.reward.sign())
            self.outcome = reward if self.player == 0 else -reward
        self.players.append(1 - self.player)
        self.states.append(made.state)
        self.moves.append(action)

    def undo(self, players: Sequence[int] = (0, 1)) -> bool:
        """Takes moves back, down to the last one by any of some players.

        Returns:
            Whether there was one; otherwise nothing is taken back.
        """
        theirs = [number for number in range(len(self.moves)) if self.players[number] in players]
        if not theirs:
            return False
        number = theirs[-1]
        del self.moves[number:], self.states[number + 1 :], self.players[number + 1 :]
        self.outcome = None
        return True

    def board(self) -> Sequence[Cell]:
        """The board as it is drawn; see `Game.board`."""
        return self.game.board(self.state[0])

    @property
    def last(self) -> int | None:
        """The index of the cell that the last move went to; None if there is none."""
        return place(self.game.board(self.states[-2][0]), self.moves[-1]) if self.moves else None

    def parse(self, text: str) -> list[int]:
        """Moves by their names, between spaces or commas.

        Raises:
            InputError: one is not the name of a move.
        """
        moves = []
        for word in text.replace(",", " ").split():
            action = self.game.parse_action(word)
            if action is None:
                raise InputError(f"{word!r} is not a move; moves are named as {self._legal_names()}")
            moves.append(action)
        return moves

    def _name(self, action: int) -> str:
        inside = 0 <= action < self.game.num_actions
        return self.game.action_name(action) if inside else f"the move number {action}"

    def _legal_names(self) -> str:
        return " ".join(map(self.game.action_name, self.legal)) or "none, the game has ended"


def place(board: Sequence[Cell], action: int) -> int | None:
    """The index of the cell that a move goes to, the last empty one of its own; None if it has none."""
    own = [index for index, cell in enumerate(board) if cell.action == action]
    empty = [index for index in own if board[index].owner is None and not board[index].label]
    return next(reversed(empty or own), None)
