"""Probes of known value for every kind of action and observation: PPO and REINFORCE learn each in seconds."""

import numpy as np
import pytest
import torch
from compare import same
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from rlcore import Trainer, check_agent, check_environment, collect
from rlcore.agents.ppo import PPO
from rlcore.agents.reinforce import Reinforce
from rlcore.environment import Environment


class OneStep(Environment):
    """Episodes of one step: what is seen is drawn, and the answer paid for."""

    def __init__(self, observation_space, action_space, draw, pay, num_envs=16):
        self.settings = Environment.Settings(num_envs=num_envs)
        super().__init__(num_envs, observation_space, action_space)
        self.draw, self.pay, self.generator = draw, pay, torch.Generator()

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.generator.manual_seed(seed)
        self.obs = self.draw(self.num_envs, self.generator)
        return self.obs, {}

    def step(self, actions):
        reward = self.pay(self.obs, actions).float()
        ended = torch.ones(self.num_envs, dtype=torch.bool)
        self.obs = self.draw(self.num_envs, self.generator)
        return self.obs, reward, ended, ~ended, {}

    def checkpoint(self):
        return {"obs": self.obs, "generator": self.generator.get_state()}

    def restore(self, saved):
        self.obs = saved["obs"]
        self.generator.set_state(saved["generator"])

    def evaluation(self, num_envs):
        return OneStep(self.single_observation_space, self.single_action_space, self.draw, self.pay, num_envs)


def numbers(n):
    return lambda size, g: torch.randint(n, (size,), generator=g)


def one_arm_forbidden(size, g):
    """The arms pay 0, 1, 2 and 3; which are allowed is drawn, at least one."""
    mask = torch.rand(size, 4, generator=g) < 0.5
    mask[torch.arange(size), torch.randint(4, (size,), generator=g)] = True
    return {"observation": torch.zeros(size, 1), "action_mask": mask}


def best_allowed(obs, action):
    assert obs["action_mask"].gather(1, action[:, None]).all()
    best = (obs["action_mask"] * torch.arange(4)).amax(1)
    return (action == best).float()


def parts(size, g):
    return {
        "noise": torch.randn(size, 3, generator=g),
        "room": torch.randint(4, (size,), generator=g),
        "eye": torch.randint(256, (size, 6, 6, 3), generator=g, dtype=torch.uint8),
    }


def bright(size, g):
    """One half of the image is bright."""
    image = torch.zeros(size, 8, 8, 3, dtype=torch.uint8)
    right = torch.randint(2, (size,), generator=g).bool()
    image[right, :, 4:] = 200
    image[~right, :, :4] = 200
    return image


FLAT = Box(-1, 1, (2,), np.float32)
SMALL_CNN = {"name": "impala_cnn", "channels": [4], "features": 16}
BOTH = {"vector": {"name": "mlp", "hidden": [16]}, "image": SMALL_CNN, "hidden": [16]}
PROBES = {
    "number": (Discrete(3), Discrete(3), numbers(3), lambda obs, a: a == obs),
    "masked bandit": (
        Dict({"observation": Box(0, 1, (1,)), "action_mask": MultiBinary(4)}), Discrete(4), one_arm_forbidden,
        best_allowed,
    ),
    "one part of three": (
        Dict({"noise": Box(-9, 9, (3,)), "room": Discrete(4), "eye": Box(0, 255, (6, 6, 3), np.uint8)}), Discrete(4),
        parts, lambda obs, a: a == obs["room"],
    ),
    "pixels": (
        Box(0, 255, (8, 8, 3), np.uint8), Discrete(2), bright, lambda obs, a: a == (obs[:, 0, 7, 0] > 0).long(),
    ),
    "several numbers": (
        MultiDiscrete([2, 3]), MultiDiscrete([2, 3]),
        lambda size, g: torch.stack([numbers(2)(size, g), numbers(3)(size, g)], 1),
        lambda obs, a: (a == obs).float().mean(1),
    ),
    "bits": (
        MultiBinary(3), MultiBinary(3), lambda size, g: torch.randint(2, (size, 3), generator=g),
        lambda obs, a: (a == obs).float().mean(1),
    ),
    "target": (
        FLAT, Box(-2, 2, (1,), np.float32), lambda size, g: torch.rand(size, 2, generator=g) * 2 - 1,
        lambda obs, a: 1 - (a[:, 0] - obs[:, 0]).abs(),
    ),
}  # fmt: skip
NETWORKS = {"one part of three": {"name": "multi_input", **BOTH}, "pixels": SMALL_CNN}


def make(probe, kind=PPO, **settings):
    env = OneStep(*PROBES[probe])
    torch.manual_seed(0)
    given = {"network": NETWORKS.get(probe, {"name": "mlp", "hidden": [32]}), "learning_rate": 5e-3, **settings}
    if kind is PPO:
        given = {"horizon": 16, "minibatch_size": 64, "entropy_coefficient": 0.0, **given}
    return env, kind(env, kind.Settings.model_validate(given))


@pytest.mark.parametrize("kind", [PPO, Reinforce])
@pytest.mark.parametrize("probe", PROBES)
def test_it_is_learned(probe, kind):
    env, agent = make(probe, kind)
    if "mask" not in probe:  # its random actions know of no mask
        check_environment(env, 20)
    check_agent(agent, env)
    Trainer(agent, env, total_steps=16_000 if kind is PPO else 32_000, seed=1).fit()
    found = env.evaluation(16).score(agent, 400, 3).scalars["return"]
    assert found > (0.9 if probe == "target" else 0.95)


def test_a_target_is_met_by_a_squashed_policy_too():
    env, agent = make("target", squash=True)
    Trainer(agent, env, total_steps=16_000, seed=1).fit()
    assert env.evaluation(16).score(agent, 400, 3).scalars["return"] > 0.9
    obs, _ = env.reset(seed=1)
    assert agent.act(obs).action.abs().max() <= 2


OPTIONS = [
    {"normalize_observations": True, "normalize_rewards": True},
    {"recompute_advantages": True},
    {"squash": True},
    {"target_kl": 0.01},
    {"clip_range": None, "num_epochs": 1, "minibatch_size": None},
    {"value_clip": 0.2},
    {"shared": True},
]


@pytest.mark.parametrize("settings", OPTIONS, ids=lambda s: next(iter(s)))
@pytest.mark.parametrize("probe", ["target", "masked bandit", "one part of three"])
def test_an_interrupted_run_ends_in_the_same_bits(probe, settings):
    if "squash" in settings and probe != "target":
        pytest.skip("its action is no Box")

    def trainer():
        return Trainer(*reversed(make(probe, **settings)), total_steps=256 * 6, seed=4)

    whole, first, second = trainer(), trainer(), trainer()
    whole.fit()
    for _ in range(3):
        first.update()
    second.restore(first.checkpoint())
    second.fit()
    same(second.checkpoint()["agent"], whole.checkpoint()["agent"])


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(
    "settings", [{}, {"normalize_observations": True}, {"squash": True}], ids=["plain", "norm", "squash"]
)
def test_the_first_ratio_is_one_and_each_row_is_answered_alone(probe, settings):
    floats = probe in ("target", "masked bandit", "one part of three")
    if ("squash" in settings and probe != "target") or ("normalize_observations" in settings and not floats):
        pytest.skip("not for this space")
    env, agent = make(probe, **settings)
    trainer = Trainer(agent, env, total_steps=10**6, seed=1)
    for _ in range(2):
        trainer.update()
    rollout = collect(agent, env, trainer.obs, 16)
    rows, _ = agent._rows(rollout)
    pi, V = agent._answers(rows.obs)
    torch.testing.assert_close(pi.log_prob(rows.action), rows.log_prob, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(V, rows.value)
    obs = trainer.obs
    whole = agent.distribution(obs)
    row = {key: x[5:6] for key, x in obs.items()} if isinstance(obs, dict) else obs[5:6]
    torch.testing.assert_close(agent.distribution(row).entropy(), whole.entropy()[5:6], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(agent.distribution(row).mode, whole.mode[5:6])


def test_normalisers_move_after_the_last_epoch_and_not_in_evaluation():
    env, agent = make("target", normalize_observations=True, normalize_rewards=True, num_epochs=3)
    before = agent.normalizer.single.mean.clone()
    seen = []
    minimize = agent.minimize
    agent.minimize = lambda loss: seen.append(agent.normalizer.single.mean.clone()) or minimize(loss)
    obs, _ = env.reset(seed=1)
    rollout = collect(agent, env, obs, 16)
    agent.learn(rollout)
    assert len(seen) == 3 * 4
    assert all(torch.equal(mean, before) for mean in seen)
    everything = rollout.obs.flatten(0, 1).double()
    torch.testing.assert_close(agent.normalizer.single.mean, everything.mean(0))
    torch.testing.assert_close(agent.normalizer.single.var, everything.var(0, correction=0))
    after = {name: value.clone() for name, value in agent.state_dict().items()}
    env.evaluation(4).score(agent, 50, 1)
    same(dict(agent.state_dict()), after)


def test_one_epoch_without_a_clip_is_a2c():
    """The gradient of an advantage actor-critic, written by hand, to float32 rounding."""
    settings = {"clip_range": None, "num_epochs": 1, "minibatch_size": None, "entropy_coefficient": 0.01}
    env, agent = make("number", normalize_advantages=False, max_grad_norm=1e9, **settings)
    obs, _ = env.reset(seed=1)
    rollout = collect(agent, env, obs, 16)
    one = torch.nn.functional.one_hot(rollout.obs.flatten(), 3).float()
    features, value_features = one, one
    for layer, value_layer in zip(agent.body.network.hidden, agent.value_body.network.hidden, strict=True):
        features, value_features = layer(features).tanh(), value_layer(value_features).tanh()
    pi = torch.distributions.Categorical(logits=agent.policy_head(features))
    V = agent.value_head(value_features).squeeze(1)
    R = rollout.reward.flatten()  # episodes of one step
    loss = -(pi.log_prob(rollout.action.flatten()) * (R - V.detach())).mean()
    loss = loss + 0.5 * (V - R).square().mean() - 0.01 * pi.entropy().mean()
    expected = torch.autograd.grad(loss, list(agent.parameters()))
    agent.optimizer.step = lambda: None  # the gradients stay
    agent.learn(rollout)
    for parameter, gradient in zip(agent.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)
