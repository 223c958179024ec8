"""Figures of an evaluation that a config names: those of torchmetrics, and one's own."""

import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from rlcore import registry, settings
from rlcore.errors import InputError
from rlcore.imports import optional
from rlcore.settings import Choice

CLASSES = "binary", "multiclass"
MOST_CLASSES = 100
"""Classes of which a confusion matrix is shown, and numbers of which each has its errors."""


class Task(NamedTuple):
    """What is to be answered."""

    kind: Literal["binary", "multiclass", "multilabel", "numbers"]
    num: int
    """K classes, or D outcomes or numbers."""
    stated: bool = True
    """Whether answers state probabilities, or else only name a class."""


class Metric(ABC):
    """A figure of an evaluation, made for one of them and given its examples batch by batch.

    In YAML, by the name under which it is registered (``rlcore.registry.metrics``), with its settings::

        env: {name: supervised, dataset: mnist, metrics: [f1, {name: top_k, k: 3}]}

    Args:
        settings: an instance of the class's own ``Settings``.
        task: what is to be answered.

    Raises:
        InputError: there is no such figure of this task.
    """

    class Settings(settings.Settings):
        """Settings of a metric without any."""

    is_error: bool = False
    """Whether less is better."""

    def __init__(self, settings: settings.Settings, task: Task):
        self.settings, self.task = settings, task

    @property
    def ending(self) -> str:
        """What the name of the figure has after the metric's own, to tell several of one kind apart."""
        return ""

    @abstractmethod
    def update(self, answers: Tensor, targets: Tensor) -> None:
        """Takes account of B examples.

        Args:
            answers: probabilities of the classes [B, K], or of the outcomes [B, D]; or numbers [B, D].
            targets: classes [B] int64, or outcomes or numbers [B, D] float32.
        """

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The figures of all examples, by what their names have after that: ``""`` if it is just one."""


class MeanMetric(Metric):
    """The mean over the examples of what a subclass says of each.

    For example::

        @rlcore.registry.metrics.register("within_one")
        class WithinOne(MeanMetric):
            def of(self, answers, targets):
                return ((answers - targets).abs() <= 1).all(1)
    """

    def __init__(self, settings: settings.Settings, task: Task):
        super().__init__(settings, task)
        self._means: list[Tensor] = []
        self._nums: list[int] = []

    @abstractmethod
    def of(self, answers: Tensor, targets: Tensor) -> Tensor:
        """A number or a truth value for each example, [B]; see `Metric.update`."""

    def update(self, answers: Tensor, targets: Tensor) -> None:
        """See `Metric`."""
        self._means.append(self.of(answers, targets).double().mean())
        self._nums.append(len(answers))

    def compute(self) -> dict[str, float]:
        """See `Metric`."""
        means = torch.stack(self._means)
        return {"": (means * means.new_tensor(self._nums)).sum().item() / sum(self._nums)}


class LibraryMetric(Metric):
    """One of torchmetrics, in float64; a subclass says which."""

    tasks: ClassVar[tuple[str, ...]] = (*CLASSES, "multilabel")
    of_probabilities: ClassVar[bool] = False
    """Whether naming a class is not enough."""

    def __init__(self, settings: settings.Settings, task: Task):
        super().__init__(settings, task)
        if task.kind not in self.tasks:
            asked = "numbers" if task.kind == "numbers" else "classes or outcomes"
            raise InputError(f"there is no {type(self).__name__} of {asked}")
        if self.of_probabilities and not task.stated:
            raise InputError("needs probabilities of the classes; use env.action=logits")
        self._metric = self._made(optional("torchmetrics", "needs")).set_dtype(torch.float64)

    @abstractmethod
    def _made(self, library: Any) -> Any:
        """The ``torchmetrics.Metric``."""

    def update(self, answers: Tensor, targets: Tensor) -> None:
        """See `Metric`."""
        if self.task.kind == "binary":  # of both classes, or of one outcome
            answers, targets = answers[:, -1], targets.flatten()
        targets = targets.double() if self.task.kind == "numbers" else targets.long()
        self._metric.to(answers.device).update(answers.double(), targets)

    def compute(self) -> dict[str, float]:
        """See `Metric`."""
        found = self._metric.compute().flatten().tolist()
        return {"": found[0]} if len(found) == 1 else {f"_{k}": value for k, value in enumerate(found)}

    def _sizes(self) -> dict[str, Any]:
        """The arguments that tell torchmetrics the task."""
        name = {"multiclass": "num_classes", "multilabel": "num_labels"}.get(self.task.kind)
        return {"task": self.task.kind, **({name: self.task.num} if name else {})}


class TopK(LibraryMetric):
    """The share of examples whose class is among the k most likely ones."""

    class Settings(settings.Settings):
        """Settings of the metric."""

        k: int = Field(default=5, ge=1)
        """k, below the number of classes."""

    settings: Settings
    tasks = ("multiclass",)
    of_probabilities = True

    @property
    def ending(self) -> str:
        """``_5`` for k = 5."""
        return f"_{self.settings.k}"

    def _made(self, library: Any) -> Any:
        if self.settings.k >= self.task.num:
            raise InputError(f"k: must be below the number of classes, {self.task.num}; got {self.settings.k}")
        return library.Accuracy(**self._sizes(), top_k=self.settings.k, average="micro")


class F1(LibraryMetric):
    """The harmonic mean of precision and recall (van Rijsbergen 1979); of two classes, that of the second one."""

    class Settings(settings.Settings):
        """Settings of the metric."""

        average: Literal["macro", "micro", "weighted"] = "macro"
        """Over the classes: each alike, each example alike, or each by its number of examples."""

    settings: Settings

    def _made(self, library: Any) -> Any:
        return library.F1Score(**self._sizes(), average=self.settings.average)


class AUROC(LibraryMetric):
    """The area under the ROC curve of each class against the others; of two classes, that of the second one."""

    class Settings(settings.Settings):
        """Settings of the metric."""

        average: Literal["macro", "weighted"] = "macro"
        """Over the classes: each alike, or each by its number of examples."""

    settings: Settings
    of_probabilities = True

    def __init__(self, settings: Settings, task: Task):
        super().__init__(settings, task)
        self._counts: list[Tensor] = []  # of each batch, the examples of each class
        self._num = 0

    def _made(self, library: Any) -> Any:
        return library.AUROC(**self._sizes(), average=None)

    def update(self, answers: Tensor, targets: Tensor) -> None:
        """See `Metric`."""
        super().update(answers, targets)
        if self.task.kind == "multiclass":
            self._counts.append(torch.bincount(targets, minlength=self.task.num))
        elif self.task.kind == "multilabel":
            self._counts.append(targets.long().sum(0))
        self._num += len(targets)

    def compute(self) -> dict[str, float]:
        """See `Metric`; of the classes of which there is an area."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of those that there are not
            areas = self._metric.compute().double()
        if self.task.kind == "binary":
            return {"": areas.item()}
        counts = torch.stack(self._counts).sum(0)
        weights = counts.double() if self.settings.average == "weighted" else torch.ones_like(areas)
        known = self._known(counts)
        return {"": ((areas * weights)[known].sum() / weights[known].sum()).item()}

    def _known(self, counts: Tensor) -> Tensor:
        """Of which classes there is an area, [K] bool, by their examples: some are of it, and some are not."""
        return (counts > 0) & (counts < self._num)


class AveragePrecision(AUROC):
    """The area under the curve of precision and recall, as `AUROC`."""

    def _made(self, library: Any) -> Any:
        return library.AveragePrecision(**self._sizes(), average=None)

    def _known(self, counts: Tensor) -> Tensor:
        return counts > 0


class R2(LibraryMetric):
    """The share of the variance that is explained, at most 1; of several numbers, that of each."""

    tasks = ("numbers",)

    def _made(self, library: Any) -> Any:
        return library.R2Score(multioutput="raw_values")


class MetricChoice(Choice):
    """A metric by name, with its settings: ``{name: top_k, k: 3}``."""

    registry = registry.metrics

    def make(self, task: Task) -> Metric:
        """A new one for an evaluation.

        Raises:
            InputError: it is not of this task, or its library is not installed.
        """
        try:
            made: Metric = registry.metrics[self.name](self.settings, task)
        except InputError as error:
            raise InputError(f"env.metrics: {self.name}: {error}") from None
        return made


def confusion_matrix(target: Tensor, answer: Tensor, num_classes: int) -> Tensor:
    """How often class i was answered with class j, float64 [K, K].

    Args:
        target: [n] int64, i.
        answer: [n] int64, j.
        num_classes: K.
    """
    counts = torch.bincount(target * num_classes + answer, minlength=num_classes**2)
    return counts.view(num_classes, num_classes).double()


def prediction_errors(answer: Tensor, target: Tensor) -> dict[str, float]:
    """The root of the mean squared error and the mean absolute one of each number, in its own units.

    Args:
        answer: [n, D].
        target: [n, D].

    Returns:
        ``rmse`` and ``mae``; of several numbers ``rmse_<k>`` and ``mae_<k>`` of the first `MOST_CLASSES`.
    """
    errors = answer.double() - target.double()
    means = {"rmse": errors.square().mean(0).sqrt().tolist(), "mae": errors.abs().mean(0).tolist()}
    if errors.shape[1] == 1:
        return {name: value for name, (value,) in means.items()}
    return {f"{name}_{k}": value for name, values in means.items() for k, value in enumerate(values[:MOST_CLASSES])}


def matrix_text(matrix: Tensor, classes: tuple[str, ...]) -> str:
    """A confusion matrix [K, K] as a table, with the recall of each class."""
    width = max(8, *(len(name) + 2 for name in classes))
    rows = [["truth", *classes, "recall"]]
    for name, row in zip(classes, matrix, strict=True):
        index = len(rows) - 1
        recall = f"{row[index] / row.sum():.1%}" if row.any() else "-"
        rows.append([name, *(f"{int(count)}" for count in row.tolist()), recall])
    return "\n".join("".join(cell.rjust(width) for cell in row) for row in rows)
