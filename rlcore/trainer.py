"""Trainer: the one training loop, which decides when to collect, learn, log, evaluate and save."""

import copy
import math
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, PositiveInt, field_validator, model_validator

from rlcore import checkpoint, settings
from rlcore.agent import Agent, Metrics
from rlcore.checkpoint import fitting, restored, restored_number
from rlcore.checks import check_acting, check_horizon, check_metrics, check_rollout
from rlcore.environment import Environment
from rlcore.errors import CheckpointError, ContractError, InputError, NonFiniteError
from rlcore.evaluation import CUT, Report, ReportChoice, preserved
from rlcore.finite import DIVERGED, FiniteCheck, first_nonfinite
from rlcore.interruption import Interrupted, Interruption
from rlcore.loggers import LoggerChoice
from rlcore.memory import require_memory
from rlcore.rollout import Rollout, collect
from rlcore.seeding import ACTING, EVALUATION, TRAINING, derive_seed, restore_rng_state, rng_state, seed_everything
from rlcore.settings import flatten
from rlcore.spaces import zeros
from rlcore.statistics import EpisodeStatistics
from rlcore.tracking import DEFAULT_LOGGERS, Tracker
from rlcore.trees import Tree, leaves, told

CHECKPOINTS_FOLDER = "checkpoints"
DUMP_FILE = "nonfinite.pt"
CLOCKS = "collect", "learn", "env"
"""What a trainer's time is spent on."""
BYTES_PER_STEP = 100
"""About what a step takes beside its observation: action, reward, flags, memory, and what is computed of them."""
MOST_EVALUATED_AT_ONCE = 1024
"""Environments of an evaluation; of more episodes, each plays several."""


class Trainer:
    """Trains an agent in an environment.

    In Python, without a config::

        Trainer(PPO(env, PPO.Settings(learning_rate=3e-4)), env, total_steps=100_000).fit()

    Args:
        agent: the agent that learns; moved to the environment's device.
        env: the environment.
        settings: when to do what.
        total_steps: instead of ``settings``, whose other defaults apply.
        seed: of the environment and of every global random generator, from the first update on. An agent's initial
            weights are drawn before; see `rlcore.seed_everything`.
        run_dir: folder of events and checkpoints; None writes no file.
        tracker: where figures go; None creates a silent one.
        name: of the agent, written into its checkpoints and compared when they are read.

    Raises:
        InputError: this is no `Environment`, neither or both of ``settings`` and ``total_steps`` are given, or the
            agent's horizon is invalid.
    """

    class Settings(settings.Settings):
        """When to do what. Steps are environment steps, summed over environments (for a data set: samples)."""

        total_steps: PositiveInt | None = None
        """Length of the run; every schedule ends here."""
        epochs: PositiveInt | None = None
        """Instead of ``total_steps``, for a data set: ceil(epochs x examples / batch size) batches."""
        total_episodes: PositiveInt | None = None
        """End after this many episodes, if that comes before ``total_steps``."""
        stop_at: PositiveInt | None = None
        """Stop and save at this step, without changing the schedules; ``rlcore resume`` continues."""
        log_every: PositiveInt | None = None
        """Steps between logs; default: total_steps / 500."""
        eval_every: PositiveInt | None = None
        """Steps between evaluations; default: total_steps / 10."""
        eval_episodes: Annotated[int, Field(gt=0, le=1_000_000)] = 20
        """Episodes of one evaluation."""
        max_episode_steps: PositiveInt | None = None
        """Steps after which an evaluation, or a rollout of whole episodes, cuts one that has not ended; null: the
        environment's time limit, but at least 27,000."""
        checkpoint_every: PositiveInt | None = None
        """Steps between checkpoints; default: ``eval_every``."""
        keep_checkpoints: bool = False
        """Also keep each checkpoint as ``checkpoints/<steps>.pt``."""
        reports: list[ReportChoice] = []  # noqa: RUF012 (pydantic copies it)
        """Reports made at every evaluation, for the loggers and ``figures/``."""
        loggers: list[LoggerChoice] = Field(default=[*DEFAULT_LOGGERS], validate_default=True)
        """Where figures are written; see ``rlcore list loggers``."""
        tensorboard: bool = Field(default=True, exclude=True)
        """false: without the logger tensorboard."""

        @field_validator("loggers")
        @classmethod
        def _one_of_each(cls, loggers: list[LoggerChoice]) -> list[LoggerChoice]:
            names = [logger.name for logger in loggers]
            for name in names:
                if names.count(name) > 1:
                    raise InputError(f"{name} is named {names.count(name)} times; a run has one logger of each name")
            return loggers

        @model_validator(mode="after")
        def _without_tensorboard(self) -> "Trainer.Settings":
            if not self.tensorboard:
                kept = [logger for logger in self.loggers if logger.name != "tensorboard"]
                object.__setattr__(self, "loggers", kept)  # frozen
            return self

        @model_validator(mode="after")
        def _one_length(self) -> "Trainer.Settings":
            if (self.total_steps is None) == (self.epochs is None):
                raise InputError("needs either total_steps or epochs, the other null")
            return self

    def __init__(
        self,
        agent: Agent,
        env: Environment,
        settings: Settings | None = None,
        *,
        total_steps: int | None = None,
        seed: int = 1,
        run_dir: str | Path | None = None,
        tracker: Tracker | None = None,
        name: str = "",
    ):
        if not isinstance(env, Environment):
            raise InputError(f"Trainer needs an rlcore.Environment, e.g. rlcore.GymEnvironment; got {env}")
        if (settings is None) == (total_steps is None) or not isinstance(settings, self.Settings | None):
            raise InputError("Trainer needs either settings, Trainer.Settings(...), or total_steps=...")
        check_horizon(agent)
        _check_rollout_fits(agent, env)
        self.settings = settings if settings is not None else self.Settings(total_steps=total_steps)
        self.agent, self.env, self.seed = agent.to(env.device), env, seed
        env.watch(self.agent)
        env.max_episode_steps = self.settings.max_episode_steps or env.max_episode_steps
        self.write_to(run_dir, tracker)
        self.name = name or type(agent).__name__
        self.total_steps = total = _total_steps(self.settings, env)
        self.log_every = self.settings.log_every or max(1, total // 500)
        self.eval_every = self.settings.eval_every or max(1, total // 10)
        self.checkpoint_every = self.settings.checkpoint_every or self.eval_every

        self.steps = 0
        """Environment steps done."""
        self.obs: Tree = None
        self.state: Tree = None
        self.episodes = EpisodeStatistics(env.num_envs, env.device, window=max(100, env.num_envs))
        self.best = -math.inf
        self.figures: dict[str, float] = {}
        """The latest value of every figure, by TensorBoard tag."""
        self.collect_seconds = self.learn_seconds = self.env_seconds = 0.0
        """Spent collecting, learning, and in the environment's steps, a part of collecting."""
        self._interruption = Interruption()
        self._evaluation_pending = False  # one is due that was interrupted or failed
        self._finished_at: int | None = None  # the step at which the agent finished
        self._collecting = False  # or failed in it, so that the environment is no longer where `obs` is from
        self._reports = [choice.make() for choice in self.settings.reports]
        for report in self._reports:
            report.check(self.agent, env)
        self._logged_at = 0
        self._evaluation_env: Environment | None = None
        self._finite = FiniteCheck()
        self._remarked: set[str] = set()

    def write_to(self, run_dir: str | Path | None, tracker: Tracker | None = None) -> None:
        """Sets where events and checkpoints go from now on; a previous tracker is not closed.

        Args:
            run_dir: the folder; None writes no file.
            tracker: where figures go; None creates a silent one that writes into the folder.
        """
        self.run_dir = None if run_dir is None else Path(run_dir).absolute()  # an environment may change the folder
        self.tracker = tracker or Tracker(self.run_dir, loggers=self.settings.loggers)

    def fit(self) -> Report:
        """Trains to the end of the run, lets the agent finish and evaluates, or trains to ``stop_at``; saves.

        On a signal to end it finishes the current update, or abandons an evaluation or a rollout of whole episodes,
        saves and returns early (`interrupted`). If an environment, an evaluation or a report fails, what was learned
        before is also saved.

        Returns:
            The closing evaluation; empty if the end of the run was not reached.

        Raises:
            NonFiniteError: an observation, a reward or a loss was NaN or infinite.
            ContractError: the first rollout or the agent's metrics are not as they should be.
            EnvironmentFailure: an environment raised an error, died or hung.
        """
        try:
            return self._fit()
        except Exception:
            if self._evaluation_pending or self._collecting:  # learning did not fail
                self.save("last")
            raise

    def _fit(self) -> Report:
        self._interruption = Interruption()
        self._remark(*self.env.remarks)
        metrics: Metrics | None = None
        with self._interruption.listening():
            if self._evaluation_pending and not self.finished:
                self._evaluate()
            while not self._at_goal():
                before = self.steps
                try:
                    metrics = self.update()
                except Interrupted:  # while it played whole episodes, which may take long
                    break
                if self._due(self.log_every, before):
                    self._log(metrics)
                if self._due(self.eval_every, before) and not self.finished:
                    self._evaluate()
                if self._due(self.checkpoint_every, before):
                    self._check_deferred()
                    self.save("last")
                    if self.settings.keep_checkpoints:
                        self.save(str(self.steps))
            if metrics is not None and self._logged_at != self.steps:
                self._log(metrics)
            if self.finished and self.interrupted is None:
                self._finish()
            closing = self._evaluate() if self.finished else Report({})
            self.save("last")
            self.tracker.flush()
        return closing

    def close(self) -> None:
        """Closes the environments, with any processes they have, and the tracker."""
        self.env.close()
        if self._evaluation_env not in (None, self.env):
            self._evaluation_env.close()
        self.tracker.close()

    @property
    def seconds(self) -> float:
        """Seconds spent collecting and learning, including those before the run was resumed."""
        return self.collect_seconds + self.learn_seconds

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second of collecting and learning."""
        return self.steps / self.seconds if self.seconds else math.nan

    def timing(self) -> dict[str, float]:
        """Steps per second, and the shares of environment, acting and learning (as far as they are waited for)."""
        acting = self.collect_seconds - self.env_seconds
        shares = {"env": self.env_seconds, "act": acting, "learn": self.learn_seconds}
        return {
            "time/steps_per_second": self.steps_per_second,
            **{f"time/{name}_share": seconds / (self.seconds or math.nan) for name, seconds in shares.items()},
        }

    def update(self) -> Metrics:
        """Collects one rollout and learns from it."""
        if not self.agent.training:  # one that was loaded for evaluation
            self.agent.train()
        if not self.steps:
            self.tracker.begin(self._settings_of_all() | {"seed": self.seed}, f"eval/{self.env.criterion}")
        if self.obs is None:
            seed_everything(derive_seed(self.seed, ACTING))
            self.obs, _ = self.env.reset(seed=derive_seed(self.seed, TRAINING))
            self.state = self.agent.initial_state(self.env.num_envs)
        start = time.perf_counter()
        progress = min(1.0, self.steps / self.total_steps)
        rollout = self._collect(progress)
        collected = time.perf_counter()
        if not self.steps:
            check_rollout(rollout, self.env)
        try:
            if not self.agent.differentiable:  # there the loss, which is checked, is the reward
                self._finite.look(rollout, self.steps)
            metrics = self.agent.learn(rollout)
        except NonFiniteError as error:
            raise self._dumped(error, rollout) from None
        if not self.steps:
            check_metrics(metrics)
        self.env.learned()
        self.obs, self.state = rollout.last_obs, rollout.last_state
        self.steps += rollout.num_steps
        self.episodes.add(rollout)
        self.collect_seconds += collected - start
        self.env_seconds += rollout.env_seconds
        self.learn_seconds += time.perf_counter() - collected
        return metrics

    def _collect(self, progress: float) -> Rollout:
        """The next rollout; one of whole episodes can be broken off, and then begins again where it began."""
        whole_episodes = self.agent.horizon is None and self.env.num_examples is None
        self._collecting = True
        try:
            with self._unplayed_if_interrupted() if whole_episodes else nullcontext():
                rollout = collect(self.agent, self.env, self.obs, self.agent.horizon, self.state, progress)
        except Exception as error:
            if not self.steps:  # it may be that an observation or an action is not as it should be
                try:
                    check_acting(self.agent, self.env, self.obs, self.state)
                except ContractError as reason:
                    raise reason from error
            raise
        self._collecting = False
        if self.agent.horizon is None and len(rollout) == self.env.max_episode_steps:
            self._remark(CUT.format(what="a rollout", steps=len(rollout)))
        return rollout

    @contextmanager
    def _unplayed_if_interrupted(self) -> Iterator[None]:
        """A signal aborts what is played in here, and environment and generators return to where they were before."""
        before, rng = copy.deepcopy(self.env.checkpoint()), rng_state()
        generators = [(generator, generator.get_state()) for _, generator in self.agent.held(torch.Generator)]
        try:
            with self._interruption.breaking():
                yield
        except Interrupted:
            if before is not None:
                self.env.restore(before)
                self._collecting = False
            restore_rng_state(rng)
            for generator, state in generators:
                generator.set_state(state)
            raise

    def save(self, name: str) -> None:
        """Writes ``checkpoints/<name>.pt``, if there is a run folder."""
        if self.run_dir is not None:
            checkpoint.save(self.run_dir / CHECKPOINTS_FOLDER / f"{name}.pt", self.checkpoint())

    def checkpoint(self) -> dict[str, Any]:
        """A copy of everything that the rest of the run depends on: later updates do not change it."""
        content = {
            "name": self.name,
            "fits": self._fits(),
            "observation_shape": self.env.single_observation_space.shape,
            "settings": self._settings_of_all(),
            "agent": self.agent.checkpoint(),
            "env": None if self._collecting else self.env.checkpoint(),
            "obs": self.obs,
            "state": self.state,
            "episodes": self.episodes.checkpoint(),
            "rng": rng_state(),
            "steps": self.steps,
            "total_steps": self.total_steps,
            "best": self.best,
            "figures": self.figures,
            "evaluation_pending": self._evaluation_pending,
            "finished_at": self._finished_at,
            "collect_seconds": self.collect_seconds,
            "learn_seconds": self.learn_seconds,
            "env_seconds": self.env_seconds,
            "made_with": self.circumstances(),
        }
        return copy.deepcopy(content)

    def restore_agent(self, saved: dict[str, Any]) -> None:
        """Restores the agent alone, for evaluation.

        Raises:
            CheckpointError: the checkpoint is of another agent, or does not fit.
        """
        if saved.get("name") != self.name:
            raise CheckpointError(f"the checkpoint is of the agent {told(saved.get('name'))}, not of {self.name!r}")
        with fitting(f"the agent {self.name}"):
            self.agent.restore(saved["agent"])

    def restore(self, saved: dict[str, Any]) -> list[str]:
        """Restores what `checkpoint` returned.

        Returns:
            One line for each reason why results may not be bit-identical to an uninterrupted run's.

        Raises:
            CheckpointError: it is of another agent or environment, or not what `checkpoint` returned; the trainer may
                then be half restored, and is of no further use.
        """
        with fitting("this run"):
            return self._restore(copy.deepcopy(saved))

    def _restore(self, saved: dict[str, Any]) -> list[str]:
        fits = saved["fits"] if isinstance(saved["fits"], str) else told(saved["fits"])
        if fits != self._fits():
            raise CheckpointError(f"the checkpoint is of {fits}, not of {self._fits()}")
        notes = []
        here = self.circumstances()
        for key, value in saved["made_with"].items():
            if here.get(key) != value:
                notes.append(
                    f"{key} was {value}, is {here.get(key)}: "
                    "results will not be bit-identical to an uninterrupted run's"
                )
        total_steps = restored_number(saved["total_steps"], "total_steps", low=1)
        if total_steps != self.total_steps:
            notes.append(
                f"total_steps was {total_steps:,}, is {self.total_steps:,}: the schedules change, "
                "and results will not be bit-identical to an uninterrupted run's"
            )
        here = self._settings_of_all()
        for key, value in saved.get("settings", {}).items():
            if key in here and here[key] != value and key not in ("trainer.total_steps", "trainer.stop_at"):
                notes.append(f"{key} was {value}, is {here[key]}")
        self.restore_agent(saved)
        self.steps = self._logged_at = restored_number(saved["steps"], "steps")
        self.best = restored_number(float(saved["best"]), "best", -math.inf, math.inf, whole=False)
        self.figures = _restored_figures(saved["figures"])
        self._evaluation_pending = saved.get("evaluation_pending", False) is True
        finished_at = saved.get("finished_at")
        self._finished_at = None if finished_at is None else restored_number(finished_at, "finished_at")
        seconds = [restored_number(saved.get(f"{name}_seconds", 0.0), "seconds", whole=False) for name in CLOCKS]
        self.collect_seconds, self.learn_seconds, self.env_seconds = seconds
        self.episodes.restore(saved["episodes"])
        if saved["env"] is None:
            notes.append(
                "the environment was not saved: it begins new episodes, "
                "and results will not be bit-identical to an uninterrupted run's"
            )
            self._begin_episodes()
        else:
            obs, _ = self.env.reset()
            self.env.restore(saved["env"])
            self.obs = None if saved["obs"] is None else restored(saved["obs"], obs, "obs")
            empty = None if self.obs is None else self.agent.initial_state(self.env.num_envs)
            self.state = restored(saved["state"], empty, "state")
        restore_rng_state(saved["rng"])
        return notes

    def evaluation_env(self, num_envs: int) -> Environment:
        """A twin of the environment for evaluation; see `Environment.evaluation`."""
        twin = self.env.evaluation(min(num_envs, MOST_EVALUATED_AT_ONCE))
        twin.max_episode_steps = self.env.max_episode_steps
        return twin

    def _begin_episodes(self) -> None:
        """Begins new episodes, those in progress having been abandoned."""
        self.obs, _ = self.env.reset(seed=derive_seed(self.seed, TRAINING, self.steps))
        self.state = self.agent.initial_state(self.env.num_envs)
        self.episodes.drop_running()
        self.agent.drop_running()

    def _settings_of_all(self) -> dict[str, Any]:
        """The settings of environment, agent and trainer, where they have any, by dotted key."""
        parts = {"env": self.env, "agent": self.agent, "trainer": self}
        found = {name: getattr(part, "settings", None) for name, part in parts.items()}
        return flatten({name: one.model_dump(mode="json") for name, one in found.items() if isinstance(one, BaseModel)})

    def _remark(self, *lines: str) -> None:
        """Tells the user each line once."""
        for line in lines:
            if line not in self._remarked:
                self._remarked.add(line)
                self.tracker.note(line)

    def _fits(self) -> str:
        """What a checkpoint must match of the environment."""
        env = self.env
        return f"{env.num_envs} environments of {env.single_observation_space} and {env.single_action_space}"

    def circumstances(self) -> dict[str, str]:
        """What bit-identical results depend on besides the settings."""
        device = self.env.device
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        threads = str(torch.get_num_threads())
        return {"torch": str(torch.__version__), "device": f"{device.type} ({kind})", "threads": threads}

    @property
    def interrupted(self) -> int | None:
        """The signal that ended `fit` early."""
        return self._interruption.signal

    @property
    def finished(self) -> bool:
        """Whether the run has reached its end."""
        return self.steps >= self.total_steps or (
            self.settings.total_episodes is not None and self.episodes.count() >= self.settings.total_episodes
        )

    def _at_goal(self) -> bool:
        stop_at = self.settings.stop_at
        return self.interrupted is not None or self.finished or (stop_at is not None and self.steps >= stop_at)

    def _due(self, every: int, before: int) -> bool:
        """Whether a multiple of ``every`` lies in (before, steps]."""
        return self.steps // every > before // every

    def _finish(self) -> None:
        """Lets the agent finish, once at each end of the run."""
        if self._finished_at != self.steps:
            figures = self._read(self.agent.finish())
            self._finished_at = self.steps
            self.figures |= figures
            self.tracker.scalars(figures, self.steps)

    def _read(self, metrics: Metrics) -> dict[str, float]:
        """Metrics of the agent as figures."""
        check_metrics(metrics)
        values = torch.zeros(len(metrics), dtype=torch.float64, device=self.env.device)
        for index, value in enumerate(metrics.values()):
            values[index] = value
        numbers = values.tolist()  # one sync for all of them
        return {f"train/{name}": value for name, value in zip(metrics, numbers, strict=True)}

    def _log(self, metrics: Metrics) -> None:
        self._check_deferred()
        self._logged_at = self.steps
        figures = self._read(metrics)
        self._remark(*self.agent.remarks({name.removeprefix("train/"): value for name, value in figures.items()}))
        figures |= {f"rollout/{name}": value for name, value in self.episodes.means().items()}
        timing = self.timing()
        self.figures |= figures
        self.tracker.scalars(figures | timing, self.steps)
        shown = {"return": figures.get("rollout/return", math.nan), "steps/s": timing["time/steps_per_second"]}
        self.tracker.progress(self.steps, self.total_steps, shown)

    def _evaluate(self) -> Report:
        self._check_deferred()
        self._evaluation_pending = True
        if self._evaluation_env is None:
            with preserved(self.agent):  # making it may draw random numbers
                self._evaluation_env = self.evaluation_env(self.settings.eval_episodes)
        if self.interrupted is not None:
            return Report({})
        env, seed = self._evaluation_env, derive_seed(self.seed, EVALUATION)
        report = None
        # evaluation itself preserves the agent, but a signal may come while it does
        with suppress(Interrupted), preserved(self.agent), self._interruption.breaking():
            report = env.score(self.agent, self.settings.eval_episodes, seed)
            reports = [make(self.agent, env, report) for make in self._reports]
        if env is self.env:
            self._begin_episodes()
        if report is None or self.interrupted is not None:
            return Report({})
        self._remark(*report.remarks)
        self.tracker.report("eval", report, self.steps)
        for choice, made in zip(self.settings.reports, reports, strict=True):
            self.tracker.report(choice.name, made, self.steps)
            self.figures |= made.tagged(choice.name)
        self.figures |= report.tagged("eval")
        self._evaluation_pending = False
        if self.env.select_best:
            self._keep_if_best(report)
        return report

    def _keep_if_best(self, report: Report) -> None:
        env, scalars = self.env, report.scalars
        if env.criterion not in scalars:
            raise InputError(
                f"{type(env).__name__}.score returned {', '.join(scalars) or 'nothing'}; "
                f"its criterion is {env.criterion!r}"
            )
        if scalars[env.criterion] >= self.best:
            self.best = scalars[env.criterion]
            self.save("best")

    def _check_deferred(self) -> None:
        if self._finite.found(self.agent):
            raise NonFiniteError(
                f"an observation, a reward or a loss was NaN or infinite within the {self.log_every:,} steps before "
                f"step {self.steps:,}; device=cpu finds the exact row"
            )

    def _dumped(self, error: NonFiniteError, rollout: Rollout) -> NonFiniteError:
        """The error with what is not finite, in the rollout or else the loss; rollout and agent go to a file."""
        message = first_nonfinite(rollout, self.steps, self.agent.differentiable) or (
            f"{error} in the update at step {self.steps:,}, though observations and rewards are finite: {DIVERGED}"
        )
        if self.run_dir is not None:
            seen = {name: getattr(rollout, name) for name in ("obs", "action", "reward", "terminated", "truncated")}
            checkpoint.save(self.run_dir / DUMP_FILE, {**self.checkpoint(), "rollout": seen})
            message += f"; rollout and agent are in {self.run_dir / DUMP_FILE}"
            if (last := self.run_dir / CHECKPOINTS_FOLDER / "last.pt").is_file():
                message += f", the last checkpoint before it in {last}"
        return NonFiniteError(message)


def _restored_figures(saved: Any) -> dict[str, float]:
    if not all(isinstance(name, str) for name in saved):
        raise CheckpointError("the checkpoint does not fit: its figures are not numbers by name")
    return {name: float(value) for name, value in saved.items()}


def _check_rollout_fits(agent: Agent, env: Environment) -> None:
    """Raises an InputError if a rollout takes more memory than there is: its rows, and a copy of them to learn from."""
    if agent.horizon is not None:
        parts = leaves(zeros(env.single_observation_space, (), torch.device("cpu")))
        row = sum(leaf.numel() * leaf.element_size() for leaf in parts) + BYTES_PER_STEP
        what = f"a rollout of {agent.horizon:,} steps x {env.num_envs:,} environments"
        require_memory(2 * agent.horizon * env.num_envs * row, what)


def _total_steps(settings: Trainer.Settings, env: Environment) -> int:
    if settings.total_steps is not None:
        return settings.total_steps
    if env.num_examples is None:
        raise InputError(f"trainer.epochs: {type(env).__name__} has no epochs; set trainer.total_steps")
    assert settings.epochs is not None
    return math.ceil(settings.epochs * env.num_examples / env.num_envs) * env.num_envs
