"""Proximal policy optimisation."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from rlcore import distributed
from rlcore.agent import Metrics
from rlcore.agents.bases.actor_critic import ActorCriticAgent, Memory, Rows
from rlcore.distributed import mean, share
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.networks.dropout import recalled
from rlcore.optimizers import Adam
from rlcore.returns import explained_variance
from rlcore.rollout import Rollout
from rlcore.schedules import SCHEDULES, Schedule, anneal

__all__ = ["PPO", "Losses", "Memory", "Rows", "approx_kl", "clipped_objective", "normalized", "squared_error"]


class Losses(NamedTuple):
    """The losses of a minibatch of B rows."""

    total: Tensor  # 0-d, what is minimised
    policy: Tensor  # 0-d
    value: Tensor  # 0-d
    log_ratio: Tensor  # [B] log pi - log pi_old


class PPO(ActorCriticAgent):
    """PPO with a clipped objective (Schulman et al. 2017, equation 7) and generalised advantages (2016).

    maximise  E[min(r A, clip(r, 1 - eps, 1 + eps) A)] - c_v E[(V - V_target)^2] + c_e E[H],  r = pi(a|s) / pi_old(a|s)

    The details follow Huang et al. 2022 ("The 37 implementation details of PPO"), except that a time limit is not a
    terminal state (V(s') of the true successor counts there), old log-probabilities and values are computed in one
    batch over the rollout, running statistics are updated after each rollout rather than at every step, the value is
    not clipped by default, and its loss has no factor 1/2 besides c_v.
    """

    class Settings(ActorCriticAgent.Settings):
        """Settings of PPO."""

        horizon: PositiveInt | None = 128
        """T, steps in each environment between two updates; null: one whole episode from each."""
        num_epochs: PositiveInt = 4
        """Passes over the rollout."""
        minibatch_size: PositiveInt | None = 256
        """Rows per gradient step; must divide horizon x num_envs; null: all of them."""
        learning_rate: PositiveFloat = 3e-4
        """Step size of Adam, before the schedule."""
        learning_rate_schedule: Schedule = "constant"
        """How the learning rate falls over the run."""
        clip_range: PositiveFloat | None = 0.2
        """eps, before the schedule; null disables clipping, which with one epoch of one minibatch is A2C."""
        clip_range_schedule: Schedule = "constant"
        """How ``clip_range`` falls over the run."""
        value_clip: PositiveFloat | None = None
        """If set, the value loss is the larger of those of V and of V clipped to this distance from its old value."""
        normalize_advantages: bool = True
        """Normalise advantages in each minibatch, (A - mean) / sqrt(variance + 1e-8), unless it is a single row."""
        value_coefficient: NonNegativeFloat = 0.5
        """c_v, weight of the value loss."""
        entropy_coefficient: NonNegativeFloat = 0.0
        """c_e, weight of the policy's entropy, nats."""
        max_grad_norm: PositiveFloat = 0.5
        """Bound on the gradient's 2-norm."""
        target_kl: PositiveFloat | None = None
        """If set, an update ends before any later minibatch whose mean KL(pi_old, pi) exceeds 1.5 times this, nats."""
        recompute_advantages: bool = False
        """Recompute advantages in each epoch, by the current value network (Andrychowicz et al. 2021, sec. 3.5)."""
        adam_eps: PositiveFloat = 1e-5
        """Added to Adam's denominator."""
        shared: bool = False
        """One body for both policy and value, instead of one each."""

        @model_validator(mode="after")
        def _check_value_network(self) -> "PPO.Settings":
            if self.shared and self.value_network is not None:
                raise InputError("value_network: shared=true has one body for both; set one of the two")
            return self

    settings: Settings

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        self.horizon, self.max_grad_norm = s.horizon, s.max_grad_norm
        self.minibatch_size = None if s.minibatch_size is None else share(s.minibatch_size, "agent.minibatch_size")
        """Rows of this process in a gradient step."""
        _check_minibatches(s, env.num_envs * distributed.size())
        self._make_networks(s.shared)
        self.optimizer = Adam(self.parameters(), lr=s.learning_rate, eps=s.adam_eps)

    def learn(self, rollout: Rollout) -> Metrics:
        """Takes minibatch steps in ``num_epochs`` passes over the rollout."""
        s = self.settings
        learning_rate = anneal(self.optimizer, s.learning_rate, s.learning_rate_schedule, rollout.progress)
        clip = None if s.clip_range is None else s.clip_range * SCHEDULES[s.clip_range_schedule](rollout.progress)
        rows, entropy = self.training_rows(rollout)
        steps: list[tuple[Tensor, ...]] = []
        log_ratios: list[Tensor] = []
        for b in self._minibatches(rows, rollout):
            loss = self.losses(b, clip)
            log_ratios.append(loss.log_ratio.detach())
            if s.target_kl is not None and steps and mean(approx_kl(log_ratios[-1])) > 1.5 * s.target_kl:
                break  # one sync per minibatch, only if asked for
            step = self.minimize(loss.total)
            steps.append((loss.policy.detach(), loss.value.detach(), torch.as_tensor(step["grad_norm"])))
        self._update_statistics(rollout, rows.obs, [self.body] if s.shared else [self.body, self.value_body])
        policy_losses, value_losses, grad_norms = map(torch.stack, zip(*steps, strict=True))
        log_ratio = torch.cat(log_ratios)[-rollout.num_steps :]  # of as many rows as an epoch has
        metrics: Metrics = {
            "policy_loss": policy_losses.mean(),
            "value_loss": value_losses.mean(),
            "entropy": entropy,
            "approx_kl": approx_kl(log_ratio),
            "explained_variance": explained_variance(rows.value, rows.target),
            "grad_norm": grad_norms.mean(),
            "learning_rate": learning_rate,
            **self._action_metrics(rollout),
        }
        if clip is not None:
            metrics["clip_fraction"] = ((log_ratio.exp() - 1).abs() > clip).float().mean()
        return metrics

    def losses(self, b: Rows, clip: float | None) -> Losses:
        """The losses of a minibatch; a subclass may add to the total.

        Args:
            b: B rows, whose advantages are normalised if asked for.
            clip: the current eps; None disables clipping.
        """
        s = self.settings
        with recalled(self.policy_dropouts, b.masks):
            pi, V = self.actor_critic.answers(b.obs)
        log_ratio = pi.log_prob(b.action) - b.log_prob
        policy_loss = -clipped_objective(log_ratio, b.advantage, clip).mean()
        value_loss = squared_error(V, b.target, b.value, s.value_clip)
        total = policy_loss + s.value_coefficient * value_loss
        if s.entropy_coefficient:
            total = total - s.entropy_coefficient * pi.entropy().mean()
        return Losses(total, policy_loss, value_loss, log_ratio)

    def _minibatches(self, rows: Rows, rollout: Rollout) -> Iterator[Rows]:
        """The minibatches of all epochs, with normalised advantages."""
        for epoch in range(self.settings.num_epochs):
            if epoch and self.settings.recompute_advantages:
                value, advantage, target = self._estimates(rollout)
                rows = rows._replace(value=value, advantage=advantage, target=target)
            batches = list(self.actor_critic.minibatches(rows, self.minibatch_size))
            if self.settings.normalize_advantages:
                advantages = each_normalized([b.advantage for b in batches])
                batches = [b._replace(advantage=A) for b, A in zip(batches, advantages, strict=True)]
            yield from batches


def normalized(advantage: Tensor) -> Tensor:
    """(A - mean) / sqrt(variance + 1e-8) over a minibatch [B]; a single one, which would become 0, stays."""
    return nn.functional.layer_norm(advantage, advantage.shape, eps=1e-8) if len(advantage) > 1 else advantage


def each_normalized(advantages: list[Tensor]) -> list[Tensor]:
    """Those of minibatches of one size, each `normalized`; of several processes, over what all have of a minibatch."""
    if distributed.size() == 1:
        return [normalized(A) for A in advantages]
    num, mean, var = distributed.moments(torch.stack(advantages, 1), "advantages")
    scale = (var + 1e-8).rsqrt()
    return advantages if num < 2 else [((A - m) * s).float() for A, m, s in zip(advantages, mean, scale, strict=True)]


def clipped_objective(log_ratio: Tensor, advantage: Tensor, clip: float | None) -> Tensor:
    """min(r A, clip(r, 1 - eps, 1 + eps) A) (Schulman et al. 2017, equation 7), [B]; it is maximised.

    Args:
        log_ratio: log r = log pi - log pi_old, [B].
        advantage: A, [B].
        clip: eps; None: r A.
    """
    gain = log_ratio.exp() * advantage
    # the same in fewer operations: the clipped r A can be less than r A only where that exceeds A + eps |A|
    return gain if clip is None else torch.minimum(gain, advantage + clip * advantage.abs())


def squared_error(value: Tensor, target: Tensor, old_value: Tensor, clip: float | None) -> Tensor:
    """The mean over a minibatch of (V - target)^2, 0-d.

    Args:
        value: V, [B].
        target: [B].
        old_value: [B], V before the update.
        clip: if set, the larger of the errors of V and of V clipped to this distance from its old value counts.
    """
    if clip is None:
        return nn.functional.mse_loss(value, target)
    clipped = old_value + (value - old_value).clamp(-clip, clip)
    return torch.maximum((value - target).square(), (clipped - target).square()).mean()


def approx_kl(log_ratio: Tensor) -> Tensor:
    """KL(pi_old, pi), nats, 0-d, of log pi - log pi_old [B] (http://joschu.net/blog/kl-approx.html, k3)."""
    return (log_ratio.exp() - 1 - log_ratio).mean()


def _check_minibatches(s: PPO.Settings, num_envs: int) -> None:
    """Raises an InputError unless minibatches of so many environments, of all processes, have their rows."""
    rows = s.minibatch_size or (0 if s.horizon is None else s.horizon * num_envs)
    if s.normalize_advantages and rows == 1:
        raise InputError("agent.minibatch_size: one advantage cannot be normalized; use more than 1 row")
    if s.minibatch_size is None:
        return
    if s.horizon is None:
        raise InputError(
            f"agent.minibatch_size: must be null where agent.horizon is null (episodes have any length), "
            f"got {s.minibatch_size}"
        )
    if s.horizon * num_envs % s.minibatch_size:
        raise InputError(
            f"agent.minibatch_size: {s.minibatch_size} does not divide horizon x num_envs = {s.horizon} x {num_envs} = "
            f"{s.horizon * num_envs}; change one of the three"
        )
