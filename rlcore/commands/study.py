"""Good settings, found by Optuna (Akiba et al. 2019): trials are runs, pruned by their evaluations.

A study is in a storage that several processes and machines share; `Tuner.work` adds trials to it. What a killed process
left is resumed from its checkpoints.
"""

import json
import math
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlcore import config as configs
from rlcore.commands.run_ends import conclude, introduce
from rlcore.config import CONFIG_FILE, Loaded
from rlcore.console import make_console
from rlcore.errors import InputError, NonFiniteError, one_line
from rlcore.files import locked
from rlcore.hooks import Hook
from rlcore.hooks.base import figure as figure_of_trainer
from rlcore.imports import optional
from rlcore.registry import did_you_mean
from rlcore.run import Run
from rlcore.search_space import parameters
from rlcore.seeding import derive_seed
from rlcore.settings import flatten
from rlcore.tracking import Tracker

if TYPE_CHECKING:
    import optuna

    from rlcore.evaluation import Report
    from rlcore.trainer import Trainer

STUDY_FILE = "study.log"
PATIENCE = 60.0
"""Seconds to wait for a database file that another process writes."""
FRESH = 1_000
"""What is added to a config's seed for runs whose seeds no trial has had."""
IDENTITY, FOLDER, HOST, WHY = "rlcore", "folder", "host", "why"
"""Attributes: of a study what it is of, of a trial where its runs are, and why it was given up."""


def judged_by(source: str, overrides: Sequence[str], figure: str | None = None) -> tuple[str, str]:
    """By which figure the trials of a config are judged, and whether to ``minimize`` or to ``maximize`` it.

    Builds the run at both ends of each parameter's range, and evaluates an agent that has learned nothing.

    Args:
        source: the config.
        overrides: ``KEY=VALUE``.
        figure: named as in TensorBoard; None: that by which the best checkpoint is chosen.

    Raises:
        InputError: the config cannot be run, or an evaluation has no such figure.
    """
    loaded = configs.load(source, overrides)
    for key, one in parameters(loaded.config.search).items():
        for value in one.ends():
            try:
                configs.load(source, (*overrides, f"{key}={json.dumps(value)}"))
            except InputError as error:
                raise InputError(f"search: {str(error).removeprefix(f'{configs.COMMAND_LINE}: ')}") from None
    trainer, _ = configs.build(loaded.config)
    with closing(trainer):
        if trainer.eval_every is None:
            raise InputError("tune: trials are judged by evaluations; set trainer.eval_every")
        figure = figure or f"eval/{trainer.settings.best_by or trainer.env.criterion}"
        trainer.evaluate()
        if figure not in trainer.figures and not figure.startswith(("train/", "rollout/")):
            known = sorted(trainer.figures)
            near = did_you_mean(figure, known)
            raise InputError(f"--by: there is no figure {figure!r}{near}; an evaluation has {', '.join(known)}")
        return figure, "minimize" if figure in trainer.errors else "maximize"


class Plan(NamedTuple):
    """What a study is of."""

    source: str
    """A config."""
    overrides: tuple[str, ...]
    """``KEY=VALUE``."""
    figure: str
    """What is to be large, or small if it is an error; the mean over the seeds."""
    seeds: tuple[int, ...]
    """Of each trial's runs."""

    def load(self, changes: dict[str, Any], seed: int) -> Loaded:
        """The settings of a run, some changed."""
        changed = (f"{key}={json.dumps(value)}" for key, value in changes.items())
        return configs.load(self.source, (*self.overrides, *changed, f"seed={seed}"))


class Tuner:
    """A study, and the runs of its trials.

    Args:
        plan: what it is of.
        storage: a database, as ``sqlite:///study.db`` or ``postgresql+psycopg://...``, or the path of a file.
        folder: of the runs.
        name: of the study.
        direction: ``maximize`` or ``minimize``, of a study that is not there yet.
        sampler: how the settings of the next trial are chosen: tpe, random, gp, cmaes or qmc.
        pruner: how a trial is given up early: median, halving, hyperband or none.
        stream: of its random numbers, different for each process that works on the study at once.

    Raises:
        InputError: the config has no ``search:`` block, or one that does not fit; the storage cannot be used, or holds
            a study of another plan under this name; Optuna is not installed.
    """

    def __init__(
        self,
        plan: Plan,
        storage: str,
        folder: Path,
        name: str,
        direction: str | None = None,
        sampler: str = "tpe",
        pruner: str = "median",
        stream: int = 0,
    ):
        self.optuna = optional("optuna", "tuning needs")
        self.optuna.logging.set_verbosity(self.optuna.logging.ERROR)
        self.plan, self.storage, self.folder = plan, storage, folder
        loaded = plan.load({}, plan.seeds[0])
        self.space = parameters(loaded.config.search)
        if not self.space:
            raise InputError(
                f"{loaded.name}: has no search block; write e.g. search: {{agent.learning_rate: {{low: 1e-5, "
                "high: 1e-2, log: true}}"
            )
        with self._storing():
            made = self._storage(storage)
            self.study: optuna.Study = self.optuna.create_study(
                storage=made, study_name=name, load_if_exists=True, direction=direction, pruner=self._pruner(pruner)
            )
            self._identify(loaded)
            seed = derive_seed(loaded.config.seed, len(self.study.get_trials(deepcopy=False)), stream)
            self.study.sampler = self._sampler(sampler, seed)

    def adopt(self) -> int:
        """Lets trials that this machine began and nobody goes on with be resumed; returns how many."""
        found = 0
        with self._storing():
            for trial in self.study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.RUNNING,)):
                folder = Path(trial.user_attrs.get(FOLDER, ""))
                if trial.user_attrs.get(HOST) != socket.gethostname() or not folder.is_dir():
                    continue
                with suppress(InputError), locked(folder):  # else it is in progress
                    self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
                    self.study.enqueue_trial(trial.params, user_attrs={FOLDER: str(folder)})
                    found += 1
        return found

    def work(self, num_trials: int, told: Callable[[str], object] = print) -> int:
        """Runs trials until the study has so many, those of others included.

        Args:
            num_trials: of the study; those that failed do not count.
            told: is called with a line for each.

        Returns:
            0, or 128 + the number of the signal that ended it.

        Raises:
            InputError: the settings of all trials so far were refused, or the storage failed.
        """
        state = self.optuna.trial.TrialState
        while True:
            with self._storing():
                if self._counted() >= num_trials:
                    return 0
                trial = self.study.ask()
                if self._counted(before=trial.number) >= num_trials:  # another process was faster
                    self.study.tell(trial, state=state.FAIL)
                    return 0
                changes = {key: one.suggest(trial, key) for key, one in self.space.items()}
                folder = Path(trial.user_attrs.get(FOLDER) or self.folder.absolute() / f"trial-{trial.number:04d}")
                folder.mkdir(parents=True, exist_ok=True)
                with locked(folder):
                    trial.set_user_attr(FOLDER, str(folder))
                    trial.set_user_attr(HOST, socket.gethostname())
                    begun = time.monotonic()
                    values, why, signal = self._run(trial, changes, folder)
                    if signal is not None:  # stays in progress, to be resumed
                        return 128 + signal
                    if why is None:
                        self.study.tell(trial, statistics.fmean(values))
                        outcome = f"{statistics.fmean(values):.6g}"
                    else:
                        trial.set_user_attr(WHY, why)
                        self.study.tell(trial, state=state.PRUNED)
                        outcome = why
                best = self._best()
            settings = "  ".join(f"{key}={_shown(value)}" for key, value in changes.items())
            told(f"trial {trial.number}: {outcome}{best}  {settings}  {time.monotonic() - begun:.0f} s")

    def _run(
        self, trial: "optuna.Trial", changes: dict[str, Any], folder: Path
    ) -> tuple[list[float], str | None, int | None]:
        """The figures of a trial's seeds, one after the other; why it was given up; the signal that ended it."""
        values: list[float] = []
        for seed in self.plan.seeds:
            watch = _Watch(trial, self.plan.figure, values)
            try:
                value, signal = self._run_seed(self.plan.load(changes, seed), folder / f"seed{seed}", watch)
            except NonFiniteError as error:
                return values, one_line(error), None
            except InputError as error:
                if not self._any_ran():
                    raise
                return values, f"refused: {one_line(error)}", None
            if signal is not None:
                return values, None, signal
            if watch.has_pruned:
                return values, watch.why, None
            if not math.isfinite(value):
                return values, f"{self.plan.figure} is {value:g}", None
            values.append(value)
        return values, None, None

    def _run_seed(self, loaded: Loaded, path: Path, watch: "_Watch") -> tuple[float, int | None]:
        """The figure of a run after its end, and the signal that ended it early."""
        is_there = (path / CONFIG_FILE).is_file()
        run = Run(path) if is_there else Run.create(loaded, path)
        figure = self.plan.figure
        if run.result.get("finished") and figure in run.result["figures"]:
            return float(run.result["figures"][figure] or math.nan), None
        if run.has_checkpoints:
            trainer, saved, _ = run.build(loaded, run.checkpoint_path("last"), [watch])
            trainer.restore(saved)
        else:
            trainer, _ = configs.build(loaded.config, hooks=[watch])
        with run.locked():
            since = trainer.steps + 1 if is_there else None
            silent = make_console(silent=True)
            trainer.write_to(run.folder, Tracker(run.folder, silent, trainer.settings.loggers, since))
            introduce(trainer, loaded)
            with closing(trainer):
                for _ in trainer.updates():
                    pass
                conclude(run, trainer, loaded, silent)
        return trainer.figures.get(figure, math.nan), trainer.interrupted

    def _identify(self, loaded: Loaded) -> None:
        """Writes what the study is of; refuses one of something else."""
        settings = flatten(loaded.config.model_dump(mode="json", exclude={"expect", "seed", "threads", "device"}))
        own = {key: value for key, value in settings.items() if key not in self.space}
        own |= flatten({key: vars(one) for key, one in self.space.items()}, "search")
        own |= {"figure": self.plan.figure, "seeds": list(self.plan.seeds)}
        own = json.loads(json.dumps(own, default=str))
        theirs = self.study.user_attrs.get(IDENTITY)
        if theirs is None:
            self.study.set_user_attr(IDENTITY, own)
            given = {key: one.encode(settings.get(key)) for key, one in self.space.items()}
            if None not in given.values():
                self.study.enqueue_trial(given, skip_if_exists=True)  # the config as it is
            return
        for key in sorted({*own, *theirs}):
            if own.get(key) != theirs.get(key):
                raise InputError(
                    f"the study {self.study.study_name!r} is of another config: {key} is {theirs.get(key)} there, "
                    f"{own.get(key)} here; give this one another name with --study"
                )

    def settings_of(self, trial: "optuna.trial.FrozenTrial") -> dict[str, Any]:
        """The settings that a trial had, by dotted key."""
        return {key: one.decode(trial.params[key]) for key, one in self.space.items()}

    def _counted(self, before: float = math.inf) -> int:
        """The trials that ended, were given up or are in progress, and whose number is less than one."""
        aside = self.optuna.trial.TrialState.FAIL, self.optuna.trial.TrialState.WAITING
        trials = self.study.get_trials(deepcopy=False)
        return sum(trial.number < before and trial.state not in aside for trial in trials)

    def _any_ran(self) -> bool:
        return any(trial.intermediate_values or trial.values for trial in self.study.get_trials(deepcopy=False))

    def _best(self) -> str:
        with suppress(ValueError):  # there is none
            best = self.study.best_trial
            return f" (best {best.value:.6g}, trial {best.number})"
        return ""

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """Says in one line what the storage does not do."""
        try:
            yield
        except (InputError, OSError):
            raise
        except Exception as error:
            kind = type(error).__module__.partition(".")[0]
            if kind not in ("optuna", "sqlalchemy", "sqlite3", "alembic") and not isinstance(error, ImportError):
                raise
            cause = error.__cause__ or error
            raise InputError(f"storage {_without_password(self.storage)}: {one_line(str(cause))}") from error

    def _storage(self, storage: str) -> Any:
        optuna = self.optuna
        if "://" in storage:
            waits = {"connect_args": {"timeout": PATIENCE}} if storage.startswith("sqlite") else {"pool_pre_ping": True}
            return optuna.storages.RDBStorage(storage, engine_kwargs=waits)
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(storage))

    def _sampler(self, name: str, seed: int) -> Any:
        samplers = self.optuna.samplers
        makers = {
            "tpe": lambda: samplers.TPESampler(seed=seed, constant_liar=True),
            "random": lambda: samplers.RandomSampler(seed=seed),
            "gp": lambda: samplers.GPSampler(seed=seed),
            "cmaes": lambda: samplers.CmaEsSampler(seed=seed),
            "qmc": lambda: samplers.QMCSampler(seed=seed, scramble=True),
        }
        return _named("--sampler", name, makers)

    def _pruner(self, name: str) -> Any:
        pruners = self.optuna.pruners
        makers = {
            "median": lambda: pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
            "halving": pruners.SuccessiveHalvingPruner,
            "hyperband": pruners.HyperbandPruner,
            "none": pruners.NopPruner,
        }
        return _named("--pruner", name, makers)


class _Watch(Hook):
    """Tells a trial of evaluations, and ends the run where it says so.

    The n-th evaluation of the k-th seed is told as the mean of the seeds before it and its own figure.
    """

    score_names = ()

    def __init__(self, trial: "optuna.Trial", figure: str, before: Sequence[float]):
        super().__init__()
        self.trial, self.figure, self.before = trial, figure, tuple(before)
        self.num_evaluations = 0
        self.has_pruned = False
        self.why = ""

    def on_evaluation(self, trainer: "Trainer", report: "Report") -> None:
        """See `Hook`."""
        value = figure_of_trainer(trainer, self.figure, "tune")
        if value is None or not math.isfinite(value):
            return
        self.num_evaluations += 1
        mean = statistics.fmean([*self.before, value])
        every = trainer.eval_every or trainer.total_steps
        step = len(self.before) * math.ceil(trainer.total_steps / every) + self.num_evaluations
        self.trial.report(mean, step)
        if not trainer.finished and self.trial.should_prune():
            self.has_pruned, self.why = True, f"pruned at {mean:.6g}, step {trainer.steps:,}"
            trainer.stop(self.why)


def _named(option: str, name: str, makers: dict[str, Callable[[], Any]]) -> Any:
    if name not in makers:
        raise InputError(f"{option}: must be one of {', '.join(makers)}; got {name!r}")
    try:
        return makers[name]()
    except ImportError as error:
        raise InputError(f"{option} {name}: {one_line(error)}") from None


def _without_password(storage: str) -> str:
    scheme, separator, rest = storage.partition("://")
    credentials, at, place = rest.rpartition("@")
    user = credentials.partition(":")[0]
    return f"{scheme}://{user}@{place}" if separator and at else storage


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
