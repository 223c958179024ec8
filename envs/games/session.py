"""A game in progress, for people to play: no input, no output."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from rlcore.errors import InputError
from rlcore.game import Cell, Game, make_move, start_games
from rlcore.seeding import derive_seed


class Session:
    """The positions of a game from its beginning, and the moves between them.

    Args:
        game: the rules.
        moves: made already, by the players.
        seed: of where the game begins, and of chance's moves: they are the same after as many moves of players.

    Raises:
        InputError: one of them cannot be made.
    """

    def __init__(self, game: Game, moves: Iterable[int] = (), seed: int = 0):
        self.game, self.seed = game, seed
        self.moves: list[int] = []
        self.states = [start_games(game, 1, self._generator())]
        """[1, S] each, in which players are to move; one more than moves."""
        self.rewards: list[float] = []
        """Of the moves, each for the player who made it."""
        self.ended = False
        """Whether the game has ended."""
        for action in moves:
            self.play(action)

    @property
    def state(self) -> Tensor:
        """The present position, [1, S]."""
        return self.states[-1]

    @property
    def player(self) -> int:
        """Who is to move: 0, the player who began, or 1."""
        return int(self.game.to_move(self.state))

    @property
    def outcome(self) -> float | None:
        """For the player who began: 1, 0 or -1; of one player the sum of rewards; None while the game goes on."""
        if not self.ended:
            return None
        return sum(reward if mover == 0 else -reward for reward, mover in zip(self.rewards, self.movers, strict=True))

    @property
    def movers(self) -> list[int]:
        """Who made each of the moves."""
        return [int(self.game.to_move(state)) for state in self.states[:-1]]

    @property
    def legal(self) -> list[int]:
        """The moves that can be made now; none once the game has ended."""
        return [] if self.ended else self.game.legal(self.state)[0].nonzero().flatten().tolist()

    def play(self, action: int) -> None:
        """Makes a move.

        Raises:
            InputError: it cannot be made now.
        """
        if action not in self.legal:
            raise InputError(f"{self._name(action)} cannot be played now; legal: {self._legal_names()}")
        made = make_move(self.game, self.state, torch.tensor([action]), self._generator())
        self.rewards.append(float(made.reward))
        self.ended = bool(made.terminated)
        self.states.append(made.state)
        self.moves.append(action)

    def undo(self, players: Sequence[int] = (0, 1)) -> bool:
        """Takes moves back, down to the last one by any of some players.

        Returns:
            Whether there was one; otherwise nothing is taken back.
        """
        theirs = [number for number, mover in enumerate(self.movers) if mover in players]
        if not theirs:
            return False
        number = theirs[-1]
        del self.moves[number:], self.rewards[number:], self.states[number + 1 :]
        self.ended = False
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

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, len(self.moves)))

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
