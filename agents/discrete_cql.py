"""Conservative Q-learning for actions that are one of several."""

from copy import deepcopy

import torch
from gymnasium.spaces import Discrete
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from rlcore.agent import Metrics
from rlcore.agents.bases.offline import OfflineAgent
from rlcore.agents.bases.q_learning import QNetwork, allowed, of_action
from rlcore.agents.bases.targets import refuse_noise, track
from rlcore.agents.bases.transitions import TransitionAgent
from rlcore.distributions import Categorical
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.observations import build_body
from rlcore.optimizers import Adam
from rlcore.rollout import Step, Transition
from rlcore.schedules import Schedule, anneal
from rlcore.trees import Tree


class DiscreteCQL(OfflineAgent):
    """Double Q-learning that thinks little of what was not recorded (Kumar et al. 2020, equation 4, CQL(H)).

    minimise  E[(Q(s, a) - y)^2] + w E[log sum_a exp Q(s, a) - Q(s, a_recorded)],
    y = r + gamma Q'(s', argmax_a' Q(s', a')); w is twice the paper's alpha
    """

    class Settings(TransitionAgent.Settings):
        """Settings of conservative Q-learning."""

        learning_rate: PositiveFloat = 3e-4
        """Step size of Adam, before the schedule."""
        learning_rate_schedule: Schedule = "constant"
        """How the learning rate falls over the run."""
        conservative_weight: NonNegativeFloat = 1.0
        """w; 0 is double Q-learning, large is behaviour cloning."""
        tau: float = Field(default=0.005, gt=0, le=1)
        """How far each update moves the target network towards the network."""

    settings: Settings

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        if not isinstance(self.action_space, Discrete):
            raise InputError(
                f"discrete_cql chooses one of several actions, got the space {self.action_space}; use cql or bc"
            )
        self.q = QNetwork(build_body(s.network, self.scaled_space), int(self.action_space.n))
        self.target = deepcopy(self.q).requires_grad_(False)
        refuse_noise(self)
        self.optimizer = Adam(self.q.parameters(), lr=s.learning_rate)

    def values(self, obs: Tree) -> Tensor:
        """Q [B, A] of observations [B, *O]; very low where an action is not allowed."""
        return allowed(self.q(self.normalized(obs)).squeeze(2), obs)

    def details(self, obs: Tree, state: Tree = None) -> dict[str, Tensor]:
        """``q``: Q of each action, [B, A]."""
        return {"q": self.values(obs)}

    @torch.no_grad()
    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The best action; obs [N, *O]."""
        return Step(self.values(obs).argmax(1))

    def update(self, b: Transition) -> tuple[Metrics, Tensor]:
        """Takes a gradient step on a batch, and one of the target network."""
        s = self.settings
        learning_rate = anneal(self.optimizer, s.learning_rate, s.learning_rate_schedule, self.progress)
        every = self.q(b.obs)  # [B, A, 1]
        Q = of_action(every, b.action).squeeze(1)
        with torch.no_grad():
            chosen = allowed(self.q(b.next_obs).squeeze(2), b.next_obs).argmax(1)
            y = b.reward + b.discount * ~b.terminated * of_action(self.target(b.next_obs), chosen).squeeze(1)
        surprise = -Categorical(allowed(every.squeeze(2), b.obs)).log_prob(b.action)  # log sum exp Q - Q
        metrics = self.minimize((Q - y).square().mean() + s.conservative_weight * surprise.mean())
        track(self.target, self.q, s.tau)
        metrics |= {"q": Q.detach().mean(), "surprise": surprise.detach().mean(), "learning_rate": learning_rate}
        return metrics, Q.detach() - y
