"""Proximal policy optimisation with a memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

from rlcore.agents.ppo import PPO, Memory, Rows
from rlcore.distributions import Distribution
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.networks import NetworkChoice
from rlcore.networks.dropout import drawn_masks, switched_off
from rlcore.networks.recurrent import Recurrent, Sequence
from rlcore.observations import action_mask
from rlcore.rollout import Rollout, Step
from rlcore.trees import Tree, leaves, stack, take, tree_map


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

    def initial_state(self, num_envs: int) -> tuple[Tree, Tree]:
        """The states of the policy and of the value, if that has its own memory."""
        value_state = () if self.settings.shared else self.value_body.initial_state(num_envs)
        return self.body.initial_state(num_envs), value_state

    def distribution(self, obs: Tree) -> Distribution:
        """[B, *O] to pi(.|s) of B rows, each the beginning of an episode."""
        outputs, _ = self._remembered(self.normalized(obs), self.body.initial_state(_num_rows(obs)))
        return self.policy_head.distribution(outputs)

    def value(self, obs: Tree) -> Tensor:
        """[B, *O] to V(s) [B], each the beginning of an episode."""
        return self._value_after(obs, self.value_body.initial_state(_num_rows(obs)))

    def act(self, obs: Tree, state: Tree = None) -> Step:
        """Draws from the policy; obs [N, *O]."""
        obs, (policy_state, value_state) = self.normalized(obs), state
        outputs, policy_state = self._remembered(obs, policy_state)
        memory = Memory(outputs, drawn_masks(self.policy_dropouts))
        if not self.settings.shared:
            with switched_off(self.dropouts):  # as when V is estimated
                value_state = self.value_body.remember(obs, value_state)
        return Step(self.policy_head.distribution(outputs).sample(), memory, (policy_state, value_state))

    @torch.no_grad()
    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The most likely action, as in `PPO`; obs [N, *O]. Without a state, they are the first ones of episodes.

        The value's state stays unchanged, as no value is computed.
        """
        policy_state, value_state = self.initial_state(_num_rows(obs)) if state is None else state
        outputs, policy_state = self._remembered(self.normalized(obs), policy_state)
        return Step(self.policy_head.distribution(outputs).mode, state=(policy_state, value_state))

    def _remembered(self, obs: Tree, state: Tree) -> tuple[Tensor, Tree]:
        """Outputs of the policy's head [N, K] for one step, and the next state."""
        features, state = self.body.step(obs, state)
        return self.policy_head(features, action_mask(obs)), state

    def _answers(self, obs: Sequence) -> tuple[Distribution, Tensor]:
        """The policy and V of the T * N rows of a sequence, time-major."""
        policy_state, value_state = obs.state
        features = self.body(obs._replace(state=policy_state))
        value_features = features if self.settings.shared else self.value_body(obs._replace(state=value_state))
        outputs = self.policy_head(features, action_mask(tree_map(lambda x: x.flatten(0, 1), obs.obs)))
        return self.policy_head.distribution(outputs), self.value_head(value_features).squeeze(-1)

    def _rows(self, rollout: Rollout) -> tuple[Rows, Tensor]:
        """As in `PPO`, T * N rows time-major; but observations are one `Sequence` of them all."""
        rows, entropy = super()._rows(rollout)
        return rows._replace(obs=self._sequence(rollout)), entropy

    def _sequence(self, rollout: Rollout) -> Sequence:
        return Sequence(self.normalized(rollout.obs), rollout.episode_starts, rollout.initial_state)

    def _pieces(self, rows: Rows) -> Iterator[Rows]:
        """Minibatches of the sequences of some environments, in random order."""
        s, (obs, starts, state) = self.settings, rows.obs
        T, N = starts.shape
        size = N if s.minibatch_size is None else s.minibatch_size // T
        for envs in torch.randperm(N, device=starts.device).split(size):

            def part(x: Tensor, envs: Tensor = envs) -> Tensor:
                return x.unflatten(0, (T, N))[:, envs].flatten(0, 1)

            piece = Sequence(
                take(obs, (slice(None), envs)),
                starts[:, envs],
                take(state, envs),
            )
            yield Rows(*tree_map(part, tuple(rows._replace(obs=None))))._replace(obs=piece)

    def _values(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """V of each row and of its true successor, [T, N] both, given the state there."""
        sequence = self._sequence(rollout)
        sequence = sequence._replace(state=sequence.state[0 if self.settings.shared else 1])
        times, envs = rollout.cut_places
        distinct, rows = times.unique(return_inverse=True)
        cut_rows = distinct.tolist()
        features, states = self.value_body.unroll(sequence, cut_rows)
        value = self.value_head(features).squeeze(-1)
        last = self._value_after(rollout.last_obs, states[len(value) - 1])
        next_value = torch.cat([value[1:], last[None]])
        if cut_rows:
            behind = take(stack([states[t] for t in cut_rows]), (rows, envs))
            next_value[rollout.cut_places] = self._value_after(rollout.final_obs, behind)
        return value, next_value

    def _value_after(self, obs: Tree, state: Tree) -> Tensor:
        return self.value_head(self.value_body.step(self.normalized(obs), state)[0]).squeeze(-1)


def _num_rows(obs: Tree) -> int:
    return len(next(leaves(obs)))
