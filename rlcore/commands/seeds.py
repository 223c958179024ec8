"""Several seeds or folds of a config, each in a process of its own."""

import gc
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from rich.table import Table

from rlcore import config as configs
from rlcore.commands.processes import exit_status, sharing_cores, signals_to, start
from rlcore.config import Loaded
from rlcore.console import make_console
from rlcore.files import claim_folder
from rlcore.run import Run


class Training(NamedTuple):
    """A run to train in its own process."""

    source: str
    overrides: tuple[str, ...]
    path: Path
    name: str


def trainings(loaded: Loaded, source: str, overrides: Sequence[str], folder: Path, seeds: int) -> list[Training]:
    """The runs of a config with its seed and those that follow; their folders are yet to be `claimed`."""
    first, stamp = loaded.config.seed, time.strftime("%Y%m%d-%H%M%S")
    return [
        Training(source, (*overrides, f"seed={seed}"), folder / f"{stamp}-seed{seed}", f"seed{seed}")
        for seed in range(first, first + seeds)
    ]


def fold_trainings(source: str, overrides: Sequence[str], folder: Path, folds: int) -> list[Training]:
    """The runs of a config in which one part of the data set after the other is held out."""
    stamp, made = time.strftime("%Y%m%d-%H%M%S"), []
    for fold in range(folds):
        changed = (*overrides, f"env.folds={folds}", f"env.fold={fold}")
        made.append(Training(source, changed, folder / f"{stamp}-fold{fold}", f"fold{fold}"))
    return made


def check(training: Training) -> None:
    """Builds a run and throws it away.

    Raises:
        InputError: it cannot be built, nor could the others of its config.
    """
    trainer, _ = configs.build(configs.load(training.source, training.overrides).config)
    with closing(trainer):
        for logger in trainer.settings.loggers:
            logger.check()
    del trainer
    gc.collect()  # its data would otherwise remain beside those of the runs
    torch.cuda.empty_cache()


def claimed(trainings: Sequence[Training]) -> list[Training]:
    """The same runs, each with a folder that is its own.

    Raises:
        InputError: a folder cannot be created.
    """
    return [training._replace(path=claim_folder(training.path)) for training in trainings]


def train_all(trainings: Sequence[Training], jobs: int) -> Iterator[tuple[Path, int]]:
    """The folders of the runs and their exit statuses, in order, each as soon as it and all before it have ended.

    Runs side by side share the cores, as more threads than cores are many times slower. A signal to end is passed on,
    once: the runs in progress save and end, the rest do not start, and leave no folder.

    Args:
        trainings: whose folders are `claimed`.
        jobs: how many at once.
    """
    environ = {**os.environ, **sharing_cores(min(jobs, len(trainings)))}
    running: set[subprocess.Popen[bytes]] = set()

    def end(number: int) -> None:
        for process in tuple(running):
            process.terminate()
        raise SystemExit(128 + number)

    try:
        with signals_to(end), ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(lambda training: _train_apart(training, environ, running), trainings)
    finally:
        for training in trainings:
            with suppress(OSError):  # something is in it
                training.path.rmdir()


def _train_apart(
    training: Training, environ: Mapping[str, str], running: set["subprocess.Popen[bytes]"]
) -> tuple[Path, int]:
    path = training.path
    with open(path / "train.log", "wb") as log:
        process = start(["train", training.source, *training.overrides, "--run-dir", str(path)], environ, log)
    running.add(process)
    process.wait()
    running.remove(process)
    if status := exit_status(process):
        last = (path / "train.log").read_text(errors="replace").strip().rpartition("\n")[2]
        print(f"{path}: exit status {status}: {last}", file=sys.stderr)
    return path, status


def print_figures(trainings: Sequence[Training], runs: Sequence[tuple[Path, int]]) -> None:
    """Prints mean and standard deviation over the runs of the figures of the evaluation and of reports."""
    done = [path for path, status in runs if status == 0]
    names = [training.name for training, (_, status) in zip(trainings, runs, strict=True) if status == 0]
    table = Table("figure", "mean", "std", *names)
    figures = Run(done[0]).result["figures"] if done else {}
    for name in (name for name in figures if not name.startswith(("train/", "rollout/"))):
        values = torch.tensor([figure_of(path, name) for path in done], dtype=torch.float64)
        std = values.std().item() if len(values) > 1 else 0.0
        table.add_row(name, f"{values.mean():,.6g}", f"{std:,.4g}", *(f"{value:,.6g}" for value in values.tolist()))
    console = make_console()
    console.print(table)
    for path, _ in runs:
        console.print(str(path), highlight=False)


def figure_of(path: Path, name: str) -> float:
    """A figure of a run that has ended; NaN if it has none of that name."""
    value = Run(path).result["figures"].get(name)
    return math.nan if value is None else float(value)
