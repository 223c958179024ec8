"""Proximal policy optimisation with a memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

from rlcore.agents.bases.actor_critic import ActorCritic, Batch
from rlcore.agents.ppo import PPO
from rlcore.distributed import size
from rlcore.distributions import Distribution
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.networks import NetworkChoice
from rlcore.networks.dropout import switched_off
from rlcore.networks.recurrent import Recurrent, Sequence
from rlcore.observations import action_mask
from rlcore.rollout import Rollout, Step
from rlcore.trees import Tree, num_rows, stack, take, tree_map


class RecurrentActorCritic(ActorCritic):
    """A policy and a value with a memory each, or one for both; a state is the pair of theirs."""

    agent: "RecurrentPPO"

    def act(self, obs: Tree, state: tuple[Tree, Tree]) -> tuple[Tensor, tuple[Tree, Tree]]:
        """What the policy's head says of one step [N, *O] after a state, [N, K]; and the next state."""
        agent, (policy_state, value_state) = self.agent, state
        features, policy_state = agent.body.step(obs, policy_state)
        if agent.value_body is not agent.body:
            with switched_off(agent.dropouts):  # as when V is estimated
                value_state = agent.value_body.remember(obs, value_state)
        return agent.policy_head(features, action_mask(obs)), (policy_state, value_state)

    def inputs(self, rollout: Rollout) -> Sequence:
        """The rollout's observations as one sequence."""
        return Sequence(self.agent.normalized(rollout.obs), rollout.episode_starts, rollout.initial_state)

    def answers(self, inputs: Sequence) -> tuple[Distribution, Tensor]:
        """The policy and V of the T * N rows of a sequence, time-major."""
        agent, (policy_state, value_state) = self.agent, inputs.state
        features = value_features = agent.body(inputs._replace(state=policy_state))
        if agent.value_body is not agent.body:
            value_features = agent.value_body(inputs._replace(state=value_state))
        outputs = agent.policy_head(features, action_mask(tree_map(lambda x: x.flatten(0, 1), inputs.obs)))
        return agent.policy_head.distribution(outputs), agent.value_head(value_features).squeeze(-1)

    def values(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """V of each row and of its true successor, [T, N] both, given the state there."""
        agent, sequence = self.agent, self.inputs(rollout)
        sequence = sequence._replace(state=sequence.state[0 if agent.value_body is agent.body else 1])
        times, envs = rollout.cut_places
        distinct, rows = times.unique(return_inverse=True)
        cut_rows = distinct.tolist()
        features, states = agent.value_body.unroll(sequence, cut_rows)
        value = agent.value_head(features).squeeze(-1)
        last = self._value_after(rollout.last_obs, states[len(value) - 1])
        next_value = torch.cat([value[1:], last[None]])
        if cut_rows:
            behind = take(stack([states[t] for t in cut_rows]), (rows, envs))
            next_value[rollout.cut_places] = self._value_after(rollout.final_obs, behind)
        return value, next_value

    def minibatches(self, rows: Batch, size: int | None) -> Iterator[Batch]:
        """Sequences of some environments, in random order; ``obs`` of the rows is a `Sequence`, the rest [T * N]."""
        obs, starts, state = rows.obs
        T, N = starts.shape
        others = tree_map(lambda x: x.unflatten(0, (T, N)), rows._replace(obs=None))
        for envs in torch.randperm(N, device=starts.device).split(N if size is None else size // T):
            sequence = Sequence(take(obs, (slice(None), envs)), starts[:, envs], take(state, envs))
            yield tree_map(lambda x: x.flatten(0, 1), take(others, (slice(None), envs)))._replace(obs=sequence)

    def _value_after(self, obs: Tree, state: Tree) -> Tensor:
        features, _ = self.agent.value_body.step(self.agent.normalized(obs), state)
        return self.agent.value_head(features).squeeze(-1)


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
    actor_critic_type = RecurrentActorCritic
    body: Recurrent
    value_body: Recurrent

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        if self.batch_norms:
            raise InputError("agent.network: recurrent_ppo does not support batch norm")
        if s.horizon is None:
            raise InputError("agent.horizon: recurrent_ppo needs rollouts of a fixed length, got null")
        if self.minibatch_size is not None and self.minibatch_size % s.horizon:
            of_each = "" if size() == 1 else f" in each of {size()} processes"
            raise InputError(
                f"agent.minibatch_size: must be whole sequences{of_each}, a multiple of agent.horizon; "
                f"{self.minibatch_size} is not a multiple of {s.horizon}"
            )

    def initial_state(self, num_envs: int) -> tuple[Tree, Tree]:
        """The empty memories of the policy and of the value; ``()`` if that has none of its own."""
        value_state = () if self.settings.shared else self.value_body.initial_state(num_envs)
        return self.body.initial_state(num_envs), value_state

    def distribution(self, obs: Tree, state: tuple[Tree, Tree] | None = None) -> Distribution:
        """[B, *O] to pi(.|s) of B rows, after a state; without one, each is the beginning of an episode."""
        return self._remembering(obs, state)[0]

    def value(self, obs: Tree) -> Tensor:
        """[B, *O] to V(s) [B], each the beginning of an episode."""
        features, _ = self.value_body.step(self.normalized(obs), self.value_body.initial_state(num_rows(obs)))
        return self.value_head(features).squeeze(-1)

    @torch.no_grad()
    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The most likely action, as in `PPO`; obs [N, *O]. Without a state, they are the first ones of episodes.

        The value's state stays unchanged, as no value is computed.
        """
        pi, state = self._remembering(obs, state)
        return Step(pi.mode, state=state)

    def _remembering(self, obs: Tree, state: tuple[Tree, Tree] | None) -> tuple[Distribution, tuple[Tree, Tree]]:
        """The policy and the next state, the value's unchanged."""
        policy_state, value_state = self.initial_state(num_rows(obs)) if state is None else state
        features, policy_state = self.body.step(self.normalized(obs), policy_state)
        pi = self.policy_head.distribution(self.policy_head(features, action_mask(obs)))
        return pi, (policy_state, value_state)
