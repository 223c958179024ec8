"""REINFORCE: the Monte Carlo policy gradient."""

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from rlcore import distributed
from rlcore.agent import Metrics
from rlcore.agents.bases.policy import PolicyAgent
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.networks import NetworkChoice
from rlcore.networks.batch_norm import freeze_batch_norm
from rlcore.networks.dropout import drawn_masks, dropouts, make_consistent, recalled, switched_off
from rlcore.observations import build_body
from rlcore.optimizers import Adam
from rlcore.returns import discounted_returns, explained_variance
from rlcore.rollout import Rollout, Step
from rlcore.schedules import Schedule, anneal
from rlcore.trees import Tree


class Reinforce(PolicyAgent):
    """REINFORCE (Williams 1992; Sutton & Barto 2018, sections 13.3 and 13.4), one whole episode from each environment.

    maximise  E[log pi(a_t|s_t) (G_t - b(s_t))],  G_t the discounted return to go, b a learned baseline or 0

    As is usual, the factor G_t - b is normalised over the batch, and gamma^t left out. If a time limit cuts an episode,
    its return ends there without a baseline; with one, V of the true successor stands for the rest.
    """

    class Settings(PolicyAgent.Settings):
        """Settings of REINFORCE."""

        learning_rate: PositiveFloat = 1e-3
        """Step size of the policy's Adam, before the schedule."""
        learning_rate_schedule: Schedule = "constant"
        """How the policy's learning rate falls over the run."""
        normalize: bool = True
        """Scale the returns, minus the baseline, to mean 0 and standard deviation 1 over the batch, unless that is a
        single row."""
        baseline: bool = False
        """Learn V(s), with its own network, and subtract it from the returns."""
        value_network: NetworkChoice | None = None
        """The baseline's body; null: as ``network``."""
        value_learning_rate: PositiveFloat = 1e-2
        """Step size of the baseline's Adam, constant."""
        value_steps: PositiveInt = 20
        """Gradient steps of the baseline on each batch of episodes, after the policy's single step."""
        entropy_coefficient: NonNegativeFloat = 0.0
        """Weight of the policy's entropy, which is maximised, nats."""
        max_grad_norm: PositiveFloat | None = None
        """Bound on the gradient's 2-norm; null disables clipping."""

        @model_validator(mode="after")
        def _check_value_network(self) -> "Reinforce.Settings":
            if self.value_network is not None and not self.baseline:
                raise InputError("value_network: is the baseline's; set baseline=true")
            return self

    settings: Settings
    horizon = None

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        self.max_grad_norm = s.max_grad_norm
        self.body = build_body(s.network, self.scaled_space)
        self.policy_head = self._make_head(self.body.num_features)
        self.baseline: nn.Sequential | None = None
        if s.baseline:
            setting = "agent.network" if s.value_network is None else "agent.value_network"
            value_body = build_body(s.value_network or s.network, self.scaled_space, setting=setting)
            self.baseline = nn.Sequential(value_body, nn.Linear(value_body.num_features, 1), nn.Flatten(0))
            self.value_optimizer = Adam(self.baseline.parameters(), lr=s.value_learning_rate)
        self.optimizer = Adam([*self.body.parameters(), *self.policy_head.parameters()], lr=s.learning_rate)
        self.batch_norms = freeze_batch_norm(self)
        self.policy_dropouts = make_consistent(self.body)
        self.dropouts = dropouts(self)

    def act(self, obs: Tree, state: Tree = None) -> Step:
        """Draws from the policy; obs [N, *O]. Memory is the masks of its dropout, [N, ...] bool each."""
        outputs = self._outputs(self.normalized(obs))
        return Step(self.policy_head.draw(outputs), drawn_masks(self.policy_dropouts))

    def learn(self, rollout: Rollout) -> Metrics:
        """Takes one gradient step of the policy on the whole rollout, then those of the baseline."""
        s = self.settings
        learning_rate = anneal(self.optimizer, s.learning_rate, s.learning_rate_schedule, rollout.progress)
        obs, G = self.normalized(rollout.rows(rollout.obs)), rollout.rows(self._returns(rollout))
        V = None if self.baseline is None else self._value(obs)
        advantage = G if V is None else G - V
        if s.normalize:
            advantage = _normalized(advantage)
        with recalled(self.policy_dropouts, rollout.rows(rollout.memory)):
            pi = self.policy_head.distribution(self._outputs(obs))
        entropy = pi.entropy().mean()
        policy_loss = -(pi.log_prob(rollout.rows(rollout.action)) * advantage).mean()
        step = self.minimize(policy_loss - s.entropy_coefficient * entropy)
        fitted = {} if V is None else self._fit_baseline(obs, G, V)
        self._update_statistics(rollout, obs, [self.body] if self.baseline is None else [self.body, self.baseline])
        return {
            **step,
            **fitted,
            "policy_loss": policy_loss.detach(),
            "entropy": entropy.detach(),
            "learning_rate": learning_rate,
            **self._action_metrics(rollout),
        }

    def _fit_baseline(self, obs: Tree, G: Tensor, V: Tensor) -> Metrics:
        """Takes ``value_steps`` steps of the baseline towards the returns G [B]; V [B] is from before them."""
        assert self.baseline is not None
        for _ in range(self.settings.value_steps):
            value_loss = nn.functional.mse_loss(self.baseline(obs), G)
            self.minimize(value_loss, self.value_optimizer)
        return {"value_loss": value_loss.detach(), "explained_variance": explained_variance(V, G)}

    @torch.no_grad()
    def _value(self, obs: Tree) -> Tensor:
        """V(s) [B] of normalised observations, without dropout."""
        assert self.baseline is not None
        with switched_off(self.dropouts):
            return self.baseline(obs)

    @torch.no_grad()
    def _returns(self, rollout: Rollout) -> Tensor:
        """Returns to go [T, N]."""
        reward = self._reward(rollout)
        next_value = None
        if self.baseline is not None:
            next_value = torch.zeros_like(reward)
            next_value[rollout.cut_places] = self._value(self.normalized(rollout.final_obs))
        return discounted_returns(reward, rollout.terminated, rollout.truncated, self.settings.gamma, next_value)


def _normalized(x: Tensor) -> Tensor:
    """(x - mean) / (std + 1e-8) over the rows [B] of all processes; a single one, which would become 0, stays."""
    if distributed.size() == 1:
        return (x - x.mean()) / (x.std(correction=0) + 1e-8) if len(x) > 1 else x
    num, mean, var = distributed.moments(x)
    return ((x - mean) / (var.sqrt() + 1e-8)).float() if num > 1 else x
