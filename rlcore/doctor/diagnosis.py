"""The examination of a run, or of several seeds: every check is asked, and what it finds is gathered."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from rlcore import registry
from rlcore.doctor.curves import read_figures
from rlcore.doctor.examination import Examination, Finding, Unseen, play
from rlcore.doctor.seeds import FEWEST, seeds_disagree
from rlcore.errors import InputError, one_line
from rlcore.run import Run
from rlcore.runs.status import differences, runs_of, settings_of
from rlcore.seeding import CLOSING, derive_seed, restore_rng_state, rng_state, seed_everything

Check = Callable[[Examination], Finding | None]
CANNOT_KNOW = (
    "cannot be known from a run: whether the reward and the data say what you mean, whether observations hold what is "
    "needed to decide, how good an agent could become"
)


class Diagnosis(NamedTuple):
    """What an examination found."""

    findings: list[Finding]
    """What was found, in the order of the checks' names."""
    looked: list[str]
    """The checks that found nothing."""
    unseen: dict[str, str]
    """Those that could not be made, and why."""


def examine(run: str | Path, trust: bool = False) -> Diagnosis:
    """Examines a run from its events, its checkpoint ``last`` and some steps that its agent plays; writes nothing.

    Args:
        run: the run's folder.
        trust: import modules within it, though it was trained elsewhere; see `rlcore.config.load`.

    Raises:
        InputError: it is no run, or has no checkpoint or no events.
    """
    rng, threads = rng_state(), torch.get_num_threads()
    try:
        return _examined(Run(run, trust))
    finally:
        restore_rng_state(rng)
        torch.set_num_threads(threads)


def examine_all(given: str | Path, trust: bool = False) -> dict[Path, Diagnosis]:
    """Examines a run, or each run in a folder, at any depth; and whether three or more in one folder agree, by that.

    Args:
        given: a run, a folder of runs, or a pattern of these.
        trust: see `examine`.

    Raises:
        InputError: there is no run, or one has no checkpoint or no events.
    """
    runs = runs_of(given)
    found = {run: examine(run, trust) for run in runs}
    for folder in dict.fromkeys(run.parent for run in runs):
        seeds = [run for run in runs if run.parent == folder]
        if len(seeds) >= FEWEST:
            found[folder] = _of_seeds(seeds)
    return found


def ask(x: Examination) -> Diagnosis:
    """Asks every registered check; a mistake in one does not end the others, and is told as its reason."""
    findings, looked, unseen = list[Finding](), list[str](), dict[str, str]()
    for name in registry.checks.names():
        try:
            check: Check = registry.checks[name]
            finding = check(x)
        except (Unseen, InputError) as reason:
            unseen[name] = str(reason)
        except Exception as error:  # of a check, or of an environment: neither ends a run that is examined by the hook
            unseen[name] = f"failed: {type(error).__name__}: {one_line(error)}"
        else:
            if finding is None:
                looked.append(name)
            else:
                findings.append(finding._replace(name=name))
    return Diagnosis(findings, looked, unseen)


def _examined(run: Run) -> Diagnosis:
    if not run.has_checkpoints:
        raise InputError(f"{run.path} has no checkpoint yet: the first is written after trainer.checkpoint_every steps")
    curves = read_figures(run.folder)
    trainer, saved, _ = run.build(run.load(("trainer.hooks=[]", "trainer.best_by=null")), run.checkpoint_path("last"))
    try:
        start = {name: param.detach().clone() for name, param in trainer.agent.named_parameters()}
        trainer.restore_agent(saved)
        seed_everything(derive_seed(trainer.seed, CLOSING))
        stopped = saved.get("learns", {}).get("stopped") is not None
        progress = 1.0 if stopped else min(1.0, saved["steps"] / trainer.total_steps)
        return ask(Examination(trainer, curves, start, play(trainer), progress))
    finally:
        trainer.close()


def _of_seeds(runs: list[Path]) -> Diagnosis:
    """Whether runs of one config agree on the figure that their evaluations have in common."""
    name = seeds_disagree.__name__
    if changed := differences([settings_of(run) for run in runs]):
        return Diagnosis([], [], {name: f"the runs differ in {', '.join(changed)}"})
    figures = [read_figures(run) for run in runs]
    common = set.intersection(*map(set, figures))
    judging = (tag for tag in ("eval/return", "eval/accuracy", "eval/log_likelihood") if tag in common)
    try:
        finding = seeds_disagree(figures, next(judging, "eval/return"))
    except Unseen as reason:
        return Diagnosis([], [], {name: str(reason)})
    return Diagnosis([], [name], {}) if finding is None else Diagnosis([finding._replace(name=name)], [], {})
