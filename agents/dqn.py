"""Deep Q-learning."""

from copy import deepcopy

import torch
from gymnasium.spaces import Discrete
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from rlcore.agent import Metrics
from rlcore.agents.bases.off_policy import OffPolicyAgent, refuse_noise, track
from rlcore.distributions import FORBIDDEN
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.networks.noisy import NoisyLinear
from rlcore.observations import action_mask, build_body
from rlcore.optimizers import Adam
from rlcore.rollout import Rollout, Step, Transition
from rlcore.schedules import Schedule, anneal
from rlcore.trees import Tree


class DQN(OffPolicyAgent):
    """Q-learning with a network and a target network (Mnih et al. 2015), and its extensions as settings.

    minimise  E[huber(Q(s, a) - y)],  y = r + gamma max_a' Q'(s', a'),  Q' an older Q

    ``double``: Q chooses a' and Q' says its value (van Hasselt et al. 2016). ``dueling``: Q = V + A - mean A (Wang et
    al. 2016). ``noisy``: noise in the last layer explores instead of epsilon (Fortunato et al. 2018). ``quantiles``:
    Q is the mean of M quantiles of the return, learned by their own loss (QR-DQN, Dabney et al. 2018). ``n_step`` and
    ``priority_alpha`` are settings of every agent with a replay. All together are much of Rainbow (Hessel et al. 2018).
    """

    class Settings(OffPolicyAgent.Settings):
        """Settings of deep Q-learning."""

        learning_rate: PositiveFloat = 1e-4
        """Step size of Adam, before the schedule."""
        learning_rate_schedule: Schedule = "constant"
        """How the learning rate falls over the run."""
        batch_size: PositiveInt = 32
        """Transitions per batch."""
        updates_per_step: PositiveFloat = 0.25
        """Batches learned from per environment step: 0.25 is one for every four steps."""
        horizon: PositiveInt = 4
        """T, steps in each environment between two calls of `learn`."""
        epsilon: float = Field(default=0.05, ge=0, le=1)
        """Probability of a random action at the end; 0 is for ``noisy``."""
        exploration_fraction: float = Field(default=0.1, ge=0, le=1)
        """Share of the run over which it falls from 1."""
        target_every: PositiveInt = 10_000
        """Environment steps between two updates of the target network."""
        tau: float = Field(default=1.0, gt=0, le=1)
        """How far an update moves the target network towards the network; 1 makes them equal."""
        double: bool = False
        """The network chooses the next action whose value the target network says."""
        dueling: bool = False
        """The last layer has a value and advantages."""
        noisy: bool = False
        """The last layer explores by noise in its weights."""
        quantiles: PositiveInt | None = Field(default=None, le=10_000)
        """M, quantiles of the return; null: its mean."""
        max_grad_norm: PositiveFloat | None = 10.0
        """Bound on the gradient's 2-norm; null disables clipping."""

    settings: Settings

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        if not isinstance(self.action_space, Discrete):
            raise InputError(f"dqn chooses one of several actions (Discrete), got {self.action_space}; use sac or td3")
        self.q = QNetwork(build_body(s.network, self.scaled_space), int(self.action_space.n), s)
        self.target = deepcopy(self.q).requires_grad_(False)
        refuse_noise(self)
        self.optimizer = Adam(self.q.parameters(), lr=s.learning_rate)
        tau = (torch.arange(s.quantiles or 1) + 0.5) / (s.quantiles or 1)
        self.register_buffer("midpoints", tau, persistent=False)
        self.midpoints: Tensor  # [M], of the quantiles

    @property
    def epsilon(self) -> float:
        """Probability of a random action now."""
        s = self.settings
        if s.noisy:
            return 0.0
        done = min(1.0, self.progress / s.exploration_fraction) if s.exploration_fraction else 1.0
        return 1 + done * (s.epsilon - 1)

    def values(self, obs: Tree) -> Tensor:
        """Q [B, A] of observations [B, *O]; `FORBIDDEN` where an action is not allowed."""
        return self._allowed(self.q(self.normalized(obs)).mean(2), obs)

    def explore(self, obs: Tree) -> Tensor:
        """The best action, or with probability epsilon a random one; obs [N, *O], normalised."""
        best = self._allowed(self.q(obs).mean(2), obs).argmax(1)
        explores = torch.rand(len(best), device=best.device) < self.epsilon
        return torch.where(explores, self.random_actions(obs), best)

    @torch.no_grad()
    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The best action; obs [N, *O]."""
        return Step(self.values(obs).argmax(1))

    def learn(self, rollout: Rollout) -> Metrics:
        """Learns from the replay, by a target network that is updated first, if it is due."""
        s, before = self.settings, self.replay.num_added * self.spec.num_envs
        learning_rate = anneal(self.optimizer, s.learning_rate, s.learning_rate_schedule, rollout.progress)
        if (before + rollout.num_steps) // s.target_every > before // s.target_every:
            track(self.target, self.q, s.tau)
        metrics = super().learn(rollout)
        return {**metrics, "epsilon": self.epsilon, "learning_rate": learning_rate} if metrics else {}

    def update(self, b: Transition) -> tuple[Metrics, Tensor]:
        """Takes a gradient step on a batch; the error is that of Q."""
        Q = of_action(self.q(b.obs), b.action)  # [B, M]
        with torch.no_grad():
            following = self.target(b.next_obs)  # [B, A, M]
            chosen = self._allowed((self.q(b.next_obs) if self.settings.double else following).mean(2), b.next_obs)
            V = of_action(following, chosen.argmax(1))
            y = b.reward[:, None] + (b.discount * ~b.terminated)[:, None] * V
        each = self._loss(Q, y)
        metrics = self.minimize(each.mean() if b.weight is None else (b.weight * each).mean())
        return {**metrics, "q": Q.detach().mean()}, (Q.detach() - y).mean(1)

    def _loss(self, Q: Tensor, y: Tensor) -> Tensor:
        """Of each row, [B]: the Huber loss of Q, or the quantiles' loss; Q and y are [B, M]."""
        if self.settings.quantiles is None:
            return nn.functional.smooth_l1_loss(Q, y, reduction="none").squeeze(1)
        return quantile_huber(Q, y, self.midpoints)

    def _allowed(self, Q: Tensor, obs: Tree) -> Tensor:
        mask = action_mask(obs)
        return Q if mask is None else Q.masked_fill(~mask, FORBIDDEN)


class QNetwork(nn.Module):
    """Q of each action, as M quantiles of the return, or M = 1 mean: a body and a last layer.

    Args:
        body: with ``num_features``.
        num_actions: A.
        settings: whether the last layer is dueling or noisy, and M.
    """

    def __init__(self, body: nn.Module, num_actions: int, settings: DQN.Settings):
        super().__init__()
        layer = NoisyLinear if settings.noisy else nn.Linear
        self.body, self.num_quantiles = body, settings.quantiles or 1
        features: int = body.num_features  # type: ignore[assignment]
        self.advantage = layer(features, num_actions * self.num_quantiles)
        self.value = layer(features, self.num_quantiles) if settings.dueling else None

    def forward(self, obs: Tree) -> Tensor:
        """[B, *O] to [B, A, M]."""
        features = self.body(obs)
        Q = self.advantage(features).unflatten(1, (-1, self.num_quantiles))
        return Q if self.value is None else self.value(features)[:, None] + Q - Q.mean(1, keepdim=True)


def of_action(Q: Tensor, action: Tensor) -> Tensor:
    """Q [B, A, M] of the actions [B], [B, M]."""
    return Q.gather(1, action[:, None, None].expand(-1, 1, Q.shape[2])).squeeze(1)


def quantile_huber(quantiles: Tensor, targets: Tensor, midpoints: Tensor) -> Tensor:
    """The quantile regression loss of each row (Dabney et al. 2018, equations 9 and 10, kappa = 1), [B].

    sum over i of mean over j of |tau_i - [u_ij < 0]| huber(u_ij),  u_ij = target_j - quantile_i

    Args:
        quantiles: [B, M].
        targets: [B, K], draws of the same return.
        midpoints: tau, [M].
    """
    u = targets[:, None, :] - quantiles[:, :, None]  # [B, M, K]
    huber = torch.where(u.abs() <= 1, 0.5 * u.square(), u.abs() - 0.5)
    return ((midpoints[:, None] - (u.detach() < 0).float()).abs() * huber).mean(2).sum(1)
