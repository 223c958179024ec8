"""The report ``labels``: the accuracy by the number of labels that it took."""

from pydantic import Field

from rlcore import settings
from rlcore.agent import Agent
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.evaluation import Report, ReportMaker
from rlcore.supervised.pool import PoolEnv
from rlcore.supervised.reports.common import figure_of


class LabelsReport(ReportMaker):
    """Accuracy against the number of labels, so far: a figure, a table, and the columns ``labels`` and ``accuracy``.

    Once an accuracy has been reached, ``needed`` is the smallest number of labels with it.
    """

    class Settings(settings.Settings):
        """Settings of the report."""

        accuracy: float = Field(default=0.95, gt=0, le=1)
        """The accuracy that is to be reached."""

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        if not isinstance(env, PoolEnv):
            raise InputError("report labels: needs a pool whose labels are acquired (env.name=pool)")

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`.

        Raises:
            InputError: the agent does not learn here, so that there is no curve.
        """
        self.check(agent, env)
        assert isinstance(env, PoolEnv)
        curve = env.source.curve
        if not curve:
            raise InputError("report labels: is made while the agent learns; name it in trainer.reports")
        figure, (axes,) = figure_of(1, 5, 3.5)
        axes.plot(list(curve), list(curve.values()), marker="o", markersize=3)
        axes.set(xlabel="labels", ylabel="accuracy", title=env.settings.acquisition)
        text = "\n".join(["labels,accuracy", *(f"{labels},{accuracy:.4f}" for labels, accuracy in curve.items())])
        columns = {"labels": [float(labels) for labels in curve], "accuracy": list(curve.values())}
        reached = [labels for labels, accuracy in curve.items() if accuracy >= self.settings.accuracy]
        return Report({"needed": min(reached)} if reached else {}, text, {"labels": figure}, columns)
