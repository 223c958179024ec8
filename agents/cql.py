"""Conservative Q-learning."""

import math

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from rlcore.agents.bases.offline import OfflineAgent
from rlcore.agents.sac import SoftActorCritic, squashed
from rlcore.distributions import DiagonalGaussian
from rlcore.rollout import Transition
from rlcore.trees import repeated


class CQL(OfflineAgent, SoftActorCritic):
    """Soft actor-critic whose critics think little of what was not recorded (Kumar et al. 2020, equation 4, CQL(H)).

    critics  minimise  E[(Q_i(s, a) - y)^2] + w E[log sum_a exp Q_i(s, a) - Q_i(s, a_recorded)]

    The sum over all actions is estimated by importance sampling, from uniform ones, the policy's and those of the
    policy in the next state. As in the authors' code, the target does not count entropy, and the squared error has no
    factor 1/2: w is twice the paper's alpha.
    """

    class Settings(SoftActorCritic.Settings):
        """Settings of conservative Q-learning."""

        conservative_weight: NonNegativeFloat = 5.0
        """w; 0 is soft actor-critic."""
        num_draws: PositiveInt = 10
        """Actions of each of the three kinds by which the sum is estimated."""

    settings: Settings
    backs_up_entropy = False

    def _critic_loss(self, Q: Tensor, y: Tensor, b: Transition) -> Tensor:
        s, n, D = self.settings, self.settings.num_draws, self.scale.middle.numel()
        loss, rows = super()._critic_loss(Q, y, b), len(b.reward)
        with torch.no_grad():
            policies = (self.gaussian(obs) for obs in (b.obs, b.next_obs))
            drawn = [squashed(DiagonalGaussian(*repeated((pi.mean, pi.log_std), n))) for pi in policies]
            uniform = 2 * torch.rand(n * rows, D, device=y.device) - 1
            numbers = torch.cat([uniform, *(numbers for numbers, _ in drawn)])
            density = [uniform.new_full((n * rows,), -D * math.log(2)), *(log_prob for _, log_prob in drawn)]
        of_drawn = self.critic(repeated(b.obs, 3 * n), numbers).mean(2) - torch.cat(density)  # [N, 3 n B]
        of_all = of_drawn.unflatten(1, (3 * n, rows)).logsumexp(1) - math.log(3 * n)
        return loss + s.conservative_weight * (of_all - Q.mean(2)).sum(0)
