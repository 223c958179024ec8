"""SelfPlayEnv: N games of one player against itself."""

import math
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from pydantic import NonNegativeInt, PositiveInt, field_validator
from torch import Tensor

from rlcore import registry
from rlcore.agent import Agent
from rlcore.checkpoint import seed_everything
from rlcore.environment import Environment, StepResult
from rlcore.envs.players import RandomPlayer, as_player
from rlcore.envs.truth import Truth, positions_file, truth_of
from rlcore.evaluation import Report, evaluating
from rlcore.game import Game, check_legal, mirrored_contest, openings, points, random_moves

EVALUATION_BATCH = 512
"""Positions that are asked about at once."""


class SelfPlayEnv(Environment):
    """N games in lockstep; whoever is to move is asked, and paid as the mover: 1 for the move that wins.

    An observation is the state of the game itself, [N, S] int64, as the mover sees it: the agent makes of it what its
    network reads (`Game.observe`), and searches from it. A game that has ended is followed by a new one.
    """

    class Settings(Environment.Settings):
        """Settings of self-play."""

        num_envs: PositiveInt = 256
        """N, games in lockstep."""
        game: str = "tictactoe"
        """``rlcore list games``."""
        random_openings: NonNegativeInt = 0
        """A game begins after 0 to this many random moves, or fewer where they would end it."""
        positions: str | None = None
        """Positions whose worth is known, to evaluate by: ``all``, for a game so small that all can be listed; or a
        file, see `rlcore.envs.truth.read`: its path, or the name of one beside the shipped configs."""

        @field_validator("positions")
        @classmethod
        def _absolute(cls, positions: str | None) -> str | None:
            """A file of the user's is found again by a resumed run that starts elsewhere."""
            return positions if positions in (None, "all") else str(positions_file(str(positions)).resolve())

    settings: Settings
    criterion = "points_random"
    select_best = False

    def __init__(self, settings: Settings, device: torch.device | str = "cpu", truth: Truth | None = None):
        self.settings = settings
        self.game: Game = registry.games[settings.game]()
        limits = np.iinfo(np.int64)
        states = Box(limits.min, limits.max, (self.game.state_size,), np.int64)
        super().__init__(settings.num_envs, states, Discrete(self.game.num_actions), device)
        self.truth = truth
        if truth is None and settings.positions is not None:
            self.truth = truth_of(self.game, settings.positions, self.device)
        self._generator = torch.Generator(self.device)
        self._truncated = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._state = self.game.initial(self.num_envs, self.device)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Begins N games."""
        if seed is not None:
            self._generator.manual_seed(seed)
        self._state = self._openings(self.num_envs)
        return self._state, {}

    def step(self, actions: Tensor) -> StepResult:
        """Makes a move in every game.

        Args:
            actions: [N] int64.

        Raises:
            InputError: a move is illegal; only on the CPU, as to look would stall other devices.
        """
        if self.device.type == "cpu":
            check_legal(self.game, self._state, actions)
        state, reward, terminated = self.game.step(self._state, actions)
        if self.device.type != "cpu":  # to look which have ended would be to wait
            state = torch.where(terminated[:, None], self._openings(self.num_envs), state)
        elif terminated.any():
            state[terminated] = self._openings(int(terminated.sum()))
        self._state = state
        return state, reward, terminated, self._truncated, {}

    def checkpoint(self) -> dict[str, Any]:
        """The games, and the generator of openings."""
        return {"state": self._state, "generator": self._generator.get_state()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Puts back what `checkpoint` returned."""
        self._state = saved["state"].to(self.device)
        self._generator.set_state(saved["generator"].cpu())

    def evaluation(self, num_envs: int) -> "SelfPlayEnv":
        """A twin; how many games it plays is `score`'s to say."""
        return SelfPlayEnv(self.settings.model_copy(update={"num_envs": num_envs}), self.device, self.truth)

    def random_actions(self) -> Tensor:
        """Legal moves, drawn at random, [N] int64."""
        return random_moves(self.game.legal(self._state))

    def score(self, agent: Agent, num_episodes: int, seed: int) -> Report:
        """Plays a random mover, and compares the agent's moves with the truth about positions, if it is known.

        Returns:
            ``points_random``: wins and half of the draws in ``num_episodes`` games, half of them begun. Of the move
            that is played (``search``) and of the likeliest by `Agent.distribution` (``policy``), the share that is
            ``right``, keeping what the position is worth, or ``perfect``, the best there is: where moves differ in
            worth, and ``_all`` of all positions. As text, the positions in which the move played is not right.
        """
        with evaluating(agent):
            seed_everything(seed)
            begin = self.game.initial(math.ceil(num_episodes / 2), self.device)
            random_player = RandomPlayer(RandomPlayer.Settings(), self.game, self.device)
            outcome = mirrored_contest(self.game, as_player(agent), random_player, begin)
            scalars, text = {"points_random": points(outcome)}, ""
            if self.truth is not None:
                moves = {"search": as_player(agent), "policy": lambda state: agent.distribution(state).mode}
                for name, mover in moves.items():
                    action = torch.cat([mover(state) for state in self.truth.state.split(EVALUATION_BATCH)])
                    check_legal(self.game, self.truth.state, action)
                    judged = self.truth.judge(action)
                    scalars |= {f"{name}_{key}": value for key, value in judged.items()}
                    text = text or self.truth.misses(self.game, action)
        return Report(scalars, text)

    def _openings(self, num: int) -> Tensor:
        k = self.settings.random_openings
        num_moves = torch.randint(k + 1, (num,), generator=self._generator, device=self.device)
        return openings(self.game, num_moves, k, self._generator)
