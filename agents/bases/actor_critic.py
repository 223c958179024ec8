"""What agents have in common that learn a policy and a critic from rollouts: rows with advantages, and the networks."""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from rlcore.agents.bases.policy import PolicyAgent
from rlcore.distributions import Distribution, figures_of
from rlcore.networks import NetworkChoice
from rlcore.networks.batch_norm import freeze_batch_norm
from rlcore.networks.dropout import drawn_masks, dropouts, make_consistent, switched_off
from rlcore.observations import action_mask, build_body
from rlcore.returns import gae
from rlcore.rollout import Rollout, Step, minibatches, state_values
from rlcore.trees import Tree

Batch = TypeVar("Batch", bound=Any)


class Rows(NamedTuple):
    """What a minibatch holds: B rows."""

    action: Tensor  # [B, *A]
    obs: Tree  # [B, *O], normalised if asked for
    log_prob: Tensor  # [B] of the policy that acted, nats
    value: Tensor  # [B] before the update
    advantage: Tensor  # [B]
    target: Tensor  # [B] of the value
    masks: tuple[Tensor, ...]  # [B, ...] bool, of dropout when it acted


class Memory(NamedTuple):
    """What is recorded of a step of N environments."""

    outputs: Tensor  # [N, K], of the policy's head
    masks: tuple[Tensor, ...]  # [N, ...] bool, of dropout


class ActorCritic:
    """A policy and a value, each a linear head on a body; they may share the body. This one has no memory.

    Args:
        agent: which has the networks, ``body``, ``value_body``, ``policy_head`` and ``value_head``.
    """

    def __init__(self, agent: "ActorCriticAgent"):
        self.agent = agent

    def act(self, obs: Tree, state: Tree) -> tuple[Tensor, Tree]:
        """What the policy's head says of one step after a state, and the next state.

        Args:
            obs: [N, *O], normalised.
            state: of policy and value; None: there is no memory.

        Returns:
            [N, K], and the state.
        """
        return self.agent.policy_head(self.agent.body(obs), action_mask(obs)), state

    def inputs(self, rollout: Rollout) -> Tree:
        """The rollout's observations as `answers` takes them."""
        return self.agent.normalized(rollout.rows(rollout.obs))

    def answers(self, inputs: Tree) -> tuple[Distribution, Tensor]:
        """The policy and V [B] for B rows of `inputs`."""
        agent = self.agent
        features = agent.body(inputs)
        value_features = features if agent.value_body is agent.body else agent.value_body(inputs)
        outputs = agent.policy_head(features, action_mask(inputs))
        return agent.policy_head.distribution(outputs), agent.value_head(value_features).squeeze(-1)

    def values(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """V of each row and of its true successor, [T, N] both."""
        return state_values(rollout, self.agent.value)

    def minibatches(self, rows: Batch, size: int | None) -> Iterator[Batch]:
        """The rows of an epoch in a new random order, ``size`` at a time; None: all of them.

        Args:
            rows: a NamedTuple of trees [B, ...], with `inputs` as its field ``obs``.
            size: rows per minibatch.
        """
        return minibatches(rows, size)


class ActorCriticAgent(PolicyAgent):
    """A policy and a critic, whose rollouts become rows with generalised advantages; a subclass learns from these."""

    class Settings(PolicyAgent.Settings):
        """Settings of a critic."""

        gae_lambda: float = Field(default=0.95, ge=0, le=1)
        """lambda, decay of the advantage's trace."""
        value_network: NetworkChoice | None = None
        """The value's body; null: as ``network``."""

    settings: Settings
    recurrent = False
    """Whether the networks have a memory; see `RecurrentPPO`."""
    actor_critic_type = ActorCritic
    """How policy and value are computed, with a memory or without."""

    def _make_networks(self, shared: bool = False) -> None:
        """The policy and the value, on bodies of their own or on one for both."""
        s = self.settings
        self.body = build_body(s.network, self.scaled_space, self.recurrent)
        self.value_body = self.body
        if not shared:
            setting = "agent.network" if s.value_network is None else "agent.value_network"
            self.value_body = build_body(s.value_network or s.network, self.scaled_space, self.recurrent, setting)
        self.policy_head = self._make_head(self.body.num_features)
        self.value_head = nn.Linear(self.value_body.num_features, 1)
        nn.init.orthogonal_(self.value_head.weight, 1.0)
        nn.init.zeros_(self.value_head.bias)
        self.actor_critic = self.actor_critic_type(self)
        self.batch_norms = freeze_batch_norm(self)
        self.policy_dropouts = make_consistent(self.body)
        self.dropouts = dropouts(self)

    def value(self, obs: Tree) -> Tensor:
        """[B, *O] to V(s) [B]."""
        return self.value_head(self.value_body(self.normalized(obs))).squeeze(-1)

    def act(self, obs: Tree, state: Tree = None) -> Step:
        """Draws from the policy; obs [N, *O]."""
        outputs, state = self.actor_critic.act(self.normalized(obs), state)
        memory = Memory(outputs, drawn_masks(self.policy_dropouts))
        return Step(self.policy_head.draw(outputs), memory, state)

    @torch.no_grad()
    def training_rows(self, rollout: Rollout) -> tuple[Rows, Tensor]:
        """The rollout as rows to learn from, by the policy and value that acted; and the policy's mean entropy, 0-d."""
        memory, action = map(rollout.rows, (rollout.memory, rollout.action))
        pi = self.policy_head.distribution(memory.outputs)
        obs = self.actor_critic.inputs(rollout)
        rows = Rows(action, obs, pi.log_prob(action), *self._estimates(rollout), memory.masks)
        return rows, pi.entropy().mean()

    @torch.no_grad()
    def inspect(self, rollout: Rollout) -> dict[str, Tensor]:
        """Also V, advantage and target of each row, by the networks that acted; see `Agent.inspect`."""
        rows, _ = self.training_rows(rollout)
        pi = self.policy_head.distribution(rollout.rows(rollout.memory).outputs)
        found = {"value": rows.value, "advantage": rows.advantage, "target": rows.target}
        return {name: rollout.spread(x) for name, x in (figures_of(pi, rows.action) | found).items()}

    @torch.no_grad()
    def _estimates(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
        """Values, advantages and targets by the current value network, [B] each."""
        s = self.settings
        with switched_off(self.dropouts):
            value, next_value = self.actor_critic.values(rollout)
        terminated, truncated = rollout.terminated, rollout.truncated
        advantage = gae(self._reward(rollout), value, next_value, terminated, truncated, s.gamma, s.gae_lambda)
        return rollout.rows(value), rollout.rows(advantage), rollout.rows(advantage + value)
