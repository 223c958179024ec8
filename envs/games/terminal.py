"""Games in the terminal: against an engine, or between two."""

from itertools import pairwise

import torch
from rich.console import Console
from rich.text import Text

from rlcore.agent import Agent
from rlcore.console import make_console
from rlcore.envs.games.engine import LEVELS, Analysis, Engine, Strength
from rlcore.envs.games.rules.bitboard import SYMBOLS
from rlcore.envs.games.session import Session, place
from rlcore.errors import InputError
from rlcore.game import Game

STYLES = "bold cyan", "bold yellow"
"""Of the pieces of the player who began, and of the other one's."""
HELP = """\
a move; or
  hint            what I would play            analysis    how good I think each move is
  undo            takes your last move back    new         a new game; who begins changes
  level 1 to 5    from the weakest to the strongest
  position 4 4 3  a game that begins with these moves, made for both sides
  quit            or Ctrl-D"""


class Terminal:
    """Games between a person and an agent, in the terminal.

    Args:
        agent: the opponent.
        simulations: per search of the agent; None: as in evaluation, 0: by the policy alone.
        temperature: of the agent's moves; see `Strength`.
        name: what the agent is called.
    """

    def __init__(self, agent: Agent, simulations: int | None = None, temperature: float = 0.0, name: str = "the agent"):
        self.engine, self.strength = Engine(agent, name), Strength(simulations, temperature)
        self.session = Session(self.engine.game)
        self.console = make_console()

    def run(self, person_begins: bool) -> None:
        """Plays games until the person quits."""
        try:
            while True:
                self._game(person_begins or self.engine.game.num_players == 1)
                person_begins = not person_begins
                print("\nAnother game.")
        except (EOFError, KeyboardInterrupt):
            print("\nGoodbye.")

    def _game(self, person_begins: bool) -> None:
        self.session = Session(self.engine.game, seed=new_seed())
        person = 0 if person_begins else 1
        me = f"{self.engine.name}, {self._strength()}"
        if self.engine.game.num_players == 1:
            say(self.console, f"You play; I can be asked for a hint: {me}")
        else:
            begins = "begin" if person_begins else "move second"
            say(self.console, "You are ", symbol(person), f" and {begins}; I am ", symbol(1 - person), f": {me}")
        while self.session.outcome is None:
            show(self.console, self.session)
            if self.session.player == person:
                if not self._ask(person):
                    return
            else:
                analysis = self._think(self.strength)
                say(self.console, f"I play {self._name(analysis.action)}. {_outlook(self.engine.game, analysis)}")
                self.session.play(analysis.action)
        show(self.console, self.session)
        if self.engine.game.num_players == 1:
            print(f"The game has ended with {self.session.outcome:g}.")
            return
        result = self.session.outcome if person_begins else -self.session.outcome
        print("A draw." if result == 0 else "You win." if result > 0 else "I win.")

    def _ask(self, person: int) -> bool:
        """Lets the person move, or change the position; False begins a new game."""
        game = self.engine.game
        while True:
            text = input("your move: ").strip()
            word, _, rest = text.partition(" ")
            try:
                action = game.parse_action(text)
                if action is not None:
                    self.session.play(action)
                    return True
                if word == "hint":
                    analysis = self._think(Strength())
                    say(self.console, f"I would play {self._name(analysis.action)}. {_outlook(game, analysis)}")
                elif word == "analysis":
                    say(self.console, table(game, self._think(Strength())))
                elif word == "undo":
                    if not self.session.undo([person]):
                        raise InputError("you have no move to take back")
                    return True
                elif word == "level":
                    self.strength = parse_level(rest)
                    say(self.console, f"from now on {self._strength()}")
                elif word == "position":
                    there = Session(game, self.session.parse(rest), self.session.seed)
                    if there.outcome is not None:
                        raise InputError("the game has ended there")
                    self.session = there
                    return True
                elif word == "new":
                    return False
                elif word in ("quit", "exit"):
                    raise EOFError
                else:
                    if word not in ("", "help"):
                        print(f"{text!r} is not a move")
                    print(f"{HELP}\nlegal moves: {' '.join(map(self._name, self.session.legal))}")
            except InputError as error:
                print(error)

    def _think(self, strength: Strength) -> Analysis:
        with self.console.status("thinking ..."):
            return self.engine.analyse(self.session.state, strength)

    def _strength(self) -> str:
        level = next((f"level {level}, " for level, one in LEVELS.items() if one == self.strength), "")
        return level + describe(self.engine, self.strength)

    def _name(self, action: int) -> str:
        return self.engine.game.action_name(action)


def watch(first: Engine, second: Engine, strength: Strength) -> None:
    """A game between two engines of one game, to its end or Ctrl-C."""
    console, session, engines = make_console(), Session(first.game, seed=new_seed()), (first, second)
    for player, engine in enumerate(engines):
        say(console, symbol(player), f" is {engine.name}, {describe(engine, strength)}")
    try:
        while session.outcome is None:
            show(console, session)
            with console.status("thinking ..."):
                analysis = engines[session.player].analyse(session.state, strength)
            name = session.game.action_name(analysis.action)
            say(console, symbol(session.player), f" plays {name}. {_outlook(session.game, analysis)}")
            session.play(analysis.action)
    except KeyboardInterrupt:
        print("\nGoodbye.")
        return
    show(console, session)
    if session.game.num_players == 1:
        print(f"The game has ended with {session.outcome:g}.")
    else:
        print("A draw." if session.outcome == 0 else f"{SYMBOLS[0 if session.outcome > 0 else 1]} wins.")


def new_seed() -> int:
    """Of what chance does in a game."""
    return int(torch.randint(2**31 - 1, ()))


def say(console: Console, *parts: str | Text) -> None:
    """Prints a line."""
    console.print(Text.assemble(*parts), highlight=False)


def show(console: Console, session: Session) -> None:
    """Prints the present position."""
    say(console, "\n", drawing(session), "\n")


def symbol(player: int) -> Text:
    """X or O, in the player's colour."""
    return Text(SYMBOLS[player], STYLES[player])


def drawing(session: Session) -> Text:
    """The board: pieces as X and O, legal moves by their names, the last move in [ ], and * * around what decided."""
    board = session.board()
    if not board:
        return Text(session.game.render(session.state[0]))
    names = {place(board, action): session.game.action_name(action) for action in session.legal}
    shown = [
        symbol(cell.owner) if cell.owner is not None else Text(cell.label) or Text(names.get(index, "."), "dim")
        for index, cell in enumerate(board)
    ]
    columns = sorted({cell.x for cell in board})
    step = min((right - left for left, right in pairwise(columns)), default=1.0)
    width = max(map(len, shown))
    lines = []
    for y in sorted({cell.y for cell in board}):
        line = Text()
        for index in sorted((k for k, cell in enumerate(board) if cell.y == y), key=lambda k: board[k].x):
            cell = board[index]
            line.pad_right(round((cell.x - columns[0]) / step) * (width + 2) - len(line))
            left, right = "**" if cell.decisive else "[]" if index == session.last else "  "
            line.append(left, "bold").pad_right(width - len(shown[index]))
            line.append_text(shown[index]).append(right, "bold")
        lines.append(line)
    return Text("\n").join(lines)


def parse_level(text: str) -> Strength:
    """The strength of a level.

    Raises:
        InputError: it is not one of `LEVELS`.
    """
    if text.strip() not in map(str, LEVELS):
        raise InputError(f"level: must be {min(LEVELS)} to {max(LEVELS)}, got {text.strip() or 'nothing'}")
    return LEVELS[int(text)]


def describe(engine: Engine, strength: Strength) -> str:
    """A strength in words: ``50 simulations, temperature 0.2``."""
    simulations, temperature = strength
    if not engine.searches or simulations == 0:
        how = "the policy alone"
    elif simulations is None:
        how = "as in evaluation"
    else:
        how = f"{simulations} simulations"
    return how + (f", temperature {temperature:g}" if temperature else "")


def table(game: Game, analysis: Analysis) -> str:
    """An analysis as lines: each move with its share as a bar, its visits and its value; and the variation."""
    moves = sorted(analysis.shares, key=lambda action: -analysis.shares[action])
    width = max(len(game.action_name(action)) for action in moves)
    lines = []
    for action in moves:
        share = analysis.shares[action]
        line = f"{game.action_name(action):>{width}}  {'#' * round(20 * share):<20} {share:4.0%}"
        if analysis.visits:
            line += f"  visits {analysis.visits[action]:>5}"
        if action in analysis.values:
            line += f"  value {signed(analysis.values[action])}"
        lines.append(line)
    if analysis.value is not None:
        lines.append(
            f"expected {signed(analysis.value)}; I expect {' '.join(map(game.action_name, analysis.variation))}"
        )
    return "\n".join(lines)


def signed(value: float) -> str:
    """A value with its sign; what rounds to 0 is +0.00."""
    return f"{round(value, 2) + 0:+.2f}"


def _outlook(game: Game, analysis: Analysis) -> str:
    """The shares of the moves, and the expected result for the player to move."""
    likely = [f"{game.action_name(a)} {share:.0%}" for a, share in analysis.shares.items() if share >= 0.01]
    if analysis.value is None:
        return f"(policy: {', '.join(likely)})"
    return f"(visits: {', '.join(likely)}; expected {signed(analysis.value)})"
