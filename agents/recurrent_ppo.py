"""Proximal policy optimisation with a memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rlcore.agents.bases.actor_critic import ActorCritic, Read, Rows
from rlcore.agents.ppo import PPO
from rlcore.distributions import Distribution
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.networks import NetworkChoice
from rlcore.networks.recurrent import Recurrent, Sequence
from rlcore.observations import action_mask
from rlcore.rollout import Rollout
from rlcore.trees import Tree, num_rows, stack, take, tree_map


class RecurrentPPO(PPO):
    """PPO whose policy and value have a memory of the episode so far; see `PPO` for the objective.

    The state before a rollout is the one computed while acting, by the network and the normaliser before their last
    updates; it is not recomputed.

    Gradients go back through time within a rollout, as far as the state before it; a minibatch is whole sequences, of
    some of the environments (Huang et al. 2022, "The 37 implementation details of PPO", LSTM).
    """

    class Settings(PPO.Settings):
        """Settings of PPO with a memory."""

        network: NetworkChoice = NetworkChoice.model_validate({"name": "gru"})
        """``gru``, ``lstm`` or ``frame_stack``, with a body of their own."""

    settings: Settings
    recurrent = True
    body: Recurrent
    value_body: Recurrent

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        if self.batch_norms:
            raise InputError("agent.network: recurrent_ppo does not support batch norm")
        if s.horizon is None:
            raise InputError("agent.horizon: recurrent_ppo needs rollouts of a fixed length, got null")
        if s.minibatch_size is not None and s.minibatch_size % s.horizon:
            raise InputError(
                "agent.minibatch_size: must be whole sequences, a multiple of agent.horizon; "
                f"{s.minibatch_size} is not a multiple of {s.horizon}"
            )

    @cached_property
    def networks(self) -> "RecurrentActorCritic":
        """The policy and the value."""
        return RecurrentActorCritic(self.body, self.value_body, self.policy_head, self.value_head)


@dataclass
class RecurrentActorCritic(ActorCritic):
    """A policy and a value with a memory each, or one for both; a state is the pair, ``()`` for a value without."""

    body: Recurrent
    value_body: Recurrent

    def initial_state(self, num_envs: int) -> tuple[Tree, Tree]:
        """The empty memories."""
        value_state = () if self.value_body is self.body else self.value_body.initial_state(num_envs)
        return self.body.initial_state(num_envs), value_state

    def outputs(self, obs: Tree, state: tuple[Tree, Tree]) -> tuple[Tensor, tuple[Tree, Tree]]:
        """What the policy's head says of one step [N, *O] after a state, [N, K]; and the policy's next state."""
        policy_state, value_state = state
        features, policy_state = self.body.step(obs, policy_state)
        return self.policy_head(features, action_mask(obs)), (policy_state, value_state)

    def remember(self, obs: Tree, state: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
        """The state with the value's memory of that step, too."""
        policy_state, value_state = state
        return policy_state, value_state if self.value_body is self.body else self.value_body.remember(obs, value_state)

    def value(self, obs: Tree) -> Tensor:
        """V(s) [B] of observations [B, *O], each the beginning of an episode."""
        return self._value_after(obs, self.value_body.initial_state(num_rows(obs)))

    def inputs(self, rollout: Rollout, read: Read) -> Sequence:
        """The rollout's observations as one sequence."""
        return Sequence(read(rollout.obs), rollout.episode_starts, rollout.initial_state)

    def answers(self, inputs: Sequence) -> tuple[Distribution, Tensor]:
        """The policy and V of the T * N rows of a sequence, time-major."""
        policy_state, value_state = inputs.state
        features = value_features = self.body(inputs._replace(state=policy_state))
        if self.value_body is not self.body:
            value_features = self.value_body(inputs._replace(state=value_state))
        outputs = self.policy_head(features, action_mask(tree_map(lambda x: x.flatten(0, 1), inputs.obs)))
        return self.policy_head.distribution(outputs), self.value_head(value_features).squeeze(-1)

    def values(self, rollout: Rollout, read: Read) -> tuple[Tensor, Tensor]:
        """V of each row and of its true successor, [T, N] both, given the state there."""
        sequence = self.inputs(rollout, read)
        sequence = sequence._replace(state=sequence.state[0 if self.value_body is self.body else 1])
        times, envs = rollout.cut_places
        distinct, rows = times.unique(return_inverse=True)
        cut_rows = distinct.tolist()
        features, states = self.value_body.unroll(sequence, cut_rows)
        value = self.value_head(features).squeeze(-1)
        last = self._value_after(read(rollout.last_obs), states[len(value) - 1])
        next_value = torch.cat([value[1:], last[None]])
        if cut_rows:
            behind = take(stack([states[t] for t in cut_rows]), (rows, envs))
            next_value[rollout.cut_places] = self._value_after(read(rollout.final_obs), behind)
        return value, next_value

    def minibatches(self, rows: Rows, size: int | None) -> Iterator[Rows]:
        """Sequences of some environments, in random order; ``obs`` of the rows is a `Sequence`, the rest [T * N]."""
        obs, starts, state = rows.obs  # type: ignore[attr-defined]
        T, N = starts.shape
        others = tree_map(lambda x: x.unflatten(0, (T, N)), rows._replace(obs=None))  # type: ignore[attr-defined]
        for envs in torch.randperm(N, device=starts.device).split(N if size is None else size // T):
            sequence = Sequence(take(obs, (slice(None), envs)), starts[:, envs], take(state, envs))
            yield tree_map(lambda x: x.flatten(0, 1), take(others, (slice(None), envs)))._replace(obs=sequence)

    def _value_after(self, obs: Tree, state: Tree) -> Tensor:
        return self.value_head(self.value_body.step(obs, state)[0]).squeeze(-1)
