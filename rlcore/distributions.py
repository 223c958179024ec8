"""What the outputs of a policy mean: distributions over actions, and the heads that make them.

They compute what ``torch.distributions`` computes, without its checks and broadcasting, which cost more than the
arithmetic at the sizes of a policy.
"""

import math
from typing import Protocol

import torch
from gymnasium import Space
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from rlcore.errors import InputError

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
FORBIDDEN = -1e9
"""Logit of an action that is not allowed: its chance is 0 and, unlike with -inf, what it adds to an entropy is 0."""


class Distribution(Protocol):
    """A distribution for each row of a batch [B]; an action of shape A is one draw from a row."""

    @property
    def mode(self) -> Tensor:
        """The likeliest action, [B, *A]."""

    def sample(self) -> Tensor:
        """One action a row, [B, *A], from torch's global generator of the device."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Log p(action), [B], in nats."""

    def entropy(self) -> Tensor:
        """Entropy, [B], in nats."""


class Categorical:
    """Over 0 .. K-1.

    Args:
        logits: [B, K], unnormalised log-probabilities.
    """

    __slots__ = ("_log_probs", "logits")

    def __init__(self, logits: Tensor):
        self.logits = logits
        self._log_probs: Tensor | None = None

    @property
    def log_probs(self) -> Tensor:
        """[B, K], normalised."""
        if self._log_probs is None:
            self._log_probs = self.logits.log_softmax(-1)
        return self._log_probs

    @property
    def mode(self) -> Tensor:
        """[B] int64."""
        return self.logits.argmax(-1)

    def sample(self) -> Tensor:
        """[B] int64, by the Gumbel-max trick: argmax(logits - log E), E ~ Exp(1), needs no normalised probabilities."""
        return (self.logits - torch.empty_like(self.logits).exponential_().log_()).argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """[B], nats.

        Args:
            action: [B] int64.
        """
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """[B], nats, in [0, log K]."""
        log_probs = self.log_probs
        return -(log_probs.exp() * log_probs).sum(-1)


class DiagonalGaussian:
    """Independent normals, one a component of the action.

    Args:
        mean: [B, *A].
        log_std: [*A], log of the standard deviations.
    """

    __slots__ = ("dims", "log_std", "mean")

    def __init__(self, mean: Tensor, log_std: Tensor):
        self.mean, self.log_std = mean, log_std
        self.dims = tuple(range(-log_std.ndim, 0))

    @property
    def mode(self) -> Tensor:
        """[B, *A] float32."""
        return self.mean

    def sample(self) -> Tensor:
        """[B, *A] float32."""
        return self.mean + self.log_std.exp() * torch.randn_like(self.mean)

    def log_prob(self, action: Tensor) -> Tensor:
        """[B], nats; summed over the components.

        Args:
            action: [B, *A].
        """
        z = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - HALF_LOG_2PI).sum(self.dims)

    def entropy(self) -> Tensor:
        """[B], nats; summed over the components."""
        entropy = (self.log_std + 0.5 + HALF_LOG_2PI).sum()
        return entropy.expand(self.mean.shape[: self.mean.ndim - self.log_std.ndim])


class CategoricalHead(nn.Linear):
    """Features [B, F] to logits [B, K], and these to a `Categorical`."""

    def distribution(self, outputs: Tensor, mask: Tensor | None = None) -> Categorical:
        """What outputs [B, K] mean, of the actions that a mask [B, K] bool allows."""
        return Categorical(outputs if mask is None else outputs.masked_fill(~mask, FORBIDDEN))


class GaussianHead(nn.Linear):
    """Features [B, F] to means [B, prod(shape)], and these to a `DiagonalGaussian`; log_std is a parameter."""

    def __init__(self, num_features: int, shape: tuple[int, ...], log_std: float = 0.0):
        super().__init__(num_features, math.prod(shape))
        self.shape = shape
        self.log_std = nn.Parameter(torch.full(shape, log_std))

    def distribution(self, outputs: Tensor, mask: Tensor | None = None) -> DiagonalGaussian:
        """What outputs [B, prod(shape)] mean; actions are [B, *shape].

        Raises:
            InputError: there is a mask.
        """
        if mask is not None:
            raise InputError("an action mask says which of several actions are allowed; this action is a Box")
        return DiagonalGaussian(outputs.unflatten(-1, self.shape), self.log_std)


def policy_head(num_features: int, action_space: Space[object], gain: float = 0.01) -> CategoricalHead | GaussianHead:
    """The layer that turns features into what a distribution over the actions of a space is made of.

    ``head.distribution(head(features))`` is the policy of each row.

    Its weights are orthogonal and small, so that a policy begins near uniform (Andrychowicz et al. 2021, section 3.2).

    Args:
        num_features: F.
        action_space: `Discrete`, or a `Box` of floats of at least one dimension.
        gain: scale of the initial weights.

    Raises:
        InputError: no head serves this space.
    """
    head: CategoricalHead | GaussianHead
    if isinstance(action_space, Discrete):
        head = CategoricalHead(num_features, int(action_space.n))
    elif isinstance(action_space, Box) and action_space.dtype.kind == "f" and action_space.shape:
        head = GaussianHead(num_features, action_space.shape)
    else:
        raise InputError(
            f"no policy head serves the action space {action_space}; "
            "served: Discrete, Box of floats with at least one dimension"
        )
    nn.init.orthogonal_(head.weight, gain)
    nn.init.zeros_(head.bias)
    return head
