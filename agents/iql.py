"""Implicit Q-learning."""

import math

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from rlcore.agent import Metrics
from rlcore.agents.bases.critic import CriticAgent, bounded
from rlcore.agents.bases.offline import OfflineAgent
from rlcore.agents.bases.targets import track
from rlcore.distributions import DiagonalGaussian
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.observations import build_body
from rlcore.optimizers import Adam
from rlcore.rollout import Step, Transition
from rlcore.schedules import Schedule, anneal
from rlcore.trees import Tree, concat

LOG_STD = -5.0, 2.0
"""Bounds of the logarithm of the policy's standard deviation."""


class IQL(OfflineAgent, CriticAgent):
    """Never asks what an action that was not recorded is worth (Kostrikov et al. 2022, "Implicit Q-Learning").

    value    minimise  E[|tau - [u < 0]| u^2],  u = min_i Q'_i(s, a) - V(s): an expectile, near the best recorded action
    critics  minimise  E[(Q_i(s, a) - r - gamma V(s'))^2]
    policy   maximise  E[exp(beta u) log pi(a|s)]
    """

    class Settings(CriticAgent.Settings):
        """Settings of implicit Q-learning."""

        learning_rate_schedule: Schedule = "cosine"
        """How the policy's learning rate falls over the run; those of critics and value stay."""
        expectile: float = Field(default=0.7, gt=0, lt=1)
        """tau: 1/2 is the value of what was done, 1 that of the best of it."""
        beta: PositiveFloat = 3.0
        """Inverse temperature: small is behaviour cloning, large takes the best action."""
        largest_weight: PositiveFloat = 100.0
        """Bound of exp(beta u)."""

    settings: Settings

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        self.scale = bounded(self.action_space, "IQL", self.others)
        D = self.scale.middle.numel()
        self._make_networks(D, D)
        self.log_std = nn.Parameter(torch.zeros(D))
        body = build_body(s.critic_network or s.network, self.scaled_space)
        self.value = nn.Sequential(body, nn.Linear(body.num_features, 1))
        self._make_optimizers([*self.policy.parameters(), self.log_std])
        self.value_optimizer = Adam(self.value.parameters(), lr=s.critic_learning_rate or s.learning_rate)

    def gaussian(self, obs: Tree) -> DiagonalGaussian:
        """The policy of normalised observations [B, *O], over numbers [B, D]; its mean is in [-1, 1]."""
        mean = self.policy(obs).tanh()
        return DiagonalGaussian(mean, self.log_std.clamp(*LOG_STD).expand_as(mean))

    def distribution(self, obs: Tree) -> DiagonalGaussian:
        """[B, *O] to pi(.|s) of B rows, over actions."""
        gaussian = self.gaussian(self.normalized(obs))
        mean, log_std = (x.view(-1, *self.scale.middle.shape) for x in (gaussian.mean, gaussian.log_std.contiguous()))
        return DiagonalGaussian(self.scale(mean), log_std + self.scale.log_half_width)

    @torch.no_grad()
    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The middle of the policy; obs [N, *O]."""
        return Step(self._action(self.gaussian(self.normalized(obs)).mean))

    def update(self, b: Transition) -> tuple[Metrics, Tensor]:
        """Takes a step of the value, of the critics and of the policy."""
        s, numbers = self.settings, self._numbers(b.action)
        anneal(self.optimizer, s.learning_rate, s.learning_rate_schedule, self.progress)
        with torch.no_grad():
            target_Q = self._targets(b.obs, numbers).amin(0).squeeze(1)
        u = target_Q - self._V(b.obs)
        metrics = {f"value_{name}": x for name, x in self.minimize(self._value_loss(u), self.value_optimizer).items()}
        with torch.no_grad():
            V, next_V = self._V(concat([b.obs, b.next_obs])).chunk(2)
            y = b.reward + b.discount * ~b.terminated * next_V
            weight = (s.beta * (target_Q - V)).clamp_max(math.log(s.largest_weight)).exp()
        metrics |= self._improve_policy(-(weight * self.gaussian(b.obs).log_prob(numbers)).mean())
        Q = self.critic(b.obs, numbers).squeeze(2)  # [N, B]
        metrics |= self._improve_critics((Q - y).square().sum(0), b.weight)
        track(self.target_critic, self.critic, s.tau)
        return metrics | {"value": V.mean(), "q": Q.detach().mean()}, Q.detach().mean(0) - y

    def _value_loss(self, error: Tensor) -> Tensor:
        """What the value minimises, 0-d, of errors u [B]."""
        return expectile_loss(error, self.settings.expectile).mean()

    def _V(self, obs: Tree) -> Tensor:
        """V [B] of normalised observations."""
        V: Tensor = self.value(obs).squeeze(1)
        return V


def expectile_loss(error: Tensor, tau: float) -> Tensor:
    """|tau - [u < 0]| u^2 of errors u [B] (Newey & Powell 1987), [B]."""
    return torch.where(error < 0, 1 - tau, tau) * error.square()
