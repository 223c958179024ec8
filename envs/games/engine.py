"""An agent as an engine: what it plays in a position at some strength, and what it makes of the position."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlcore.agent import Agent
from rlcore.distributions import Categorical
from rlcore.envs.games.game_env import observed
from rlcore.errors import InputError
from rlcore.search import ROOT, UNVISITED, Searcher, SearchTree, best_of


class Strength(NamedTuple):
    """How well an engine plays."""

    simulations: int | None = None
    """Per search; None as in the run's evaluation; 0 plays by the policy alone, as agents that do not search always
    do."""
    temperature: float = 0.0
    """T: a move is drawn with probability proportional to share^(1/T); 0 plays the best one."""


LEVELS = {1: Strength(0, 1.0), 2: Strength(16, 0.5), 3: Strength(50, 0.2), 4: Strength(), 5: Strength(1600)}
"""From the weakest; 4 is the agent as in its run's evaluation."""


class Analysis(NamedTuple):
    """What an engine makes of a position; values are expected results for the player to move, in [-1, 1]."""

    action: int
    """The move that it plays."""
    shares: dict[int, float]
    """Of each legal move: its share of the visits, or its probability by the policy alone."""
    visits: dict[int, int]
    """Simulations that began with each legal move; empty without a search."""
    values: dict[int, float]
    """Of the moves that were visited; empty without a search."""
    value: float | None
    """Of the position; None without a search."""
    variation: list[int]
    """The principal variation: the best moves of both players, from the present one on."""


class Engine:
    """An agent that is asked about single positions.

    Args:
        agent: of a game, by whichever environment it learned.
        name: what people call it.

    Raises:
        InputError: it plays no game, or not by the position alone.
    """

    def __init__(self, agent: Agent, name: str = "the agent"):
        self.agent, self.name = agent, name
        try:
            self.game, self.observe = observed(agent.observation_space)
        except InputError as error:
            raise InputError(f"play: {name}: {error}") from None
        if agent.initial_state(1) is not None:
            raise InputError(f"play: {name} remembers what it saw; it takes an agent that plays by the position alone")

    @property
    def searches(self) -> bool:
        """Whether it can search."""
        return isinstance(self.agent, Searcher)

    @torch.no_grad()
    def analyse(self, state: Tensor, strength: Strength | None = None) -> Analysis:
        """What it makes of a position [1, S] in which the game goes on; draws by torch's global generator."""
        simulations, temperature = strength or Strength()
        legal = self.game.legal(state)[0].nonzero().flatten().tolist()
        if isinstance(self.agent, Searcher) and simulations != 0:
            found = self.agent.search(state, simulations)
            visits, mean = (row[0].tolist() for row in (found.visits, found.tree.edges(ROOT).mean))
            variation = principal_variation(found.tree)
            shares, best, value = found.visits[0] / found.visits[0].sum(), int(found.action), float(found.value)
        else:
            shares = self._policy(state)
            best, value = int(shares.argmax()), None
            visits, mean, variation = [], [], [best]
        return Analysis(
            action=draw(shares, temperature) if temperature > 0 else best,
            shares={a: float(shares[a]) for a in legal},
            visits={a: int(visits[a]) for a in legal if visits},
            values={a: mean[a] for a in legal if visits and visits[a] > 0},
            value=value,
            variation=variation,
        )

    def _policy(self, state: Tensor) -> Tensor:
        """Probabilities of the moves, [A], 0 for illegal ones; an agent without a distribution is sure of its move."""
        obs, legal = self.observe(state), self.game.legal(state)
        if type(self.agent).distribution is not Agent.distribution:
            pi = self.agent.distribution(obs)
            if isinstance(pi, Categorical):
                probabilities = pi.log_probs.exp() * legal
                return (probabilities / probabilities.sum())[0]
        action = self.agent.predict(obs).action
        return torch.nn.functional.one_hot(action, self.game.num_actions)[0].float()


def principal_variation(tree: SearchTree) -> list[int]:
    """The moves of most visits, from the root of the first tree on; of equals the one of the best mean outcome.

    It ends where chance is to move.
    """
    moves, node = [], ROOT
    while node != UNVISITED and not (tree.chance is not None and tree.chance[0, node]):
        edges = tree.edges(node)
        visits = edges.visits[0]
        if visits.sum() == 0:
            break
        moves.append(int(best_of(edges.mean, edges.visits, edges.visits.amax(-1))[0]))
        node = int(tree.child[0, node, moves[-1]])
    return moves


def draw(shares: Tensor, temperature: float) -> int:
    """A move, drawn with probability proportional to share^(1/T); moves of share 0 are never drawn.

    Args:
        shares: [A], in [0, 1].
        temperature: T > 0.
    """
    behind = (shares / shares.max()).log().double()  # 0 for the best, so that no temperature is too low
    return int(torch.multinomial((behind / temperature).softmax(0), 1))
