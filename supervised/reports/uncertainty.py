"""The report ``uncertainty``: how certain an agent is on the test examples, and how reliable that is."""

from collections.abc import Iterable
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from rlcore import settings
from rlcore.agent import Agent
from rlcore.agents.ensemble import Ensemble
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.evaluation import Report, ReportMaker, evaluating
from rlcore.settings import Seed
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.loading import gathered
from rlcore.supervised.reports.common import Ask, classified, figure_of, side_by_side, terminal_lines
from rlcore.supervised.reports.foreign import foreign_inputs
from rlcore.supervised.reports.number_uncertainty import answers_numbers, number_report
from rlcore.trees import tree_map
from rlcore.uncertainty import (
    Classes,
    ClassUncertainty,
    calibration_error,
    fit_temperature,
    measures,
    negative_log_likelihood,
    reliability,
    risk_at_coverage,
    roc_area,
    tempered,
    uncertainty,
)
from rlcore.uncertainty.mc_dropout import MCDropout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BAR = 30
"""Characters in the bar of a probability of 1."""
LIKELY = 0.05
"""Probability of a class above which a single pass shows its bar."""
THRESHOLD = 0.4
"""Share of the range of pixel values above which a pixel is drawn."""


class UncertaintyReport(ReportMaker):
    """How certain the agent is: calibration, risk and coverage, out-of-distribution inputs, and uncertain examples.

    Compares ``softmax``, one answer with nothing dropped, with ``mc_dropout``, if the network has dropout, or
    ``ensemble``, if the agent is one. Examples and the histograms of the entropy are of the latter.

    Of numbers: how reliable the stated normal distributions are, of ``plain``, one answer with nothing dropped, and of
    the same two; see `rlcore.supervised.reports.number_uncertainty`.
    """

    class Settings(settings.Settings):
        """Settings of the report."""

        passes: int = Field(default=20, ge=2, le=1000)
        """T, the passes of Monte Carlo dropout."""
        above: PositiveFloat = 0.9
        """Show the examples whose predictive entropy is above this, nats."""
        num: PositiveInt = 10
        """How many of these examples, at most; of numbers, those of the largest standard deviation."""
        index: NonNegativeInt | None = None
        """Show only this test example, with the bars of every pass."""
        seed: Seed = 1
        """Seed of the masks and of out-of-distribution inputs."""
        memory_mib: PositiveFloat = 512
        """Memory that a batch with all its passes may take, MiB."""

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        self._askers(agent, _data_set(env))

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`.

        Raises:
            InputError: the environment is not a data set of classes or numbers, the agent gives no probabilities of
                classes or only one answer, or ``index`` is not below the number of test examples.
        """
        env = _data_set(env)
        askers = self._askers(agent, env)
        if self.settings.index is not None and self.settings.index >= env.num_examples:
            raise InputError(
                f"report uncertainty: index must be below the {env.num_examples:,} test examples, "
                f"got {self.settings.index}"
            )
        with evaluating(agent):
            if answers_numbers(env):
                return number_report(env, askers, self.settings.num, self.settings.index)
            if self.settings.index is not None:
                return Report({}, _passes(env, askers.popitem()[1], self.settings.index))
            found = {name: measured(env, ask, self.settings.seed) for name, ask in askers.items()}
        scalars = {f"{name}_{key}": value for name, one in found.items() for key, value in one.scalars.items()}
        best = list(found.values())[-1]
        table = side_by_side({name: one.scalars for name, one in found.items()})
        text = f"{table}\n\n{self._doubted(env, best.test)}"
        return Report(scalars, text, _figures(found, env.targets.cpu()))

    def _askers(self, agent: Agent, env: SupervisedEnv) -> dict[str, Ask]:
        """The ways to ask the agent, the best one last."""
        s, of_numbers = self.settings, answers_numbers(env)
        alone = "plain" if of_numbers else "softmax"
        if isinstance(agent, Ensemble):
            return {alone: agent.members[0].answers, "ensemble": agent.answers}
        mc_dropout = MCDropout(agent, s.passes, s.seed, s.memory_mib)
        try:
            mc_dropout.answers(env.inputs(slice(0, 1)))
        except InputError as error:
            if of_numbers and type(agent).distribution is not Agent.distribution:
                return {alone: agent.answers}  # which states a standard deviation, too
            raise InputError(f"report uncertainty: {error}; or an ensemble (agent.name=ensemble)") from None
        return {alone: agent.answers, "mc_dropout": mc_dropout.answers}

    def _doubted(self, env: SupervisedEnv, test: ClassUncertainty) -> str:
        """The examples whose predictive entropy is above the setting, in their order."""
        above = self.settings.above
        indices = (test.predictive_entropy > above).nonzero().flatten().tolist()
        lines = [f"{len(indices):,} of {len(env.targets):,} examples have a predictive entropy above {above:g} nats"]
        for i in indices[: self.settings.num]:
            doubt = f"entropy {test.predictive_entropy[i]:.3f}, mutual information {test.mutual_information[i]:.3f}"
            lines += ["", *_example(env, i, test.probabilities[i], doubt)]
        return "\n".join(lines)


def _data_set(env: Environment) -> SupervisedEnv:
    """The environment as a data set of classes or numbers; InputError if it is not one."""
    if isinstance(env, SupervisedEnv) and answers_numbers(env):
        return env
    return classified("uncertainty", env)[0]


class Measured(NamedTuple):
    """An agent's uncertainty on the test examples and on out-of-distribution inputs, and its measures."""

    test: ClassUncertainty
    foreign: dict[str, ClassUncertainty]
    scalars: dict[str, float]


def measured(env: SupervisedEnv, ask: Ask, seed: int = 1) -> Measured:
    """Asks about the test examples and out-of-distribution inputs.

    Args:
        env: the data set's twin for evaluation.
        ask: maps observations to all answers; the agent must be in evaluation mode.
        seed: of the out-of-distribution inputs.

    Returns:
        The answers, and `rlcore.uncertainty.measures` of them; if the data set has validation examples, the
        ``temperature`` fitted to these and the measures with it, ``tempered_<measure>``; for each kind of
        out-of-distribution inputs, ``<kind>_roc_area`` of the predictive entropy and, of several answers,
        ``<kind>_mutual_information_roc_area``.

    Raises:
        InputError: the answers are not probabilities of the data set's classes.
    """
    dataset, batch = env.dataset, env.evaluation_batch
    test = _asked(ask, map(env.inputs, env.examples.in_order(batch)))
    target = env.targets.cpu()
    known, num_classes = test.probabilities.shape[1], len(dataset.classes or ())
    if known != num_classes + len(env.action.other_answers):
        raise InputError(f"the agent knows {known} classes, the data set has {num_classes}")
    scalars = measures(test.probabilities, target, test.predictive_entropy)
    if dataset.validation is not None:
        shown = _asked(ask, (x.to(env.device) for x in dataset.validation.inputs.split(batch)))
        tau = fit_temperature(shown.probabilities, gathered(dataset.validation.targets))
        p = tempered(test.probabilities, tau)
        scalars["temperature"] = tau
        scalars["tempered_negative_log_likelihood"] = negative_log_likelihood(p, target)
        scalars["tempered_calibration_error"] = calibration_error(p.amax(1), p.argmax(1) == target)
    foreign = {}
    for kind, inputs in foreign_inputs(dataset, seed=seed, channels_last=env.channels == "last").items():
        foreign[kind] = found = _asked(ask, (x.to(env.device) for x in inputs.split(batch)))
        is_foreign = torch.arange(len(target) + len(inputs)) >= len(target)
        scalars[f"{kind}_roc_area"] = roc_area(
            torch.cat([test.predictive_entropy, found.predictive_entropy]), is_foreign
        )
        if test.mutual_information.any():  # a single answer has none
            scalars[f"{kind}_mutual_information_roc_area"] = roc_area(
                torch.cat([test.mutual_information, found.mutual_information]), is_foreign
            )
    return Measured(test, foreign, scalars)


def _asked(ask: Ask, batches: Iterable[Tensor]) -> ClassUncertainty:
    """The uncertainty of the answers to all batches, on the CPU."""
    pieces = []
    for obs in batches:
        answers = ask(obs)
        if not isinstance(answers, Classes):
            raise InputError(
                "the agent answers with numbers; calibration needs probabilities (env.action=logits or label)"
            )
        pieces.append(uncertainty(answers))
    return tree_map(lambda *x: torch.cat(x).cpu(), *pieces)


def _passes(env: SupervisedEnv, ask: Ask, index: int) -> str:
    """One example, with the bars of every answer."""
    answers = ask(env.inputs(slice(index, index + 1)))
    found = _asked(lambda obs: answers, [env.targets])
    doubt = f"entropy {found.predictive_entropy[0]:.3f}, mutual information {found.mutual_information[0]:.3f}"
    lines = _example(env, index, found.probabilities[0], doubt)
    for t, p in enumerate(answers[0][:, 0].tolist()):
        likely = [(name, chance) for name, chance in zip(_names(env), p, strict=False) if chance > LIKELY]
        bars = [f"{name} {_bar(chance)} {chance:.2f}" for name, chance in likely]
        lines.append(f"{t + 1:4d}  {'   '.join(bars)}")
    return "\n".join(lines)


def _example(env: SupervisedEnv, index: int, p: Tensor, doubt: str) -> list[str]:
    """An image, or numbers, beside a bar for each class."""
    names = _names(env)
    head = f"#{index}: {doubt}; {names[int(p.argmax())]}, truth {names[int(env.targets[index])]}"
    x = env.scaled(env.inputs(slice(index, index + 1)))[0].cpu()
    picture = [f"{value:.4g}" for value in x.flatten().tolist()]
    if x.ndim == 3:
        grey = x.mean(0)
        picture = terminal_lines((grey - grey.min()) > THRESHOLD * (grey.max() - grey.min()))
    width = max(map(len, picture)) + 4
    bars = [f"{name:>8} {_bar(chance)} {chance:.3f}" for name, chance in zip(names, p.tolist(), strict=False)]
    rows = zip_longest(picture, bars, fillvalue="")
    return [head, *(f"{left:<{width}}{right}".rstrip() for left, right in rows)]


def _names(env: SupervisedEnv) -> tuple[str, ...]:
    return (*(env.dataset.classes or ()), *env.action.other_answers)


def _bar(chance: float) -> str:
    return "█" * round(BAR * chance)


def _figures(found: dict[str, Measured], target: Tensor) -> "dict[str, Figure]":
    """Reliability, risk against coverage, and histograms of the entropy."""
    calibration, (axes,) = figure_of(1, 4.5, 4)
    coverage, (risks,) = figure_of(1, 5, 3.5)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    for name, one in found.items():
        confidence, answer = one.test.probabilities.max(1)
        bins = reliability(confidence, answer == target)
        axes.plot(bins.confidence, bins.accuracy, marker="o", markersize=3, label=name)
        risk = risk_at_coverage(one.test.predictive_entropy, answer != target)
        risks.plot(torch.arange(1, len(risk) + 1) / len(risk), risk, label=name)
    axes.set(xlabel="confidence", ylabel="accuracy", title="reliability")
    risks.set(xlabel="share of the examples answered", ylabel="share of wrong answers", title="risk and coverage")
    axes.legend()
    risks.legend()
    best = list(found.values())[-1]
    right = best.test.probabilities.argmax(1) == target
    entropy = best.test.predictive_entropy
    doubts = {"right": entropy[right], "wrong": entropy[~right]}
    doubts |= {kind: of_kind.predictive_entropy for kind, of_kind in best.foreign.items()}
    largest = torch.cat(list(doubts.values())).max().item()
    histogram, rows = figure_of(len(doubts), 2.2, 2.2)
    for axes, (name, values) in zip(rows, doubts.items(), strict=True):
        axes.hist(values.numpy(), bins=25, range=(0, largest))
        axes.set_title(f"{name} ({len(values):,})", fontsize=9)
        axes.set_xlabel("entropy, nats", fontsize=8)
        if len(values):
            axes.set_yscale("log")
    return {"reliability": calibration, "risk_coverage": coverage, "entropy": histogram}
