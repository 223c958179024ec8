"""Twin delayed deep deterministic policy gradient."""

from copy import deepcopy
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from rlcore.agent import Metrics
from rlcore.agents.bases.critic import CriticAgent, bounded
from rlcore.agents.bases.exploration import OrnsteinUhlenbeck
from rlcore.agents.bases.off_policy import OffPolicyAgent
from rlcore.agents.bases.targets import track
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.rollout import Rollout, Step, Transition
from rlcore.trees import Tree


class TwinDelayed(CriticAgent):
    """A deterministic policy that climbs the critics (Fujimoto et al. 2018; Silver et al. 2014).

    critics  minimise  E[(Q_i(s, a) - y)^2],  y = r + gamma min_i Q'_i(s', clip(pi'(s') + clip(noise)))
    policy   maximise  E[Q_1(s, pi(s))], less often

    One critic, ``target_noise=0`` and ``policy_delay=1`` make it DDPG (Lillicrap et al. 2016).
    """

    class Settings(CriticAgent.Settings):
        """Settings of a policy that is improved less often than its critics."""

        target_noise: NonNegativeFloat = 0.2
        """Standard deviation of the noise on the target policy's actions."""
        target_noise_clip: PositiveFloat = 0.5
        """Bound on that noise."""
        policy_delay: PositiveInt = 2
        """Updates of the critics for each of the policy and of the targets."""

        @model_validator(mode="after")
        def _check_noise(self) -> "TwinDelayed.Settings":
            default = type(self).model_fields["target_noise_clip"].default
            if not self.target_noise and self.target_noise_clip != default:
                raise InputError("target_noise_clip: there is no noise to clip; set target_noise above 0")
            return self

    settings: Settings

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        self.scale = bounded(self.action_space, type(self).__name__, self.others)
        D = self.scale.middle.numel()
        self._make_networks(D, D)
        self.target_policy = deepcopy(self.policy).requires_grad_(False)
        self._make_optimizers(self.policy.parameters())
        self.num_updates = 0

    @torch.no_grad()
    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The policy's action; obs [N, *O]."""
        return Step(self._action(self.policy(self.normalized(obs)).tanh()))

    def update(self, b: Transition) -> tuple[Metrics, Tensor]:
        """Takes a step of the critics, and of the policy and the targets if it is due."""
        s = self.settings
        self.num_updates += 1
        self._anneal()
        with torch.no_grad():
            numbers = self.target_policy(b.next_obs).tanh()
            noise = (s.target_noise * torch.randn_like(numbers)).clamp(-s.target_noise_clip, s.target_noise_clip)
            V = self._targets(b.next_obs, (numbers + noise).clamp(-1, 1)).amin(0).squeeze(1)
            y = b.reward + b.discount * ~b.terminated * V
        Q = self.critic(b.obs, self._numbers(b.action)).squeeze(2)  # [N, B]
        metrics = self._improve_critics((Q - y).square().sum(0), b.weight) | {"q": Q.detach().mean()}
        if self.num_updates % s.policy_delay == 0:
            metrics |= self._improve_policy(self._policy_loss(b))
            track(self.target_critic, self.critic, s.tau)
            track(self.target_policy, self.policy, s.tau)
        return metrics, Q.detach().mean(0) - y

    def _policy_loss(self, b: Transition) -> Tensor:
        """What the policy minimises, 0-d."""
        return -self.critic(b.obs, self.policy(b.obs).tanh(), frozen=True, which=slice(1)).mean()


class TD3(TwinDelayed, OffPolicyAgent):
    """Twin delayed deep deterministic policy gradient with a replay; it explores by noise on its actions."""

    class Settings(TwinDelayed.Settings, OffPolicyAgent.Settings):
        """Settings of TD3."""

        learning_rate: PositiveFloat = 1e-3
        """Step size of every Adam, before the schedule."""
        noise: NonNegativeFloat = 0.1
        """Standard deviation of what is added to actions in [-1, 1] to explore."""
        noise_kind: Literal["gaussian", "ornstein_uhlenbeck"] = "gaussian"
        """Independent in each step, or drifting (Uhlenbeck & Ornstein 1930)."""

    settings: Settings

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        self.drift = OrnsteinUhlenbeck(s.noise) if s.noise_kind == "ornstein_uhlenbeck" else None

    def explore(self, obs: Tree) -> Tensor:
        """The policy's action with noise; obs [N, *O], normalised."""
        s, numbers = self.settings, self.policy(obs).tanh()
        if self.drift is not None and self.training:  # what plays in evaluation is other episodes
            noise = self.drift.step(numbers)
        else:
            noise = s.noise * torch.randn_like(numbers)
        return self._action((numbers + noise).clamp(-1, 1))

    def learn(self, rollout: Rollout) -> Metrics:
        """Learns from the replay; drifting noise begins anew where an episode has ended in the rollout."""
        if self.drift is not None:
            self.drift.begin(rollout.done.any(0))
        return super().learn(rollout)

    def on_reset(self) -> None:
        """All episodes begin anew."""
        super().on_reset()
        if self.drift is not None:
            self.drift.begin()
