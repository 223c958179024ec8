"""What Q-learning agents have in common: Q of each action, and exploration by epsilon."""

import torch
from gymnasium.spaces import Discrete
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from rlcore.agents.bases.exploration import random_actions
from rlcore.agents.bases.normalized import NormalizedAgent
from rlcore.distributions import FORBIDDEN
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.networks.noisy import NoisyLinear
from rlcore.observations import action_mask
from rlcore.rollout import Step
from rlcore.trees import Tree


class EpsilonGreedy(NormalizedAgent):
    """Takes the action of the largest Q, or with probability epsilon any that is allowed; a subclass makes ``q``."""

    class Settings(NormalizedAgent.Settings):
        """Settings of exploration."""

        epsilon: float = Field(default=0.05, ge=0, le=1)
        """Probability of a random action at the end."""
        exploration_fraction: float = Field(default=0.1, ge=0, le=1)
        """Share of the run over which it falls from 1."""

    settings: Settings
    q: "QNetwork"
    epsilon: Tensor  # 0-d, probability of a random action now; kept with what answers

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        self.register_buffer("epsilon", torch.ones(()))
        self._explore_less(0.0)

    def _explore_less(self, progress: float) -> None:
        """Sets epsilon as of a share of the run, [0, 1]."""
        s = self.settings
        done = min(1.0, progress / s.exploration_fraction) if s.exploration_fraction else 1.0
        self.epsilon.fill_(1 + done * (s.epsilon - 1))

    def values(self, obs: Tree) -> Tensor:
        """Q [B, A] of observations [B, *O]; `FORBIDDEN` where an action is not allowed."""
        return allowed(mean_of(self.q(self.normalized(obs))), obs)

    def details(self, obs: Tree, state: Tree = None) -> dict[str, Tensor]:
        """``q``: Q of each action, [B, A]."""
        return {"q": self.values(obs)}

    def explore(self, obs: Tree) -> Tensor:
        """The best action, or with probability epsilon a random one; obs [N, *O], normalised."""
        best = allowed(mean_of(self.q(obs)), obs).argmax(1)
        explores = torch.rand(len(best), device=best.device) < self.epsilon
        return torch.where(explores, random_actions(self.action_space, obs), best)

    @torch.no_grad()
    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The best action; obs [N, *O]."""
        return Step(self.values(obs).argmax(1))

    def num_actions(self, name: str) -> int:
        """A, the number of actions.

        Raises:
            InputError: the action is not one of several.
        """
        if not isinstance(self.action_space, Discrete):
            raise InputError(
                f"{name} chooses one of several actions, got the space {self.action_space}; use sac or ppo"
            )
        return int(self.action_space.n)


class QNetwork(nn.Module):
    """Q of each action, as M quantiles of the return, or M = 1 mean: a body and a last layer.

    Args:
        body: with ``num_features``.
        num_actions: A.
        num_quantiles: M.
        dueling: Q = V + A - mean A (Wang et al. 2016, equation 9).
        noisy: whether the last layer is noisy; see `NoisyLinear`.
    """

    def __init__(
        self, body: nn.Module, num_actions: int, num_quantiles: int = 1, dueling: bool = False, noisy: bool = False
    ):
        super().__init__()
        layer = NoisyLinear if noisy else nn.Linear
        self.body, self.num_quantiles = body, num_quantiles
        features: int = body.num_features  # type: ignore[assignment]
        self.advantage = layer(features, num_actions * num_quantiles)
        self.value = layer(features, num_quantiles) if dueling else None

    def forward(self, obs: Tree) -> Tensor:
        """[B, *O] to [B, A, M]."""
        features = self.body(obs)
        Q = self.advantage(features).unflatten(1, (-1, self.num_quantiles))
        return Q if self.value is None else self.value(features)[:, None] + Q - Q.mean(1, keepdim=True)


def allowed(Q: Tensor, obs: Tree) -> Tensor:
    """Q [B, A], `FORBIDDEN` where the masks of observations [B, *O] do not allow an action.

    A mask that allows none, as that of an episode's last observation may, allows all.
    """
    mask = action_mask(obs)
    return Q if mask is None else Q.masked_fill(~mask & mask.any(1, keepdim=True), FORBIDDEN)


def mean_of(Q: Tensor) -> Tensor:
    """The mean of quantiles [B, A, M], [B, A]."""
    return Q.squeeze(2) if Q.shape[2] == 1 else Q.mean(2)


def of_action(Q: Tensor, action: Tensor) -> Tensor:
    """Q [B, A, M] of the actions [B], [B, M]."""
    return Q.gather(1, action[:, None, None].expand(-1, 1, Q.shape[2])).squeeze(1)


def quantile_huber(quantiles: Tensor, targets: Tensor, midpoints: Tensor) -> Tensor:
    """The quantile regression loss of each row (Dabney et al. 2018, equations 9 and 10, kappa = 1), [...].

    sum over i of mean over j of |tau_i - [u_ij < 0]| huber(u_ij),  u_ij = target_j - quantile_i

    Args:
        quantiles: [..., M].
        targets: [..., K], draws of the same return.
        midpoints: tau, [M].
    """
    i, j = torch.broadcast_tensors(quantiles[..., :, None], targets[..., None, :])  # [..., M, K]
    weight = torch.where(j < i, 1 - midpoints[:, None], midpoints[:, None])
    return (weight * smooth_l1_loss(i, j, reduction="none")).mean(-1).sum(-1)


def quantile_midpoints(num: int) -> Tensor:
    """(i + 1/2) / M for i < M, the probabilities of M quantiles (Dabney et al. 2018, lemma 2), [M]."""
    return (torch.arange(num) + 0.5) / num
