"""Distributions over actions, and the policy heads that make them.

They compute what ``torch.distributions`` computes, without its checks and broadcasting, which cost more than the
arithmetic at the sizes of a policy.
"""

import math
from abc import ABC, abstractmethod
from functools import cache
from typing import Any, Literal, Protocol

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor, nn
from torch.nn.functional import softplus

from rlcore.errors import InputError

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
INSIDE = 1 - 2**-23
"""Largest argument of atanh, below 1 in float32."""
WIDEST = 1e9
"""Bounds of an action further apart than this count as none."""
FORBIDDEN = -1e9
"""Logit of a forbidden action: its probability is 0 and, unlike with -inf, so is its term of the entropy."""


Noise = Literal["uniform", "normal"]
"""Numbers that are uniform in [0, 1), or standard normal."""


class Distribution(Protocol):
    """A distribution for each row of a batch [B]; an action of shape A is one draw from a row.

    Those here can also be exported: they have ``parameters``, ``noise`` and ``drawn``.
    """

    @property
    def mode(self) -> Tensor:
        """The most likely action, [B, *A]."""

    def sample(self) -> Tensor:
        """One action per row, [B, *A], from torch's global generator of the device."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Log p(action), [B], in nats."""

    def entropy(self) -> Tensor:
        """Entropy, [B], in nats."""


class Categorical:
    """A distribution over 0 .. K-1.

    Args:
        logits: [B, K], unnormalised log-probabilities.
    """

    __slots__ = ("_log_probs", "logits")
    noise: Noise = "uniform"
    """What `drawn` takes."""

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

    def drawn(self, noise: Tensor) -> Tensor:
        """[B] int64, the draw that noise [B] makes: the first k of p_0 + ... + p_k > noise."""
        cumulative = self.log_probs.exp().cumsum(-1)
        return (cumulative <= noise.unsqueeze(-1) * cumulative[..., -1:]).sum(-1)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """``probabilities`` [B, K]."""
        return {"probabilities": self.log_probs.exp()}

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
    """Independent normals, one per component of the action.

    Args:
        mean: [B, *A].
        log_std: [*A] or [B, *A], log of the standard deviations.
    """

    __slots__ = ("dims", "log_std", "mean")
    noise: Noise = "normal"
    """What `drawn` takes."""

    def __init__(self, mean: Tensor, log_std: Tensor):
        self.mean, self.log_std = mean, log_std
        self.dims = tuple(range(1, mean.ndim)) if log_std.ndim == mean.ndim else tuple(range(-log_std.ndim, 0))

    @property
    def mode(self) -> Tensor:
        """[B, *A] float32."""
        return self.mean

    def sample(self) -> Tensor:
        """[B, *A] float32."""
        return self.drawn(torch.randn_like(self.mean))

    def drawn(self, noise: Tensor) -> Tensor:
        """[B, *A] float32, the draw that noise [B, *A] makes."""
        return self.mean + self.log_std.exp() * noise

    @property
    def parameters(self) -> dict[str, Tensor]:
        """``mean`` and ``std``, [B, *A] each."""
        return {"mean": self.mean, "std": self.log_std.exp().expand_as(self.mean)}

    def log_prob(self, action: Tensor) -> Tensor:
        """[B], nats; summed over the components.

        Args:
            action: [B, *A].
        """
        z = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - HALF_LOG_2PI).sum(self.dims)

    def entropy(self) -> Tensor:
        """[B], nats; summed over the components."""
        return (self.log_std + 0.5 + HALF_LOG_2PI).expand_as(self.mean).sum(self.dims)


class MultiCategorical:
    """D independent `Categorical` components of up to K choices each.

    Args:
        logits: [B, D, K], `FORBIDDEN` where a component has fewer choices.
    """

    __slots__ = ("each",)
    noise: Noise = "uniform"
    """What `drawn` takes."""

    def __init__(self, logits: Tensor):
        self.each = Categorical(logits)

    @property
    def mode(self) -> Tensor:
        """[B, D] int64."""
        return self.each.mode

    def sample(self) -> Tensor:
        """[B, D] int64."""
        return self.each.sample()

    def drawn(self, noise: Tensor) -> Tensor:
        """[B, D] int64, the draw that noise [B, D] makes."""
        return self.each.drawn(noise)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """``probabilities`` [B, D, K]."""
        return self.each.parameters

    def log_prob(self, action: Tensor) -> Tensor:
        """[B], nats; summed over the components.

        Args:
            action: [B, D] int64.
        """
        return self.each.log_prob(action).sum(-1)

    def entropy(self) -> Tensor:
        """[B], nats; summed over the components."""
        return self.each.entropy().sum(-1)


class Bernoulli:
    """Independent components that are 0 or 1.

    Args:
        logits: [B, *A], log-odds of a one.
    """

    __slots__ = ("dims", "logits")
    noise: Noise = "uniform"
    """What `drawn` takes."""

    def __init__(self, logits: Tensor):
        self.logits = logits
        self.dims = tuple(range(1, logits.ndim))

    @property
    def mode(self) -> Tensor:
        """[B, *A] int64."""
        return (self.logits > 0).long()

    def sample(self) -> Tensor:
        """[B, *A] int64."""
        return self.drawn(torch.rand_like(self.logits))

    def drawn(self, noise: Tensor) -> Tensor:
        """[B, *A] int64, the draw that noise [B, *A] makes."""
        return (noise < self.logits.sigmoid()).long()

    @property
    def parameters(self) -> dict[str, Tensor]:
        """``probabilities`` of a one, [B, *A]."""
        return {"probabilities": self.logits.sigmoid()}

    def log_prob(self, action: Tensor) -> Tensor:
        """[B], nats; summed over the components.

        Args:
            action: [B, *A] int64, zeros and ones.
        """
        return (action * self.logits - softplus(self.logits)).sum(self.dims)

    def entropy(self) -> Tensor:
        """[B], nats; summed over the components."""
        return (softplus(self.logits) - self.logits * self.logits.sigmoid()).sum(self.dims)


class SquashedGaussian:
    """A `DiagonalGaussian` of u, squashed into a box: a = low + (high - low) (1 + tanh u) / 2.

    Haarnoja et al. 2018, "Soft actor-critic", appendix C.

    Args:
        mean: [B, *A], of u.
        log_std: [*A] or [B, *A], of u.
        low: [*A], lower bounds of the box.
        high: [*A], upper bounds.
    """

    __slots__ = ("gaussian", "half", "middle")
    noise: Noise = "normal"
    """What `drawn` takes."""

    def __init__(self, mean: Tensor, log_std: Tensor, low: Tensor, high: Tensor):
        self.gaussian = DiagonalGaussian(mean, log_std)
        self.middle, self.half = (high + low) / 2, (high - low) / 2

    @property
    def mode(self) -> Tensor:
        """[B, *A] float32, in the box; the median rather than the mode."""
        return self.middle + self.half * self.gaussian.mean.tanh()

    def sample(self) -> Tensor:
        """[B, *A] float32, in the box."""
        return self.middle + self.half * self.gaussian.sample().tanh()

    def drawn(self, noise: Tensor) -> Tensor:
        """[B, *A] float32, in the box, the draw that noise [B, *A] makes."""
        return self.middle + self.half * self.gaussian.drawn(noise).tanh()

    @property
    def parameters(self) -> dict[str, Tensor]:
        """``mean`` and ``std`` of u, before it is squashed, [B, *A] each."""
        return self.gaussian.parameters

    def sample_with_log_prob(self) -> tuple[Tensor, Tensor]:
        """Actions [B, *A] and their log p [B], nats, from u itself: exact, unlike `log_prob` of a rounded action."""
        u = self.gaussian.sample()
        return self.middle + self.half * u.tanh(), self._log_prob_of(u)

    def log_prob(self, action: Tensor) -> Tensor:
        """[B], nats; summed over the components.

        Beyond |u| = 6 or so, float32 has too few actions near the border to tell u; see `sample_with_log_prob`.

        Args:
            action: [B, *A], in the box; on its border, where the density is unbounded, it counts as just inside.
        """
        return self._log_prob_of(((action - self.middle) / self.half).clamp(-INSIDE, INSIDE).atanh())

    def _log_prob_of(self, u: Tensor) -> Tensor:
        log_slope = self.half.log() + log_slope_of_tanh(u)
        return self.gaussian.log_prob(u) - log_slope.sum(self.gaussian.dims)

    def entropy(self) -> Tensor:
        """[B], nats; summed over the components: the Gaussian's, and E[log da/du] by 24-point Gauss-Hermite quadrature.

        A component's error is at most 0.02 nats for standard deviations of u up to e, 0.15 up to e^2.
        """
        gaussian, dims = self.gaussian, self.gaussian.dims
        nodes, weights = _quadrature(gaussian.mean.device)
        u = gaussian.mean.unsqueeze(-1) + (math.sqrt(2) * gaussian.log_std.exp()).unsqueeze(-1) * nodes
        log_slope = self.half.log() + (log_slope_of_tanh(u) * weights).sum(-1) / math.sqrt(math.pi)
        return gaussian.entropy() + log_slope.sum(dims)


@cache
def _quadrature(device: torch.device) -> tuple[Tensor, ...]:
    """Nodes, weights: the mean of f over a normal is the sum of weights f(mean + sqrt(2) std nodes), over sqrt(pi)."""
    return tuple(torch.as_tensor(x, dtype=torch.float32, device=device) for x in np.polynomial.hermite.hermgauss(24))


def log_slope_of_tanh(u: Tensor) -> Tensor:
    """Log(1 - tanh(u)^2), accurate for large |u| too."""
    return 2 * (math.log(2) - u - softplus(-2 * u))


class Head(nn.Linear, ABC):
    """Features [B, F] to what a policy says of actions, [B, K], and that to a distribution of them."""

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, F] to [B, K], `FORBIDDEN` where a mask of K entries per row, [B, ...] bool, is False."""
        outputs = nn.functional.linear(features, self.weight, self.bias)
        return outputs if mask is None else outputs.masked_fill(~mask.flatten(1), FORBIDDEN)

    @abstractmethod
    def distribution(self, outputs: Tensor) -> Distribution:
        """Outputs [B, K] as a `Distribution`."""

    def draw(self, outputs: Tensor) -> Tensor:
        """Actions [B, *A] to learn from, by the outputs of the latest forward pass."""
        return self.distribution(outputs).sample()

    def renew(self) -> None:
        """Draws anew what draws of one rollout have in common; called once the rollout has been learned from."""

    def metrics(self, action: Tensor) -> dict[str, Tensor | float]:
        """How actions [B, *A] were drawn, by name."""
        return {}


class CategoricalHead(Head):
    """Features [B, F] to logits [B, K], and these to a `Categorical`."""

    def distribution(self, outputs: Tensor) -> Categorical:
        """Outputs [B, K] as a distribution."""
        return Categorical(outputs)


class MultiCategoricalHead(Head):
    """Features [B, F] to the logits of several choices [B, sum of their sizes], and these to a `MultiCategorical`."""

    places: Tensor  # [sum], positions of the outputs among D x K logits

    def __init__(self, num_features: int, sizes: list[int]):
        super().__init__(num_features, sum(sizes))
        self.sizes, self.most = sizes, max(sizes)
        places = [d * self.most + k for d, size in enumerate(sizes) for k in range(size)]
        self.register_buffer("places", torch.tensor(places), persistent=False)

    def distribution(self, outputs: Tensor) -> MultiCategorical:
        """Outputs [B, sum] as a distribution; actions are [B, D]."""
        D, K = len(self.sizes), self.most
        if len(self.places) == D * K:
            return MultiCategorical(outputs.unflatten(-1, (D, K)))
        padded = outputs.new_full((*outputs.shape[:-1], D * K), FORBIDDEN)
        return MultiCategorical(padded.index_copy(-1, self.places, outputs).unflatten(-1, (D, K)))


class BernoulliHead(Head):
    """Features [B, F] to log-odds [B, prod(shape)], and these to a `Bernoulli`."""

    def __init__(self, num_features: int, shape: tuple[int, ...]):
        super().__init__(num_features, math.prod(shape))
        self.shape = shape

    def distribution(self, outputs: Tensor) -> Bernoulli:
        """Outputs [B, prod(shape)] as a distribution; actions are [B, *shape]."""
        return Bernoulli(outputs.unflatten(-1, self.shape))


class BoxScale(nn.Module):
    """Numbers x to actions: the middle of a Box + half its width x; x itself in components without bounds.

    Args:
        space: of an action.
    """

    middle: Tensor  # [*A]
    half_width: Tensor  # [*A]
    log_half_width: Tensor  # [*A]

    def __init__(self, space: Box):
        super().__init__()
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            width = high - low
            bounded = (width > 0) & (width <= WIDEST)
            middle, half = np.where(bounded, (low + high) / 2, 0.0), np.where(bounded, width / 2, 1.0)
        self.register_buffer("middle", torch.as_tensor(middle, dtype=torch.float32))
        self.register_buffer("half_width", torch.as_tensor(half, dtype=torch.float32))
        self.register_buffer("log_half_width", self.half_width.log(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, *A] to actions [B, *A], which may lie outside the box."""
        return torch.addcmul(self.middle, self.half_width, x)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """What was saved without a scale (rlcore 0.1) answers with x itself."""
        state_dict.setdefault(f"{prefix}middle", torch.zeros_like(self.middle))
        state_dict.setdefault(f"{prefix}half_width", torch.ones_like(self.half_width))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.log_half_width = self.half_width.log()


def box_scale(space: Box) -> BoxScale | None:
    """The scale of a Box; None if that changes nothing, as in [-1, 1]."""
    scale = BoxScale(space)
    return scale if scale.middle.any() or not (scale.half_width == 1).all() else None


class GaussianHead(Head):
    """Features [B, F] to means [B, prod(A)], and these to a distribution; log_std is a parameter.

    Args:
        num_features: F.
        space: of an action.
        log_std: its initial value.
        squash: whether draws are squashed between the bounds.
        scale: whether means and standard deviations are in units of the box; see `BoxScale`.
    """

    low: Tensor
    high: Tensor

    def __init__(self, num_features: int, space: Box, log_std: float = 0.0, squash: bool = False, scale: bool = False):
        super().__init__(num_features, math.prod(space.shape))
        self.shape, self.squashed = space.shape, squash
        self.log_std = nn.Parameter(torch.full(space.shape, float(log_std)))
        self.scale = box_scale(space) if scale and not squash else None
        self.register_buffer("low", torch.as_tensor(space.low).float(), persistent=False)
        self.register_buffer("high", torch.as_tensor(space.high).float(), persistent=False)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, F] to [B, prod(A)].

        Raises:
            InputError: there is a mask.
        """
        if mask is not None:
            raise InputError("an action mask says which discrete actions are allowed; this action is a Box")
        return super().forward(features)

    def distribution(self, outputs: Tensor) -> DiagonalGaussian | SquashedGaussian:
        """Outputs [B, prod(A)] as a distribution; actions are [B, *A]."""
        mean = outputs.unflatten(-1, self.shape)
        if self.squashed:
            return SquashedGaussian(mean, self.log_std, self.low, self.high)
        if (scale := self.scale) is None:
            return DiagonalGaussian(mean, self.log_std)
        # forward: at the sizes of a policy, calling the module would cost as much as its arithmetic
        return DiagonalGaussian(scale.forward(mean), self.log_std + scale.log_half_width)

    @torch.no_grad()
    def metrics(self, action: Tensor) -> dict[str, Tensor | float]:
        """``action_std``, the mean standard deviation (with squashing, before it), and ``clipped_share``.

        Args:
            action: [B, *A], as drawn; of their numbers the share that is clipped is outside the bounds.
        """
        std = self.log_std.exp()
        if self.scale is not None:
            std = std * self.scale.half_width
        clipped = (action < self.low) | (action > self.high)
        return {"action_std": std.mean(), "clipped_share": clipped.float().mean()}


def figures_of(pi: Distribution, action: Tensor | None = None) -> dict[str, Tensor]:
    """What a distribution of batch shape [B] says, by name, for whoever looks at it.

    Args:
        pi: the distribution.
        action: [B, *A]; None: of no action.

    Returns:
        ``entropy`` and ``log_prob`` [B], nats, and its ``parameters``, if it has any.
    """
    log_prob = {} if action is None else {"log_prob": pi.log_prob(action)}
    return {"entropy": pi.entropy(), **log_prob, **getattr(pi, "parameters", {})}


def policy_head(
    num_features: int,
    action_space: Space[object],
    squash: bool = False,
    log_std: float = 0.0,
    gain: float = 0.01,
    scale: bool = False,
) -> Head:
    """The layer that turns features into the parameters of a distribution over the actions of a space.

    ``head.distribution(head(features, mask))`` is the policy of each row.

    Its weights are orthogonal and small, so that a policy begins near uniform (Andrychowicz et al. 2021, section 3.2).

    Args:
        num_features: F.
        action_space: `Discrete`, `MultiDiscrete`, `MultiBinary`, or a `Box` of floats of at least one dimension.
        squash: squash actions in a `Box` into its bounds by tanh; otherwise they are plain draws of the normal.
        log_std: for actions in a `Box`, log of the initial standard deviation.
        gain: scale of the initial weights.
        scale: for actions in a bounded `Box`, not squashed: means and standard deviations are in units of the box; see
            `BoxScale`.

    Raises:
        InputError: no head supports this space, or these settings do not fit it.
    """
    head: Head
    space = action_space
    if isinstance(space, Discrete):
        head = CategoricalHead(num_features, int(space.n))
    elif isinstance(space, MultiDiscrete) and space.nvec.ndim == 1:
        head = MultiCategoricalHead(num_features, space.nvec.tolist())
    elif isinstance(space, MultiBinary):
        head = BernoulliHead(num_features, tuple(space.shape))
    elif isinstance(space, Box) and space.dtype.kind == "f" and space.shape:
        if squash and not (
            np.isfinite(space.low).all() and np.isfinite(space.high).all() and (space.low < space.high).all()
        ):
            raise InputError(f"agent.squash: actions are squashed into bounds, which {space} lacks in places")
        head = GaussianHead(num_features, space, log_std, squash, scale)
    else:
        raise InputError(
            f"no policy head supports the action space {space}; supported: Discrete, MultiDiscrete of one dimension, "
            "MultiBinary, Box of floats with at least one dimension"
        )
    if not isinstance(head, GaussianHead):
        for setting, value in {"squash": squash, "log_std_init": log_std}.items():
            if value:
                raise InputError(f"agent.{setting}: is for actions in a Box, got {space}")
    nn.init.orthogonal_(head.weight, gain)
    nn.init.zeros_(head.bias)
    return head
