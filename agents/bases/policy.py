"""What the agents that follow a policy's gradient have in common."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlcore.agent import Metrics
from rlcore.agents.bases.exploration import SmoothGaussianHead
from rlcore.agents.bases.normalized import NormalizedAgent
from rlcore.distributions import Distribution, Head, policy_head
from rlcore.errors import InputError
from rlcore.networks import Network, NetworkChoice
from rlcore.networks.batch_norm import freeze_batch_norm, update_batch_norm
from rlcore.observations import action_mask
from rlcore.rollout import Rollout, Step
from rlcore.trees import Tree


class PolicyAgent(NormalizedAgent):
    """A policy on observations and rewards that may be normalised; a subclass makes its networks and learns."""

    class Settings(NormalizedAgent.Settings):
        """Settings of a policy."""

        squash: bool = False
        """For actions in a bounded Box: squash draws of the normal distribution by tanh, instead of clipping them."""
        scale_actions: bool = True
        """For actions in a bounded Box: the normal's 0 is the middle of the box and its 1 half the width, so that the
        initial policy covers any box as N(0, 1) covers [-1, 1]. False: both are plain numbers."""
        log_std_init: float = Field(default=0.0, ge=-20, le=2)
        """For actions in a Box: log of the initial standard deviation, in those units."""
        state_dependent_noise: bool = False
        """For actions in a Box: explore by noise that is a function of the state, drawn anew for each rollout (gSDE,
        Raffin et al. 2021); ``log_std_init`` is then per feature, -2 or -3."""
        network: NetworkChoice = NetworkChoice.model_validate({"name": "mlp"})
        """The body; policy and value are linear layers on it."""

    settings: Settings
    body: Network
    policy_head: Head
    batch_norms: list[_BatchNorm]
    """Those whose statistics are updated after learning; see `freeze_batch_norm`."""

    def distribution(self, obs: Tree) -> Distribution:
        """[B, *O] to pi(.|s) of B rows."""
        return self.policy_head.distribution(self._outputs(self.normalized(obs)))

    @torch.no_grad()
    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The most likely action, inside the action space; obs [N, *O]."""
        return Step(self.distribution(obs).mode)

    def train(self, mode: bool = True) -> "PolicyAgent":
        """Batch norms keep normalising by running statistics; see `freeze_batch_norm`."""
        super().train(mode)
        freeze_batch_norm(self)
        return self

    def remarks(self, metrics: dict[str, float]) -> list[str]:
        """Says so if actions are mostly clipped."""
        if metrics.get("clipped_share", 0.0) <= 0.5:
            return []
        remedies = "a lower agent.log_std_init"
        if not self.settings.state_dependent_noise:
            remedies = f"agent.squash=true or {remedies}"
        if not self.settings.scale_actions:
            remedies = f"agent.scale_actions=true, {remedies}"
        return [f"more than half of the actions' numbers are clipped to the bounds of the space; {remedies} helps"]

    def _make_head(self, num_features: int) -> Head:
        """The policy's head on a body of that size."""
        s = self.settings
        if s.state_dependent_noise:
            if s.squash:
                raise InputError("agent.squash: state_dependent_noise is not squashed; choose one")
            return SmoothGaussianHead(
                num_features, self.action_space, self.spec.num_envs, s.log_std_init, s.scale_actions
            )
        return policy_head(num_features, self.action_space, s.squash, s.log_std_init, scale=s.scale_actions)

    def _action_metrics(self, rollout: Rollout) -> Metrics:
        """How the actions of a rollout were drawn."""
        return self.policy_head.metrics(rollout.rows(rollout.action))

    def _outputs(self, obs: Tree) -> Tensor:
        """Normalised observations [B, *O] to what the policy's head says of them, [B, K]."""
        return self.policy_head(self.body(obs), action_mask(obs))

    def _reward(self, rollout: Rollout) -> Tensor:
        """The rewards to learn from, [T, N]."""
        return rollout.reward if self.reward_normalizer is None else self.reward_normalizer(rollout)

    def _update_statistics(self, rollout: Rollout, obs: Tree, networks: list[nn.Module]) -> None:
        """Updates the running statistics with a rollout, now that it has been learned from.

        Args:
            rollout: what was learned from.
            obs: its observations, normalised, [B, *O].
            networks: those of them that may have batch norms.
        """
        for network in networks if self.batch_norms else []:
            update_batch_norm(network, self.batch_norms, obs)
        self._update_normalizers(rollout)
        self.policy_head.renew()
