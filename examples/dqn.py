"""DQN with a uniform replay (Mnih et al. 2015, algorithm 1), an off-policy agent outside rlcore."""

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

import rlcore
from rlcore.networks import NetworkChoice
from rlcore.observations import build_body
from rlcore.replay import Replay
from rlcore.trees import Tree


class Transition(NamedTuple):
    obs: Tree  # [B, *O]
    action: Tensor  # [B]
    reward: Tensor  # [B]
    next_obs: Tree  # [B, *O], the true successor also where a time limit cut the episode
    terminated: Tensor  # [B] bool


@rlcore.registry.agents.register("example_dqn")
class DQN(rlcore.Agent):
    class Settings(rlcore.Settings):
        horizon: int = 64
        num_updates: int = 128  # after each rollout
        batch_size: int = 64
        replay_size: int = 100_000
        learning_starts: int = 1_000  # environment steps
        learning_rate: float = 2.3e-3
        gamma: float = 0.99
        exploration: float = 0.16  # share of the run over which epsilon falls from 1
        final_epsilon: float = 0.04
        network: NetworkChoice = NetworkChoice.model_validate(
            {"name": "mlp", "hidden": [256, 256], "activation": "relu", "init": "torch"}
        )

    max_grad_norm = 10.0

    def __init__(self, env, settings=None):
        super().__init__(env, settings)
        s = self.settings
        self.horizon = s.horizon
        body = build_body(s.network, env.single_observation_space)
        self.q = nn.Sequential(body, nn.Linear(body.num_features, int(env.single_action_space.n)))
        self.target = deepcopy(self.q).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.q.parameters(), lr=s.learning_rate)
        self.replay = Replay(s.replay_size, Transition)
        self.register_buffer("epsilon", torch.ones(()))  # a buffer, so that checkpoints hold it

    def act(self, obs, state=None):
        greedy = self.q(obs).argmax(1)
        explores = torch.rand(greedy.shape, device=greedy.device) < self.epsilon
        return rlcore.Step(torch.where(explores, torch.randint_like(greedy, self.action_space.n), greedy))

    def predict(self, obs, state=None):
        return rlcore.Step(self.q(obs).argmax(1))

    def learn(self, rollout):
        s = self.settings
        steps = rollout.obs, rollout.action, rollout.reward, rollout.next_obs, rollout.terminated
        self.replay.add(Transition(*map(rollout.rows, steps)))
        self.epsilon.fill_(max(s.final_epsilon, 1 - (1 - s.final_epsilon) * rollout.progress / s.exploration))
        metrics = {"epsilon": self.epsilon.clone()}
        if self.replay.num_added < s.learning_starts:
            return metrics
        for _ in range(s.num_updates):
            metrics |= self.minimize(self.loss(self.replay.sample(s.batch_size)))
        self.target.load_state_dict(self.q.state_dict())
        return metrics

    def loss(self, b):
        Q = self.q(b.obs).gather(1, b.action[:, None]).squeeze(1)
        with torch.no_grad():
            V = self.target(b.next_obs).amax(1)
        return smooth_l1_loss(Q, b.reward + self.settings.gamma * V * ~b.terminated)
