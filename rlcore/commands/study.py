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
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock

from rlcore import config as configs
from rlcore.commands.run_ends import conclude, introduce
from rlcore.config import CONFIG_FILE, Loaded
from rlcore.console import make_console
from rlcore.errors import InputError, NonFiniteError, one_line
from rlcore.files import claim_folder, locked
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
GRACE = 5.0
"""Seconds after which a trial without a folder is no longer about to begin, but was killed as it began."""
MOST_REFUSED = 5
"""If so many trials are refused, and there are no others, the command ends."""
REFUSED = "refused"
"""Begins why a trial was given up whose settings no run can have."""
FRESH = 1_000
"""What is added to a config's seed for runs whose seeds no trial has had."""
IDENTITY, FOLDER, RESUMES, WHY = "rlcore", "folder", "resumes", "why"
"""Attributes: of a study what it is of; of a trial ``HOST:FOLDER`` of its runs, which is locked while it is in
progress, that of the trial that it resumes, and why it was given up."""


def judged_by(source: str, overrides: Sequence[str], figure: str | None = None) -> tuple[str, str]:
    """By which figure the trials of a config are judged, and whether to ``minimize`` or to ``maximize`` it.

    Reads the config at both ends of each parameter's range, and evaluates an agent that has learned nothing.

    Args:
        source: the config.
        overrides: ``KEY=VALUE``.
        figure: named as in TensorBoard; None: that by which the best checkpoint is chosen.

    Raises:
        InputError: the config cannot be run, or an evaluation has no such figure.
    """
    loaded = configs.load(source, overrides)
    if "seed" in loaded.config.search:
        raise InputError("search: seed: is no setting to choose; --seeds N trains each trial with so many")
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

    @property
    def maximize(self) -> bool:
        """Whether more of the figure is better."""
        return self.study.direction.name == "MAXIMIZE"

    def adopt(self) -> int:
        """Has trials that nobody goes on with resumed, or ended if they had been given up; returns how many.

        Those that have a folder are adopted on the machine where it is. Those without one were killed as they began.
        """
        with self._storing():
            beginning = {trial.number for trial in self._in_progress() if FOLDER not in trial.user_attrs}
            if beginning:
                time.sleep(GRACE)
            found = 0
            for trial in self._in_progress():
                if FOLDER not in trial.user_attrs and trial.number in beginning:
                    found += self._end_or_repeat(trial)
                elif folder := _folder_here(trial, FOLDER):
                    with suppress(InputError), locked(folder):  # else it is in progress
                        found += self._end_or_repeat(trial)
        return found

    def _in_progress(self) -> list["optuna.trial.FrozenTrial"]:
        return self.study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.RUNNING,))

    def _end_or_repeat(self, trial: "optuna.trial.FrozenTrial") -> int:
        """Ends a trial that was given up, and has another one resume any other; returns 1."""
        state = self.optuna.trial.TrialState
        if WHY in trial.user_attrs:
            self.study.tell(trial.number, state=state.PRUNED)
        else:
            self.study.tell(trial.number, state=state.FAIL)
            params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            left = trial.user_attrs.get(FOLDER) or trial.user_attrs.get(RESUMES)
            self.study.enqueue_trial(params, user_attrs={RESUMES: left} if left else None)
        return 1

    def work(self, num_trials: int, told: Callable[[str], object] = print) -> int:
        """Runs trials until the study has so many, those of others included.

        Args:
            num_trials: of the study; those that failed do not count.
            told: is called with a line for each.

        Returns:
            0, or 128 + the number of the signal that ended it.

        Raises:
            InputError: the first trials were all refused, or the storage failed.
        """
        with self._storing():
            while (trial := self._ask(num_trials)) is not None:
                begun = time.monotonic()
                with self._claimed(trial) as folder:
                    changes = {key: one.suggest(trial, key) for key, one in self.space.items()}
                    value, why, signal = self._run(trial, changes, folder)
                    if signal is not None:  # stays in progress, to be resumed
                        return 128 + signal
                    if why is None:
                        self.study.tell(trial, value)
                    else:
                        self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)
                if why is not None and self._all_refused():
                    raise InputError(f"all trials so far were {why}")
                settings = "  ".join(f"{key}={_shown(given)}" for key, given in changes.items())
                outcome = f"{why or f'{value:.6g}'}{self._best()}"
                told(f"trial {trial.number}: {outcome}  {settings}  {time.monotonic() - begun:.0f} s")
        return 0

    def _ask(self, num_trials: int) -> "optuna.Trial | None":
        """A new trial, unless there are enough."""
        trials = self.study.get_trials(deepcopy=False)
        if sum(map(self._counts, trials)) >= num_trials:
            return None
        with self._asking():
            trial = self.study.ask()
        if trial.number == len(trials):  # nobody else has asked in between
            return trial
        before = (other for other in self.study.get_trials(deepcopy=False) if other.number < trial.number)
        if sum(map(self._counts, before)) < num_trials:
            return trial
        self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)  # another process was faster
        return None

    def _counts(self, trial: "optuna.trial.FrozenTrial") -> bool:
        """Whether a trial ended, was given up, or is in progress."""
        state = self.optuna.trial.TrialState
        return trial.state not in (state.FAIL, state.WAITING)

    @contextmanager
    def _claimed(self, trial: "optuna.Trial") -> Iterator[Path]:
        """The folder of a trial's runs, which is its own in here: a new one, or that of the trial that it resumes."""
        folder = _folder_here(trial, RESUMES) or claim_folder(self.folder.absolute() / f"trial-{trial.number:04d}")
        with locked(folder):
            trial.set_user_attr(FOLDER, f"{socket.gethostname()}:{folder}")
            yield folder

    def _run(
        self, trial: "optuna.Trial", changes: dict[str, Any], folder: Path
    ) -> tuple[float, str | None, int | None]:
        """The mean figure of a trial's seeds, one after the other; why it was given up; the signal that ended it."""
        values: list[float] = []
        for seed in self.plan.seeds:
            watch = _Watch(trial, self.plan.figure, values)
            try:
                value, signal = self._run_seed(self.plan.load(changes, seed), folder / f"seed{seed}", watch)
            except NonFiniteError as error:
                return math.nan, _give_up(trial, one_line(error)), None
            except InputError as error:
                return math.nan, _give_up(trial, f"{REFUSED}: {one_line(error)}"), None
            if signal is not None or watch.why is not None:
                return math.nan, watch.why, signal
            if not math.isfinite(value):
                return math.nan, _give_up(trial, f"{self.plan.figure} is {value:g}"), None
            values.append(value)
        return statistics.fmean(values), None, None

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

    def _all_refused(self) -> bool:
        """Whether there are enough trials to say that none can be."""
        whys = [trial.user_attrs.get(WHY, "") for trial in self.study.get_trials(deepcopy=False)]
        return len(whys) >= MOST_REFUSED and all(why.startswith(REFUSED) for why in whys)

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

    def _asking(self) -> AbstractContextManager[object]:
        """One process at a time, of SQLite: two that ask at once may otherwise be given the same enqueued trial."""
        scheme, _, file = self.storage.partition(":///")
        return FileLock(f"{file}.lock", timeout=PATIENCE) if scheme.startswith("sqlite") and file else nullcontext()

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
        self.why: str | None = None
        """Why the trial is to be given up."""

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
            self.why = _give_up(self.trial, f"pruned at {mean:.6g}, step {trainer.steps:,}")
            trainer.stop(self.why)


def _give_up(trial: "optuna.Trial", why: str) -> str:
    """Notes why a trial is given up: where the process is killed before it ends the trial, `Tuner.adopt` does."""
    trial.set_user_attr(WHY, why)
    return why


def _folder_here(trial: "optuna.Trial | optuna.trial.FrozenTrial", attribute: str) -> Path | None:
    """The folder in an attribute of a trial, if it is on this machine."""
    host, _, folder = trial.user_attrs.get(attribute, "").partition(":")
    return Path(folder) if host == socket.gethostname() and Path(folder).is_dir() else None


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
