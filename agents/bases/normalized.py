"""What agents have in common whose observations and rewards may be normalised."""

from pydantic import Field

from rlcore import settings
from rlcore.agent import Agent
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.normalization import ObservationNormalizer, RewardNormalizer
from rlcore.observations import input_scaling
from rlcore.rollout import Rollout
from rlcore.spaces import scaled_space
from rlcore.trees import Tree


class NormalizedAgent(Agent):
    """An agent with running statistics of what it sees and gets; a subclass decides when they are updated."""

    class Settings(settings.Settings):
        """Settings of normalisation, and the discount."""

        gamma: float = Field(default=0.99, ge=0, le=1)
        """Discount."""
        normalize_observations: bool = False
        """Scale floats to mean 0 and variance 1 over all observations before, clipped to [-10, 10]."""
        normalize_rewards: bool = False
        """Divide rewards by the standard deviation of the discounted return, clipped to [-10, 10]."""

    settings: Settings

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        self.reads_float64 = s.normalize_observations
        self.scaling = input_scaling(env.single_observation_space)
        self.scaled_space = scaled_space(env.single_observation_space)
        """Of observations once the inputs of a data set are scaled."""
        self.normalizer = ObservationNormalizer(self.scaled_space) if s.normalize_observations else None
        self.reward_normalizer = RewardNormalizer(s.gamma, env.num_envs) if s.normalize_rewards else None

    def normalized(self, obs: Tree) -> Tree:
        """Observations [B, *O] as the networks see them."""
        obs = self._scaled(obs)
        return obs if self.normalizer is None else self.normalizer(obs)

    def fit_normalizer(self, obs: Tree) -> None:
        """Includes observations [B, *O] in the statistics, if there are any."""
        if self.normalizer is not None:
            self.normalizer.update(self._scaled(obs))

    def on_reset(self) -> None:
        """Restarts the running returns, by which rewards are normalised, from 0."""
        if self.reward_normalizer is not None:
            self.reward_normalizer.running.zero_()

    def _scaled(self, obs: Tree) -> Tree:
        return obs if self.scaling is None else self.scaling(obs)

    def _update_normalizers(self, rollout: Rollout) -> None:
        """Includes a rollout in the running statistics."""
        self.fit_normalizer(rollout.rows(rollout.obs))
        if self.reward_normalizer is not None:
            self.reward_normalizer.update(rollout)
