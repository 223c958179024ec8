"""Soft actor-critic for actions that are one of several."""

import math
from typing import Literal

import torch
from gymnasium.spaces import Discrete
from pydantic import PositiveFloat
from torch import Tensor

from rlcore.agent import Metrics
from rlcore.agents.bases.critic import CriticAgent, Temperature
from rlcore.agents.bases.off_policy import OffPolicyAgent
from rlcore.agents.bases.q_learning import allowed
from rlcore.agents.bases.targets import track
from rlcore.distributions import Categorical
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.observations import action_mask
from rlcore.rollout import Step, Transition
from rlcore.trees import Tree
from rlcore.uncertainty import Answers, Numbers

NEARLY = 0.98
"""Share of the largest entropy that is the target (Christodoulou 2019)."""


class DiscreteSAC(CriticAgent, OffPolicyAgent):
    """Soft actor-critic whose expectations over actions are sums (Christodoulou 2019, equations 10 to 12).

    critics  minimise  E[(Q(s, a) - y)^2],  y = r + gamma sum_a' pi(a'|s') (min_i Q'_i(s', a') - alpha log pi(a'|s'))
    policy   minimise  E[sum_a pi(a|s) (alpha log pi(a|s) - min_i Q_i(s, a))]
    alpha    such that the policy's entropy is the target
    """

    class Settings(CriticAgent.Settings, OffPolicyAgent.Settings):
        """Settings of soft actor-critic."""

        alpha: Literal["auto"] | PositiveFloat = "auto"
        """Weight of the entropy; auto: it is learned."""
        target_entropy: Literal["auto"] | PositiveFloat = "auto"
        """Nats; auto: 0.98 log of the number of actions allowed, nearly that of the uniform policy."""

    settings: Settings

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        if not isinstance(self.action_space, Discrete):
            raise InputError(f"discrete_sac chooses one of several actions, got the space {self.action_space}; use sac")
        A = int(self.action_space.n)
        self._make_networks(A, 0, A)
        self.temperature = Temperature(s.alpha)
        self._make_optimizers([*self.policy.parameters(), *self.temperature.parameters()])

    def pi(self, obs: Tree) -> Categorical:
        """The policy of normalised observations [B, *O], of the actions that are allowed."""
        return Categorical(allowed(self.policy(obs), obs))

    def distribution(self, obs: Tree) -> Categorical:
        """[B, *O] to pi(.|s) of B rows."""
        return self.pi(self.normalized(obs))

    def explore(self, obs: Tree) -> Tensor:
        """Draws from the policy; obs [N, *O], normalised."""
        return self.pi(obs).sample()

    @torch.no_grad()
    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The most likely action; obs [N, *O]."""
        return Step(self.distribution(obs).mode)

    def answers(self, obs: Tree) -> Answers:
        """What each critic says of the action that `predict` chooses, [N, B], for `rlcore.uncertainty`."""
        Q = self.critic(self.normalized(obs))  # [N, B, A]
        chosen = self.predict(obs).action.expand(len(Q), -1)[:, :, None]
        Q = Q.gather(2, chosen).squeeze(2)
        return Numbers(Q, torch.zeros_like(Q))

    def update(self, b: Transition) -> tuple[Metrics, Tensor]:
        """Takes a step of the critics, and one of the policy and alpha."""
        s, alpha = self.settings, self.temperature()
        self._anneal()
        with torch.no_grad():
            pi, Q = self.pi(b.next_obs), self._targets(b.next_obs).amin(0)  # [B, A]
            V = (pi.log_probs.exp() * (Q - alpha * pi.log_probs)).sum(1)
            y = b.reward + b.discount * ~b.terminated * V
        every = self.critic(b.obs)  # [N, B, A]
        Q = every.gather(2, b.action.expand(s.critics, -1)[:, :, None]).squeeze(2)
        metrics = self._improve_critics((Q - y).square().sum(0), b.weight)
        pi = self.pi(b.obs)
        actor_loss = -(pi.log_probs.exp() * (self._climbed(every.detach()) - alpha * pi.log_probs)).sum(1).mean()
        entropy = pi.entropy().mean()
        metrics |= self._improve_policy(actor_loss, self.temperature.loss(entropy, self._target_entropy(b.obs)))
        track(self.target_critic, self.critic, s.tau)
        metrics |= {"q": Q.detach().mean(), "entropy": entropy.detach(), "alpha": alpha}
        return metrics, Q.detach().mean(0) - y

    def _target_entropy(self, obs: Tree) -> Tensor | float:
        """What the entropy is to be on average over observations [B, *O], nats."""
        mask, given = action_mask(obs), self.settings.target_entropy
        if given != "auto":
            return given
        num = int(self.action_space.n) if mask is None else mask.sum(1).clamp_min(1)  # type: ignore[attr-defined]
        return NEARLY * math.log(num) if isinstance(num, int) else NEARLY * num.log().mean()
