"""The report ``uncertainty`` of numbers: how reliable the stated normal distributions are."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rlcore.evaluation import Report
from rlcore.supervised.actions import ValuesAction
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.loading import gathered
from rlcore.supervised.metrics import MOST_CLASSES
from rlcore.supervised.reports.common import Ask, figure_of, side_by_side
from rlcore.trees import take, tree_map
from rlcore.uncertainty import (
    QUANTILES,
    Answers,
    NumberUncertainty,
    fit_std_factor,
    normal_measures,
    quantile_shares,
    uncertainty,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 10
"""Numbers that are drawn."""


class Measured(NamedTuple):
    """The combined answers to the test examples, and their measures."""

    test: NumberUncertainty
    """Fields [n, D]."""
    scalars: dict[str, float]


def answers_numbers(env: SupervisedEnv) -> bool:
    """Whether answers in a data set are numbers, and its targets too."""
    return env.names_classes and env.dataset.classes is None and isinstance(env.action, ValuesAction)


def number_report(env: SupervisedEnv, askers: dict[str, Ask], num: int, index: int | None) -> Report:
    """The measures of each way to ask, and the examples of the largest standard deviation by the last way.

    Args:
        env: the data set's twin for evaluation.
        askers: the ways to ask the agent, which must be in evaluation mode, by name.
        num: examples, at most.
        index: the example of which only the answers are shown; None: all.

    Returns:
        What is `measured` of each way, ``<way>_<measure>``; the figures ``calibration`` and ``predictions``.
    """
    target = _numbers(env, env.targets)
    if index is not None:
        _, ask = askers.popitem()
        return Report({}, _passes(ask(env.inputs(slice(index, index + 1))), target[index], index))
    found = {name: measured(env, ask) for name, ask in askers.items()}
    scalars = {f"{name}_{key}": value for name, one in found.items() for key, value in one.scalars.items()}
    best = list(found.values())[-1].test
    widest = best.std.log().sum(1).argsort(descending=True)[:num].tolist()
    lines = [f"#{i}: {_stated(take(best, i))}, truth {_told(target[i])}" for i in widest]
    table = side_by_side({name: one.scalars for name, one in found.items()})
    text = "\n".join([table, "", "the examples of the largest standard deviation", *lines])
    return Report(scalars, text, {"calibration": _calibration(found, target), "predictions": _drawn(env, best, target)})


def measured(env: SupervisedEnv, ask: Ask) -> Measured:
    """Asks about the test examples.

    Args:
        env: the data set's twin for evaluation.
        ask: maps observations to all answers; the agent must be in evaluation mode.

    Returns:
        The answers, and `rlcore.uncertainty.normal_measures` of them with the means of ``aleatoric_std`` and
        ``epistemic_std``; if the data set has validation examples, the ``std_factor`` fitted to these and the measures
        with it, ``scaled_<measure>``. Of several numbers each has its own, ``<measure>_<k>``, of the first
        `MOST_CLASSES`, after their total ``negative_log_likelihood``.
    """
    test = _asked(ask, map(env.inputs, env.examples.in_order(env.evaluation_batch)))
    target = _numbers(env, env.targets)
    held = env.dataset.validation
    if held is not None:
        shown = _asked(ask, (x.to(env.device) for x in held.inputs.split(env.evaluation_batch)))
        held_target = _numbers(env, gathered(held.targets))
    each = []
    for k in range(target.shape[1]):
        one = NumberUncertainty(*(field[:, k] for field in test))
        figures = normal_measures(one.mean, one.std, target[:, k])
        figures |= {"aleatoric_std": one.aleatoric_std.mean().item(), "epistemic_std": one.epistemic_std.mean().item()}
        if held is not None:
            figures["std_factor"] = factor = fit_std_factor(shown.mean[:, k], shown.std[:, k], held_target[:, k])
            scaled = normal_measures(one.mean, factor * one.std, target[:, k])
            figures |= {f"scaled_{key}": scaled[key] for key in ("negative_log_likelihood", "calibration_error")}
        each.append(figures)
    if len(each) == 1:
        return Measured(test, each[0])
    total = sum(figures["negative_log_likelihood"] for figures in each)
    named = {f"{key}_{k}": x for k, figures in enumerate(each[:MOST_CLASSES]) for key, x in figures.items()}
    return Measured(test, {"negative_log_likelihood": total, **named})


def _asked(ask: Ask, batches: Iterable[Tensor]) -> NumberUncertainty:
    """The combined answers to batches [B, *O], fields [n, D] float64 on the CPU."""
    pieces = [uncertainty(ask(obs)) for obs in batches]
    together: NumberUncertainty = tree_map(lambda *x: torch.cat(x).flatten(1).double().cpu(), *pieces)
    return together


def _numbers(env: SupervisedEnv, targets: Tensor) -> Tensor:
    """Targets as answers are rewarded for, [n, D] on the CPU."""
    return env.action.encode(targets).flatten(1).cpu()


def _passes(answers: Answers, target: Tensor, index: int) -> str:
    """Every answer to one example, and what they are together; answers [T, 1, *D], target [D]."""
    together = tree_map(lambda x: x[0].flatten().cpu(), uncertainty(answers))
    lines = [f"#{index}: {_stated(together)}, truth {_told(target)}"]
    for t, (mean, std) in enumerate(zip(*(x.flatten(1).cpu() for x in answers), strict=True)):
        lines.append(f"{t + 1:4d}  {_told(mean)} +- {_told(std)}")
    return "\n".join(lines)


def _stated(one: NumberUncertainty) -> str:
    """The answer to one example, fields [D]."""
    parts = f"aleatoric {_told(one.aleatoric_std)}, epistemic {_told(one.epistemic_std)}"
    return f"{_told(one.mean)} +- {_told(one.std)} ({parts})"


def _told(x: Tensor) -> str:
    return " ".join(f"{value:.4g}" for value in x.tolist())


def _calibration(found: dict[str, Measured], target: Tensor) -> "Figure":
    """The share of targets below each stated quantile, of all numbers together."""
    figure, (axes,) = figure_of(1, 4.5, 4)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    for name, one in found.items():
        axes.plot(QUANTILES, quantile_shares(one.test.mean, one.test.std, target), marker="o", markersize=3, label=name)
    axes.set(xlabel="level of the quantile", ylabel="share of targets below it", title="calibration")
    axes.legend()
    return figure


def _drawn(env: SupervisedEnv, found: NumberUncertainty, target: Tensor) -> "Figure":
    """Each number with two standard deviations, against the input if that is one number, else against the truth."""
    inputs = env.inputs(slice(None)).flatten(1).cpu()
    num = min(target.shape[1], MOST_PANELS)
    figure, panels = figure_of(num, 5, 4)
    for k, axes in enumerate(panels):
        mean, std, truth = found.mean[:, k], found.std[:, k], target[:, k]
        if inputs.shape[1] == 1:
            order = inputs[:, 0].argsort()
            x, mean, std = inputs[order, 0], mean[order], std[order]
            axes.scatter(inputs[:, 0], truth, s=4, color="grey", label="truth")
            axes.plot(x, mean, label="mean")
            axes.fill_between(x, mean - 2 * std, mean + 2 * std, alpha=0.3, label="two standard deviations")
            axes.set(xlabel="input", ylabel="answer")
        else:
            ends = [float(truth.min()), float(truth.max())]
            axes.plot(ends, ends, color="grey", linestyle=":")
            axes.errorbar(truth, mean, 2 * std, fmt="o", markersize=3, linewidth=0.5, label="two standard deviations")
            axes.set(xlabel="truth", ylabel="answer")
        axes.legend(fontsize=8)
    return figure
