"""Soft actor-critic."""

from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from rlcore.agent import Metrics
from rlcore.agents.bases.critic import CriticAgent, Temperature, bounded
from rlcore.agents.bases.exploration import StateDependentNoise
from rlcore.agents.bases.off_policy import OffPolicyAgent
from rlcore.agents.bases.q_learning import quantile_huber, quantile_midpoints
from rlcore.agents.bases.targets import track
from rlcore.distributions import DiagonalGaussian, Distribution, SquashedGaussian, log_slope_of_tanh
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.rollout import Rollout, Step, Transition
from rlcore.trees import Tree

LOG_STD = -20.0, 2.0
"""Bounds of the logarithm of the policy's standard deviation."""
MOST = 2.0
"""Bound of the policy's mean under state-dependent noise, which would not move what tanh has flattened."""


class SoftActorCritic(CriticAgent):
    """Maximises return and entropy (Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications").

    critics  minimise  E[(Q(s, a) - y)^2],  y = r + gamma (min_i Q'_i(s', a') - alpha log pi(a'|s')),  a' ~ pi(s')
    policy   minimise  E[alpha log pi(a|s) - min_i Q_i(s, a)],  a ~ pi(s)
    alpha    such that the policy's entropy is the target

    ``quantiles`` and ``drop`` make it TQC (Kuznetsov et al. 2020): critics say quantiles of the return, and the
    targets' largest ones are left out, instead of taking the least of means.
    """

    class Settings(CriticAgent.Settings):
        """Settings of a policy that is rewarded for its entropy."""

        alpha: Literal["auto"] | PositiveFloat = "auto"
        """Weight of the entropy; auto: it is learned."""
        target_entropy: Literal["auto"] | float = "auto"
        """Nats, of numbers in [-1, 1]; auto: minus their number."""
        policy_delay: PositiveInt = 1
        """Updates of the critics for each of the policy."""
        quantiles: PositiveInt | None = Field(default=None, le=10_000)
        """M, quantiles that each critic says; null: a mean."""
        drop: int = Field(default=2, ge=0)
        """Of the quantiles of all target critics together, this many per critic are left out, the largest."""

        @model_validator(mode="after")
        def _check_quantiles(self) -> "SoftActorCritic.Settings":
            if self.quantiles is not None and self.drop >= self.quantiles:
                raise InputError(f"drop: leaves none of quantiles={self.quantiles}, got {self.drop}")
            if self.quantiles is None and self.drop != type(self).model_fields["drop"].default:
                raise InputError("drop: is of quantiles; set quantiles, e.g. 25")
            if self.alpha != "auto" and self.target_entropy != "auto":
                raise InputError("target_entropy: is of a learned alpha; set alpha=auto")
            return self

    settings: Settings
    backs_up_entropy = True
    """Whether the critics' target counts the entropy of what is done next."""

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        self.scale = bounded(self.action_space, type(self).__name__, self.others)
        D = self.scale.middle.numel()
        self._make_networks(self._policy_outputs(D), D, s.quantiles or 1)
        self.target_entropy = -float(D) if s.target_entropy == "auto" else s.target_entropy
        self.temperature = Temperature(s.alpha)
        self._make_optimizers([*self._policy_parameters(D), *self.temperature.parameters()])
        self.num_updates = 0
        self.register_buffer("midpoints", quantile_midpoints(s.quantiles or 1), persistent=False)
        self.midpoints: Tensor  # [M]

    def gaussian(self, obs: Tree) -> DiagonalGaussian:
        """The policy of normalised observations [B, *O], over numbers [B, D] of which an action's are the tanh."""
        mean, log_std = self.policy(obs).chunk(2, 1)
        return DiagonalGaussian(mean, log_std.clamp(*LOG_STD))

    def distribution(self, obs: Tree) -> Distribution:
        """[B, *O] to pi(.|s) of B rows, over actions."""
        gaussian = self.gaussian(self.normalized(obs))
        shape, scale = self.scale.middle.shape, self.scale
        low, high = scale.middle - scale.half_width, scale.middle + scale.half_width
        return SquashedGaussian(gaussian.mean.view(-1, *shape), gaussian.log_std.view(-1, *shape), low, high)

    def explore(self, obs: Tree) -> Tensor:
        """Draws from the policy; obs [N, *O], normalised."""
        return self._action(self.gaussian(obs).sample().tanh())

    @torch.no_grad()
    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The middle of the policy; obs [N, *O]."""
        return Step(self._action(self.gaussian(self.normalized(obs)).mean.tanh()))

    def update(self, b: Transition) -> tuple[Metrics, Tensor]:
        """Takes a step of the critics, and of the policy and alpha if it is due."""
        s, alpha = self.settings, self.temperature()
        self.num_updates += 1
        self._anneal()
        with torch.no_grad():
            next_numbers, next_log_prob = squashed(self.gaussian(b.next_obs))
        Q, next_Q = self._judged(b, next_numbers)
        V = self._least(next_Q)  # [B, K]
        if self.backs_up_entropy:
            V = V - alpha * next_log_prob[:, None]
        y = b.reward[:, None] + (b.discount * ~b.terminated)[:, None] * V
        metrics = self._improve_critics(self._critic_loss(Q, y, b), b.weight) | {"q": Q.detach().mean()}
        if self.num_updates % s.policy_delay == 0:
            metrics |= self._improve(b.obs, alpha)
        self._follow()
        return metrics, (Q.detach().mean((0, 2)) - y.mean(1))

    def _judged(self, b: Transition, next_numbers: Tensor) -> tuple[Tensor, Tensor]:
        """What the critics say of what was done, [N, B, M], and the targets of what is done next, without gradient."""
        with torch.no_grad():
            next_Q = self._targets(b.next_obs, next_numbers)
        return self.critic(b.obs, self._numbers(b.action)), next_Q

    def _follow(self) -> None:
        """Moves the targets towards the critics."""
        track(self.target_critic, self.critic, self.settings.tau)

    def _improve(self, obs: Tree, alpha: Tensor) -> Metrics:
        """Takes a step of the policy and of alpha."""
        numbers, log_prob = squashed(self.gaussian(obs))
        Q = self.critic(obs, numbers, frozen=True)
        Q = self._climbed(Q).squeeze(1) if self.settings.quantiles is None else Q.mean((0, 2))
        actor_loss = (alpha * log_prob - Q).mean()
        entropy = -log_prob.detach().mean()
        metrics = self._improve_policy(actor_loss, self.temperature.loss(entropy, self.target_entropy))
        return {**metrics, "entropy": entropy, "alpha": alpha}

    def _least(self, Q: Tensor) -> Tensor:
        """What counts of [N, B, M]: the least mean [B, 1], or the quantiles that are not dropped [B, K]."""
        s = self.settings
        if s.quantiles is None:
            return Q.amin(0)
        pooled = Q.permute(1, 0, 2).flatten(1).sort(1).values
        return pooled[:, : pooled.shape[1] - s.drop * len(Q)]

    def _critic_loss(self, Q: Tensor, y: Tensor, b: Transition) -> Tensor:
        """Of each row [B], summed over the critics; Q [N, B, M], y [B, K], of a batch."""
        if self.settings.quantiles is None:
            return (Q.squeeze(2) - y.squeeze(1)).square().sum(0)
        return quantile_huber(Q, y, self.midpoints).sum(0)

    def _policy_outputs(self, num_numbers: int) -> int:
        """Numbers that the policy's network says of D of an action."""
        return 2 * num_numbers

    def _policy_parameters(self, num_numbers: int) -> Iterable[nn.Parameter]:
        """What the policy learns."""
        return self.policy.parameters()


class SAC(SoftActorCritic, OffPolicyAgent):
    """Soft actor-critic with a replay; it explores by its policy.

    ``critics: 10``, ``target_critics: 2``, ``updates_per_step: 20`` and ``policy_delay: 20`` make it REDQ (Chen et al.
    2021).
    """

    class Settings(SoftActorCritic.Settings, OffPolicyAgent.Settings):
        """Settings of soft actor-critic."""

        state_dependent_noise: bool = False
        """Explore by noise that is a function of the state, drawn anew for each rollout (gSDE, Raffin et al. 2021)."""
        log_std_init: float = Field(default=-3.0, ge=-20, le=2)
        """Log of its standard deviation per feature, at first."""

        @model_validator(mode="after")
        def _check_noise(self) -> "SAC.Settings":
            default = type(self).model_fields["log_std_init"].default
            if not self.state_dependent_noise and self.log_std_init != default:
                raise InputError("log_std_init: is of state_dependent_noise; set that to true")
            if self.state_dependent_noise and self.horizon == 1:
                raise InputError("state_dependent_noise: is drawn anew for each rollout; set horizon, e.g. 64")
            return self

    settings: Settings
    noise: StateDependentNoise | None

    def gaussian(self, obs: Tree) -> DiagonalGaussian:
        """The policy of normalised observations [B, *O], over numbers [B, D] of which an action's are the tanh."""
        if self.noise is None:
            return super().gaussian(obs)
        body, head = self.policy
        features = body(obs)
        return DiagonalGaussian(head(features).clamp(-MOST, MOST), self.noise.log_std(features))

    def explore(self, obs: Tree) -> Tensor:
        """Draws from the policy, or adds noise that is a function of the state; obs [N, *O], normalised."""
        if self.noise is None or not self.training:
            return super().explore(obs)
        return self._action((self.gaussian(obs).mean + self.noise(self.policy[0](obs))).tanh())

    def learn(self, rollout: Rollout) -> Metrics:
        """Learns from the replay; noise that is a function of the state is another one in the next rollout."""
        metrics = super().learn(rollout)
        if self.noise is not None:
            self.noise.draw()
        return metrics

    def _policy_outputs(self, num_numbers: int) -> int:
        return num_numbers if self.settings.state_dependent_noise else super()._policy_outputs(num_numbers)

    def _policy_parameters(self, num_numbers: int) -> Iterable[nn.Parameter]:
        s, parameters = self.settings, super()._policy_parameters(num_numbers)
        self.noise = None
        if not s.state_dependent_noise:
            return parameters
        features: int = self.policy[0].num_features  # type: ignore[assignment]
        self.noise = StateDependentNoise(features, num_numbers, self.spec.num_envs, s.log_std_init)
        return [*parameters, *self.noise.parameters()]


def squashed(gaussian: DiagonalGaussian) -> tuple[Tensor, Tensor]:
    """A draw squashed by tanh, [B, D], and its log-probability, nats, [B] (Haarnoja et al. 2018, appendix C)."""
    u = gaussian.sample()
    return u.tanh(), gaussian.log_prob(u) - log_slope_of_tanh(u).sum(1)
