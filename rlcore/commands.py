"""The commands; each returns its exit status."""

import inspect
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import torch
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from rlcore import config as configs
from rlcore import device, registry
from rlcore.config import CONFIG_FILE, Loaded
from rlcore.console import make_console, table_of
from rlcore.errors import InputError
from rlcore.evaluation import ReportChoice, ReportMaker, evaluating
from rlcore.files import claim_folder
from rlcore.imports import import_module
from rlcore.interruption import ending_signals
from rlcore.run import RUNS_FOLDER, Run, without_nan
from rlcore.seeding import CLOSING, TRAINING, derive_seed
from rlcore.settings import Choice, Settings, flatten, mistakes
from rlcore.tracking import Tracker
from rlcore.trainer import Trainer

KINDS = {
    "agents": registry.agents,
    "envs": registry.envs,
    "networks": registry.networks,
    "datasets": registry.datasets,
    "games": registry.games,
    "players": registry.players,
    "hooks": registry.hooks,
    "reports": registry.reports,
    "loggers": registry.loggers,
}


def train(
    source: str,
    overrides: Sequence[str],
    run_dir: str | None,
    seeds: int | None,
    jobs: int,
    or_resume: bool = False,
) -> int:
    """Trains the agent of a config; with ``seeds``, once per seed, each in its own process.

    With ``or_resume`` a run that is in ``run_dir`` is resumed, by its own config and the overrides.
    """
    if or_resume:
        if run_dir is None or seeds is not None:
            raise InputError("--or-resume: needs --run-dir, the run to resume if there is one, and no --seeds")
        if (Path(run_dir) / CONFIG_FILE).is_file():
            return resume(run_dir, overrides)
    loaded = configs.load(source, overrides)
    console = make_console()
    for note in loaded.notes:
        console.print(note, highlight=False)
    if seeds is not None:
        folder = Path(run_dir or Path(RUNS_FOLDER) / loaded.name)
        runs = list(_train_all(_seeds(loaded, source, overrides, folder, seeds), jobs))
        _print_seeds(runs)
        return max(status for _, status in runs)
    trainer, notes = configs.build(loaded.config)
    for logger in trainer.settings.loggers:
        logger.check()
    run = Run.create(loaded, run_dir)
    with run.locked():
        tracker = Tracker(run.folder, console, trainer.settings.loggers)
        trainer.write_to(run.folder, tracker)
        console.print(f"{loaded.name}: {run.path}", highlight=False)
        for note in notes:
            console.print(note, highlight=False)
        _introduce(trainer, loaded)
        with closing(trainer):
            for _ in trainer.updates():
                pass
            return _ended(run, trainer, loaded, console)


def resume(path: str, overrides: Sequence[str], trust: bool = False) -> int:
    """Resumes a run from its last checkpoint, up to ``total_steps``; from the beginning if it has none yet."""
    run = Run(path, trust)
    with run.locked():
        return _resume(run, overrides)


def _resume(run: Run, overrides: Sequence[str]) -> int:
    loaded = run.load(("trainer.stop_at=null", *overrides))
    if loaded.config.seed != run.load().config.seed:
        raise InputError(f"seed: a run keeps its seed; start another: rlcore train {run.path}/{CONFIG_FILE} seed=N")
    console = make_console()
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
    tracker = Tracker(run.folder, console, trainer.settings.loggers, purge_step=trainer.steps + 1)
    trainer.write_to(run.folder, tracker)
    run.write_config(loaded)
    start = f"resuming from step {trainer.steps:,}" if saved_at is not None else "no checkpoint yet, from the beginning"
    console.print(f"{run.path}: {start}", highlight=False)
    _introduce(trainer, loaded)
    with closing(trainer):
        for _ in trainer.updates():
            pass
        return _ended(run, trainer, loaded, console)


def evaluate(
    path: str,
    episodes: int | None,
    which: str | None,
    as_json: bool,
    report: str | None,
    settings: Sequence[str],
    changed: Sequence[str] = (),
    trust: bool = False,
) -> int:
    """Evaluates the agent of a run, in episodes that training never saw."""
    if settings and report is None:
        message = "sets a report, which --report NAME must name; to change a setting of the run: --set KEY=VALUE"
        raise InputError(f"{settings[0]!r} {message}")
    run = Run(path, trust)
    which = which or run.default_checkpoint
    trainer, saved = run.trainer(which, tuple(changed))
    maker = None if report is None else _report(report, settings)
    num_episodes = episodes or trainer.settings.eval_episodes
    env = trainer.evaluation_env(num_episodes)
    if maker is not None:
        maker.check(trainer.agent, env)
    found = env.score(trainer.agent, num_episodes, derive_seed(trainer.seed, CLOSING))
    result = {"checkpoint": which, "step": saved["steps"], "episodes": num_episodes, **found.scalars}
    if changed:
        result["changed"] = list(changed)
    made = None if maker is None else maker(trainer.agent, env, found)
    if made is not None:
        result |= made.tagged(str(report))
    console = make_console()
    if as_json:
        print(json.dumps(without_nan(result)))
    else:
        console.print(table_of(f"{run.path}, checkpoint {which} (step {saved['steps']:,})", found.scalars))
        for text in (found.text, *found.remarks):
            if text:
                console.print(text, highlight=False)
    if made is not None and made.text not in ("", found.text) and not as_json:
        console.print(made.text, highlight=False)
    try:
        with run.locked():
            run.write_result({**run.result, "evaluation": result})
            if made is not None:
                # a service is left alone: what is looked at later, and elsewhere, need not reach it
                shown = [logger for logger in trainer.settings.loggers if logger.name == "tensorboard"]
                tracker = Tracker(run.path, loggers=shown)
                files = tracker.report(str(report), made, saved["steps"])
                tracker.close()
                for file in files if not as_json else ():
                    console.print(f"file: {file}", highlight=False)
    except InputError as error:  # the result is on the screen; a run that is read-only or in use may still be evaluated
        print(f"rlcore: not kept in the run: {' '.join(str(error).split())}", file=sys.stderr)
    trainer.close()
    env.close()
    return 0


def verify(names: Sequence[str], everything: bool, seeds: int | None, jobs: int) -> int:
    """Reruns configs, or every shipped one with claims, and prints whether each claim holds; 1 if one does not.

    Raises:
        InputError: no config is named, or one has no claims.
    """
    if bool(names) == everything:
        raise InputError("verify: name configs, or give --all" if not names else "verify: give either names or --all")
    if everything:
        names = [name for name in configs.shipped_names() if configs.load(name).config.expect]
    console, table = make_console(), Table("config", "figure", "claim", "source", "measured", "")
    good = True
    loaded = {name: configs.load(name) for name in names}
    for name, one in loaded.items():
        if not one.config.expect:
            raise InputError(f"{name} has no claims: it has no expect block")
    folder = Path(RUNS_FOLDER) / "verify"
    trainings = [  # numbered, as two files in different folders may share a name
        _seeds(one, name, (), folder / f"{number}-{one.name}", seeds or 1)
        for number, (name, one) in enumerate(loaded.items(), 1)
    ]
    ended = _train_all(list(chain(*trainings)), jobs)
    for (name, one), seeds_of_it in zip(loaded.items(), trainings, strict=True):
        runs = list(islice(ended, len(seeds_of_it)))
        for figure, claim in one.config.expect.items():
            measured = [_figure(path, figure) if status == 0 else math.nan for path, status in runs]
            passed = all(map(claim.met, measured))
            good &= passed
            values, verdict = "  ".join(f"{value:,.6g}" for value in measured), "pass" if passed else "FAIL"
            # at once: all of them may take hours
            console.print(f"{name}: {figure} {values}, {verdict}", highlight=False)
            table.add_row(name, figure, str(claim), claim.source, values, verdict)
    console.print(table)
    return 0 if good else 1


def list_names(what: str, imports: Sequence[str] = ()) -> int:
    """Prints the names of a kind, or of all, each with the first line of its documentation; or a name's settings.

    Args:
        what: a kind, ``configs``, ``all``, or a name.
        imports: modules that register more, as in a config.
    """
    for module in imports:
        import_module(module, Path(configs.COMMAND_LINE))
    kinds = [*KINDS, "configs"]
    console = make_console()
    if what not in [*kinds, "all"]:
        for title, schema in _settings_of(what):
            table = Table(title, "default", "", box=None, pad_edge=False)
            for row in _explained(schema):
                table.add_row(*row)
            console.print(table)
            console.print()
        return 0
    for which in kinds if what == "all" else [what]:
        table = Table(which, "", box=None, pad_edge=False)
        for name, text in _documented(which):
            table.add_row(name, text)
        console.print(table)
        console.print()
    return 0


def show(source: str, overrides: Sequence[str], trust: bool = False) -> int:
    """Prints the resolved settings, where each comes from, and the network."""
    loaded = configs.load(source, overrides, trust)
    table = Table("setting", "value", "from", title=loaded.name)
    for key, value in flatten(loaded.config.model_dump(mode="json")).items():
        origin = loaded.origin.get(key) or loaded.origin.get(key.removesuffix(".name"))  # a choice given by name alone
        table.add_row(key, str(value), origin or "default")
    trainer, notes = configs.build(loaded.config)
    console = make_console()
    console.print(table)
    for note in (*loaded.notes, *notes):
        console.print(note, highlight=False)
    console.print(str(trainer.agent), highlight=False)
    size = sum(param.numel() for param in trainer.agent.parameters())
    console.print(
        f"{size:,} parameters; {_multiply_adds(trainer):,} multiply-adds per answer; a rollout is "
        f"{_rollout_size(trainer)}",
        highlight=False,
    )
    trainer.close()
    return 0


def _introduce(trainer: Trainer, loaded: Loaded) -> None:
    """Tells the loggers the settings of a run that begins."""
    if not trainer.steps:
        settings = flatten(loaded.config.model_dump(mode="json", exclude={"expect", "imports"}))
        trainer.tracker.begin(settings, f"eval/{trainer.env.criterion}", configs.dump(loaded.config))


def _ended(run: Run, trainer: Trainer, loaded: Loaded, console: Console) -> int:
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
        console.print(
            f"{name}: saved at step {trainer.steps:,}; resume with: rlcore resume {run.path}", highlight=False
        )
        return 128 + trainer.interrupted
    trainer.tracker.closing_table(trainer.steps, figures)
    if trainer.finished:
        console.print(f"{trainer.seconds:.1f} s of training; rlcore eval {run.path}", highlight=False)
    else:
        console.print(f"stopped at step {trainer.steps:,}; resume with: rlcore resume {run.path}", highlight=False)
    return 0


class _Training(NamedTuple):
    """A run to train in its own process."""

    source: str
    overrides: tuple[str, ...]
    path: Path


def _seeds(loaded: Loaded, source: str, overrides: Sequence[str], folder: Path, seeds: int) -> list[_Training]:
    """The runs of a config with its seed and those that follow; their folders are claimed when they start."""
    first, stamp = loaded.config.seed, time.strftime("%Y%m%d-%H%M%S")
    return [
        _Training(source, (*overrides, f"seed={seed}"), folder / f"{stamp}-seed{seed}")
        for seed in range(first, first + seeds)
    ]


def _train_all(trainings: Sequence[_Training], jobs: int) -> Iterator[tuple[Path, int]]:
    """The folders of the runs and their exit statuses, in order, each as soon as it and all before it have ended.

    Runs side by side share the cores, as more threads than cores are many times slower. A signal to end is passed on,
    once: the runs in progress save and end, the rest do not start.
    """
    threads = max(1, device.NUM_THREADS // min(jobs, len(trainings)))
    running: set[subprocess.Popen[bytes]] = set()

    def end(number: int, frame: object) -> None:
        for process in tuple(running):
            process.terminate()
        raise SystemExit(128 + number)

    previous = {which: signal.signal(which, end) for which in ending_signals()}
    try:
        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(lambda training: _train_apart(training, threads, running), trainings)
    finally:
        for which, handler in previous.items():
            signal.signal(which, handler)


def _train_apart(training: _Training, threads: int, running: set["subprocess.Popen[bytes]"]) -> tuple[Path, int]:
    source, overrides, path = training
    path = claim_folder(path)
    # the path of this process: with -m the working folder would come first, and could shadow the standard library
    program = f"import sys; sys.path[:] = {sys.path!r}; from rlcore.cli import main; main()"
    command = [sys.executable, "-c", program, "train", source, *overrides, "--run-dir", str(path)]
    with open(path / "train.log", "wb") as log:
        # in its own session, so that Ctrl-C reaches it only through us
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
    running.add(process)
    status = process.wait()
    running.remove(process)
    if status < 0:  # ended by a signal
        status = 128 - status
    if status:
        last = (path / "train.log").read_text(errors="replace").strip().rpartition("\n")[2]
        print(f"{path}: exit status {status}: {last}", file=sys.stderr)
    return path, status


def _print_seeds(runs: Sequence[tuple[Path, int]]) -> None:
    """Prints mean and standard deviation over the seeds of the figures of the evaluation and of reports."""
    done = [path for path, status in runs if status == 0]
    table = Table("figure", "mean", "std", *(f"seed{Run(path).load().config.seed}" for path in done))
    figures = Run(done[0]).result["figures"] if done else {}
    for name in (name for name in figures if not name.startswith(("train/", "rollout/"))):
        values = torch.tensor([_figure(path, name) for path in done], dtype=torch.float64)
        std = values.std().item() if len(values) > 1 else 0.0
        table.add_row(name, f"{values.mean():,.6g}", f"{std:,.4g}", *(f"{value:,.6g}" for value in values.tolist()))
    console = make_console()
    console.print(table)
    for path, _ in runs:
        console.print(str(path), highlight=False)


def _report(name: str, settings: Sequence[str]) -> ReportMaker:
    tree: dict[str, Any] = {"name": name}
    for item in settings:
        key, equals, text = item.partition("=")
        if not equals:
            raise InputError(f"{item!r} is not KEY=VALUE for the report {name}")
        tree[key] = configs.parse_yaml(text, "command line")
    try:
        return ReportChoice.model_validate(tree).make()
    except ValidationError as error:
        path, text = mistakes(error, ReportChoice)[0]
        raise InputError(f"report {name}: {': '.join([*path, text])}") from None


def _settings_of(name: str) -> list[tuple[str, type[Settings]]]:
    """The settings of everything of that name, each with a title; ``trainer`` are those of `Trainer`."""
    if name == "trainer":
        return [(name, Trainer.Settings)]
    found = [(kind, known[name]) for kind, known in KINDS.items() if name in known.names()]
    if not found:
        names = [*KINDS, "configs", "all", "trainer", *(name for known in KINDS.values() for name in known.names())]
        raise InputError(
            f"unknown kind or name {name!r}{registry.did_you_mean(name, names)}; known: {', '.join(KINDS)}, configs, "
            "all, trainer, or a name that these list"
        )
    return [(f"{kind}: {name}", getattr(thing, "Settings", Settings)) for kind, thing in found]


def _explained(schema: type[Settings]) -> Iterator[tuple[str, str, str]]:
    """Each setting, its default as in YAML (of a choice, the name), and what it is for."""
    for key, field in schema.model_fields.items():
        default = field.default.name if isinstance(field.default, Choice) else field.default
        written = "required" if field.is_required() else default if isinstance(default, str) else json.dumps(default)
        text = " ".join((field.description or "").split())
        if get_origin(field.annotation) is Literal:
            text += f" One of {', '.join(get_args(field.annotation))}."
        yield key, written, text


def _documented(kind: str) -> list[tuple[str, str]]:
    if kind == "configs":
        files = {name: configs.find(name) for name in configs.shipped_names()}
        return [(name, path.read_text().partition("\n")[0].lstrip("# ")) for name, path in files.items()]
    known = KINDS[kind]
    return [(name, _first_line(known, name)) for name in known.names()]


def _first_line(known: registry.Registry, name: str) -> str:
    try:
        return (inspect.getdoc(known[name]) or "").partition("\n")[0]
    except InputError as error:  # a plugin that cannot be imported
        return str(error)


def _multiply_adds(trainer: Trainer) -> int:
    """Multiply-adds of matrix products and convolutions for the answer to one observation."""
    from torch.utils.flop_counter import FlopCounterMode

    num_envs, agent = trainer.env.num_envs, trainer.agent
    obs, _ = trainer.env.reset(seed=derive_seed(trainer.seed, TRAINING))
    with evaluating(agent), FlopCounterMode(display=False) as counter:
        agent.predict(obs, agent.initial_state(num_envs))
    return int(counter.get_total_flops()) // (2 * num_envs)


def _rollout_size(trainer: Trainer) -> str:
    horizon, num_envs = trainer.agent.horizon, trainer.env.num_envs
    if horizon is None:
        return f"one episode from each of {num_envs} environments"
    return f"{horizon} steps x {num_envs} environments = {horizon * num_envs:,} rows"


def _figure(path: Path, name: str) -> float:
    value = Run(path).result["figures"].get(name)
    return math.nan if value is None else float(value)
