"""SelfPlayEnv: N games of one player against itself."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rlcore.agent import Agent
from rlcore.device import sync_is_costly
from rlcore.environment import StepResult
from rlcore.envs.games.game_env import GameEnv
from rlcore.envs.games.truth import Truth
from rlcore.game import Player, check_legal, make_move
from rlcore.spaces import Positions


@runtime_checkable
class HasMovers(Protocol):
    """An agent with ways to choose a move besides those of every agent."""

    def movers(self) -> dict[str, Player]:
        """These ways, by name; `SelfPlayEnv.score` checks their moves as well."""


class SelfPlayEnv(GameEnv):
    """N games in lockstep; the agent moves for all players, and the reward is the mover's: 1 for a winning move.

    An observation is the state of the game itself, [N, S] int64, as the mover sees it: the agent makes its network's
    input from it (`Game.observe`), and searches from it. A game that has ended is followed by a new one.
    """

    def __init__(self, settings: GameEnv.Settings, device: torch.device | str = "cpu", truth: Truth | None = None):
        super().__init__(settings, Positions(settings.game), device, truth)

    def movers(self, agent: Agent) -> dict[str, Player]:
        """The move played, the most likely one without search, and the agent's own ways (`HasMovers`)."""
        own = agent.movers() if isinstance(agent, HasMovers) else {}
        return {"search": self.player(agent), "policy": self.policy(agent), **own}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Begins N games."""
        self.seed(seed)
        self._state = self._openings(self.num_envs)
        return self._state, {}

    def step(self, actions: Tensor) -> StepResult:
        """Makes a move in every game.

        Args:
            actions: [N] int64.

        Raises:
            InputError: a move is illegal; checked on the CPU only, as it would stall other devices.
        """
        waits = sync_is_costly(self.device)
        if not waits:
            check_legal(self.game, self._state, actions)
        state, reward, terminated = make_move(self.game, self._state, actions, self._generator)
        if waits:  # so avoid looking which have ended
            state = torch.where(terminated[:, None], self._openings(self.num_envs), state)
        elif terminated.any():
            state = state.index_put((terminated,), self._openings(int(terminated.sum())))  # the rules may keep theirs
        self._state = state
        return state, reward, terminated, self._truncated, {}
