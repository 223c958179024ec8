"""What the agents that learn from single transitions have in common, wherever these come from."""

from abc import abstractmethod

from pydantic import PositiveFloat
from torch import Tensor

from rlcore.agent import Metrics
from rlcore.agents.bases.normalized import NormalizedAgent
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.networks import NetworkChoice
from rlcore.rollout import Transition


class TransitionAgent(NormalizedAgent):
    """Learns from batches of transitions; a subclass says where they come from, and updates its networks with them."""

    class Settings(NormalizedAgent.Settings):
        """Settings of networks that learn from transitions."""

        network: NetworkChoice = NetworkChoice.model_validate(
            {"name": "mlp", "hidden": [256, 256], "activation": "relu", "init": "torch"}
        )
        """The body of each network."""
        max_grad_norm: PositiveFloat | None = None
        """Bound on the gradient's 2-norm; null disables clipping."""

    settings: Settings
    others = "dqn, discrete_sac or ppo"
    """Agents for actions that are no numbers in a Box."""

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        self.max_grad_norm = self.settings.max_grad_norm
        self.progress = 0.0
        """Share of the run done, [0, 1], as of the last rollout."""

    @abstractmethod
    def update(self, b: Transition) -> tuple[Metrics, Tensor]:
        """Takes a gradient step on a batch.

        Args:
            b: B transitions, normalised.

        Returns:
            Metrics, and how wrong each row's value was, [B], detached.
        """

    def _normalized_batch(self, b: Transition) -> Transition:
        """B transitions as the networks see them."""
        return b._replace(obs=self.normalized(b.obs), next_obs=self.normalized(b.next_obs))
