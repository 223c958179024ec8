"""``rlcore train``."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rlcore import config as configs
from rlcore import distributed
from rlcore.commands.processes import launch
from rlcore.commands.progress import following
from rlcore.commands.resume import resume
from rlcore.commands.run_ends import conclude, follow, introduce
from rlcore.commands.seeds import check, claimed, fold_trainings, print_figures, train_all, trainings
from rlcore.config import CONFIG_FILE
from rlcore.console import make_console
from rlcore.errors import InputError
from rlcore.run import RUNS_FOLDER, Run
from rlcore.tracking import Tracker


def train(
    source: str,
    overrides: Sequence[str],
    run_dir: str | None,
    seeds: int | None,
    jobs: int,
    or_resume: bool = False,
    processes: int = 1,
    folds: int | None = None,
) -> int:
    """Trains the agent of a config; with ``seeds`` or ``folds``, once for each, each in its own process.

    With ``or_resume`` a run that is in ``run_dir`` is resumed, by its own config and the overrides. With ``processes``
    that many train it together; see `rlcore.distributed`.
    """
    if seeds is not None and folds is not None:
        raise InputError("--folds: all have the config's seed; leave out --seeds")
    several = "--seeds" if seeds is not None else "--folds" if folds is not None else None
    if several and (processes > 1 or distributed.size() > 1):
        raise InputError(f"{several}: each is a process of its own; leave out --processes, and torchrun")
    if or_resume and (run_dir is None or several):
        raise InputError("--or-resume: needs --run-dir, the run to resume if there is one, and no --seeds or --folds")
    if processes > 1:
        where = [] if run_dir is None else ["--run-dir", run_dir]
        return launch(processes, ["train", source, *overrides, *where, *(["--or-resume"] if or_resume else [])])
    if or_resume and run_dir is not None and distributed.broadcast_object((Path(run_dir) / CONFIG_FILE).is_file()):
        return resume(run_dir, overrides)
    loaded = configs.load(source, overrides)
    console = make_console(silent=not distributed.is_main())
    for note in loaded.notes:
        console.print(note, highlight=False)
    if several:
        folder = Path(run_dir or Path(RUNS_FOLDER) / loaded.name)
        each = (
            trainings(loaded, source, overrides, folder, seeds)
            if seeds is not None
            else fold_trainings(source, overrides, folder, folds or 0)
        )
        check(each[0])  # so that a mistake is told once, not by each of them
        each = claimed(each)
        for training in each:
            console.print(f"{training.name}: {training.path}", highlight=False)
        with following({training.name: training.path for training in each}, console):
            runs = list(train_all(each, jobs))
        print_figures(each, runs)
        return max(status for _, status in runs)
    trainer, notes = configs.build(loaded.config)
    if not distributed.is_main():
        return follow(trainer)
    for logger in trainer.settings.loggers:
        logger.check()
    run = Run.create(loaded, run_dir)
    with run.locked():
        tracker = Tracker(run.folder, console, trainer.settings.loggers)
        trainer.write_to(run.folder, tracker)
        console.print(f"{loaded.name}: {run.path}", highlight=False)
        for note in notes:
            console.print(note, highlight=False)
        introduce(trainer, loaded)
        with closing(trainer):
            for _ in trainer.updates():
                pass
            return conclude(run, trainer, loaded, console)
