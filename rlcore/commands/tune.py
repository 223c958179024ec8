"""``rlcore tune``."""

import os
import subprocess
import warnings
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table

from rlcore import config as configs
from rlcore.commands.compare import compare
from rlcore.commands.processes import exit_status, sharing_cores, signals_to, start
from rlcore.commands.progress import following
from rlcore.commands.seeds import claimed, train_all, trainings
from rlcore.commands.study import FRESH, STUDY_FILE, Plan, Tuner, judged_by
from rlcore.console import make_console
from rlcore.errors import InputError, one_line
from rlcore.files import RUNS_FOLDER, claim_folder, write_text

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

BEST_FILE, GIVEN_FILE = "best.yaml", "given.yaml"
"""Configs: the one with the best settings, and the one that was given."""
SHOWN = 5
"""Trials in the closing table."""


def tune(
    source: str,
    overrides: Sequence[str],
    trials: int,
    seeds: int,
    jobs: int,
    by: str | None,
    sampler: str,
    pruner: str,
    storage: str | None,
    study: str | None,
    out: str | None,
    fresh: int,
    worker: int | None = None,
) -> int:
    """Looks for good settings of a config, in its ``search:`` block; returns the exit status.

    With ``jobs`` each is a process that works on the same study, as a ``worker`` of its number, which prints its trials
    alone. Afterwards the best settings are written, and they and the config's own are trained with ``fresh`` seeds.
    """
    loaded, console = configs.load(source, overrides), make_console()
    folder = Path(out or Path(RUNS_FOLDER) / "tune" / loaded.name)
    place, name = storage or str(folder / STUDY_FILE), study or loaded.name
    figure, direction = (by or "", None) if worker is not None else judged_by(source, overrides, by)
    first = loaded.config.seed
    plan = Plan(source, tuple(overrides), figure, tuple(range(first, first + seeds)))
    tuner = Tuner(plan, place, folder, name, direction, sampler, pruner, worker or 0)
    if worker is not None:
        return tuner.work(trials, lambda line: print(line, flush=True))
    console.print(f"{name}: {direction} {figure}; the study is in {place}, its runs are in {folder}", highlight=False)
    adopted = tuner.adopt()
    if adopted:
        console.print(f"{adopted} of its trials were interrupted, and are resumed", highlight=False)
    if jobs == 1:
        status = tuner.work(trials, lambda line: console.print(line, highlight=False))
    else:
        options = {"trials": trials, "seeds": seeds, "by": figure, "sampler": sampler, "pruner": pruner}
        options |= {"storage": place, "study": name, "out": folder}
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        status = _work_together(["tune", source, *overrides, *words], jobs)
    if status:
        console.print("the study goes on where it was by the same command", highlight=False)
        return status
    best = _report(tuner, folder, console)
    return _train_fresh(tuner, best, fresh, jobs, folder, console) if fresh else 0


def _work_together(words: Sequence[str], jobs: int) -> int:
    """Runs workers on one study; a signal to end is passed on to them, and they save."""
    environ = {**os.environ, **sharing_cores(jobs)}
    workers: list[subprocess.Popen[bytes]] = []
    signalled: list[int] = []

    def end(number: int) -> None:
        signalled.append(number)
        for process in workers:
            process.terminate()

    with signals_to(end):
        for number in range(1, jobs + 1):
            if not signalled:
                workers.append(start([*words, "--worker", str(number)], environ))
        for process in workers:
            process.wait()
    return 128 + signalled[0] if signalled else max(map(exit_status, workers))


def _report(tuner: Tuner, folder: Path, console: Console) -> Path:
    """Prints and draws what was found; the file of the best settings."""
    study, states = tuner.study, tuner.optuna.trial.TrialState
    ended = study.get_trials(deepcopy=False, states=(states.COMPLETE,))
    if not ended:
        raise InputError(f"none of the trials of {study.study_name!r} ended; more: --trials, or --pruner none")
    ended.sort(key=lambda trial: trial.value or 0.0, reverse=tuner.maximize)
    table = Table("trial", tuner.plan.figure, *tuner.space)
    for trial in ended[:SHOWN]:
        table.add_row(str(trial.number), f"{trial.value:,.6g}", *(f"{trial.params[key]}" for key in tuner.space))
    console.print(table)
    pruned = len(study.get_trials(deepcopy=False, states=(states.PRUNED,)))
    console.print(f"{len(ended)} trials ended, {pruned} were given up early", highlight=False)
    best = folder / BEST_FILE
    write_text(best, configs.dump(tuner.plan.load(tuner.settings_of(ended[0]), tuner.plan.seeds[0]).config))
    history, importances = folder / "history.png", folder / "importances.png"
    _draw_history(tuner, ended, history)
    why_not = _draw_importances(tuner, importances)
    console.print(f"figure: {history}", highlight=False)
    last = f"figure: {importances}" if why_not is None else f"what the parameters matter cannot be told: {why_not}"
    console.print(last, highlight=False)
    console.print(f"the best settings: rlcore train {best}", highlight=False)
    return best


def _train_fresh(tuner: Tuner, best: Path, fresh: int, jobs: int, folder: Path, console: Console) -> int:
    """Trains the config and the best settings with seeds that no trial has had, and compares them."""
    seed, given = tuner.plan.seeds[0], folder / GIVEN_FILE
    write_text(given, configs.dump(tuner.plan.load({}, seed).config))
    place = claim_folder(folder / "fresh")  # beside those of an earlier best
    sides = {place / source.stem: str(source) for source in (given, best)}
    each = []
    for side, source in sides.items():
        each += trainings(configs.load(source, [f"seed={seed + FRESH}"]), source, (), side, fresh)
    each = claimed(each)
    console.print(f"the config and the best settings, with {fresh} seeds that no trial has had:", highlight=False)
    with following({f"{one.path.parent.name} {one.name}": one.path for one in each}, console):
        status = max(one for _, one in train_all(each, jobs))
    if status:
        return status
    better: Literal["less", "more"] = "more" if tuner.maximize else "less"
    return compare([str(side) for side in sides], tuner.plan.figure, "last", None, better, True, None, False)


def _draw_history(tuner: Tuner, ended: Sequence["FrozenTrial"], file: Path) -> None:
    """Draws the figures of trials that have ended, and the best so far."""
    from matplotlib.figure import Figure

    values = [(trial.number, trial.value or 0.0) for trial in sorted(ended, key=lambda trial: trial.number)]
    best = accumulate((value for _, value in values), max if tuner.maximize else min)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Any = figure.subplots()
    axes.plot(*zip(*values, strict=True), "o", alpha=0.5, label="a trial")
    axes.step([number for number, _ in values], list(best), where="post", label="the best so far")
    axes.set(xlabel="trial", ylabel=tuner.plan.figure)
    axes.legend()
    figure.savefig(file, dpi=150)


def _draw_importances(tuner: Tuner, file: Path) -> str | None:
    """Draws how much each parameter matters; why that cannot be told, or None."""
    from matplotlib.figure import Figure
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importances = get_param_importances(tuner.study, evaluator=FanovaImportanceEvaluator(seed=1))
    except Exception as error:  # of too few trials, or of values that are all the same
        return one_line(error)
    figure = Figure(figsize=(6, 1 + 0.4 * len(importances)), layout="constrained")
    axes = figure.subplots()
    names = list(importances)[::-1]
    axes.barh(names, [importances[key] for key in names])
    axes.set(xlabel="importance (fANOVA)", xlim=(0, 1))
    figure.savefig(file, dpi=150)
    return None
