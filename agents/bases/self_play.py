"""What the agents that learn from games against themselves have in common."""

from abc import abstractmethod

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from rlcore import settings
from rlcore.agent import Agent, Metrics
from rlcore.distributed import least, share
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.envs.games.replay import Batch, GameReplay
from rlcore.errors import InputError
from rlcore.exporting.programs import Program, policy_program
from rlcore.game import Game
from rlcore.optimizers import Adam
from rlcore.rollout import Rollout, Step
from rlcore.schedules import Schedule, anneal
from rlcore.search import Score, SearchResult, puct
from rlcore.spaces import Positions
from rlcore.trees import Tree


class SelfPlayAgent(Agent):
    """Plays by a search, and fits a network to a replay of its games; a subclass makes the network and its optimizer.

    Positions wait until their game has ended. Weight decay is decoupled from the gradient (AdamW).
    """

    class Settings(settings.Settings):
        """Settings of an agent that plays against itself."""

        horizon: PositiveInt = 16
        """T, moves in each game between two calls of `learn`."""
        eval_simulations: PositiveInt = 200
        """Simulations per search in evaluation, by puct and without noise."""
        exploration: PositiveFloat = 1.25
        """Exploration constant c of puct."""
        exploration_base: PositiveFloat | None = None
        """Of puct, how c grows with the visits N, by log((N + base) / base); 19652 in AlphaZero. null: it does not."""
        first_play: float | None = 0.0
        """Of puct, the value of a move that was not made before; null is the mean of the position."""
        first_play_reduction: NonNegativeFloat = 0.0
        """With null, what is taken off that, times the root of the prior of the moves made."""
        max_depth: PositiveInt | None = None
        """Moves that the search looks ahead at most; null: all. Trees of long games take less memory."""
        replay_size: PositiveInt = 200_000
        """Positions kept; the oldest are dropped first."""
        batch_size: PositiveInt = 512
        """Positions per gradient step."""
        passes: PositiveFloat = 4.0
        """Average number of times that a position is learned from."""
        learning_rate: PositiveFloat = 1e-3
        """Step size of AdamW, before the schedule."""
        learning_rate_schedule: Schedule = "constant"
        """How the learning rate falls over the run."""
        weight_decay: NonNegativeFloat = 1e-4
        """Weight decay, decoupled from the gradient (AdamW)."""
        symmetries: bool = True
        """Transform each position that is learned from by a random symmetry of the game."""

    settings: Settings
    network: nn.Module
    learns_policy = True
    """Whether the replay keeps policies to learn."""

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        space = env.single_observation_space
        if not isinstance(space, Positions):
            raise InputError(f"agent.name: {type(self).__name__} plays games against itself; use env.name=selfplay")
        self.game: Game = space.game
        self.horizon = s.horizon
        self.batch_size = share(s.batch_size, "agent.batch_size")
        """B of this process."""
        capacity = share(s.replay_size, "agent.replay_size")
        device, K = self.spec.device, self.num_following
        self.replay = GameReplay(self.game, capacity, s.symmetries, self.learns_policy, device, K)

    @property
    def num_following(self) -> int:
        """K, moves after each position that the replay keeps with it."""
        return 0

    @property
    def score(self) -> Score:
        """How the search selects moves; made anew, as a closure cannot be pickled with the agent."""
        s = self.settings
        return puct(s.exploration, s.first_play, s.first_play_reduction, s.exploration_base)

    @abstractmethod
    def search(self, state: Tensor, simulations: int | None = None) -> SearchResult:
        """Searches from states [N, S] without noise, with ``eval_simulations`` or another number of simulations."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch, 0-d each, by name; ``loss`` is minimised."""

    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The best move that a search finds; obs [N, S]."""
        return Step(self.search(obs).action)

    def policy_and_value(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """What the search asks of positions [B, S]: the logits of the moves [B, A], and the value [B] for the mover.

        Raises:
            InputError: this agent's search asks for something else.
        """
        raise InputError(f"the agent {type(self).__name__} has no policy_and_value")

    def details(self, obs: Tree, state: Tree = None) -> dict[str, Tensor]:
        """``probabilities`` [B, A] of the moves without a search, and ``value`` [B] for the mover, in [-1, 1]."""
        return {**super().details(obs), "value": self.policy_and_value(obs)[1]}

    def programs(self, obs: Tree, sample: bool = False) -> dict[str, Program]:
        """The networks' own policy, without a search."""
        return {"policy": policy_program(self, obs, sample, lambda obs, state: Step(self.distribution(obs).mode))}

    def on_reset(self) -> None:
        """The games in progress were abandoned: their positions have no outcome."""
        self.replay.waiting = None

    def train(self, mode: bool = True) -> "SelfPlayAgent":
        """Keeps evaluation mode, so that networks play by running statistics; only fitting switches one to training."""
        return super().train(False)

    def _make_optimizer(self) -> Adam:
        s = self.settings
        params = self.network.parameters()
        return Adam(params, s.learning_rate, weight_decay=s.weight_decay, decoupled_weight_decay=True)

    def _fit(self, rollout: Rollout, share: float = 1.0) -> Metrics:
        """Takes as many minibatch steps on the replay as the rollout calls for, once that holds a batch.

        Args:
            rollout: of which positions were added.
            share: of its rows, what is learned from.
        """
        s = self.settings
        learning_rate = anneal(self.optimizer, s.learning_rate, s.learning_rate_schedule, rollout.progress)
        metrics: Metrics = {"replay": float(len(self.replay)), "learning_rate": learning_rate}
        if least(len(self.replay)) < self.batch_size:
            return metrics
        steps: list[dict[str, Tensor]] = []
        self.network.train()
        for _ in range(max(1, round(s.passes * share * rollout.num_steps / self.batch_size))):
            losses = self.losses(self.replay.sample(self.batch_size))
            metrics |= self.minimize(losses["loss"])
            steps.append({name: loss.detach() for name, loss in losses.items()})
        self.network.eval()
        return metrics | {name: torch.stack([step[name] for step in steps]).mean() for name in losses}
