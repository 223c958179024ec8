"""The command ``rlcore play``: a game in the terminal against the agent of a run."""

from typing import Annotated

import torch
import typer
from torch import Tensor

from rlcore.cli import Trust
from rlcore.errors import InputError
from rlcore.run import load
from rlcore.search import Searcher, SearchResult

HELP = "a move, or: hint, undo, new, quit (or Ctrl-D), help"


def play(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's folder.")],
    simulations: Annotated[
        int | None, typer.Option(min=1, help="Strength; default: as in the run's evaluation.")
    ] = None,
    first: Annotated[bool, typer.Option("--first/--second", help="Who begins; default: you.")] = True,
    trust: Trust = False,
) -> None:
    """Play a game in the terminal against the agent of a run."""
    agent = load(run, device="cpu", trust=trust)  # the fastest for one game
    if not isinstance(agent, Searcher):
        raise InputError(f"play: the agent of {run} does not search; train one with agent.name=alphazero")
    Session(agent, simulations).run(first)


class Session:
    """Games between a person and an agent.

    Args:
        agent: the opponent.
        simulations: per search of the agent; None: as in evaluation.
    """

    def __init__(self, agent: Searcher, simulations: int | None):
        self.agent, self.game, self.simulations = agent, agent.game, simulations
        self.history: list[Tensor] = []
        """States [1, S] from the first to the current one."""

    def run(self, person_begins: bool) -> None:
        """Plays games until the person quits."""
        try:
            while True:
                self._game(person_begins)
                person_begins = not person_begins
                print(f"\nAnother game; {'you begin' if person_begins else 'I begin'}.")
        except (EOFError, KeyboardInterrupt):
            print("\nGoodbye.")

    def _game(self, person_begins: bool) -> None:
        self.history = [self.game.initial(1)]
        persons_turn = person_begins
        while True:
            self._show()
            if persons_turn:
                action = self._ask()
                if action is None:
                    return
            else:
                result = self._search()
                action = int(result.action)
                print(f"I play {self.game.action_name(action)}. {self._outlook(result)}")
            after, reward, terminated = self.game.step(self.history[-1], torch.tensor([action]))
            self.history.append(after)
            if terminated:
                self._show()
                print("A draw." if reward == 0 else "You win." if (reward > 0) == persons_turn else "I win.")
                return
            persons_turn = not persons_turn

    def _ask(self) -> int | None:
        """The person's move in the current position, which `undo` changes; None begins a new game."""
        while True:
            text = input("your move: ").strip()
            action = self.game.parse_action(text)
            if action is not None:
                if self.game.legal(self.history[-1])[0, action]:
                    return action
                print(f"{text} cannot be played now; legal: {self._legal()}")
            elif text == "hint":
                result = self._search()
                print(f"I would play {self.game.action_name(int(result.action))}. {self._outlook(result)}")
            elif text == "undo":
                if len(self.history) < 3:
                    print("you have no move to take back")
                    continue
                del self.history[-2:]
                self._show()
            elif text == "new":
                return None
            elif text in ("quit", "exit"):
                raise EOFError
            else:
                if text not in ("", "help"):
                    print(f"{text!r} is not a move")
                print(f"{HELP}; legal moves: {self._legal()}")

    def _show(self) -> None:
        print(f"\n{self.game.render(self.history[-1][0])}\n")

    def _search(self) -> SearchResult:
        return self.agent.search(self.history[-1], self.simulations)

    def _legal(self) -> str:
        return " ".join(map(self.game.action_name, self.game.legal(self.history[-1])[0].nonzero().flatten().tolist()))

    def _outlook(self, result: SearchResult) -> str:
        """The shares of the visits, and the expected result for the player to move."""
        shares = result.policy[0].tolist()
        likely = [f"{self.game.action_name(a)} {share:.0%}" for a, share in enumerate(shares) if share >= 0.01]
        return f"(visits: {', '.join(likely)}; expected {float(result.value):+.2f})"
