"""What an action on an example means, and its reward."""

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete, Space
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rlcore.distributions import HALF_LOG_2PI
from rlcore.errors import InputError
from rlcore.spaces import Logits, LogOdds, Means, Normals, Values
from rlcore.supervised.datasets import Dataset
from rlcore.supervised.loading import gathered
from rlcore.supervised.metrics import Task

ERRORS: tuple[str, ...] = ("squared_error", "cross_entropy")
"""Units in which less is better."""
LOST = 0.01
"""Share of the variance of targets that rounding them to float32 may take away."""


class Action(ABC):
    """A kind of answer; made by `from_settings`."""

    space: Space[Any]
    """Of one answer."""
    unit: str
    """The name of the reward in reports, which is one of `ERRORS` if the reward is minus an error."""
    other_answers: tuple[str, ...] = ()
    """What may be answered besides the classes, whose numbers they follow."""

    @classmethod
    def from_settings(cls, dataset: Dataset, device: torch.device, settings: Any) -> "Action":
        """Made for a data set; the default is ``cls(dataset, device)`` and reads no setting of the environment."""
        return cls(dataset, device)  # type: ignore[call-arg]

    def on_step(self, num_answered: int) -> None:  # noqa: B027 (most do nothing)
        """Called before the answers of a step are rewarded, with the number of those rewarded before."""

    @abstractmethod
    def encode(self, targets: Tensor) -> Tensor:
        """Targets [n, ...] as `reward` expects them; computed once for the whole data set."""

    def shares(self, encoded: Tensor) -> Tensor:
        """Encoded targets as numbers that can be mixed, [n, *D] float32, with which `reward` can do as well.

        Raises:
            InputError: it cannot.
        """
        if encoded.is_floating_point():
            return encoded
        raise InputError("env.augment: only what carries a gradient has mixed targets; use env.action=logits")

    @abstractmethod
    def reward(self, action: Tensor, target: Tensor) -> Tensor:
        """The reward of each answer, [N] float32; differentiable if the action is a `Box`."""

    @abstractmethod
    def label(self, action: Tensor) -> Tensor:
        """The class that each answer names, [N] int64; only if the targets are classes."""

    def probabilities(self, action: Tensor, num_classes: int) -> Tensor:
        """The class probabilities that each answer states, [N, K]; the default is 1 for the class it names."""
        return F.one_hot(self.label(action), num_classes).float()

    def stated(self, action: Tensor, num_classes: int | None) -> Tensor:
        """What metrics are given: probabilities of classes [N, K], or of outcomes [N, D]; or numbers [N, D]."""
        return action.flatten(1) if num_classes is None else self.probabilities(action, num_classes)

    def task(self, dataset: Dataset) -> Task:
        """What is to be answered, for metrics."""
        if dataset.classes is not None:
            kind: Any = "binary" if len(dataset.classes) == 2 else "multiclass"
            return Task(kind, len(dataset.classes), type(self).probabilities is not Action.probabilities)
        return Task("numbers", math.prod(self.space.shape or ()))

    def criterion(self, dataset: Dataset) -> str:
        """The main figure of an evaluation."""
        return self.unit if dataset.classes is None else "accuracy"

    def scalars(self, reward: Tensor) -> dict[str, float]:
        """The mean of rewards [n] by its name; an error is minus the reward."""
        mean = reward.double().mean().item()
        return {self.unit: -mean if self.unit in ERRORS else mean}

    def answer_scalars(self, label: Tensor) -> dict[str, float]:
        """Further figures of an evaluation, of the classes named, or `other_answers`, [n] int64."""
        return {}


class LogitsAction(Action):
    """Logits [N, K] of the classes; the reward is the log-likelihood of the target, log softmax(a)[y], nats."""

    unit = "log_likelihood"

    def __init__(self, dataset: Dataset, device: torch.device):
        num_classes = len(_classes(dataset, "logits"))
        self.space = Logits(num_classes)
        self._minus_one = torch.full((num_classes,), -1.0, device=device)

    def encode(self, targets: Tensor) -> Tensor:
        """[n] int64."""
        return targets

    def shares(self, encoded: Tensor) -> Tensor:
        """Of the classes, [n, K]."""
        return F.one_hot(encoded, len(self._minus_one)).float()

    def reward(self, action: Tensor, target: Tensor) -> Tensor:
        """[N] nats, <= 0; of shares of the classes, the sum of share x log-likelihood."""
        # Weights of -1 flip the sign inside the kernel, bit for bit: no further node in the graph.
        return F.cross_entropy(action, target, weight=self._minus_one, reduction="none")

    def label(self, action: Tensor) -> Tensor:
        """The most likely class."""
        return action.argmax(1)

    def probabilities(self, action: Tensor, num_classes: int) -> Tensor:
        """Softmax, [N, K]."""
        return action.softmax(1)


class LabelAction(Action):
    """A class [N]; the reward is 1 if it is right, else 0."""

    unit = "accuracy"

    def __init__(self, dataset: Dataset, device: torch.device):
        self.space = Discrete(len(_classes(dataset, "label")))

    def encode(self, targets: Tensor) -> Tensor:
        """[n] int64."""
        return targets

    def reward(self, action: Tensor, target: Tensor) -> Tensor:
        """[N], 0 or 1."""
        return (action == target).float()

    def label(self, action: Tensor) -> Tensor:
        """The action itself."""
        return action


class AskAction(LabelAction):
    """A class [N], or K to ask a person; the reward is 1 if it is right, -c if it is wrong, 0 for asking.

    Answering pays off on average if the chance of being right is above c / (1 + c) (Chow 1970, "On Optimum Recognition
    Error and Reject Tradeoff").

    Args:
        dataset: with classes.
        device: of the targets.
        wrong: c, the cost of a wrong answer.
        warmup: examples over which that cost rises from 0 to c.
    """

    unit = "reward"
    other_answers = ("asks",)

    def task(self, dataset: Dataset) -> Task:
        """There is none for metrics, in which asking would be a wrong answer."""
        raise InputError("env.metrics: with env.action=ask the figures are the reward, what is asked, and the accuracy")

    def __init__(self, dataset: Dataset, device: torch.device, wrong: float = 1.0, warmup: int = 0):
        self.num_classes, self.full_cost, self.warmup = len(_classes(dataset, "ask")), wrong, warmup
        self.wrong = wrong
        """The cost of a wrong answer now."""
        self.space = Discrete(self.num_classes + 1)

    @classmethod
    def from_settings(cls, dataset: Dataset, device: torch.device, settings: Any) -> "AskAction":
        """With the settings ``wrong`` and ``wrong_warmup``."""
        return cls(dataset, device, settings.wrong, settings.wrong_warmup)

    def on_step(self, num_answered: int) -> None:
        """Raises the cost, if it has not reached c."""
        if self.warmup:
            self.wrong = self.full_cost * min(1.0, num_answered / self.warmup)

    def criterion(self, dataset: Dataset) -> str:
        """The reward, in which asking counts."""
        return self.unit

    def reward(self, action: Tensor, target: Tensor) -> Tensor:
        """[N], 1, -c or 0."""
        reward = (1 + self.wrong) * (action == target).float() - self.wrong
        return reward * (action < self.num_classes)

    def probabilities(self, action: Tensor, num_classes: int) -> Tensor:
        """1 for the class that each answer names, 0 for all where it asks, [N, K]."""
        return super().probabilities(action, num_classes + 1)[:, :num_classes]

    def answer_scalars(self, label: Tensor) -> dict[str, float]:
        """The share of questions that were passed on, ``asked``."""
        return {"asked": (label == self.num_classes).double().mean().item()}


class LogOddsAction(Action):
    """Log-odds [N, *D] of outcomes in [0, 1], one for two classes; the reward is their log-likelihood, summed, nats.

    sum over D of y log sigmoid(a) + (1 - y) log(1 - sigmoid(a)), Bernoulli where y is 0 or 1
    """

    unit = "log_likelihood"

    def __init__(self, dataset: Dataset, device: torch.device):
        targets = dataset.train.targets
        if dataset.classes is not None and len(dataset.classes) != 2:
            raise InputError(
                f"env.action: log_odds needs two classes, the data set has {len(dataset.classes)}; use logits"
            )
        self._unchecked = dataset.classes is None and not isinstance(targets, Tensor)
        if dataset.classes is None and isinstance(targets, Tensor):
            _check_outcomes(targets)
        self.shape = tuple(targets.shape[1:]) or (1,)
        self.space = LogOdds(self.shape)

    def encode(self, targets: Tensor) -> Tensor:
        """[n, *D] float32."""
        if self._unchecked:
            _check_outcomes(targets)
        return targets.float().view(-1, *self.shape)

    def reward(self, action: Tensor, target: Tensor) -> Tensor:
        """[N] nats, <= 0."""
        return -F.binary_cross_entropy_with_logits(action, target, reduction="none").flatten(1).sum(1)

    def label(self, action: Tensor) -> Tensor:
        """Class 1 where it is more likely than not."""
        return (action.squeeze(1) > 0).long()

    def stated(self, action: Tensor, num_classes: int | None) -> Tensor:
        """See `Action`."""
        return action.flatten(1).sigmoid() if num_classes is None else self.probabilities(action, num_classes)

    def task(self, dataset: Dataset) -> Task:
        """See `Action`; several outcomes are labels, any of which may hold."""
        if dataset.classes is not None:
            return super().task(dataset)
        targets = gathered(dataset.train.targets)
        if not ((targets == 0) | (targets == 1)).all():
            raise InputError("env.metrics: are of outcomes that are 0 or 1; these are between")
        num = math.prod(self.shape)
        return Task("multilabel" if num > 1 else "binary", num)

    def probabilities(self, action: Tensor, num_classes: int) -> Tensor:
        """Of class 0 and class 1, [N, 2]."""
        return torch.cat([-action, action], 1).sigmoid()


class ValuesAction(Action):
    """Numbers [N, *D]; the reward is minus their squared error, summed over D. A named class is one-hot over K.

    Args:
        dataset: with targets of any kind.
        device: of the targets.
        standardize: whether networks say them standardised, by the training targets.
    """

    unit = "squared_error"
    kind: type[Values] = Values
    """Of the space."""

    def __init__(self, dataset: Dataset, device: torch.device, standardize: bool = False):
        targets = dataset.train.targets
        self.num_classes = None if dataset.classes is None else len(dataset.classes)
        self.shape = (self.num_classes,) if self.num_classes else tuple(targets.shape[1:]) or (1,)
        if self.num_classes is None and isinstance(targets, Tensor) and targets.dtype != torch.float32:
            _check_rounding(targets.double())
        self.space = self.kind(self.shape, *(_mean_and_std(self.encode(gathered(targets))) if standardize else ()))

    @classmethod
    def from_settings(cls, dataset: Dataset, device: torch.device, settings: Any) -> "ValuesAction":
        """With the setting ``target_scaling``."""
        return cls(dataset, device, settings.target_scaling == "standard")

    def encode(self, targets: Tensor) -> Tensor:
        """[n, *D] float32."""
        values = targets if self.num_classes is None else F.one_hot(targets, self.num_classes)
        return values.float().view(-1, *self.shape)

    def reward(self, action: Tensor, target: Tensor) -> Tensor:
        """[N], <= 0."""
        return -F.mse_loss(action, target, reduction="none").flatten(1).sum(1)

    def label(self, action: Tensor) -> Tensor:
        """The class of the largest number."""
        return action.argmax(1)


class GaussianAction(ValuesAction):
    """Means [N, *D] of normals; the reward is the log-likelihood of the targets, summed over D, nats.

    Args:
        dataset: with numbers for targets.
        device: of the targets.
        std: the standard deviation of the normals.
    """

    unit = "log_likelihood"

    def __init__(self, dataset: Dataset, device: torch.device, std: float = 1.0):
        super().__init__(dataset, device)
        self.space, self.std = Means(self.shape, std), std

    def reward(self, action: Tensor, target: Tensor) -> Tensor:
        """[N] nats."""
        constant = action[0].numel() * (math.log(self.std) + HALF_LOG_2PI)
        return super().reward(action, target) / (2 * self.std**2) - constant


class NormalAction(ValuesAction):
    """Means and log-variances of normals [N, 2, *D]; the reward is the log-likelihood of the targets, nats.

    sum over D of -1/2 (log var + (y - mean)^2 / var + log 2 pi)

    Nix & Weigend 1994, "Estimating the mean and variance of the target probability distribution"; Lakshminarayanan et
    al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", equation 1.
    """

    unit = "log_likelihood"
    kind = Normals

    def __init__(self, dataset: Dataset, device: torch.device, standardize: bool = False):
        if dataset.classes is not None:
            raise InputError("env.action: normal is for numbers, the targets of this data set are classes; use logits")
        super().__init__(dataset, device, standardize)

    def reward(self, action: Tensor, target: Tensor) -> Tensor:
        """[N] nats."""
        mean, log_var = action.unbind(1)
        squares = (target - mean).square() * (-log_var).exp()
        return (-0.5 * (log_var + squares) - HALF_LOG_2PI).flatten(1).sum(1)

    def stated(self, action: Tensor, num_classes: int | None) -> Tensor:
        """The means, [N, D]."""
        return action[:, 0].flatten(1)

    def task(self, dataset: Dataset) -> Task:
        """See `Action`; one number for each mean."""
        return Task("numbers", math.prod(self.shape))


ACTIONS: dict[str, type[Action]] = {
    "logits": LogitsAction,
    "label": LabelAction,
    "ask": AskAction,
    "log_odds": LogOddsAction,
    "values": ValuesAction,
    "normal": NormalAction,
}


def _classes(dataset: Dataset, action: str) -> tuple[str, ...]:
    if dataset.classes is None:
        reason = dataset.why_numbers or "this data set names none, its targets are numbers"
        raise InputError(f"env.action: {action} needs classes, but {reason}; for numbers use values")
    return dataset.classes


def _mean_and_std(targets: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation over n targets [n, *D], [*D]; 1 of a constant."""
    std, mean = torch.std_mean(targets.double(), 0, correction=0)
    std = torch.where(targets.amin(0) < targets.amax(0), std, 1.0)
    return mean.numpy(force=True), std.numpy(force=True)


def _check_outcomes(targets: Tensor) -> None:
    """Refuses targets [n, *D] that are not in [0, 1]."""
    if not ((targets >= 0) & (targets <= 1)).all():
        seen = f"{float(targets.min()):g} to {float(targets.max()):g}"
        raise InputError(f"env.action: log_odds needs targets in [0, 1], got {seen}; for other numbers use values")


def _check_rounding(targets: Tensor) -> None:
    """Refuses targets [n, *D] float64 whose differences are lost in float32, beside an offset."""
    lost = (targets - targets.float()).square().sum()
    varies = bool((targets.amin(0) < targets.amax(0)).any())
    if varies and lost > LOST * (targets - targets.mean(0)).square().sum():
        raise InputError(
            f"env.action: values are float32, which rounds away how the targets vary around {targets.mean():g}; "
            "subtract their mean"
        )
