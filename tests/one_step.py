"""Environments of one step, one for every kind of action and observation, whose best answer is known."""

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

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
