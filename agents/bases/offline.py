"""What the agents have in common that learn transitions by transitions from recorded experience."""

from rlcore.agent import Agent, Metrics
from rlcore.agents.bases.transitions import TransitionAgent
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.rollout import Rollout, Step
from rlcore.trees import Tree


class OfflineAgent(TransitionAgent):
    """Learns from each rollout as a batch, and never acts in training; a subclass updates its networks.

    Observations are normalised by the statistics of the whole data set.
    """

    horizon = 1

    def __init__(self, env: Environment | EnvSpec, settings: TransitionAgent.Settings | None = None):
        super().__init__(env, settings)
        if self.settings.normalize_rewards:
            raise InputError("agent.normalize_rewards: recorded steps come in no order; set env.reward_scale=returns")

    def act(self, obs: Tree, state: Tree = None) -> Step:
        """The best action, in evaluation alone; obs [N, *O].

        Raises:
            InputError: in training.
        """
        refuse_to_explore(self)
        return self.predict(obs, state)

    def learn(self, rollout: Rollout) -> Metrics:
        """Takes a step on the transitions of the rollout."""
        self.progress = rollout.progress
        metrics, _ = self.update(self._normalized_batch(rollout.transitions(1, self.settings.gamma)))
        return metrics


def refuse_to_explore(agent: Agent) -> None:
    """Raises an InputError if the agent is learning: it would have to explore."""
    if agent.training:
        name = type(agent).__name__
        raise InputError(f"{name} learns from recorded episodes and does not explore; use env.name=offline")
