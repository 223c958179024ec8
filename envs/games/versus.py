"""VersusEnv: N games against players from a pool, which may include the agent's former selves."""

import copy
from typing import Annotated, Any

import torch
from gymnasium.spaces import Dict, MultiBinary
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from rlcore.agent import Agent, restore_parameters
from rlcore.checkpoint import restored, restored_number
from rlcore.environment import StepResult
from rlcore.envs.games.game_env import GameEnv
from rlcore.envs.games.players import PlayerChoice, make_players
from rlcore.envs.games.truth import Truth
from rlcore.errors import CheckpointError, InputError
from rlcore.game import DISCOUNT, Player, Transition, check_legal, make_move
from rlcore.seeding import seeded
from rlcore.spaces import ACTION_MASK, Planes
from rlcore.stateful import attributes_of_type


class VersusEnv(GameEnv):
    """N games in lockstep, with the opponent's reply as part of the step; the two sides take turns to begin.

    To the agent it is an environment like any other: it observes ``{"observation": planes [N, C, H, W], "action_mask":
    [N, A] bool}``, and its reward is 1, 0 or -1 when a game has ended. With ``save_every`` it plays its former selves,
    who sample from their `Agent.distribution`, as AlphaGo's policy did (Silver et al. 2016, methods). A step waits for
    the device: which games go on decides who replies.
    """

    class Settings(GameEnv.Settings):
        """Settings of games against a pool."""

        pool: list[PlayerChoice] = []  # noqa: RUF012 (pydantic copies it)
        """Players in the pool from the beginning: ``[{name: random}, {name: minmax, depth: 2}]``."""
        save_every: PositiveInt | None = None
        """Updates after which a copy of the agent joins the pool, the first before any update; null: none joins."""
        pool_size: PositiveInt = 100
        """Copies of the agent in the pool, at most: when there are more, the oldest leaves, and games in progress
        against it go on with the next oldest."""
        num_opponents: Annotated[int, Field(gt=0, le=2**20)] = 4
        """Drawn from the pool after every update; each new game takes one of them."""

        @model_validator(mode="after")
        def _someone(self) -> "VersusEnv.Settings":
            if not self.pool and self.save_every is None:
                raise InputError("the pool is empty: name players in env.pool, or set env.save_every")
            return self

    settings: Settings

    def __init__(self, settings: Settings, device: torch.device | str = "cpu", truth: Truth | None = None):
        planes = Planes(settings.game)
        space = Dict({"observation": planes, ACTION_MASK: MultiBinary(planes.game.num_actions)})
        super().__init__(settings, space, device, truth)
        if self.game.num_players != 2:
            raise InputError(f"env.name: versus is for two players; {settings.game} has one, use env.name=selfplay")
        self.named = make_players(settings.pool, self.game, self.device, "env.pool")
        self.former: list[Agent] = []
        """The agent's former selves, the oldest first."""
        self._agent: Agent | None = None
        self._num_updates = 0
        self._candidates = torch.zeros(settings.num_opponents, dtype=torch.int64, device=self.device)  # pool members
        self._opponent = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)  # pool member, by game
        self._begins = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)  # the agent does, by game

    def opponents(self) -> dict[str, Player]:
        """The opponents in `score`: random moves, and those in the pool from the beginning."""
        return super().opponents() | self.named

    def on_attach(self, agent: Agent) -> None:
        """Sets the agent whose former selves join the pool; with ``save_every``, a first copy does at once.

        Raises:
            InputError: the agent has a memory, while players see positions only; or former selves are to play, but it
                has no distribution to play by.
        """
        if agent.initial_state(1) is not None:
            raise InputError("env.name: versus does not support agents with a memory; use agent.name=ppo or reinforce")
        if self.settings.save_every is not None and type(agent).distribution is Agent.distribution:
            raise InputError(
                f"env.save_every: former selves play by Agent.distribution, which {type(agent).__name__} does not have"
                "; use agent.name=ppo or reinforce, or a pool without them: env.save_every=null"
            )
        self._agent = agent
        if self.settings.save_every is not None:
            self.former = [self._twin()]
        self._draw()

    def on_update(self) -> None:
        """Adds a copy of the agent to the pool if it is due, and draws opponents."""
        self._num_updates += 1
        if self.settings.save_every is not None and self._num_updates % self.settings.save_every == 0:
            self.former.append(self._twin())
            self._retire()
        self._draw()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Begins N games."""
        self.seed(seed)
        if seed is not None:
            self._begins = torch.arange(self.num_envs, device=self.device) % 2 == 0
            self._draw()
        self._begin(torch.arange(self.num_envs, device=self.device))
        return self.observe(self._state), {}

    def step(self, actions: Tensor) -> StepResult:
        """Makes a move in every game, and the opponent's reply where the game has not ended.

        Args:
            actions: [N] int64.

        Raises:
            InputError: a move is illegal.
        """
        check_legal(self.game, self._state, actions)
        made = make_move(self.game, self._state, actions, self._generator)
        theirs = ((self.game.discount(self._state, made.state) * ~made.terminated) < 0).nonzero().flatten()
        answer = self._answer(made.state[theirs], theirs)
        self._state, reward, terminated = _put(made, theirs, answer._replace(reward=DISCOUNT * answer.reward))
        self._begin(terminated.nonzero().flatten())
        return self.observe(self._state), reward, terminated, self._truncated, {}

    def _begin(self, games: Tensor) -> None:
        """Begins new games at the indices [K]."""
        self._begins, self._opponent = self._begins.clone(), self._opponent.clone()
        self._begins[games] = ~self._begins[games]
        drawn = torch.randint(len(self._candidates), games.shape, generator=self._generator, device=self.device)
        self._opponent[games] = self._candidates[drawn]
        state = self._openings(len(games))
        theirs = (~self._begins[games]).nonzero().flatten()
        answered = self._answer(state[theirs], games[theirs])
        # where the opponent would win at once, the agent begins: otherwise there would be no game
        answer = torch.where(answered.terminated[:, None], state[theirs], answered.state)
        self._state = self._state.index_put((games,), state.index_put((theirs,), answer))

    def _answer(self, state: Tensor, games: Tensor) -> Transition:
        """Plays the opponents' moves in positions [K, S] of games [K], until the agent's turn; rewards are theirs."""
        made = self._opponents_move(state, games)
        again = ((self.game.discount(state, made.state) * ~made.terminated) > 0).nonzero().flatten()
        if len(again):
            made = _put(made, again, self._answer(made.state[again], games[again]))
        return made

    def _opponents_move(self, state: Tensor, games: Tensor) -> Transition:
        """Plays one move of the opponents."""
        members = [*self.named.values(), *map(self._former_player, self.former)]
        if not members:
            raise InputError("versus: the pool is empty: name players in env.pool, or train with env.save_every")
        opponent, action = self._opponent[games], torch.zeros_like(games)
        with seeded(int(torch.randint(2**31, (), generator=self._generator, device=self.device)), self.device):
            for member in opponent.unique().tolist():
                rows = (opponent == member).nonzero().flatten()
                action[rows] = members[member](state[rows])
        return make_move(self.game, state, action, self._generator)

    def _former_player(self, agent: Agent) -> Player:
        @torch.no_grad()
        def play(state: Tensor) -> Tensor:
            return agent.distribution(self.observe(state)).sample()

        return play

    def _retire(self) -> None:
        """Takes the oldest former selves out of the pool that are too many for it; those after them move up."""
        oldest = len(self.named)
        for _ in range(len(self.former) - self.settings.pool_size):
            del self.former[0]
            self._candidates, self._opponent = (x - (x > oldest).long() for x in (self._candidates, self._opponent))

    def _draw(self) -> None:
        """Draws the opponents that new games choose from, uniformly from the pool."""
        size = len(self.named) + len(self.former)
        if size:
            drawn = (self.settings.num_opponents,)
            self._candidates = torch.randint(size, drawn, generator=self._generator, device=self.device)

    def _twin(self, parameters: dict[str, Tensor] | None = None) -> Agent:
        """A copy of the agent that plays but does not learn, as it is now or with other parameters."""
        assert self._agent is not None
        left_out = {id(optimizer): None for _, optimizer in attributes_of_type(self._agent, torch.optim.Optimizer)}
        twin = copy.deepcopy(self._agent, left_out).requires_grad_(False).eval()
        if parameters is not None:
            restore_parameters(twin, parameters)
        return twin

    def checkpoint(self) -> dict[str, Any]:
        """The games, and the former selves."""
        return {
            **super().checkpoint(),
            "former": [agent.state_dict() for agent in self.former],
            "num_updates": self._num_updates,
            "drawn": self._candidates,
            "opponent": self._opponent,
            "begins": self._begins,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Puts back what `checkpoint` returned."""
        super().restore(saved)
        self.former = [self._twin(parameters) for parameters in saved["former"]]
        self._num_updates = restored_number(saved["num_updates"], "env.num_updates")
        last = len(self.named) + len(self.former) - 1
        self._candidates = restored(saved["drawn"], self._candidates, "env.drawn", free=0, low=0, high=last)
        if not len(self._candidates):
            raise CheckpointError("the checkpoint does not fit: env.drawn is empty")
        self._opponent = restored(saved["opponent"], self._opponent, "env.opponent", low=0, high=last)
        self._begins = restored(saved["begins"], self._begins, "env.begins")
        self._retire()


def _put(made: Transition, rows: Tensor, others: Transition) -> Transition:
    """Moves [B] with others [K] at rows [K]; the rules may keep the tensors that they gave, so none is written into."""
    return Transition(*(x.index_put((rows,), y) for x, y in zip(made, others, strict=True)))
