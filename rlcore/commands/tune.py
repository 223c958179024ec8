"""``rlcore tune``."""

import os
import signal
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from rlcore import config as configs
from rlcore import device
from rlcore.commands.compare import compare
from rlcore.commands.processes import command_line
from rlcore.commands.progress import following
from rlcore.commands.seeds import claimed, train_all, trainings
from rlcore.commands.study import FRESH, STUDY_FILE, Plan, Tuner, judged_by
from rlcore.console import make_console
from rlcore.errors import InputError, one_line
from rlcore.files import RUNS_FOLDER, write_text
from rlcore.interruption import ending_signals

if TYPE_CHECKING:
    import optuna

BEST_FILE = "best.yaml"
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
    return _report(tuner, loaded.name, fresh, jobs, folder, console)


def _work_together(words: Sequence[str], jobs: int) -> int:
    """Runs workers on one study; a signal to end is passed on to them, and they save."""
    environ = {**os.environ, "OMP_NUM_THREADS": str(max(1, device.NUM_THREADS // jobs))}
    workers: list[subprocess.Popen[bytes]] = []
    signalled: list[int] = []

    def end(number: int, frame: object) -> None:
        signalled.append(number)
        for process in workers:
            process.terminate()

    previous = {which: signal.signal(which, end) for which in ending_signals()}
    try:
        for number in range(1, jobs + 1):
            command = command_line([*words, "--worker", str(number)])
            # in a session of its own, so that Ctrl-C reaches it only through us
            workers.append(subprocess.Popen(command, env=environ, start_new_session=True))
        statuses = [process.wait() for process in workers]
    finally:
        for which, handler in previous.items():
            signal.signal(which, handler)
    if signalled:
        return 128 + signalled[0]
    return max(128 - status if status < 0 else status for status in statuses)


def _report(tuner: Tuner, name: str, fresh: int, jobs: int, folder: Path, console: Console) -> int:
    """Prints and draws what was found, writes the best settings, and trains them with seeds that no trial has had."""
    study, states = tuner.study, tuner.optuna.trial.TrialState
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state == states.COMPLETE]
    if not ended:
        raise InputError(f"none of the trials of {study.study_name!r} ended; more: --trials, or --pruner none")
    ended.sort(key=lambda trial: trial.value or 0.0, reverse=study.direction.name == "MAXIMIZE")
    table = Table("trial", tuner.plan.figure, *tuner.space)
    for trial in ended[:SHOWN]:
        table.add_row(str(trial.number), f"{trial.value:,.6g}", *(f"{trial.params[key]}" for key in tuner.space))
    console.print(table)
    pruned = sum(trial.state == states.PRUNED for trial in study.get_trials(deepcopy=False))
    console.print(f"{len(ended)} trials ended, {pruned} were given up early", highlight=False)
    best = folder / BEST_FILE
    seed = tuner.plan.seeds[0]
    write_text(best, configs.dump(tuner.plan.load(tuner.settings_of(ended[0]), seed).config))
    for figure in _draw(study, folder, console):
        console.print(f"figure: {figure}", highlight=False)
    console.print(f"the best settings: rlcore train {best}", highlight=False)
    if not fresh:
        return 0
    given = folder / f"{name}.yaml"
    write_text(given, configs.dump(tuner.plan.load({}, seed).config))
    each = []
    for source in (given, best):
        later = configs.load(source, [f"seed={seed + FRESH}"])
        each += trainings(later, str(source), (), folder / "fresh" / source.stem, fresh)
    each = claimed(each)
    console.print(f"the config and the best settings, with {fresh} seeds that no trial has had:", highlight=False)
    with following({f"{one.path.parent.name} {one.name}": one.path for one in each}, console):
        status = max(one for _, one in train_all(each, jobs))
    if status:
        return status
    sides = [str(folder / "fresh" / source.stem) for source in (given, best)]
    maximize = study.direction.name == "MAXIMIZE"
    return compare(sides, tuner.plan.figure, "last", None, "more" if maximize else "less", True, None, False)


def _draw(study: "optuna.Study", folder: Path, console: Console) -> list[Path]:
    """Draws the history of a study, and how much each parameter matters."""
    from matplotlib.figure import Figure
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    drawn = []
    maximize = study.direction.name == "MAXIMIZE"
    values = [(trial.number, trial.value) for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Any = figure.subplots()
    axes.plot(*zip(*values, strict=True), "o", alpha=0.5, label="a trial")
    best = [(max if maximize else min)(value for _, value in values[: n + 1]) for n in range(len(values))]
    axes.step([number for number, _ in values], best, where="post", label="the best so far")
    axes.set(xlabel="trial", ylabel="figure")
    axes.legend()
    figure.savefig(folder / "history.png", dpi=150)
    drawn.append(folder / "history.png")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importances = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=1))
    except Exception as error:  # of too few trials, or of values that are all the same
        console.print(f"what the parameters matter cannot be told: {one_line(error)}", highlight=False)
        return drawn
    figure = Figure(figsize=(6, 1 + 0.4 * len(importances)), layout="constrained")
    axes = figure.subplots()
    names = list(importances)[::-1]
    axes.barh(names, [importances[key] for key in names])
    axes.set(xlabel="importance (fANOVA)", xlim=(0, 1))
    figure.savefig(folder / "importances.png", dpi=150)
    return [*drawn, folder / "importances.png"]
