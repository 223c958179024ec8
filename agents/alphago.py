"""AlphaGo: a value network that learns from a policy's games against itself, and a search with both."""

from typing import Any, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from rlcore import settings
from rlcore.agent import Agent, Metrics
from rlcore.agents.game_replay import GameReplay
from rlcore.distributions import Categorical
from rlcore.envs.game_env import GameEnv
from rlcore.envs.selfplay import SelfPlayEnv
from rlcore.errors import InputError
from rlcore.networks import NetworkChoice
from rlcore.optimizers import Adam
from rlcore.rollout import Rollout, Step
from rlcore.run import load_trainer
from rlcore.schedules import Schedule, anneal
from rlcore.search import Found, mixed, playouts, puct, search
from rlcore.settings import ResolvedPath
from rlcore.trees import Tree


class Memory(NamedTuple):
    """What AlphaGo records of a move in N games."""

    policy: Tensor  # [N, A] that the move was drawn from


class AlphaGo(Agent):
    """The second and third stage of AlphaGo, with a policy that has already been trained (Silver et al. 2016, methods).

    The policy plays against itself, and a value network learns the outcomes: minimise E[(z - v(s))^2]. In evaluation a
    search plays the most visited move: priors are the policy's, and the value of a leaf is (1 - w) v + w z, z being the
    outcome of a game of random moves from there. The policy's parameters are read from its run when the agent is made;
    from then on they are in this agent's checkpoints.
    """

    class Settings(settings.Settings):
        """Settings of AlphaGo."""

        policy: ResolvedPath
        """Run folder of an agent with a distribution over the same game's moves, e.g. with ``env.name=versus``."""
        horizon: PositiveInt = 16
        """T, moves in each game between two calls of `learn`."""
        network: NetworkChoice = NetworkChoice.model_validate({"name": "mlp"})
        """Network from planes to the value before tanh."""
        eval_simulations: PositiveInt = 200
        """Simulations per search in evaluation."""
        exploration: PositiveFloat = 1.25
        """Exploration constant c of puct."""
        prior_temperature: PositiveFloat = 1.0
        """Temperature of the policy as prior of the search; above 1 the prior is flatter."""
        value_weight: float = Field(0.5, ge=0, le=1)
        """w, weight of the random games in a leaf's value; 0 is the value network alone."""
        expand_after: PositiveInt = 1
        """Simulations that must reach a position before it joins the tree."""
        replay_size: PositiveInt = 500_000
        """Positions kept; the oldest are dropped first."""
        batch_size: PositiveInt = 512
        """Positions per gradient step."""
        passes: PositiveFloat = 2.0
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

    def __init__(self, env: Any, settings: Settings):
        super().__init__(env, settings)
        s = self.settings
        if not isinstance(env, SelfPlayEnv):
            raise InputError("agent.name: alphago plays games against itself; use env.name=selfplay")
        self.game, self.horizon = env.game, s.horizon
        try:
            trained = load_trainer(s.policy, device=env.device)
        except InputError as error:
            raise InputError(f"agent.policy: {error}; it should name a run, e.g. with env.name=versus") from error
        if not isinstance(trained.env, GameEnv) or type(trained.env.game) is not type(self.game):
            raise InputError(f"agent.policy: {s.policy} does not play {env.settings.game}")
        self.policy, self.observe = trained.agent.requires_grad_(False), trained.env.observe
        self.network = s.network.build(self.game.planes_shape, 1)
        self.evaluate = mixed(self.judge, playouts(self.game), s.value_weight) if s.value_weight else self.judge
        self.optimizer = Adam(
            self.network.parameters(), s.learning_rate, weight_decay=s.weight_decay, decoupled_weight_decay=True
        )
        self.replay = GameReplay(self.game, s.replay_size, s.symmetries)
        self.eval()

    def distribution(self, obs: Tree) -> Categorical:
        """The policy in states [B, S]."""
        pi = self.policy.distribution(self.observe(obs))
        assert isinstance(pi, Categorical)
        return pi

    def value(self, state: Tensor) -> Tensor:
        """States [B, S] to values [B] in [-1, 1] for the mover."""
        return self.network(self.game.observe(state)).squeeze(1).tanh()

    def judge(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's logits [B, A] at the prior temperature, and the value [B], of states [B, S]."""
        return self.distribution(state).logits / self.settings.prior_temperature, self.value(state)

    def act(self, obs: Tree, state: Tree = None) -> Step:
        """Draws from the policy; obs [N, S]."""
        pi = self.distribution(obs)
        return Step(pi.sample(), Memory(pi.log_probs.exp()))

    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The most visited move of a search; obs [N, S]."""
        return Step(self.search(obs).action)

    def search(self, state: Tensor, simulations: int | None = None) -> Found:
        """Searches from states [N, S], with ``eval_simulations`` or another number of simulations."""
        s = self.settings
        num_simulations = s.eval_simulations if simulations is None else simulations
        score = puct(s.exploration)
        return search(self.game, state, self.evaluate, num_simulations, score, expand_after=s.expand_after)

    def learn(self, rollout: Rollout) -> Metrics:
        """Stores the games that have ended, and fits the value network to their outcomes."""
        s = self.settings
        self.replay.add(rollout, rollout.memory.policy)
        learning_rate = anneal(self.optimizer, s.learning_rate, s.learning_rate_schedule, rollout.progress)
        metrics: Metrics = {"replay": float(len(self.replay)), "learning_rate": learning_rate}
        if len(self.replay) < s.batch_size:
            return metrics
        self.network.train()
        losses = []
        for _ in range(max(1, round(s.passes * rollout.num_steps / s.batch_size))):
            batch = self.replay.sample(s.batch_size)
            v = self.network(batch.planes).squeeze(1).tanh()
            losses.append(self.minimize(nn.functional.mse_loss(v, batch.outcome))["loss"])
        self.network.eval()
        return metrics | {"value_loss": torch.stack([torch.as_tensor(loss) for loss in losses]).mean()}

    def train(self, mode: bool = True) -> "AlphaGo":
        """Keeps evaluation mode, so that networks play by running statistics; only `learn` switches one to training."""
        return super().train(False)

    def checkpoint(self) -> dict[str, Any]:
        """Parameters, optimizer, replay, and the positions of unfinished games."""
        return {**super().checkpoint(), **self.replay.checkpoint()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Restores what `checkpoint` returned."""
        super().restore(saved)
        self.replay.restore(saved)
