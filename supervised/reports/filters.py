"""The report ``filters``: what the first layer responds to."""

import math

from pydantic import Field
from torch import Tensor

from rlcore import settings
from rlcore.agent import Agent
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.evaluation import Report, ReportMaker
from rlcore.supervised.reports.common import figure_of, seen_shape


class FiltersReport(ReportMaker):
    """The weights of the first layer as images: what each unit responds to."""

    class Settings(settings.Settings):
        """Settings of the report."""

        num: int = Field(default=64, ge=1, le=1000)
        """How many filters, at most."""

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        _first_weights(agent, env)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`."""
        first = _first_weights(agent, env)
        filters = first.detach().cpu()
        filters = filters.mean(1) if filters.ndim == 4 else filters.unflatten(1, seen_shape(env)).mean(1)
        filters = filters[: self.settings.num]
        figure, panels = figure_of(len(filters), 1, 1)
        for axes, image in zip(panels, filters, strict=True):
            bound = float(image.abs().max())
            axes.imshow(image.numpy(), cmap="RdBu", vmin=-bound, vmax=bound)
            axes.set_axis_off()
        return Report({}, f"{len(first)} filters of {tuple(filters.shape[1:])}", {"filters": figure})


def _first_weights(agent: Agent, env: Environment) -> Tensor:
    """The weights of the first layer that reads images; InputError if there is none."""
    shape = seen_shape(env)
    weights = (p for p in agent.parameters() if p.ndim == 4 or (p.ndim == 2 and p.shape[1] == math.prod(shape)))
    first = next(weights, None)
    if first is None or len(shape) != 3:
        raise InputError(f"report filters: needs a network that reads images, this one reads {shape}")
    return first
