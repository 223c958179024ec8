"""Trust region policy optimisation."""

from collections.abc import Callable

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from rlcore.agent import Metrics
from rlcore.agents.bases.actor_critic import ActorCriticAgent, Rows
from rlcore.agents.ppo import approx_kl, each_normalized
from rlcore.distributed import mean, share, size
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError, NonFiniteError
from rlcore.networks.dropout import recalled
from rlcore.observations import action_mask
from rlcore.optimizers import Adam
from rlcore.returns import explained_variance
from rlcore.rollout import Rollout, minibatches
from rlcore.schedules import Schedule, anneal

SMALLEST = 1e-30
"""Of the curvature along the direction, which is 0 where there is nothing to gain."""


class TRPO(ActorCriticAgent):
    """The natural gradient, as far as the policy stays close to the one that acted (Schulman et al. 2015).

    maximise  E[r A]  subject to  KL(pi_old, pi) <= delta,  r = pi(a|s) / pi_old(a|s)

    The direction F^-1 g is found by conjugate gradients, its length by the quadratic model of the KL, and shortened
    until the objective has grown and the KL holds (appendix C). The KL and its curvature F are those of the actions
    taken: so they are defined for every distribution.
    """

    class Settings(ActorCriticAgent.Settings):
        """Settings of TRPO."""

        horizon: PositiveInt = 2048
        """T, steps in each environment between two updates."""
        target_kl: PositiveFloat = 0.01
        """delta, the most that the policy changes in an update, nats."""
        conjugate_steps: PositiveInt = 15
        """Steps of conjugate gradients, at most."""
        damping: PositiveFloat = 0.1
        """Added to the diagonal of F."""
        backtracks: PositiveInt = 10
        """Lengths tried, each `shrinking` times the one before."""
        shrinking: float = Field(default=0.8, gt=0, lt=1)
        """Factor between two lengths."""
        normalize_advantages: bool = True
        """Scale advantages to mean 0 and variance 1 over the rollout."""
        value_epochs: PositiveInt = 10
        """Passes of the critic over the rollout."""
        value_minibatch_size: PositiveInt = 128
        """Rows per gradient step of the critic."""
        learning_rate: PositiveFloat = 1e-3
        """Step size of the critic's Adam, before the schedule."""
        learning_rate_schedule: Schedule = "constant"
        """How it falls over the run."""

    settings: Settings

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        self.horizon = s.horizon
        self.minibatch_size = share(s.value_minibatch_size, "agent.value_minibatch_size")
        """Rows of this process in a step of the critic."""
        if s.horizon * env.num_envs * size() < 2:
            raise InputError("agent.horizon: one step shows no direction; use more")
        self._make_networks()
        self.optimizer = Adam([*self.value_body.parameters(), *self.value_head.parameters()], lr=s.learning_rate)

    def learn(self, rollout: Rollout) -> Metrics:
        """Takes one step of the policy on the whole rollout, and many of the critic."""
        s = self.settings
        learning_rate = anneal(self.optimizer, s.learning_rate, s.learning_rate_schedule, rollout.progress)
        rows, entropy = self.training_rows(rollout)
        improved = self._improve(rows)
        for _ in range(s.value_epochs):
            for b in minibatches(rows, self.minibatch_size):
                V = self.value_head(self.value_body(b.obs)).squeeze(-1)
                metrics = self.minimize(nn.functional.mse_loss(V, b.target))
        self._update_statistics(rollout, rows.obs, [self.body, self.value_body])
        return {
            **improved,
            "value_loss": metrics["loss"],
            "entropy": entropy,
            "explained_variance": explained_variance(rows.value, rows.target),
            "learning_rate": learning_rate,
            **self._action_metrics(rollout),
        }

    def _improve(self, rows: Rows) -> Metrics:
        """Moves the policy's parameters along the natural gradient, as far as the constraint allows; syncs."""
        s = self.settings
        params = self._policy_parameters()
        A = each_normalized([rows.advantage])[0] if s.normalize_advantages else rows.advantage
        log_ratio = self._log_ratio(rows)
        g = mean(_flat(torch.autograd.grad((log_ratio.exp() * A).mean(), params, retain_graph=True)))
        slope = torch.autograd.grad(approx_kl(log_ratio), params, create_graph=True)

        def curvature(v: Tensor) -> Tensor:
            """(F + damping) v."""
            Fv = torch.autograd.grad(_flat(slope) @ v, params, retain_graph=True)
            return mean(_flat(Fv)) + s.damping * v

        direction = conjugate_gradient(curvature, g, s.conjugate_steps)
        bend = (direction @ curvature(direction)).clamp_min(SMALLEST)
        longest = (2 * s.target_kl / bend).sqrt() * direction
        if not longest.isfinite().all():
            raise NonFiniteError("the step of the policy is not finite")
        before, start, fraction = mean((log_ratio.detach().exp() * A).mean()), _flat(params).detach(), 1.0
        for _ in range(s.backtracks):
            nn.utils.vector_to_parameters(start + fraction * longest, params)
            with torch.no_grad():
                tried = self._log_ratio(rows)
            objective, kl = mean(torch.stack([(tried.exp() * A).mean(), approx_kl(tried)]))
            if objective > before and kl <= s.target_kl:
                return {"policy_loss": -objective, "approx_kl": kl, "step": fraction}
            fraction *= s.shrinking
        nn.utils.vector_to_parameters(start, params)
        return {"policy_loss": -before, "approx_kl": torch.zeros_like(before), "step": 0.0}

    def _policy_parameters(self) -> list[nn.Parameter]:
        """Those that the trust region bounds, without the critic's."""
        return [x for module in (self.body, self.policy_head) for x in module.parameters() if x.requires_grad]

    def _log_ratio(self, rows: Rows) -> Tensor:
        """Log pi - log pi_old of each row, [B]."""
        with recalled(self.policy_dropouts, rows.masks):
            outputs = self.policy_head(self.body(rows.obs), action_mask(rows.obs))
        return self.policy_head.distribution(outputs).log_prob(rows.action) - rows.log_prob


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, steps: int, tolerance: float = 1e-10) -> Tensor:
    """Solves M x = b for a symmetric positive matrix (Hestenes & Stiefel 1952).

    Args:
        product: v to M v, [P] both.
        b: [P].
        steps: at most.
        tolerance: share of the squared residual at first, at which it ends.
    """
    x, residual = torch.zeros_like(b), b.clone()
    direction, square = b.clone(), b @ b
    enough = tolerance * square
    for _ in range(steps):
        if square <= enough:
            break
        along = product(direction)
        length = square / (direction @ along)
        x, residual = x + length * direction, residual - length * along
        renewed = residual @ residual
        direction, square = residual + renewed / square * direction, renewed
    return x


def _flat(tensors: "tuple[Tensor, ...] | list[nn.Parameter]") -> Tensor:
    return torch.cat([x.reshape(-1) for x in tensors])
