import gymnasium
import numpy as np
import pytest
import torch
from compare import same
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from one_step import OneStep

from rlcore import InputError, Trainer, check_agent, collect, rollout
from rlcore.agents.ppo import PPO
from rlcore.agents.recurrent_ppo import RecurrentPPO
from rlcore.environment import Environment
from rlcore.envs.cartpole import CartPole
from rlcore.envs.probes import Probe
from rlcore.networks import NetworkChoice
from rlcore.networks.recurrent import Sequence
from rlcore.observations import build_body
from rlcore.returns import gae
from rlcore.trees import tree_map, where

NETWORKS = [{"name": "gru", "size": 8}, {"name": "lstm", "size": 8}]
STACK = {"name": "frame_stack", "frames": 3, "body": {"name": "mlp", "hidden": [8]}}


class Cue(Probe):
    """Shows +1 or -1 in the first step and nothing later; only the last answer is paid: 1 if it names the cue."""

    def __init__(self, settings=None, device="cpu", length=4):
        self.length = length
        super().__init__(settings or Environment.Settings(num_envs=16), 2, Discrete(2), device)

    def observe(self):
        first = self._elapsed == 0
        drawn = torch.randint(2, (self.num_envs,), generator=self._generator, device=self.device)
        self._hidden = torch.where(first, drawn, self._hidden)
        cue = torch.where(first, 2.0 * self._hidden - 1, 0.0)
        return torch.stack([cue, (self._elapsed == self.length - 1).float()], 1)

    def reward(self, action):
        return ((action == self._hidden) & (self._elapsed == self.length - 1)).float()


def make(env=None, **settings):
    env = env or CartPole(CartPole.Settings(num_envs=6, max_episode_steps=9, velocities=False))
    torch.manual_seed(0)
    given = {"horizon": 16, "minibatch_size": 32, "network": NETWORKS[0], **settings}
    return env, RecurrentPPO(env, RecurrentPPO.Settings.model_validate(given))


def rolled(env, agent, horizon=16, first=40):
    """A rollout in the middle of a run: it begins with something remembered."""
    obs, _ = env.reset(seed=1)
    before = collect(agent, env, obs, first, agent.initial_state(env.num_envs))
    return collect(agent, env, before.last_obs, horizon, before.last_state)


@pytest.mark.parametrize("network", NETWORKS, ids=["gru", "lstm"])
def test_a_sequence_is_read_as_step_by_step(network):
    """Forgetting at each beginning; and a row alone as in the batch."""
    torch.manual_seed(0)
    net = NetworkChoice.model_validate(network).build((3,))
    obs, begins = torch.randn(20, 5, 3), torch.rand(20, 5) < 0.2
    start = tuple(torch.randn(5, 8) for _ in range(net.num_fields))
    features, states = net.unroll(Sequence(obs, begins, start), after=[3, 11])
    state, each = start, []
    for t in range(20):
        state = tuple(torch.where(begins[t][:, None], 0.0, field) for field in state)
        out, state = net.step(obs[t], state)
        each.append(out)
        if t in (3, 11, 19):
            for one, other in zip(states[t], state, strict=True):
                torch.testing.assert_close(one, other)
    torch.testing.assert_close(features, torch.stack(each))
    alone = Sequence(obs[:, 2:3], begins[:, 2:3], tuple(field[2:3] for field in start))
    torch.testing.assert_close(net.unroll(alone)[0][:, 0], features[:, 2])


@pytest.mark.parametrize("network", [*NETWORKS, STACK], ids=["gru", "lstm", "stack"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("normalize_observations", [True, False])
def test_the_first_ratio_is_one(network, shared, normalize_observations):
    settings = {"network": network, "shared": shared, "normalize_observations": normalize_observations}
    env, agent = make(minibatch_size=None, **settings)
    check_agent(agent, env)
    rollout = rolled(env, agent)
    rows, _ = agent.training_rows(rollout)
    assert rollout.done.any()
    for b in agent.actor_critic.minibatches(rows, agent.settings.minibatch_size):
        pi, V = agent.actor_critic.answers(b.obs)
        torch.testing.assert_close(pi.log_prob(b.action), b.log_prob, atol=1e-5, rtol=0)
        torch.testing.assert_close(V, b.value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("network", [NETWORKS[0], STACK], ids=["gru", "stack"])
def test_values_of_successors_are_those_after_what_was_remembered(network):
    """By playing it again, one environment and one step at a time; with time limits, where the episode goes on."""
    env, agent = make(network=network)
    rollout = rolled(env, agent)
    assert rollout.cut.any()
    value, next_value = agent.actor_critic.values(rollout)
    kept = iter(rollout.final_obs)
    finals = {tuple(place): next(kept) for place in rollout.cut.nonzero().tolist()}
    for n in range(6):
        state = tuple(field[n : n + 1] for field in rollout.initial_state[1])
        for t in range(16):
            if t and rollout.done[t - 1, n]:
                state = agent.value_body.initial_state(1)
            out, state = agent.value_body.step(rollout.obs[t, n][None], state)
            torch.testing.assert_close(agent.value_head(out)[0, 0], value[t, n])
            follows = finals.get((t, n))
            if follows is None and not rollout.done[t, n]:
                follows = rollout.last_obs[n] if t == 15 else rollout.obs[t + 1, n]
            if follows is not None:
                out, _ = agent.value_body.step(follows[None], state)
                torch.testing.assert_close(agent.value_head(out)[0, 0], next_value[t, n])
    expected = gae(rollout.reward, value, next_value, rollout.terminated, rollout.truncated, 0.99, 0.95)
    torch.testing.assert_close(agent.training_rows(rollout)[0].advantage, expected.flatten())


def test_minibatches_are_whole_sequences_of_some_environments():
    env, agent = make()
    rows, _ = agent.training_rows(rolled(env, agent))
    seen = []
    for b in agent.actor_critic.minibatches(rows, agent.settings.minibatch_size):
        assert b.obs.obs.shape == (16, 2, 2)
        for k in range(2):
            (n,) = [n for n in range(6) if torch.equal(rows.obs.obs[:, n], b.obs.obs[:, k])]
            assert torch.equal(b.advantage.view(16, 2)[:, k], rows.advantage.view(16, 6)[:, n])
            assert torch.equal(b.obs.state[0][0][k], rows.obs.state[0][0][n])
            seen.append(n)
    assert sorted(seen) == list(range(6))


PIXELS = Box(0, 255, (6, 5), np.uint8)
WITH_NUMBER = Dict({"image": Box(0, 255, (6, 5, 3), np.uint8), "room": Discrete(3)})


@pytest.mark.parametrize("space", [Box(-9, 9, (2,), np.float32), PIXELS, WITH_NUMBER], ids=["vector", "pixels", "dict"])
def test_frames_are_stacked_as_by_gymnasiums_wrapper(space):
    """In a rollout that begins within an episode, and step by step, in episodes of 1 to 7 steps."""
    N, T, first, lengths = 3, 30, 11, [1, 7, 4]
    space.seed(1)
    observed = [[space.sample() for _ in range(T)] for _ in range(N)]
    expected = [[None] * T for _ in range(N)]
    for n, length in enumerate(lengths):
        env = gymnasium.wrappers.FrameStackObservation(Told(space, iter(observed[n])), 3)
        for t in range(T):
            expected[n][t] = env.reset()[0] if t % length == 0 else env.step(0)[0]
    body = {"name": "multi_input", "image": {"name": "mlp"}} if space is WITH_NUMBER else {"name": "mlp"}
    network = NetworkChoice.model_validate({**STACK, "body": body})
    stack = build_body(network, space, recurrent=True)
    read, features = [], stack._features
    stack._features = lambda stacks: read.append(stacks) or features(stacks)
    obs = [as_tensors([observed[n][t] for n in range(N)]) for t in range(T)]
    begins = torch.tensor([[t % length == 0 for length in lengths] for t in range(T)])
    state, blank = stack.initial_state(N), stack.initial_state(N)
    for t in range(T):
        if t == first:
            started = state
        state = where(begins[t], blank, state)
        same(stack.remember(obs[t], state), stack.step(obs[t], state)[1])
        _, state = stack.step(obs[t], state)
        same(tree_map(lambda x: x[0], read.pop()), as_tensors([expected[n][t] for n in range(N)]))
    _, states = stack.unroll(Sequence(rollout.stack(obs[first:]), begins[first:], started), after=[5])
    whole = [as_tensors([expected[n][t] for n in range(N)]) for t in range(first, T)]
    same(read.pop(), rollout.stack(whole))
    same(states[T - 1 - first], state)
    assert set(states) == {5, T - 1 - first}


class Told(gymnasium.Env):
    """Shows what it is told."""

    def __init__(self, space, observations):
        self.observation_space, self.action_space, self.observations = space, Discrete(1), observations

    def reset(self, **_):
        return next(self.observations), {}

    def step(self, action):
        return next(self.observations), 0.0, False, False, {}


def as_tensors(samples):
    if isinstance(samples[0], dict):
        return {key: as_tensors([sample[key] for sample in samples]) for key in samples[0]}
    return torch.as_tensor(np.stack(samples))


SPACES = [
    Discrete(4, start=-1), MultiDiscrete([3, 4]), MultiBinary(3), Box(-1, 1, (2, 3), np.float32),
    Box(0, 255, (8,), np.uint8), Box(0, 255, (6, 5), np.uint8), Box(0, 255, (6, 5, 3), np.uint8),
]  # fmt: skip


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_frames_of_any_kind_are_read_as_one_of_them(space):
    linear = {"name": "mlp", "hidden": []}  # as a body it flattens and no more
    stack = build_body(NetworkChoice.model_validate({**STACK, "frames": 8, "body": linear}), space, recurrent=True)
    alone = build_body(NetworkChoice.model_validate(linear), space)
    space.seed(1)
    frames = [as_tensors([space.sample() for _ in range(2)]) for _ in range(8)]
    state = stack.initial_state(2)
    for frame in frames:
        features, state = stack.step(frame, state)
    torch.testing.assert_close(features, torch.cat([alone(frame) for frame in frames], 1))


def test_each_frame_is_stored_once():
    space = Box(0, 255, (20, 20), np.uint8)
    env = OneStep(space, Discrete(2), lambda size, g: torch.zeros(size, 20, 20, dtype=torch.uint8), lambda obs, a: a, 4)
    _, agent = make(env, network={**STACK, "frames": 4}, shared=True)
    seen = rolled(env, agent, first=1)
    kept = [row.obs for row in seen]
    assert all(x.shape == (4, 20, 20) and x.dtype == torch.uint8 for x in kept)
    assert seen.initial_state[0][0].shape == (4, 3, 20, 20)
    assert seen.memory.outputs.shape == (16, 4, 2)


MEMORIES = [{"name": "gru", "size": 16}, {"name": "lstm", "size": 16}, {"name": "frame_stack", "frames": 4}]


@pytest.mark.parametrize("network", MEMORIES, ids=["gru", "lstm", "stack"])
def test_a_cue_is_remembered(network):
    env, agent = make(Cue(), minibatch_size=64, learning_rate=1e-2, num_epochs=4, network=network)
    Trainer(agent, env, total_steps=16 * 16 * 14, seed=1).fit()
    assert env.evaluation(16).score(agent, 200, seed=3).scalars["return"] > 0.97


def test_no_cue_is_remembered_without_a_memory():
    blind = Cue()
    forgetful = PPO(blind, PPO.Settings(horizon=16, minibatch_size=64, learning_rate=1e-2, num_epochs=4))
    Trainer(forgetful, blind, total_steps=16 * 16 * 14, seed=1).fit()
    assert blind.evaluation(16).score(forgetful, 200, seed=3).scalars["return"] < 0.7


def test_without_a_state_episodes_begin():
    env, agent = make()
    obs, _ = env.reset(seed=1)
    state = agent.initial_state(6)
    alone, begun = agent.predict(obs), agent.predict(obs, state)
    same((alone.action, alone.state), (begun.action, begun.state))
    pi, value = agent.distribution(obs), agent.value(obs)
    torch.testing.assert_close(pi.log_prob(alone.action), agent.distribution(obs).log_prob(begun.action))
    rollout = collect(agent, env, obs, 16, state)
    torch.testing.assert_close(value, agent.actor_critic.values(rollout)[0][0])


def test_bad_settings_are_one_line():
    with pytest.raises(InputError, match="mlp has no memory; gru, lstm and frame_stack have one"):
        make(network={"name": "mlp"})
    with pytest.raises(InputError, match="whole sequences, a multiple of"):
        make(minibatch_size=24)
    with pytest.raises(InputError, match="needs rollouts of a fixed length"):
        make(horizon=None, minibatch_size=None)
    with pytest.raises(InputError, match="gru has a memory; choose an agent that keeps one"):
        PPO(CartPole(), PPO.Settings.model_validate({"network": {"name": "gru"}}))
