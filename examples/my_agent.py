"""A minimal policy gradient: one step of Adam on one episode from each environment."""

import torch

import rlcore
from rlcore.distributions import policy_head
from rlcore.returns import discounted_returns


@rlcore.registry.agents.register("my_agent")
class MyAgent(rlcore.Agent):
    class Settings(rlcore.Agent.Settings):
        learning_rate: float = 1e-2
        gamma: float = 0.99

    settings: Settings
    horizon = None  # learn from whole episodes; a number T would be T steps of each environment

    def __init__(self, env, settings=None):
        super().__init__(env, settings)
        self.body = rlcore.networks.build("mlp", env.single_observation_space.shape, hidden=[32])
        self.head = policy_head(self.body.num_features, env.single_action_space)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=self.settings.learning_rate)

    def distribution(self, obs):
        return self.head.distribution(self.head(self.body(obs)))

    def act(self, obs, state=None):
        return rlcore.Step(self.distribution(obs).sample())

    @torch.no_grad()
    def predict(self, obs, state=None):
        return rlcore.Step(self.distribution(obs).mode)

    def learn(self, rollout):
        G = discounted_returns(rollout.reward, rollout.terminated, rollout.truncated, self.settings.gamma)
        obs, action, G = map(rollout.rows, (rollout.obs, rollout.action, G))
        advantage = (G - G.mean()) / G.std()
        return self.minimize(-(self.distribution(obs).log_prob(action) * advantage).mean())
