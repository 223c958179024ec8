"""How reliable stated probabilities, and stated normal distributions, are."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rlcore.distributions import HALF_LOG_2PI

BINS = 15
"""Bins of a calibration error, as many as in Guo et al. 2017."""

LARGEST_TEMPERATURE = 100.0


def negative_log_likelihood(probabilities: Tensor, target: Tensor) -> float:
    """Mean of -log p(target), nats.

    Args:
        probabilities: [n, K].
        target: [n] int64.
    """
    p = probabilities.double().gather(1, target[:, None])
    return float(-p.clamp_min(torch.finfo(torch.float32).tiny).log().mean())


def brier_score(probabilities: Tensor, target: Tensor) -> float:
    """Mean over examples of the squared distance to the truth, in [0, 2] (Brier 1950).

    Args:
        probabilities: [n, K].
        target: [n] int64.
    """
    truth = F.one_hot(target, probabilities.shape[1])
    return float((probabilities.double() - truth).square().sum(1).mean())


class Reliability(NamedTuple):
    """Examples in bins by their confidence; empty bins are left out."""

    confidence: Tensor  # [bins] float64, mean
    accuracy: Tensor  # [bins] float64
    num_examples: Tensor  # [bins] int64


def reliability(
    confidence: Tensor, right: Tensor, num_bins: int = BINS, equal: Literal["width", "mass"] = "width"
) -> Reliability:
    """How often answers of each confidence are right: a reliability diagram (DeGroot & Fienberg 1983).

    Args:
        confidence: [n], probability of the answer given.
        right: [n] bool.
        num_bins: how many.
        equal: what is the same for all bins: ``width``, or ``mass``, the number of examples.
    """
    confidence = confidence.double()
    if equal == "width":
        index = (confidence * num_bins).ceil().long().sub(1).clamp(0, num_bins - 1)  # bins (a, b]
    else:
        rank = confidence.argsort(stable=True).argsort()
        index = rank * num_bins // len(confidence)
    count = torch.bincount(index, minlength=num_bins)
    sums = [torch.bincount(index, x.double(), num_bins)[count > 0] for x in (confidence, right)]
    count = count[count > 0]
    return Reliability(sums[0] / count, sums[1] / count, count)


def calibration_error(
    confidence: Tensor, right: Tensor, num_bins: int = BINS, equal: Literal["width", "mass"] = "width"
) -> float:
    """Expected calibration error: the gap between confidence and accuracy, averaged over the bins by their examples.

    In [0, 1] (Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3; bins of equal mass: Nguyen &
    O'Connor 2015). The arguments are those of `reliability`.
    """
    bins = reliability(confidence, right, num_bins, equal)
    return float((bins.num_examples * (bins.accuracy - bins.confidence).abs()).sum() / bins.num_examples.sum())


def risk_at_coverage(doubt: Tensor, wrong: Tensor) -> Tensor:
    """The share of wrong answers among the k least doubtful ones, for k = 1 .. n; float64 [n] (El-Yaniv & Wiener 2010).

    Its mean is the area under the curve of risk against coverage. Examples of equal doubt are not ordered: each counts
    as their mean.

    Args:
        doubt: [n], any score that orders the examples, e.g. the entropy.
        wrong: [n] bool.
    """
    _, group, count = doubt.unique(return_inverse=True, return_counts=True)
    share = torch.bincount(group, wrong.double(), len(count)) / count
    errors = share[group[doubt.argsort(stable=True)]].cumsum(0)
    return errors / torch.arange(1, len(doubt) + 1, device=doubt.device)


def accuracy_at_coverage(doubt: Tensor, wrong: Tensor, coverage: float) -> float:
    """The share of right answers among the ``coverage`` x n (rounded up) least doubtful ones."""
    covered = max(1, math.ceil(coverage * len(doubt) - 1e-9))
    return 1 - float(risk_at_coverage(doubt, wrong)[covered - 1])


def roc_area(doubt: Tensor, positive: Tensor) -> float:
    """The probability that a positive example is more doubtful than a negative one; NaN unless there are both.

    Args:
        doubt: [n].
        positive: [n] bool: the answer is wrong, or the input from another distribution.
    """
    from sklearn.metrics import roc_auc_score

    if positive.all() or not positive.any():
        return math.nan
    return float(roc_auc_score(positive.cpu().numpy(), doubt.double().cpu().numpy()))


def fit_temperature(probabilities: Tensor, target: Tensor) -> float:
    """The tau > 0 for which softmax(log p / tau) has the least negative log-likelihood (Guo et al. 2017, section 4.2).

    Of several answers, the mean is tempered rather than each of them (Rahaman & Thiery 2021, "Uncertainty
    Quantification and Deep Ensembles").

    Args:
        probabilities: [n, K], of examples that neither training nor testing sees.
        target: [n] int64.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_tau: float) -> float:
        return negative_log_likelihood(tempered(probabilities, math.exp(log_tau)), target)

    bound = math.log(LARGEST_TEMPERATURE)
    return math.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x)


def tempered(probabilities: Tensor, tau: float) -> Tensor:
    """softmax(log p / tau) of probabilities [n, K]."""
    log_p = probabilities.double().clamp_min(torch.finfo(torch.float32).tiny).log()
    return (log_p / tau).softmax(1).to(probabilities.dtype)


def measures(probabilities: Tensor, target: Tensor, doubt: Tensor) -> dict[str, float]:
    """Every measure of answers to examples whose truth is known.

    Args:
        probabilities: [n, K].
        target: [n] int64.
        doubt: [n], e.g. the predictive entropy.

    Returns:
        ``accuracy``, ``negative_log_likelihood`` (nats), ``brier_score``, ``calibration_error`` (bins of equal width),
        ``calibration_error_mass``, ``risk_coverage_area``, ``accuracy_at_95``, ``accuracy_at_90`` (% of the examples
        answered), ``error_roc_area`` (of "is this answer wrong").
    """
    probabilities, target, doubt = probabilities.cpu(), target.cpu(), doubt.cpu()
    confidence, answer = probabilities.max(1)
    right = answer == target
    return {
        "accuracy": right.double().mean().item(),
        "negative_log_likelihood": negative_log_likelihood(probabilities, target),
        "brier_score": brier_score(probabilities, target),
        "calibration_error": calibration_error(confidence, right),
        "calibration_error_mass": calibration_error(confidence, right, equal="mass"),
        "risk_coverage_area": risk_at_coverage(doubt, ~right).mean().item(),
        "accuracy_at_95": accuracy_at_coverage(doubt, ~right, 0.95),
        "accuracy_at_90": accuracy_at_coverage(doubt, ~right, 0.90),
        "error_roc_area": roc_area(doubt, ~right),
    }


LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Probabilities of the central intervals whose coverage is measured."""
QUANTILES = tuple(j / 20 for j in range(1, 20))
"""Levels at which stated quantiles are compared with the targets."""


def normal_negative_log_likelihood(mean: Tensor, std: Tensor, target: Tensor) -> float:
    """Mean of -log N(target; mean, std^2), nats per number; means, standard deviations > 0 and targets [n]."""
    z = (target.double() - mean) / std
    return float((0.5 * z.square() + std.double().log() + HALF_LOG_2PI).mean())


def normal_crps(mean: Tensor, std: Tensor, target: Tensor) -> float:
    """Mean continuous ranked probability score of normals, in units of the targets; the less the better, >= 0.

    std (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)),  z = (target - mean) / std

    Gneiting & Raftery 2007, "Strictly Proper Scoring Rules, Prediction, and Estimation", equation 21 with the other
    sign. Of a std of 0 it is the absolute error. The arguments are those of `normal_negative_log_likelihood`.
    """
    z = (target.double() - mean) / std
    density = (-0.5 * z.square() - HALF_LOG_2PI).exp()
    return float((std * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))).mean())


def interval_coverage(mean: Tensor, std: Tensor, target: Tensor, level: float) -> float:
    """The share of targets in the central interval of this probability, mean +- Phi^-1((1 + level) / 2) std.

    The arguments are those of `normal_negative_log_likelihood`, and ``level`` in (0, 1).
    """
    z = (target.double() - mean) / std
    bound = torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64))
    return float((z.abs() <= bound).double().mean())


def quantile_shares(mean: Tensor, std: Tensor, target: Tensor, levels: Sequence[float] = QUANTILES) -> Tensor:
    """The share of targets below the quantile of each level, float64 [levels]; equal to the levels if calibrated.

    The arguments are those of `normal_negative_log_likelihood`, and ``levels`` in (0, 1).
    """
    chance = torch.special.ndtr((target.double() - mean) / std)
    return torch.stack([(chance <= level).double().mean() for level in levels])


def quantile_calibration_error(mean: Tensor, std: Tensor, target: Tensor, levels: Sequence[float] = QUANTILES) -> float:
    """sum_j w_j (p_j - share_j)^2 of the levels p_j and the `quantile_shares`, of equal weights w_j that sum to 1.

    In [0, 1/3] (Kuleshov et al. 2018, "Accurate Uncertainties for Deep Learning Using Calibrated Regression", equation
    9). The arguments are those of `quantile_shares`.
    """
    shares = quantile_shares(mean, std, target, levels)
    return float((shares - torch.tensor(levels, dtype=torch.float64)).square().mean())


def fit_std_factor(mean: Tensor, std: Tensor, target: Tensor) -> float:
    """The factor of all standard deviations with the least negative log-likelihood, sqrt(mean z^2).

    Laves et al. 2020, "Well-Calibrated Regression Uncertainty in Medical Imaging with Deep Learning". The arguments are
    those of `normal_negative_log_likelihood`, of examples that neither training nor testing sees.
    """
    return float(((target.double() - mean) / std).square().mean().sqrt())


def normal_measures(mean: Tensor, std: Tensor, target: Tensor) -> dict[str, float]:
    """Every measure of normals whose targets are known.

    Args:
        mean: [n].
        std: [n], > 0.
        target: [n].

    Returns:
        ``negative_log_likelihood`` (nats), ``crps`` and ``rmse`` (units of the targets), ``sharpness`` (mean std; the
        same units), ``coverage_<level>`` of the central intervals of 50, 80, 90 and 95 %, ``calibration_error``.
    """
    mean, std, target = mean.cpu(), std.cpu(), target.cpu()
    return {
        "negative_log_likelihood": normal_negative_log_likelihood(mean, std, target),
        "crps": normal_crps(mean, std, target),
        "rmse": (mean.double() - target).square().mean().sqrt().item(),
        "sharpness": std.double().mean().item(),
        **{f"coverage_{level * 100:.0f}": interval_coverage(mean, std, target, level) for level in LEVELS},
        "calibration_error": quantile_calibration_error(mean, std, target),
    }
