"""ActorCritic: what a policy gradient with a critic asks of an agent's networks."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from rlcore.distributions import Distribution
from rlcore.observations import action_mask
from rlcore.rollout import Rollout, minibatches, state_values
from rlcore.trees import Tree

if TYPE_CHECKING:
    from rlcore.agents.ppo import PPO

Batch = TypeVar("Batch", bound=Any)


class ActorCritic:
    """A policy and a value, each a linear head on a body; they may share the body. This one has no memory.

    Args:
        agent: which has the networks, ``body``, ``value_body``, ``policy_head`` and ``value_head``.
    """

    def __init__(self, agent: "PPO"):
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
        value_features = features if agent.settings.shared else agent.value_body(inputs)
        outputs = agent.policy_head(features, action_mask(inputs))
        return agent.policy_head.distribution(outputs), agent.value_head(value_features).squeeze(-1)

    def values(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """V of each row and of its true successor, [T, N] both."""
        return state_values(rollout, self.agent.value)

    def minibatches(self, rows: Batch) -> Iterator[Batch]:
        """The rows of an epoch in a new random order, ``minibatch_size`` at a time.

        Args:
            rows: a NamedTuple of trees [B, ...], with `inputs` as its field ``obs``.
        """
        return minibatches(rows, self.agent.settings.minibatch_size)
