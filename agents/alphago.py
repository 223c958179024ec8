"""AlphaGo: a value network that learns from a policy's games with itself, and a search with both."""

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
    """What AlphaGo remembers of a move in N games."""

    policy: Tensor  # [N, A] that it was drawn from


class AlphaGo(Agent):
    """The second and third stage of AlphaGo, upon a policy that has been trained before (Silver et al. 2016, methods).

    The policy plays itself, and a value network learns how the games ended: minimise E[(z - v(s))^2]. In evaluation a
    search makes the move of most visits: priors are the policy's, and a leaf is worth (1 - w) v + w z of a game of
    random moves from there. The policy's parameters are read from its run when the agent is made; from then on they are
    in this agent's checkpoints.
    """

    class Settings(settings.Settings):
        """Settings of AlphaGo."""

        policy: ResolvedPath
        """Folder of the run of an agent with a distribution over the same game's moves (``env.name=versus``, say)."""
        horizon: PositiveInt = 16
        """T, moves in each game between two calls of `learn`."""
        network: NetworkChoice = NetworkChoice.model_validate({"name": "mlp"})
        """From planes to the value, of which the tanh is taken."""
        eval_simulations: PositiveInt = 200
        """Of a search when playing one's best."""
        exploration: PositiveFloat = 1.25
        """c of puct."""
        prior_temperature: PositiveFloat = 1.0
        """Of the policy's logits, as priors of the search; above 1 it is less sure of itself."""
        value_weight: float = Field(0.5, ge=0, le=1)
        """w, of the random games in a leaf's value: 0 is the value network alone."""
        expand_after: PositiveInt = 1
        """Simulations that must have come to a position before it joins the tree."""
        replay_size: PositiveInt = 500_000
        """Positions kept; the oldest go first."""
        batch_size: PositiveInt = 512
        passes: PositiveFloat = 2.0
        """Times that a position is learned from, on average."""
        learning_rate: PositiveFloat = 1e-3
        learning_rate_schedule: Schedule = "constant"
        weight_decay: NonNegativeFloat = 1e-4
        """Decoupled from the gradient (AdamW)."""
        symmetries: bool = True
        """Turn each position that is learned from by one of the game's symmetries, drawn at random."""

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
            raise InputError(f"agent.policy: {error}; a run with env.name=versus is what it should name") from error
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
        """Logits [B, A] of the policy, and the value [B], of states [B, S]."""
        return self.distribution(state).logits / self.settings.prior_temperature, self.value(state)

    def act(self, obs: Tree, state: Tree = None) -> Step:
        """Draws from the policy; obs [N, S]."""
        pi = self.distribution(obs)
        return Step(pi.sample(), Memory(pi.log_probs.exp()))

    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The move of most visits of a search; obs [N, S]."""
        return Step(self.search(obs).action)

    def search(self, state: Tensor, simulations: int | None = None) -> Found:
        """A search from states [N, S], of ``eval_simulations`` or another number."""
        s = self.settings
        num_simulations = s.eval_simulations if simulations is None else simulations
        score = puct(s.exploration)
        return search(self.game, state, self.evaluate, num_simulations, score, expand_after=s.expand_after)

    def learn(self, rollout: Rollout) -> Metrics:
        """Remembers the games that have ended, and fits the value network to how they did."""
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
        """Networks normalise by running statistics wherever they play; `learn` alone trains one."""
        return super().train(False)

    def checkpoint(self) -> dict[str, Any]:
        """Parameters, optimizer, replay, and the positions that wait."""
        return {**super().checkpoint(), **self.replay.checkpoint()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Puts back what `checkpoint` returned."""
        super().restore(saved)
        self.replay.restore(saved)
