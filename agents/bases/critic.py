"""What agents have in common whose critics read observations and bounded actions."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from rlcore.agent import Metrics
from rlcore.agents.bases.targets import refuse_noise
from rlcore.agents.bases.transitions import TransitionAgent
from rlcore.distributions import WIDEST, BoxScale
from rlcore.errors import InputError
from rlcore.networks import NetworkChoice
from rlcore.networks.critics import Critics
from rlcore.networks.mlp import MLP
from rlcore.observations import build_body
from rlcore.optimizers import Adam
from rlcore.schedules import Schedule, anneal
from rlcore.trees import Tree
from rlcore.uncertainty import Answers, Numbers

FLAT = NetworkChoice.model_validate({"name": "mlp", "hidden": []})
"""A body that passes on what it reads, as one vector."""
BEHIND_A_BODY = MLP.Settings(hidden=[256, 256], activation="relu", init="torch")
"""Critics behind a body that is no ``mlp``."""


class CriticAgent(TransitionAgent):
    """An agent with a policy, critics of observation and action, and target critics; a subclass updates them.

    Within it, numbers of an action lie in [-1, 1], and 0 is the middle of the Box: so noise and entropy mean the same
    in any Box.
    """

    class Settings(TransitionAgent.Settings):
        """Settings of critics."""

        learning_rate: PositiveFloat = 3e-4
        """Step size of every Adam, before the schedule."""
        critic_learning_rate: PositiveFloat | None = None
        """That of the critics; null: the same."""
        learning_rate_schedule: Schedule = "constant"
        """How the learning rate falls over the run."""
        critics: PositiveInt = Field(default=2, le=1000)
        """N; the least of their answers counts (Fujimoto et al. 2018)."""
        target_critics: PositiveInt | None = None
        """Of the N target critics, this many, drawn anew for each batch, answer (REDQ, Chen et al. 2021), and the
        policy climbs the mean of the N; null: all, and it climbs the least."""
        critic_network: NetworkChoice | None = None
        """That of the critics; null: the same."""
        tau: float = Field(default=0.005, gt=0, le=1)
        """How far each update moves target networks towards the networks."""

        @model_validator(mode="after")
        def _check_target_critics(self) -> "CriticAgent.Settings":
            if self.target_critics is not None and self.target_critics > self.critics:
                raise InputError(f"target_critics: {self.target_critics} of critics={self.critics} cannot answer")
            return self

    settings: Settings
    scale: BoxScale
    critic_optimizer: Adam
    critics_kind: type[Critics] = Critics
    """What the critics are."""
    betas = 0.9, 0.999
    """Of every Adam."""

    def _make_networks(self, num_policy_outputs: int, num_numbers: int, num_critic_outputs: int = 1) -> None:
        """The policy, from observations to so many outputs, the critics, and their targets."""
        s = self.settings
        body = build_body(s.network, self.scaled_space)
        self.policy = nn.Sequential(body, nn.Linear(body.num_features, num_policy_outputs))
        choice, sizes = s.critic_network or s.network, (num_numbers, num_critic_outputs)
        self.critic = QFunction(choice, self.scaled_space, s.critics, *sizes, self.critics_kind)
        self._make_targets()
        refuse_noise(self)

    def _make_targets(self) -> None:
        """The target critics."""
        self.target_critic = deepcopy(self.critic).requires_grad_(False)

    def _make_optimizers(self, policy: Iterable[nn.Parameter]) -> None:
        """Those of the critics and of what the policy learns."""
        s = self.settings
        rate = s.critic_learning_rate or s.learning_rate
        self.critic_optimizer = Adam(self.critic.parameters(), lr=rate, betas=self.betas)
        self.optimizer = Adam(policy, lr=s.learning_rate, betas=self.betas)

    def _anneal(self) -> None:
        """Sets the step sizes as of now."""
        s = self.settings
        rates = s.critic_learning_rate or s.learning_rate, s.learning_rate
        for optimizer, rate in zip((self.critic_optimizer, self.optimizer), rates, strict=True):
            anneal(optimizer, rate, s.learning_rate_schedule, self.progress)

    def _targets(self, obs: Tree, numbers: Tensor | None = None) -> Tensor:
        """What the target critics say, or those of them that are drawn, [K, B, M]."""
        s, which = self.settings, None
        if s.target_critics is not None:
            which = torch.randperm(s.critics, device=self.critic.critics.weights[0].device)[: s.target_critics]
        return self.target_critic(obs, numbers, which=which)

    def _climbed(self, Q: Tensor) -> Tensor:
        """What the policy climbs of the critics' [N, B, M]: the least, or the mean if few of many targets answer."""
        return Q.amin(0) if self.settings.target_critics is None else Q.mean(0)

    def _improve_critics(self, each: Tensor, weight: Tensor | None) -> Metrics:
        """Takes a step of the critics down the loss of each row, [B], of that weight."""
        loss = (each if weight is None else weight * each).mean()
        return {f"critic_{name}": value for name, value in self.minimize(loss, self.critic_optimizer).items()}

    def _improve_policy(self, loss: Tensor, loss_of_alpha: Tensor | None = None) -> Metrics:
        """Takes a step of the policy down its loss, 0-d, and of alpha down its own."""
        metrics = self.minimize(loss if loss_of_alpha is None else loss + loss_of_alpha)
        return {f"actor_{name}": value for name, value in metrics.items()} | {"actor_loss": loss.detach()}

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


def bounded(space: Space[Any], agent: str, instead: str) -> BoxScale:
    """The scale of a bounded Box.

    Args:
        space: of an action.
        agent: whose name is in the message.
        instead: agents for other spaces.

    Raises:
        InputError: it is another space, or has no bounds.
    """
    if not isinstance(space, Box):
        raise InputError(f"{agent} chooses numbers in a Box, got the space {space}; use {instead}")
    width = space.high.astype(np.float64) - space.low.astype(np.float64)
    if not space.shape or not ((width > 0) & (width < WIDEST)).all():
        raise InputError(f"{agent} needs a space of one or more numbers, each with a range, got {space}")
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
        kind: of critics.
    """

    def __init__(
        self,
        choice: NetworkChoice,
        space: Space[Any],
        num: int,
        num_numbers: int,
        num_outputs: int,
        kind: type[Critics] = Critics,
    ):
        super().__init__()
        own = choice.settings
        is_mlp = isinstance(own, MLP.Settings)
        self.body = build_body(FLAT if is_mlp else choice, space)
        settings = own if isinstance(own, MLP.Settings) else BEHIND_A_BODY
        self.critics = kind(num, self.body.num_features + num_numbers, num_outputs, settings)

    def forward(
        self,
        obs: Tree,
        numbers: Tensor | None = None,
        frozen: bool = False,
        which: slice | Tensor | None = None,
    ) -> Tensor:
        """[B, *O] and [B, D] to [N, B, M].

        Args:
            obs: normalised.
            numbers: of actions; None: the critics do not read them.
            frozen: whether gradients go to the action alone.
            which: critics to evaluate, by their numbers, [K, B, M]; None: all.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            x = self.body(obs)
        return self.critics(x if numbers is None else torch.cat([x, numbers], 1), frozen, which)
