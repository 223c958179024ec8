"""What agents have in common whose critics read observations and bounded actions."""

from copy import deepcopy
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from rlcore.agents.bases.off_policy import OffPolicyAgent
from rlcore.agents.bases.targets import refuse_noise
from rlcore.distributions import WIDEST, BoxScale
from rlcore.errors import InputError
from rlcore.networks import NetworkChoice
from rlcore.networks.critics import Critics
from rlcore.networks.mlp import MLP
from rlcore.observations import build_body
from rlcore.schedules import Schedule
from rlcore.trees import Tree
from rlcore.uncertainty import Answers, Numbers

FLAT = NetworkChoice.model_validate({"name": "mlp", "hidden": []})
"""A body that passes on what it reads, as one vector."""
BEHIND_A_BODY = MLP.Settings(hidden=[256, 256], activation="relu", init="torch")
"""Critics behind a body that is no ``mlp``."""


class CriticAgent(OffPolicyAgent):
    """An agent with a policy, critics of observation and action, and target critics; a subclass updates them.

    Within it, numbers of an action lie in [-1, 1], and 0 is the middle of the Box: so noise and entropy mean the same
    in any Box.
    """

    class Settings(OffPolicyAgent.Settings):
        """Settings of critics."""

        learning_rate: PositiveFloat = 3e-4
        """Step size of every Adam, before the schedule."""
        learning_rate_schedule: Schedule = "constant"
        """How the learning rate falls over the run."""
        critics: PositiveInt = Field(default=2, le=1000)
        """N; the least of their answers counts (Fujimoto et al. 2018)."""
        tau: float = Field(default=0.005, gt=0, le=1)
        """How far each update moves target networks towards the networks."""

    settings: Settings
    scale: BoxScale

    def _make_networks(self, num_policy_outputs: int, num_numbers: int, num_critic_outputs: int = 1) -> None:
        """The policy, from observations to so many outputs, the critics, and their targets."""
        s = self.settings
        body = build_body(s.network, self.scaled_space)
        self.policy = nn.Sequential(body, nn.Linear(body.num_features, num_policy_outputs))
        self.critic = QFunction(s.network, self.scaled_space, s.critics, num_numbers, num_critic_outputs)
        self.target_critic = deepcopy(self.critic).requires_grad_(False)
        refuse_noise(self)

    def answers(self, obs: Tree) -> Answers:
        """What each critic says of the action that `predict` chooses, [N, B], for `rlcore.uncertainty`."""
        action = self.predict(obs).action
        Q = self.critic(self.normalized(obs), self._numbers(action)).mean(2)
        return Numbers(Q, torch.zeros_like(Q))

    def _numbers(self, action: Tensor) -> Tensor:
        """Actions [B, *A] of the Box as numbers [B, D] in [-1, 1]."""
        return ((action - self.scale.middle) / self.scale.half_width).flatten(1)

    def _action(self, numbers: Tensor) -> Tensor:
        """Numbers [B, D] in [-1, 1] as actions [B, *A]."""
        return self.scale(numbers.view(-1, *self.scale.middle.shape))


class Temperature(nn.Module):
    """The weight of the entropy, alpha; learned, unless it is given, such that the entropy is a target's.

    Args:
        alpha: its value; auto: it is learned, from 1.
    """

    def __init__(self, alpha: Literal["auto"] | float):
        super().__init__()
        self.learned = alpha == "auto"
        self.log_alpha = nn.Parameter(torch.tensor(1.0 if alpha == "auto" else alpha).log(), self.learned)

    def forward(self) -> Tensor:
        """Alpha, 0-d, detached."""
        return self.log_alpha.detach().exp()

    def loss(self, entropy: Tensor, target: Tensor | float) -> Tensor:
        """What to add to the policy's loss (Haarnoja et al. 2018, equation 18), 0-d.

        Args:
            entropy: of the policy, 0-d, nats; no gradient goes there.
            target: nats.
        """
        return self.log_alpha * (entropy.detach() - target) if self.learned else torch.zeros_like(self.log_alpha)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """One that is given stays as given now."""
        if not self.learned:
            state_dict[f"{prefix}log_alpha"] = self.log_alpha.detach()
        super()._load_from_state_dict(state_dict, prefix, *rest)


def bounded(space: Space[Any], agent: str) -> BoxScale:
    """The scale of a bounded Box.

    Raises:
        InputError: it is another space, or has no bounds.
    """
    if not isinstance(space, Box):
        raise InputError(f"{agent} chooses numbers in a Box, got the space {space}; use dqn, discrete_sac or ppo")
    width = space.high.astype(np.float64) - space.low.astype(np.float64)
    if not space.shape or not ((width > 0) & (width < WIDEST)).all():
        raise InputError(f"{agent} needs a space of one or more numbers, each with a range, got {space}; use ppo")
    return BoxScale(space)


class QFunction(nn.Module):
    """N critics of an observation and an action.

    If the network is an ``mlp``, its hidden layers are theirs, and read both together. Any other one is their common
    body, which reads the observation; two hidden layers of 256 read its features and the action.

    Args:
        choice: the network.
        space: of an observation.
        num: N.
        num_numbers: D, of an action; 0: they say the worth of each action instead.
        num_outputs: M.
    """

    def __init__(self, choice: NetworkChoice, space: Space[Any], num: int, num_numbers: int, num_outputs: int):
        super().__init__()
        own = choice.settings
        is_mlp = isinstance(own, MLP.Settings)
        self.body = build_body(FLAT if is_mlp else choice, space)
        settings = own if isinstance(own, MLP.Settings) else BEHIND_A_BODY
        self.critics = Critics(num, self.body.num_features + num_numbers, num_outputs, settings)

    def forward(self, obs: Tree, numbers: Tensor | None = None, frozen: bool = False, first: bool = False) -> Tensor:
        """[B, *O] and [B, D] to [N, B, M].

        Args:
            obs: normalised.
            numbers: of actions; None: the critics do not read them.
            frozen: whether gradients go to the action alone.
            first: evaluate the first critic alone, [1, B, M].
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            x = self.body(obs)
        return self.critics(x if numbers is None else torch.cat([x, numbers], 1), frozen, first)
