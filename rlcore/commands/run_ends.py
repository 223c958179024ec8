"""What a run says of itself when it begins and when it ends."""

import signal
import sys
from contextlib import closing
from importlib.metadata import version

from rich.console import Console

from rlcore import config as configs
from rlcore import distributed
from rlcore.config import Loaded
from rlcore.run import Run
from rlcore.settings import flatten
from rlcore.trainer import Trainer


def introduce(trainer: Trainer, loaded: Loaded) -> None:
    """Tells the loggers the settings of a run that begins."""
    if not trainer.steps:
        settings = flatten(loaded.config.model_dump(mode="json", exclude={"expect", "imports"}))
        trainer.tracker.begin(settings, f"eval/{trainer.env.criterion}", configs.dump(loaded.config))


def resuming(run: Run) -> str:
    """The command that resumes a run by as many processes."""
    several = f" --processes {distributed.size()}" if distributed.size() > 1 else ""
    return f"rlcore resume {run.path}{several}"


def follow(trainer: Trainer) -> int:
    """Trains as one of several processes that is not the first: it writes and prints nothing; returns the status."""
    with closing(trainer):
        for _ in trainer.updates():
            pass
    return 0 if trainer.interrupted is None else 128 + trainer.interrupted


def conclude(run: Run, trainer: Trainer, loaded: Loaded, console: Console) -> int:
    """Writes and prints the results of a run that has ended, or was interrupted; returns the exit status."""
    figures = {**trainer.figures, **trainer.timing()}
    result = {
        "config": loaded.name,
        "seed": trainer.seed,
        "steps": trainer.steps,
        "seconds": round(trainer.seconds, 3),
        "finished": trainer.finished and trainer.interrupted is None,
        "figures": figures,
        "made_with": {
            **trainer.circumstances(),
            **{name: version(name) for name in ("rlcore", "gymnasium", "numpy")},
            "python": sys.version.split()[0],
        },
    }
    run.write_result(result)
    if trainer.interrupted is not None:
        trainer.tracker.display.close()
        name = signal.Signals(trainer.interrupted).name
        console.print(f"{name}: saved at step {trainer.steps:,}; resume with: {resuming(run)}", highlight=False)
        return 128 + trainer.interrupted
    trainer.tracker.closing_table(trainer.steps, figures)
    if trainer.finished:
        console.print(f"{trainer.seconds:.1f} s of training; rlcore eval {run.path}", highlight=False)
    else:
        console.print(f"stopped at step {trainer.steps:,}; resume with: {resuming(run)}", highlight=False)
    return 0
