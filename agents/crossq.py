"""Soft actor-critic without target networks."""

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from rlcore.agents.sac import SAC
from rlcore.errors import InputError
from rlcore.networks.critics import RenormalizedCritics
from rlcore.rollout import Transition
from rlcore.trees import concat


class CrossQ(SAC):
    """Soft actor-critic whose critics need no targets, as they normalise each batch (Bhatt et al. 2024, "CrossQ").

    They read (s, a) and (s', a') as one batch, so that both are normalised alike, by batch renormalisation. Wider
    critics learn faster: ``critic_network`` of 1024 or 2048 units. Unlike in the paper, the policy does not normalise.
    """

    class Settings(SAC.Settings):
        """Settings of CrossQ."""

        learning_rate: PositiveFloat = 1e-3
        """Step size of every Adam, before the schedule."""
        policy_delay: PositiveInt = 3
        """Updates of the critics for each of the policy."""

        @model_validator(mode="after")
        def _check_targets(self) -> "CrossQ.Settings":
            default = type(self).model_fields["tau"].default
            if self.target_critics is not None or self.tau != default:
                name = "tau" if self.tau != default else "target_critics"
                raise InputError(f"{name}: there are no target networks; leave it out, or use sac")
            return self

    critics_kind = RenormalizedCritics
    betas = 0.5, 0.999

    def train(self, mode: bool = True) -> "CrossQ":
        """Critics normalise by their batch only where they learn."""
        super().train(mode)
        self.critic.eval()
        return self

    def _make_targets(self) -> None:
        pass

    def _judged(self, b: Transition, next_numbers: Tensor) -> tuple[Tensor, Tensor]:
        self.critic.train()
        both = self.critic(concat([b.obs, b.next_obs]), torch.cat([self._numbers(b.action), next_numbers]))
        self.critic.eval()
        Q, next_Q = both.chunk(2, 1)
        return Q, next_Q.detach()

    def _follow(self) -> None:
        pass
