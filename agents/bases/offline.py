"""What the agents have in common that learn transitions by transitions from recorded experience."""

from rlcore.agent import Metrics
from rlcore.agents.bases.transitions import TransitionAgent
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.rollout import Rollout, Step
from rlcore.trees import Tree


class OfflineAgent(TransitionAgent):
    """Learns from each rollout as a batch of transitions; a subclass updates its networks.

    Observations are normalised by the statistics of the whole data set.
    """

    offline = True
    horizon = 1
    others = "discrete_cql or bc"

    def __init__(self, env: Environment | EnvSpec, settings: TransitionAgent.Settings | None = None):
        super().__init__(env, settings)
        if self.settings.normalize_rewards:
            raise InputError("agent.normalize_rewards: recorded steps come in no order; set env.reward_scale=returns")

    def act(self, obs: Tree, state: Tree = None) -> Step:
        """The best action: it does not explore; obs [N, *O]."""
        return self.predict(obs, state)

    def learn(self, rollout: Rollout) -> Metrics:
        """Takes a step on the transitions of the rollout."""
        self.progress = rollout.progress
        metrics, _ = self.update(self._normalized_batch(rollout.transitions(1, self.settings.gamma)))
        return metrics
