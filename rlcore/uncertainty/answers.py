"""How certain answers are.

There are T answers to each of B questions: passes with dropout, members of an ensemble, or just one. Together they are
an equal mixture; how far they differ from each other is the uncertainty for lack of data (Gal 2016, "Uncertainty in
Deep Learning", section 3.3).
"""

from typing import Any, NamedTuple

import torch
from gymnasium import Space
from gymnasium.spaces import Box
from torch import Tensor
from torch.nn import functional as F

from rlcore.distributions import Categorical, DiagonalGaussian, Distribution
from rlcore.errors import InputError
from rlcore.spaces import Logits, LogOdds, Normals


class Classes(NamedTuple):
    """Answers that are classes."""

    p: Tensor
    """Probability of each class, [T, B, K]."""


class Numbers(NamedTuple):
    """Answers that are independent normals."""

    mean: Tensor
    """[T, B, *A]."""
    std: Tensor
    """[T, B, *A]."""


Answers = Classes | Numbers


def answers_of(pi: Distribution) -> Answers:
    """A distribution of batch shape [B] as answers, without the leading T.

    Raises:
        InputError: it is neither a `Categorical` nor a `DiagonalGaussian`.
    """
    if isinstance(pi, Categorical):
        return Classes(pi.log_probs.exp())
    if isinstance(pi, DiagonalGaussian):
        return Numbers(pi.mean, pi.log_std.exp().expand_as(pi.mean))
    kind = f"{type(pi).__module__}.{type(pi).__name__}"
    raise InputError(f"uncertainty is not defined for a {kind}; supported: rlcore's Categorical, DiagonalGaussian")


class ClassUncertainty(NamedTuple):
    """The uncertainty of T answers p_t [K] to each of B questions, in nats."""

    probabilities: Tensor
    """E p, the mean over the answers, [B, K]."""
    predictive_entropy: Tensor
    """H[E p], the total uncertainty, [B], in [0, log K] (Gal 2016, equation 3.9)."""
    expected_entropy: Tensor
    """E H[p], the uncertainty that more data would not remove, [B]."""
    mutual_information: Tensor
    """H[E p] - E H[p] of answer and parameters, the uncertainty that more data would remove, [B], in [0, H[E p]]
    (Houlsby et al. 2011, "Bayesian Active Learning for Classification and Preference Learning", equation 2)."""
    variation_ratio: Tensor
    """Share of answers whose most likely class is not the most common one, [B], in [0, 1 - 1 / T] (Gal 2016, 3.8)."""


class NumberUncertainty(NamedTuple):
    """The uncertainty of T normals for each of B questions, by the law of total variance (Kendall & Gal 2017, 9)."""

    mean: Tensor
    """[B, *A]."""
    std: Tensor
    """sqrt(E sigma^2 + Var mu), [B, *A]."""
    aleatoric_std: Tensor
    """sqrt(E sigma^2), the noise in the answers, [B, *A]."""
    epistemic_std: Tensor
    """sqrt(Var mu), how far the answers differ, [B, *A]."""


def uncertainty(answers: Answers) -> ClassUncertainty | NumberUncertainty:
    """Combines T answers to each of B questions."""
    if isinstance(answers, Numbers):
        aleatoric = answers.std.square().mean(0)
        epistemic = answers.mean.var(0, correction=0)
        stds = (aleatoric + epistemic).sqrt(), aleatoric.sqrt(), epistemic.sqrt()
        return NumberUncertainty(answers.mean.mean(0), *stds)
    p = answers.p.double()  # the difference of two entropies may be far smaller than either
    mean = p.mean(0)
    predictive, expected = _entropy(mean), _entropy(p).mean(0)
    votes = F.one_hot(p.argmax(-1), p.shape[-1]).sum(0)
    ratio = 1 - votes.amax(-1).double() / len(p)
    found = mean, predictive, expected, (predictive - expected).clamp_min(0), ratio
    return ClassUncertainty(*(x.to(answers.p.dtype) for x in found))


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(-1)


def best_answer(together: ClassUncertainty | NumberUncertainty, space: Space[Any]) -> Tensor:
    """The combined answer as an action of the space, [B, *A]; of `Normals` that of the mixture's mean and variance."""
    if isinstance(together, NumberUncertainty):
        if isinstance(space, Normals):
            return torch.stack([together.mean, 2 * together.std.log()], 1)
        assert isinstance(space, Box)
        return together.mean.clamp(*(torch.as_tensor(x).to(together.mean) for x in (space.low, space.high)))
    log_p = together.probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()
    if isinstance(space, Logits):
        return log_p
    return log_p[:, 1:] - log_p[:, :1] if isinstance(space, LogOdds) else log_p.argmax(1)
