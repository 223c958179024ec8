"""The report ``confusion``: which classes are taken for which."""

import torch

from rlcore.agent import Agent
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.evaluation import Report, ReportMaker
from rlcore.supervised.metrics import MOST_CLASSES, confusion_matrix
from rlcore.supervised.reports.common import classified, figure_of


class ConfusionReport(ReportMaker):
    """How often each class was answered with each: a figure of the confusion matrix."""

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        classified("confusion", env)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`.

        Raises:
            InputError: the environment is not a data set of classes, or has more than `MOST_CLASSES`.
        """
        _, classes = classified("confusion", env)
        if len(classes) > MOST_CLASSES:
            raise InputError(f"report confusion: needs at most {MOST_CLASSES} classes, there are {len(classes):,}")
        target, answer = (torch.tensor(evaluation.columns[name], dtype=torch.int64) for name in ("target", "answer"))
        answered = answer < len(classes)
        matrix = confusion_matrix(target[answered], answer[answered], len(classes))
        figure, (axes,) = figure_of(1, 6, 5.5)
        axes.imshow((matrix / matrix.sum(1, keepdim=True)).numpy(), cmap="Blues", vmin=0, vmax=1)
        for i, row in enumerate(matrix.int().tolist()):
            for j, count in enumerate(row):
                dark = count > matrix[i].sum() / 2
                axes.text(j, i, count, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        axes.set(xlabel="answer", ylabel="truth", xticks=range(len(classes)), yticks=range(len(classes)))
        axes.set_xticklabels(classes)
        axes.set_yticklabels(classes)
        return Report({}, evaluation.text, {"confusion": figure})
