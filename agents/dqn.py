"""Deep Q-learning."""

from copy import deepcopy

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from rlcore.agent import Metrics
from rlcore.agents.bases.off_policy import OffPolicyAgent
from rlcore.agents.bases.q_learning import (
    EpsilonGreedy,
    QNetwork,
    allowed,
    mean_of,
    of_action,
    quantile_huber,
    quantile_midpoints,
)
from rlcore.agents.bases.targets import refuse_noise, track
from rlcore.distributed import size
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.observations import build_body
from rlcore.optimizers import Adam
from rlcore.rollout import Rollout, Transition
from rlcore.schedules import Schedule, anneal


class DQN(EpsilonGreedy, OffPolicyAgent):
    """Q-learning with a network and a target network (Mnih et al. 2015), and its extensions as settings.

    minimise  E[huber(Q(s, a) - y)],  y = r + gamma max_a' Q'(s', a'),  Q' an older Q

    ``double``: Q chooses a' and Q' says its value (van Hasselt et al. 2016). ``dueling``: Q = V + A - mean A (Wang et
    al. 2016). ``noisy``: noise in the last layer explores instead of epsilon (Fortunato et al. 2018). ``quantiles``:
    Q is the mean of M quantiles of the return, learned by their own loss (QR-DQN, Dabney et al. 2018). ``n_step`` and
    ``priority_alpha`` are settings of every agent with a replay. All together are much of Rainbow (Hessel et al. 2018).
    """

    class Settings(EpsilonGreedy.Settings, OffPolicyAgent.Settings):
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
        target_every: PositiveInt = 10_000
        """Environment steps between two updates of the target network, which can come once for each `learn`."""
        tau: float = Field(default=1.0, gt=0, le=1)
        """How far an update moves the target network towards the network; 1 makes them equal."""
        double: bool = False
        """The network chooses the next action whose value the target network says."""
        dueling: bool = False
        """The last layer has a value and advantages."""
        noisy: bool = False
        """The last layer explores by noise in its weights, and epsilon is 0."""
        quantiles: PositiveInt | None = Field(default=None, le=10_000)
        """M, quantiles of the return; null: its mean."""
        max_grad_norm: PositiveFloat | None = 10.0
        """Bound on the gradient's 2-norm; null disables clipping."""

        @model_validator(mode="after")
        def _check_extensions(self) -> "DQN.Settings":
            default = {name: field.default for name, field in type(self).model_fields.items()}
            if self.tau < 1 and self.target_every == default["target_every"]:
                raise InputError(f"tau: moves the target only every target_every={self.target_every:,} steps; set both")
            return self

    settings: Settings

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        A, M = self.num_actions("dqn"), s.quantiles or 1
        self.q = QNetwork(build_body(s.network, self.scaled_space), A, M, s.dueling, s.noisy)
        self.target = deepcopy(self.q).requires_grad_(False)
        refuse_noise(self)
        self.optimizer = Adam(self.q.parameters(), lr=s.learning_rate)
        self.register_buffer("midpoints", quantile_midpoints(M), persistent=False)
        self.midpoints: Tensor  # [M]

    def learn(self, rollout: Rollout) -> Metrics:
        """Learns from the replay, by a target network that is updated first, if it is due."""
        s, before = self.settings, self.num_seen
        self._explore_less(rollout.progress)
        learning_rate = anneal(self.optimizer, s.learning_rate, s.learning_rate_schedule, rollout.progress)
        if (before + rollout.num_steps * size()) // s.target_every > before // s.target_every:
            track(self.target, self.q, s.tau)
        metrics = super().learn(rollout)
        return {**metrics, "epsilon": self.epsilon.clone(), "learning_rate": learning_rate} if metrics else {}

    def update(self, b: Transition) -> tuple[Metrics, Tensor]:
        """Takes a gradient step on a batch; the error is that of Q."""
        s = self.settings
        Q = of_action(self.q(b.obs), b.action)  # [B, M]
        with torch.no_grad():
            following = self.target(b.next_obs)  # [B, A, M]
            judged = self.q(b.next_obs) if s.double else following
            chosen = allowed(mean_of(judged), b.next_obs).argmax(1)
            y = b.reward[:, None] + (b.discount * ~b.terminated)[:, None] * of_action(following, chosen)
        if s.quantiles is None:
            each = smooth_l1_loss(Q, y, reduction="none").squeeze(1)
        else:
            each = quantile_huber(Q, y, self.midpoints)
        metrics = self.minimize(each.mean() if b.weight is None else (b.weight * each).mean())
        return {**metrics, "q": Q.detach().mean()}, (Q.detach() - y).mean(1)

    def _explore_less(self, progress: float) -> None:
        if self.settings.noisy:
            self.epsilon.zero_()
        else:
            super()._explore_less(progress)
