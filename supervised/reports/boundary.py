"""The report ``boundary``: the answer everywhere in a plane."""

from typing import Any

import torch
from pydantic import Field

from rlcore import settings
from rlcore.agent import Agent
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.evaluation import Report, ReportMaker, evaluating
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.loading import gathered
from rlcore.supervised.reports.common import classified, figure_of


class BoundaryReport(ReportMaker):
    """For two inputs: the answer everywhere in the plane, and the training examples."""

    class Settings(settings.Settings):
        """Settings of the report."""

        resolution: int = Field(default=150, ge=1, le=1000)
        """Points along each axis."""
        margin: float = Field(default=0.2, ge=0, le=100)
        """Margin around the examples, as a share of their range."""

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        _in_a_plane(env)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`."""
        figure, (axes,) = figure_of(1, 4, 4)
        self.draw(axes, agent, env)
        if "accuracy" in evaluation.scalars:
            axes.set_title(f"accuracy {evaluation.scalars['accuracy']:.1%}", fontsize=9)
        return Report({}, figures={"boundary": figure})

    def draw(self, axes: Any, agent: Agent, env: Environment) -> None:
        """Draws the boundary into given matplotlib axes.

        Raises:
            InputError: the environment is not a data set of two inputs and classes.
        """
        env, classes = _in_a_plane(env)
        inputs, targets = map(gathered, env.dataset.train)
        margin = self.settings.margin * (inputs.amax(0) - inputs.amin(0))
        ends = torch.stack([inputs.amin(0) - margin, inputs.amax(0) + margin], 1).tolist()
        x, y = (torch.linspace(low, high, self.settings.resolution, dtype=torch.float64) for low, high in ends)
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        with evaluating(agent):
            points = grid.view(-1, 2).to(env.device)
            points = points.round().clamp(0, 255).byte() if inputs.dtype == torch.uint8 else points.to(inputs.dtype)
            answers = agent.predict(points).action
            probabilities = env.action.probabilities(answers, len(classes)).cpu()
        level = probabilities @ torch.linspace(0, 1, len(classes))  # two classes: P of the second
        level += 0.5 * (1 - probabilities.sum(1))  # in between where it asks
        extent = [*ends[0], *ends[1]]
        shades = level.view(len(y), len(x)).numpy()
        axes.imshow(shades, extent=extent, origin="lower", aspect="auto", cmap="RdBu", vmin=-0.3, vmax=1.3)
        axes.scatter(*inputs.T.numpy(), c=targets.numpy(), cmap="RdBu", s=6, edgecolors="k", linewidths=0.3)
        axes.set(xticks=[], yticks=[])


def _in_a_plane(env: Environment) -> tuple[SupervisedEnv, tuple[str, ...]]:
    """A data set of two numbers, and its class names; InputError if it is not one."""
    env, classes = classified("boundary", env)
    shape = tuple(env.dataset.train.inputs.shape[1:])
    if shape != (2,):
        raise InputError(f"report boundary: needs examples of 2 numbers, these have shape {shape}")
    return env, classes
