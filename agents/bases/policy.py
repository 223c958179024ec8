"""What the agents that follow a policy's gradient have in common."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rlcore import settings
from rlcore.agent import Agent, Metrics
from rlcore.distributions import Distribution, GaussianHead, Head, policy_head
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.networks import Network, NetworkChoice
from rlcore.networks.batch_norm import freeze_batch_norm, update_batch_norm
from rlcore.normalization import ObservationNormalizer, RewardNormalizer
from rlcore.observations import action_mask, input_scaling
from rlcore.rollout import Rollout, Step
from rlcore.spaces import scaled_space
from rlcore.trees import Tree


class PolicyAgent(Agent):
    """A policy on observations and rewards that may be normalised; a subclass makes its networks and learns."""

    class Settings(settings.Settings):
        """Settings of a policy."""

        gamma: float = Field(default=0.99, ge=0, le=1)
        """Discount."""
        normalize_observations: bool = False
        """Scale floats to mean 0 and variance 1 over all observations before, clipped to [-10, 10]."""
        normalize_rewards: bool = False
        """Divide rewards by the standard deviation of the discounted return, clipped to [-10, 10]."""
        squash: bool = False
        """For actions in a bounded Box: squash draws of the normal distribution by tanh, instead of clipping them."""
        scale_actions: bool = True
        """For actions in a bounded Box: the normal's 0 is the middle of the box and its 1 half the width, so that the
        initial policy covers any box as N(0, 1) covers [-1, 1]. False: both are plain numbers."""
        log_std_init: float = Field(default=0.0, ge=-20, le=2)
        """For actions in a Box: log of the initial standard deviation, in those units."""
        network: NetworkChoice = NetworkChoice.model_validate({"name": "mlp"})
        """The body; policy and value are linear layers on it."""

    settings: Settings
    body: Network
    policy_head: Head
    batch_norms: list[_BatchNorm]
    """Those whose statistics are updated after learning; see `freeze_batch_norm`."""

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        self.reads_float64 = s.normalize_observations
        self.scaling = input_scaling(env.single_observation_space)
        self.scaled_space = scaled_space(env.single_observation_space)
        """Of observations once the inputs of a data set are scaled."""
        self.normalizer = ObservationNormalizer(self.scaled_space) if s.normalize_observations else None
        self.reward_normalizer = RewardNormalizer(s.gamma, env.num_envs) if s.normalize_rewards else None

    def distribution(self, obs: Tree) -> Distribution:
        """[B, *O] to pi(.|s) of B rows."""
        return self.policy_head.distribution(self._outputs(self.normalized(obs)))

    @torch.no_grad()
    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The most likely action, inside the action space; obs [N, *O]."""
        return Step(self.distribution(obs).mode)

    def normalized(self, obs: Tree) -> Tree:
        """Observations [B, *O] as the networks see them."""
        obs = self._scaled(obs)
        return obs if self.normalizer is None else self.normalizer(obs)

    def train(self, mode: bool = True) -> "PolicyAgent":
        """Batch norms keep normalising by running statistics; see `freeze_batch_norm`."""
        super().train(mode)
        freeze_batch_norm(self)
        return self

    def on_reset(self) -> None:
        """Restarts the running returns, by which rewards are normalised, from 0."""
        if self.reward_normalizer is not None:
            self.reward_normalizer.running.zero_()

    def remarks(self, metrics: dict[str, float]) -> list[str]:
        """Says so if actions are mostly clipped."""
        if metrics.get("clipped_share", 0.0) <= 0.5:
            return []
        remedies = "agent.squash=true or a lower agent.log_std_init"
        if not self.settings.scale_actions:
            remedies = f"agent.scale_actions=true, {remedies}"
        return [f"more than half of the actions' numbers are clipped to the bounds of the space; {remedies} helps"]

    def _make_head(self, num_features: int) -> Head:
        """The policy's head on a body of that size."""
        s = self.settings
        return policy_head(num_features, self.action_space, s.squash, s.log_std_init, scale=s.scale_actions)

    def _action_metrics(self, rollout: Rollout) -> Metrics:
        """How the actions in a Box were drawn; nothing for others."""
        head = self.policy_head
        return head.metrics(rollout.rows(rollout.action)) if isinstance(head, GaussianHead) else {}

    def _outputs(self, obs: Tree) -> Tensor:
        """Normalised observations [B, *O] to what the policy's head says of them, [B, K]."""
        return self.policy_head(self.body(obs), action_mask(obs))

    def _scaled(self, obs: Tree) -> Tree:
        return obs if self.scaling is None else self.scaling(obs)

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
        if self.normalizer is not None:
            self.normalizer.update(self._scaled(rollout.rows(rollout.obs)))
        if self.reward_normalizer is not None:
            self.reward_normalizer.update(rollout)
