"""Proximal policy optimisation."""

from typing import Any, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from rlcore import settings
from rlcore.agent import Agent, Metrics
from rlcore.distributions import Distribution, policy_head
from rlcore.errors import InputError
from rlcore.networks import NetworkChoice
from rlcore.networks.batch_norm import freeze_batch_norm, update_batch_norm
from rlcore.networks.dropout import drawn_masks, dropouts, make_consistent, recalled, switched_off
from rlcore.observations import observation_shape
from rlcore.optimizers import Adam
from rlcore.returns import explained_variance, gae
from rlcore.rollout import Rollout, Step, Tree, minibatches
from rlcore.schedules import SCHEDULES, Schedule


class Rows(NamedTuple):
    """What a minibatch holds: B rows."""

    obs: Tensor  # [B, *O]
    action: Tensor  # [B, *A]
    log_prob: Tensor  # [B] of the policy that acted, nats
    value: Tensor  # [B] before the update
    advantage: Tensor  # [B]
    target: Tensor  # [B] of the value
    masks: tuple[Tensor, ...]  # [B, ...] bool, of dropout when it acted


class Memory(NamedTuple):
    """What PPO remembers of a step of N environments."""

    outputs: Tensor  # [N, K] or [N, prod(A)], of the policy's head
    masks: tuple[Tensor, ...]  # [N, ...] bool, of dropout


class PPO(Agent):
    """PPO with a clipped objective (Schulman et al. 2017, equation 7) and generalised advantages (2016).

    maximise  E[min(r A, clip(r, 1 - eps, 1 + eps) A)] - c_v E[(V - V_target)^2] + c_e E[H],  r = pi(a|s) / pi_old(a|s)

    The details follow Huang et al. 2022 ("The 37 implementation details of PPO"), but for these: old log-probabilities
    and values are computed in one batch over the rollout rather than at every step, and a time limit is no death: V(s')
    of the true successor counts there.
    """

    class Settings(settings.Settings):
        """Settings of PPO."""

        horizon: PositiveInt | None = 128
        """T, steps in each environment between two updates; null: one whole episode from each."""
        num_epochs: PositiveInt = 4
        """Passes over the rollout."""
        minibatch_size: PositiveInt | None = 256
        """Rows in one gradient step; it divides horizon x num_envs. null: all of them."""
        learning_rate: PositiveFloat = 3e-4
        learning_rate_schedule: Schedule = "constant"
        clip_range: PositiveFloat = 0.2
        """eps."""
        clip_range_schedule: Schedule = "constant"
        value_clip: PositiveFloat | None = None
        """If set, V may move by this much from its old value before its error stops counting."""
        gamma: float = Field(0.99, ge=0, le=1)
        """Discount."""
        gae_lambda: float = Field(0.95, ge=0, le=1)
        """Decay of the advantage's trace."""
        normalize_advantages: bool = True
        """To mean 0 and standard deviation 1 in each minibatch."""
        value_coefficient: NonNegativeFloat = 0.5
        """c_v."""
        entropy_coefficient: NonNegativeFloat = 0.0
        """c_e."""
        max_grad_norm: PositiveFloat = 0.5
        """Bound of the gradient's 2-norm."""
        target_kl: PositiveFloat | None = None
        """If set, no further epoch begins once the mean KL(pi_old, pi) of one is above 1.5 times this, nats."""
        adam_eps: PositiveFloat = 1e-5
        network: NetworkChoice = NetworkChoice.model_validate({"name": "mlp"})
        """The body; policy and value are linear layers on it."""
        shared: bool = False
        """One body for both, in place of one each."""

    settings: Settings

    def __init__(self, env: Any, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        self.horizon, self.max_grad_norm = s.horizon, s.max_grad_norm
        _check_minibatches(s, env.num_envs)
        shape = observation_shape(env.single_observation_space)
        self.body = s.network.build(shape)
        self.value_body = self.body if s.shared else s.network.build(shape)
        self.policy_head = policy_head(self.body.num_features, env.single_action_space)
        self.value_head = nn.Linear(self.value_body.num_features, 1)
        nn.init.orthogonal_(self.value_head.weight, 1.0)
        nn.init.zeros_(self.value_head.bias)
        self.optimizer = Adam(self.parameters(), lr=s.learning_rate, eps=s.adam_eps)
        self.batch_norms = freeze_batch_norm(self)
        self.policy_dropouts = make_consistent(self.body)
        self.dropouts = dropouts(self)

    def forward(self, obs: Tree) -> tuple[Distribution, Tensor]:
        """[B, *O] to pi(.|s) of B rows and V(s) [B]."""
        features = self.body(obs)
        value_features = features if self.settings.shared else self.value_body(obs)
        return self.policy_head.distribution(self.policy_head(features)), self.value_head(value_features).squeeze(-1)

    def value(self, obs: Tree) -> Tensor:
        """[B, *O] to V(s) [B]."""
        return self.value_head(self.value_body(obs)).squeeze(-1)

    def distribution(self, obs: Tree) -> Distribution:
        """[B, *O] to pi(.|s) of B rows."""
        return self.policy_head.distribution(self.policy_head(self.body(obs)))

    def act(self, obs: Tree, state: Tree = None) -> Step:
        """Draws from the policy; obs [N, *O]."""
        outputs = self.policy_head(self.body(obs))
        memory = Memory(outputs, drawn_masks(self.policy_dropouts))
        return Step(self.policy_head.distribution(outputs).sample(), memory)

    @torch.no_grad()
    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The likeliest action; obs [N, *O]."""
        return Step(self.distribution(obs).mode)

    def learn(self, rollout: Rollout) -> Metrics:
        """``num_epochs`` passes of minibatch steps."""
        s = self.settings
        learning_rate = s.learning_rate * SCHEDULES[s.learning_rate_schedule](rollout.progress)
        clip = s.clip_range * SCHEDULES[s.clip_range_schedule](rollout.progress)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        rows, entropy = self._rows(rollout)
        policy_losses: list[Tensor] = []
        value_losses: list[Tensor] = []
        grad_norms: list[Tensor] = []
        for _ in range(s.num_epochs):
            log_ratios = []
            for b in minibatches(rows, s.minibatch_size):
                with recalled(self.policy_dropouts, b.masks):
                    pi, V = self(b.obs)
                log_ratio = pi.log_prob(b.action) - b.log_prob
                A = b.advantage
                if s.normalize_advantages:
                    A = nn.functional.layer_norm(A, A.shape, eps=1e-8)
                # min(r A, clip(r, 1 - eps, 1 + eps) A) is min(r A, A + eps |A|), in fewer operations
                policy_loss = -torch.minimum(log_ratio.exp() * A, A + clip * A.abs()).mean()
                value_loss = nn.functional.mse_loss(V, b.target)
                if s.value_clip is not None:
                    V_clipped = b.value + (V - b.value).clamp(-s.value_clip, s.value_clip)
                    value_loss = torch.maximum((V - b.target).square(), (V_clipped - b.target).square()).mean()
                loss = policy_loss + s.value_coefficient * value_loss
                if s.entropy_coefficient:
                    loss = loss - s.entropy_coefficient * pi.entropy().mean()
                step = self.minimize(loss)
                policy_losses.append(policy_loss.detach())
                value_losses.append(value_loss.detach())
                grad_norms.append(torch.as_tensor(step["grad_norm"]))
                log_ratios.append(log_ratio.detach())
            log_ratio = torch.cat(log_ratios)
            ratio = log_ratio.exp()
            approx_kl = (ratio - 1 - log_ratio).mean()  # http://joschu.net/blog/kl-approx.html, k3
            if s.target_kl is not None and approx_kl > 1.5 * s.target_kl:  # a sync an epoch, where asked for
                break
        if self.batch_norms:
            update_batch_norm(self, self.batch_norms, rows.obs)
        return {
            "policy_loss": torch.stack(policy_losses).mean(),
            "value_loss": torch.stack(value_losses).mean(),
            "entropy": entropy,
            "approx_kl": approx_kl,
            "clip_fraction": ((ratio - 1).abs() > clip).float().mean(),
            "explained_variance": explained_variance(rows.value, rows.target),
            "grad_norm": torch.stack(grad_norms).mean(),
            "learning_rate": learning_rate,
        }

    @torch.no_grad()
    def _rows(self, rollout: Rollout) -> tuple[Rows, Tensor]:
        """The rollout as rows to learn from, by the policy and value that acted; and the policy's mean entropy, 0-d."""
        s = self.settings
        memory: Memory = rollout.memory
        pi = self.policy_head.distribution(memory.outputs.flatten(0, 1))
        with switched_off(self.dropouts):
            value = self.value(rollout.obs.flatten(0, 1)).view_as(rollout.reward)
            successor_value = self.value(torch.cat([rollout.last_obs, rollout.final_obs]))
        log_prob = pi.log_prob(rollout.action.flatten(0, 1)).view_as(value)
        entropy = pi.entropy().view_as(value)
        next_value = torch.cat([value[1:], successor_value[None, : value.shape[1]]])
        next_value[rollout.cut] = successor_value[value.shape[1] :]
        advantage = gae(rollout.reward, value, next_value, rollout.terminated, rollout.truncated, s.gamma, s.gae_lambda)
        columns = rollout.obs, rollout.action, log_prob, value, advantage, advantage + value, memory.masks
        return Rows(*map(rollout.rows, columns)), rollout.rows(entropy).mean()


def _check_minibatches(s: PPO.Settings, num_envs: int) -> None:
    rows = s.minibatch_size or (0 if s.horizon is None else s.horizon * num_envs)
    if s.normalize_advantages and rows == 1:
        raise InputError("agent.minibatch_size: one advantage cannot be normalized; take more rows than 1")
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
