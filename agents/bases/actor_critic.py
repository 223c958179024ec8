"""ActorCritic: what a policy gradient with a critic asks of its networks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rlcore.distributions import Distribution, Head
from rlcore.observations import action_mask
from rlcore.rollout import Rollout, minibatches
from rlcore.trees import Tree, concat, tree_map

Rows = TypeVar("Rows", bound=tuple[Any, ...])
Read = Callable[[Tree], Tree]
"""Observations [..., *O] to what networks read, e.g. normalised."""


@dataclass
class ActorCritic:
    """A policy and a value, each a linear head on a body; they may share the body. This one has no memory."""

    body: nn.Module
    value_body: nn.Module
    policy_head: Head
    value_head: nn.Linear

    def initial_state(self, num_envs: int) -> Tree:
        """The memory at the beginning of an episode; None: there is none."""
        return None

    def outputs(self, obs: Tree, state: Tree) -> tuple[Tensor, Tree]:
        """What the policy's head says of one step [N, *O] after a state, [N, K]; and the policy's next state."""
        return self.policy_head(self.body(obs), action_mask(obs)), state

    def remember(self, obs: Tree, state: Tree) -> Tree:
        """The state with the value's memory of that step, too."""
        return state

    def value(self, obs: Tree) -> Tensor:
        """V(s) [B] of observations [B, *O], each the beginning of an episode."""
        return self.value_head(self.value_body(obs)).squeeze(-1)

    def inputs(self, rollout: Rollout, read: Read) -> Tree:
        """The rollout's observations as `answers` takes them."""
        return read(rollout.rows(rollout.obs))

    def answers(self, inputs: Tree) -> tuple[Distribution, Tensor]:
        """The policy and V [B] for B rows of `inputs`."""
        features = self.body(inputs)
        value_features = features if self.value_body is self.body else self.value_body(inputs)
        outputs = self.policy_head(features, action_mask(inputs))
        return self.policy_head.distribution(outputs), self.value_head(value_features).squeeze(-1)

    def values(self, rollout: Rollout, read: Read) -> tuple[Tensor, Tensor]:
        """V of each row and of its true successor, [T, N] both."""
        value = self.value(read(tree_map(lambda x: x.flatten(0, 1), rollout.obs))).view_as(rollout.reward)
        successors = self.value(read(concat([rollout.last_obs, rollout.final_obs])))
        N = value.shape[1]
        next_value = torch.cat([value[1:], successors[None, :N]])
        next_value[rollout.cut_places] = successors[N:]
        return value, next_value

    def minibatches(self, rows: Rows, size: int | None) -> Iterator[Rows]:
        """The rows in a new random order, ``size`` at a time; None: all of them.

        Args:
            rows: a NamedTuple of trees [B, ...], with `inputs` as its field ``obs``.
            size: rows per minibatch.
        """
        return minibatches(rows, size)
