"""Parallelised Q-network."""

from typing import NamedTuple

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from rlcore.agent import Metrics
from rlcore.agents.bases.q_learning import EpsilonGreedy, QNetwork, of_action
from rlcore.agents.bases.targets import refuse_noise
from rlcore.distributed import share, size
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.networks import NetworkChoice
from rlcore.observations import build_body
from rlcore.optimizers import Adam
from rlcore.returns import explained_variance, gae
from rlcore.rollout import Rollout, Step, minibatches, state_values
from rlcore.schedules import Schedule, anneal
from rlcore.trees import Tree


class Rows(NamedTuple):
    """What a minibatch holds: B rows."""

    obs: Tree  # [B, *O], normalised if asked for
    action: Tensor  # [B]
    target: Tensor  # [B], of Q


class PQN(EpsilonGreedy):
    """Q-learning without replay and target (Gallici et al. 2025, "Simplifying Deep Temporal Difference Learning").

    minimise  E[(Q(s, a) - G)^2],  G_t = r_t + gamma ((1 - lambda) max_a Q(s_{t+1}, a) + lambda G_{t+1})

    Returns are computed once per rollout; layer norm in the network takes the place of a target network.
    """

    class Settings(EpsilonGreedy.Settings):
        """Settings of PQN."""

        horizon: PositiveInt = 32
        """T, steps in each environment between two updates."""
        num_epochs: PositiveInt = 2
        """Passes over the rollout."""
        minibatch_size: PositiveInt = 128
        """Rows per gradient step; must divide horizon x num_envs."""
        learning_rate: PositiveFloat = 5e-4
        """Step size of Adam, before the schedule."""
        learning_rate_schedule: Schedule = "linear"
        """How the learning rate falls over the run."""
        trace: float = Field(default=0.65, ge=0, le=1)
        """lambda, how far returns look beyond the next state's value."""
        reward_scale: PositiveFloat = 1.0
        """Factor of rewards in learning."""
        max_grad_norm: PositiveFloat | None = 10.0
        """Bound on the gradient's 2-norm; null disables clipping."""
        network: NetworkChoice = NetworkChoice.model_validate(
            {"name": "mlp", "hidden": [128, 128], "activation": "relu", "init": "torch", "layer_norm": True}
        )
        """The body; it should have layer norm."""

    settings: Settings

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        self.horizon, self.max_grad_norm = s.horizon, s.max_grad_norm
        self.minibatch_size = share(s.minibatch_size, "agent.minibatch_size")
        """Rows of this process in a gradient step."""
        num_envs = env.num_envs * size()
        if s.horizon * num_envs % s.minibatch_size:
            raise InputError(
                f"agent.minibatch_size: {s.minibatch_size} does not divide horizon x num_envs = {s.horizon} x "
                f"{num_envs} = {s.horizon * num_envs}; change one of the three"
            )
        self.q = QNetwork(build_body(s.network, self.scaled_space), self.num_actions("pqn"))
        refuse_noise(self)
        self.optimizer = Adam(self.q.parameters(), lr=s.learning_rate)

    def act(self, obs: Tree, state: Tree = None) -> Step:
        """Explores; obs [N, *O]."""
        return Step(self.explore(self.normalized(obs)))

    def learn(self, rollout: Rollout) -> Metrics:
        """Takes minibatch steps towards the returns in ``num_epochs`` passes over the rollout."""
        s = self.settings
        self._explore_less(rollout.progress)
        learning_rate = anneal(self.optimizer, s.learning_rate, s.learning_rate_schedule, rollout.progress)
        rows, V = self._rows(rollout)
        for _ in range(s.num_epochs):
            for b in minibatches(rows, self.minibatch_size):
                Q = of_action(self.q(b.obs), b.action).squeeze(1)
                metrics = self.minimize((Q - b.target).square().mean())
        self._update_normalizers(rollout)
        return {
            **metrics,
            "q": V.mean(),
            "explained_variance": explained_variance(V, rows.target),
            "epsilon": self.epsilon.clone(),
            "learning_rate": learning_rate,
        }

    @torch.no_grad()
    def _rows(self, rollout: Rollout) -> tuple[Rows, Tensor]:
        """The rollout as rows to learn from, and max_a Q [B] before the update."""
        s = self.settings
        reward = rollout.reward if self.reward_normalizer is None else self.reward_normalizer(rollout)
        V, next_V = state_values(rollout, lambda obs: self.values(obs).amax(1))
        # lambda-returns are advantages over V, plus V
        advantage = gae(s.reward_scale * reward, V, next_V, rollout.terminated, rollout.truncated, s.gamma, s.trace)
        obs, action, target, V = map(rollout.rows, (rollout.obs, rollout.action, advantage + V, V))
        return Rows(self.normalized(obs), action, target), V
