"""``rlcore resume``."""

from collections.abc import Sequence
from contextlib import closing, nullcontext

from rlcore import config as configs
from rlcore import distributed
from rlcore.commands.processes import launch
from rlcore.commands.run_ends import conclude, follow, introduce
from rlcore.config import CONFIG_FILE
from rlcore.console import make_console
from rlcore.errors import InputError
from rlcore.run import Run
from rlcore.tracking import Tracker


def resume(path: str, overrides: Sequence[str], trust: bool = False, processes: int = 1) -> int:
    """Resumes a run from its last checkpoint, up to ``total_steps``; from the beginning if it has none yet.

    With ``processes`` that many go on with it together; see `rlcore.distributed`.
    """
    if processes > 1:
        return launch(processes, ["resume", path, *overrides, *(["--trust"] if trust else [])])
    run = Run(path, trust)
    with run.locked() if distributed.is_main() else nullcontext():
        return _resume(run, overrides)


def _resume(run: Run, overrides: Sequence[str]) -> int:
    loaded = run.load(("trainer.stop_at=null", *overrides))
    if loaded.config.seed != run.load().config.seed:
        raise InputError(f"seed: a run keeps its seed; start another: rlcore train {run.path}/{CONFIG_FILE} seed=N")
    console = make_console(silent=not distributed.is_main())
    saved_at = run.checkpoint_path("last") if run.has_checkpoints else None
    if saved_at is not None:
        trainer, saved, notes = run.build(loaded, saved_at)
        notes += trainer.restore(saved)
    else:
        trainer, notes = configs.build(loaded.config)
    for note in notes:
        console.print(note, highlight=False)
    if trainer.finished and run.result.get("finished"):  # otherwise its closing evaluation is still due
        trainer.close()
        further = "extend it with trainer." + ("total_steps=N" if trainer.settings.epochs is None else "epochs=N")
        if trainer.stopped is not None:
            further = f"{trainer.stopped}; to go on: trainer.hooks=[], or another length"
        console.print(f"{run.path} has finished at step {trainer.steps:,}; {further}", highlight=False)
        return 0
    if not distributed.is_main():
        return follow(trainer)
    tracker = Tracker(run.folder, console, trainer.settings.loggers, purge_step=trainer.steps + 1)
    trainer.write_to(run.folder, tracker)
    run.write_config(loaded)
    start = f"resuming from step {trainer.steps:,}" if saved_at is not None else "no checkpoint yet, from the beginning"
    console.print(f"{run.path}: {start}", highlight=False)
    introduce(trainer, loaded)
    with closing(trainer):
        for _ in trainer.updates():
            pass
        return conclude(run, trainer, loaded, console)
