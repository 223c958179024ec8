"""Trainer: the one training loop, which decides when to collect, learn, log, evaluate and save."""

import copy
import math
import platform
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, Field, PositiveInt, field_validator, model_validator

from rlcore import checkpoint, distributed, legacy, settings
from rlcore.agent import Agent, Metrics
from rlcore.checkpoint import fitting, restored_number
from rlcore.checks import check_horizon, check_metrics
from rlcore.environment import Environment
from rlcore.errors import CheckpointError, InputError, NonFiniteError
from rlcore.evaluation import CUT, Evaluated, Evaluator, Report, ReportChoice
from rlcore.files import CHECKPOINTS_FOLDER
from rlcore.finite import DIVERGED, FiniteCheck, first_nonfinite
from rlcore.hooks import Hook, HookChoice
from rlcore.interruption import Interrupted, Interruption
from rlcore.loggers import LoggerChoice
from rlcore.memory import require_memory
from rlcore.registry import did_you_mean
from rlcore.rollout import Rollout
from rlcore.seeding import ACTING, derive_seed, restore_rng_state, rng_state, seed_everything
from rlcore.settings import flatten
from rlcore.spaces import scaled_space, zeros
from rlcore.stateful import LEARNS, stateful_parts
from rlcore.statistics import EpisodeStatistics
from rlcore.tracking import DEFAULT_LOGGERS, Tracker
from rlcore.trees import describe, leaves

DUMP_FILE = "nonfinite.pt"
CLOCKS = "collect", "learn", "env"
"""What a trainer's time is spent on."""
BYTES_PER_STEP = 100
"""About what a step takes beside its observation: action, reward, flags, memory, and what is computed of them."""


class Trainer:
    """Trains an agent in an environment.

    In Python, without a config::

        Trainer(PPO(env, PPO.Settings(learning_rate=3e-4)), env, total_steps=100_000).fit()

    or, to do something of one's own after each update::

        for metrics in trainer.updates():
            print(trainer.steps, metrics["entropy"])

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
        eval_env: another environment whose twin evaluates, e.g. one whose rewards are not clipped; None: ``env``.
        hooks: beside those of the settings, which come first.

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
        eval_every: PositiveInt | Literal["auto"] | None = "auto"
        """Steps between evaluations; auto: total_steps / 10. null: none at all, also not at the end."""
        eval_episodes: Annotated[int, Field(gt=0, le=1_000_000)] = 20
        """Episodes of one evaluation."""
        eval_num_envs: Annotated[int, Field(gt=0, le=2**16)] | None = None
        """Environments of an evaluation; null: as many as episodes, at most 1,024."""
        eval_deterministic: bool = True
        """Where episodes are played, evaluate the agent's best actions (`Agent.predict`); false: those that it takes
        while learning (`Agent.act`)."""
        max_episode_steps: PositiveInt | None = None
        """Steps after which an evaluation, or a rollout of whole episodes, cuts one that has not ended; null: the
        environment's time limit, but at least 27,000."""
        checkpoint_every: PositiveInt | None = None
        """Steps between checkpoints; default: as for evaluations, or total_steps / 10 without any."""
        best_by: str | None = None
        """The figure of evaluations by which the best checkpoint is chosen, as ``f1``; null: the environment's own."""
        keep_checkpoints: bool = False
        """Also keep each checkpoint as ``checkpoints/<steps>.pt``."""
        hooks: list[HookChoice] = []  # noqa: RUF012 (pydantic copies it)
        """What is done beside training, in this order (``rlcore list hooks``)."""
        reports: list[ReportChoice] = []  # noqa: RUF012
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
        eval_env: Environment | None = None,
        hooks: Sequence[Hook] = (),
    ):
        if not isinstance(env, Environment):
            raise InputError(f"Trainer needs an rlcore.Environment, e.g. rlcore.GymEnvironment; got {env}")
        if (settings is None) == (total_steps is None) or not isinstance(settings, self.Settings | None):
            raise InputError("Trainer needs either settings, Trainer.Settings(...), or total_steps=...")
        check_horizon(agent)
        _check_rollout_fits(agent, env)
        self.settings = s = settings if settings is not None else self.Settings(total_steps=total_steps)
        self.agent, self.seed = agent.to(env.device), seed
        source = env.evaluated if eval_env is None else eval_env
        for one in (env,) if source is env else (env, source):
            _require_same_spaces("eval_env", one, env)
            one.on_attach(self.agent)
            one.max_episode_steps = s.max_episode_steps or one.max_episode_steps
        self.collector = env.collector(seed)
        """Who plays."""
        self.collector.check(agent)
        self.evaluator = Evaluator(source, s.eval_episodes, seed, s.reports, s.eval_num_envs, s.eval_deterministic)
        self.evaluator.check(self.agent)
        if s.best_by and not env.select_best:
            raise InputError("trainer.best_by: no best checkpoint is chosen here; a data set needs validation examples")
        self.write_to(run_dir, tracker)
        self.name = name or type(agent).__name__
        self.total_steps = total = _total_steps(s, env)
        self.log_every = s.log_every or max(1, total // 500)
        self.eval_every = max(1, total // 10) if s.eval_every == "auto" else s.eval_every
        self.checkpoint_every = s.checkpoint_every or self.eval_every or max(1, total // 10)

        self.steps = 0
        """Environment steps done."""
        self.num_updates = 0
        """Updates done."""
        self._num_ranks = distributed.size()
        window = max(100, env.num_envs * self._num_ranks)
        self.episodes = EpisodeStatistics(env.num_envs, env.device, window=window)
        self.best = -math.inf
        """The figure of the best checkpoint; where less is better, its negative."""
        self.figures: dict[str, float] = {}
        """The latest value of every figure, by TensorBoard tag."""
        self.errors = {"train/loss"}
        """Tags of the figures of which less is better."""
        self.report = Report({})
        """The closing evaluation, or the test if the environment has one; empty before the end of the run."""
        self.stopped: str | None = None
        """Why a hook has ended the run (`stop`)."""
        self.collect_seconds = self.learn_seconds = self.env_seconds = 0.0
        """Spent collecting, learning, and in the environment's steps, a part of collecting."""
        self._first_env = env  # whose settings are the run's own, though a hook may replace it
        self._interruption = Interruption()
        self._agreed_signal: int | None = None  # that ended `updates` early, of any of several processes
        self._evaluation_pending = False  # one is due that was interrupted or failed
        self._finished_at: int | None = None  # the step at which the agent finished
        self._learning = False  # or failed in it, so that the parameters may be of no use
        self._evaluated: tuple[int | None, Report] = None, Report({})  # the step of the latest evaluation, and that
        self._logged_at = 0
        self._finite = FiniteCheck()
        self._remarked: set[str] = set()
        self.hooks = [*(choice.make() for choice in s.hooks), *hooks]
        if s.best_by:
            self.check_figure(s.best_by, "trainer.best_by")
        for hook in self.hooks:
            hook.on_start(self)

    @property
    def env(self) -> Environment:
        """Where the agent learns."""
        return self.collector.env

    def write_to(self, run_dir: str | Path | None, tracker: Tracker | None = None) -> None:
        """Sets where events and checkpoints go from now on; a previous tracker is not closed.

        Of several processes the first one alone writes and prints.

        Args:
            run_dir: the folder; None writes no file.
            tracker: where figures go; None creates a silent one that writes into the folder.
        """
        if not distributed.is_main():
            run_dir, tracker = None, Tracker()
        self.run_dir = None if run_dir is None else Path(run_dir).absolute()  # an environment may change the folder
        self.tracker = tracker or Tracker(self.run_dir, loggers=self.settings.loggers)

    def fit(self) -> Report:
        """Trains to the end of the run, or to ``stop_at``; see `updates`.

        Returns:
            The closing evaluation; empty if the end of the run was not reached.

        Raises:
            KeyboardInterrupt: a Ctrl-C ended it early, after it has saved. Another of the signals that end a process
                raises SystemExit.
        """
        for _ in self.updates():
            pass
        if self.interrupted == signal.SIGINT:
            raise KeyboardInterrupt
        if self.interrupted is not None:
            raise SystemExit(128 + self.interrupted)
        return self.report

    def updates(self) -> Iterator[Metrics]:
        """Trains to the end of the run, or to ``stop_at``: collects, learns, logs, evaluates and saves.

        A signal to end, as Ctrl-C, lets it finish the current update, or abandon an evaluation or a rollout of whole
        episodes, save and end early (`interrupted`). It is also saved if the loop over it is left, and if anything but
        learning fails: an environment, an evaluation, a hook, the body of the loop; but not of several processes.

        Yields:
            The metrics of each update, after everything that is due with it. The body of the loop may save, evaluate
            other things, or end the run by `stop`.

        Raises:
            NonFiniteError: an observation, a reward or a loss was NaN or infinite.
            ContractError: the first rollout or the agent's metrics are not as they should be.
            EnvironmentFailure: an environment raised an error, died or hung.
        """
        self._interruption, self._agreed_signal = Interruption(), None
        self.report = Report({})
        self._remark(*self.env.remarks)
        self.tracker.status(self._status())
        metrics: Metrics | None = None
        with self._interruption.listening(), self._saved_at_last():
            if self._evaluation_pending and not self.finished:
                self.evaluate()
            while not self._at_goal():
                before = self.steps
                try:
                    metrics = self.update()
                except Interrupted:  # while it played whole episodes, which may take long
                    break
                if self._due(self.log_every, before):
                    self._log(metrics)
                if self._due(self.eval_every, before) and not self.finished:
                    self.evaluate()
                if self._due(self.checkpoint_every, before):
                    self._check_deferred()
                    self.save("last")
                    if self.settings.keep_checkpoints:
                        self.save(str(self.steps))
                yield metrics
            if metrics is not None and self._logged_at != self.steps:
                self._log(metrics)
            if self.finished:
                self.report = self._close_run()

    def update(self) -> Metrics:
        """Collects one rollout and learns from it; logs, evaluates and saves nothing."""
        if not self.agent.training:  # one that was loaded for evaluation
            self.agent.train()
        if not self.steps:
            distributed.begin_alike(list(self.agent.parameters()))
            self.tracker.begin(self._settings_of_all() | {"seed": self.seed}, f"eval/{self.env.criterion}")
            seed_everything(derive_seed(self.seed, ACTING, *distributed.own_stream()))
        if self.collector.failed:
            self._begin_episodes()
        start = time.perf_counter()
        progress = min(1.0, self.steps / self.total_steps)
        breaking = self._interruption if self._num_ranks == 1 else None  # others wait for what was begun
        rollout = self.collector.collect(self.agent, progress, breaking)
        if self.agent.horizon is None and len(rollout) == self.env.max_episode_steps:
            self._remark(CUT.format(what="a rollout", steps=len(rollout)))
        collected = time.perf_counter()
        self.collector.failed = True  # if a hook fails, the rollout is lost
        for hook in self.hooks:
            hook.on_rollout(self, rollout)
        self.collector.failed = False
        self._learning = True
        distributed.weigh(rollout.num_steps)
        try:
            if not self.agent.differentiable:  # there the loss, which is checked, is the reward
                self._finite.look(rollout, self.steps)
            metrics = self.agent.learn(rollout)
        except NonFiniteError as error:
            raise self._dumped(error, rollout) from None
        if not self.steps:
            check_metrics(metrics)
        self._learning = False
        distributed.average_statistics(self.agent)
        self.env.on_update()
        num_steps = rollout.num_steps
        self.num_updates += 1
        self.steps += int(distributed.total(num_steps, "steps")) if rollout.ragged else num_steps * self._num_ranks
        if self.collector.plays:
            self.episodes.add(rollout)
        self.collect_seconds += collected - start
        self.env_seconds += rollout.env_seconds
        self.learn_seconds += time.perf_counter() - collected
        if self.settings.total_episodes is not None:
            self.episodes.flush()
        for hook in self.hooks:
            hook.on_update(self, metrics)
        self._agree()
        return metrics

    def evaluate(self) -> Report:
        """Evaluates the agent, tracks the results, and keeps the checkpoint if it is the best so far.

        Returns:
            The results; empty if a signal to end came before they were complete.
        """
        self._check_deferred()
        self._evaluation_pending = True
        report = self._report_of("eval", self.evaluator)
        if report is None:
            return Report({})
        for hook in self.hooks:
            hook.on_evaluation(self, report)
        if self.env.select_best:
            self._keep_if_best(report)
        self._evaluation_pending = False
        self._evaluated = self.steps, report
        self.tracker.status(self._status())
        return report

    def test(self) -> Report:
        """Evaluates the agent on what is kept for the end, and tracks the results, which nothing is chosen by.

        Returns:
            The results; empty if the environment keeps nothing (`Environment.test`), or a signal to end came before.
        """
        return self._report_of("test", self.evaluator.test) or Report({})

    def _report_of(self, tag: str, evaluator: Callable[[Agent, Interruption], Evaluated | None]) -> Report | None:
        """Tracks what an evaluator finds; None if that is nothing."""
        found, is_left = self._evaluated_by_main(evaluator)
        if is_left:
            self._begin_episodes()
        self._agree()
        if found is None:
            return None
        report, made = found
        self._remark(*report.remarks)
        for name, one in ((tag, report), *made):
            self.tracker.report(name, one, self.steps)
            self.figures |= one.tagged(name)
            self.errors |= {f"{name}/{error}" for error in one.errors}
        return report

    def _evaluated_by_main(
        self, evaluator: Callable[[Agent, Interruption], Evaluated | None]
    ) -> tuple[Evaluated | None, bool]:
        """What an evaluator found, and whether it did so in the episodes in progress, which are abandoned then.

        Of several processes the first one evaluates, and the others get the figures.
        """
        found, is_left, figures = None, False, None
        if distributed.is_main():
            with self._answering():
                found = evaluator(self.agent, self._interruption)
            is_left = self.evaluator.env is self.env
            if found is not None:
                figures = [(name, one.scalars, one.errors) for name, one in (("", found[0]), *found[1])]
        figures, is_left = distributed.broadcast_object((figures, is_left), "evaluation")
        if found is None and figures is not None:
            (_, report), *made = [(name, Report(scalars, errors=errors)) for name, scalars, errors in figures]
            found = report, made
        return found, is_left

    def log(self, figures: Mapping[str, float]) -> None:
        """Writes figures of one's own at this step, by TensorBoard tag: ``{"mine/distance": 0.3}``.

        What an update's metrics are to include, a hook adds to them in `Hook.on_update`.
        """
        self.figures |= figures
        self.tracker.scalars(figures, self.steps)

    def check_figure(self, name: str, where: str) -> None:
        """Refuses a figure that evaluations will not have, where that is known before; see `Environment.score_names`.

        Args:
            name: of the figure.
            where: it is asked for, for the message.

        Raises:
            InputError: there will be no such figure.
        """
        evaluated = [hook for hook in self.hooks if type(hook).on_evaluation is not Hook.on_evaluation]
        known: list[str] = []
        for names in (self.evaluator.known_names, *(hook.score_names for hook in evaluated)):
            if names is None:
                return
            known += names
        if not any(name == one or (one.endswith("*") and name.startswith(one[:-1])) for one in known):
            message = f"there is no figure {name!r}{did_you_mean(name, known)}"
            raise InputError(f"{where}: {message}; an evaluation has {', '.join(known)}")

    def stop(self, reason: str) -> None:
        """Ends the run after this update as at its last step; for hooks, and for the body of a loop over `updates`.

        Args:
            reason: why, in a few words.
        """
        if self.stopped is None:
            self.stopped = reason
            self._remark(f"the run ends at step {self.steps:,}: {reason}")

    def replace_env(self, env: Environment) -> None:
        """Goes on in another environment, in new episodes whose means begin anew; evaluation remains where it was.

        Args:
            env: has the same number of environments and the same spaces.

        Raises:
            InputError: it does not.
        """
        _require_same_spaces("the new environment", env, self.env)
        if env.num_envs != self.env.num_envs:
            raise InputError(f"the new environment must have {self.env.num_envs} environments, has {env.num_envs}")
        env.on_attach(self.agent)
        env.max_episode_steps = self.settings.max_episode_steps or env.max_episode_steps
        before, began = self.collector, self.collector.obs is not None
        self.collector = env.collector(self.seed)
        if before.env is not self.evaluator.source:
            before.env.close()
        if began:
            self._begin_episodes()
        self.episodes.forget()
        self.figures = {tag: value for tag, value in self.figures.items() if not tag.startswith("rollout/")}

    def close(self) -> None:
        """Closes the environments, with any processes they have, and the tracker."""
        self.env.close()
        self.evaluator.close()
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

    def save(self, name: str) -> None:
        """Writes ``checkpoints/<name>.pt``, if there is a run folder; ``best`` has only what answers.

        Of several processes all must call it: the first one writes what all of them go on from.
        """
        learns = name != "best"
        of_several = learns and self._num_ranks > 1
        if of_several:
            distributed.require_alike(list(self.agent.parameters()))
            self.episodes.flush()
        elif self.run_dir is None:
            return
        content = self.checkpoint(learns)
        if of_several:
            content = self._of_all_ranks(content)
        if self.run_dir is not None:
            checkpoint.save(self.run_dir / CHECKPOINTS_FOLDER / f"{name}.pt", content)

    def checkpoint(self, learns: bool = True) -> dict[str, Any]:
        """A copy of what answers, and of everything else that the rest of the run depends on (``learns``).

        What answers, the agent's name, settings, parameters and spaces, is all that ``rlcore.load`` reads.

        Args:
            learns: whether to include the rest: later updates do not change the copy.
        """
        with self._answering():
            agent = self.agent.checkpoint()
            apart = LEARNS if type(self.agent).restore is Agent.restore else ()  # an override may ask for all of it
            rest = {part: agent.pop(part) for part in apart if part in agent}
            content = copy.deepcopy(
                {
                    "name": self.name,
                    "steps": self.steps,
                    "spec": self.agent.spec.plain(),
                    "observation_shape": scaled_space(self.env.single_observation_space).shape,
                    "agent": agent,
                }
            )
        if learns:
            content["learns"] = copy.deepcopy(self._learns(rest))
        return content

    def _of_all_ranks(self, content: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint with what the other processes go on from; what they all have is not sent."""
        buffers = {name: x for name, x in self.agent.named_buffers() if name in content["agent"]["parameters"]}
        agent = {part: x for part, x in content["learns"]["agent"].items() if part != "optimizers"}
        own = {**content["learns"], "agent": agent, "buffers": buffers}
        ranks = distributed.gather_object(None if distributed.is_main() else own, "checkpoint")
        if ranks is not None:
            content["learns"]["ranks"] = ranks[1:]
        return content

    def _learns(self, agent: dict[str, Any]) -> dict[str, Any]:
        """What the rest of the run depends on; ``agent`` is the agent's part of it."""
        return {
            "fits": self._fits(),
            "settings": self._settings_of_all(),
            "agent": agent,
            "hooks": [(type(hook).__name__, hook.state_dict()) for hook in self.hooks],
            "collector": self.collector.checkpoint(),
            "episodes": self.episodes.state_dict(),
            "rng": rng_state(),
            "num_updates": self.num_updates,
            "total_steps": self.total_steps,
            "best": self.best,
            "figures": self.figures,
            "stopped": self.stopped,
            "evaluation_pending": self._evaluation_pending,
            "finished_at": self._finished_at,
            "collect_seconds": self.collect_seconds,
            "learn_seconds": self.learn_seconds,
            "env_seconds": self.env_seconds,
            "made_with": self.circumstances(),
        }

    def restore_agent(self, saved: dict[str, Any]) -> None:
        """Restores the agent alone, for evaluation.

        Raises:
            CheckpointError: the checkpoint is of another agent, or does not fit.
        """
        if saved.get("name") != self.name:
            raise CheckpointError(f"the checkpoint is of the agent {describe(saved.get('name'))}, not of {self.name!r}")
        with fitting(f"the agent {self.name}"):
            saved = legacy.upgraded(saved)
            self.agent.restore({**saved["agent"], **saved.get("learns", {}).get("agent", {})})

    def restore(self, saved: dict[str, Any]) -> list[str]:
        """Restores what `checkpoint` returned.

        Returns:
            One line for each reason why results may not be bit-identical to an uninterrupted run's.

        Raises:
            CheckpointError: it is of another agent or environment, holds only what answers, or is not what `checkpoint`
                returned; the trainer may then be half restored, and is of no further use.
        """
        with fitting("this run"):
            saved = legacy.upgraded(copy.deepcopy(saved))
            if "learns" not in saved:
                raise CheckpointError("the checkpoint holds only what answers, not what learning goes on from")
            return self._restore(saved, saved["learns"])

    def _restore(self, saved: dict[str, Any], learns: dict[str, Any]) -> list[str]:
        learns = legacy.showing_inputs(learns, self._fits(), self.env.single_observation_space)
        fits = learns["fits"] if isinstance(learns["fits"], str) else describe(learns["fits"])
        if fits != self._fits():
            raise CheckpointError(f"the checkpoint is of {fits}, not of {self._fits()}")
        learns, notes = self._own_part(saved, learns)
        here = self.circumstances()
        for key, value in learns["made_with"].items():
            if here.get(key) != value:
                notes.append(
                    f"{key} was {value}, is {here.get(key)}: "
                    "results will not be bit-identical to an uninterrupted run's"
                )
        total_steps = restored_number(learns["total_steps"], "total_steps", low=1)
        if total_steps != self.total_steps:
            notes.append(
                f"total_steps was {total_steps:,}, is {self.total_steps:,}: the schedules change, "
                "and results will not be bit-identical to an uninterrupted run's"
            )
        here, before = self._settings_of_all(), learns.get("settings", {})
        for key, value in before.items():
            if key in here and here[key] != value and key not in ("trainer.total_steps", "trainer.stop_at"):
                notes.append(f"{key} was {value}, is {here[key]}")
        self.restore_agent({**saved, "learns": learns})
        if "states" not in {**saved["agent"], **learns["agent"]} and type(self.agent).restore is Agent.restore:
            names = (name for name, _ in stateful_parts(self.agent))  # which rlcore 0.1 left to overrides
            notes += [f"the checkpoint has nothing of the agent's {name}, which begins anew" for name in names]
        self.steps = self._logged_at = restored_number(saved["steps"], "steps")
        self.num_updates = restored_number(learns.get("num_updates", self._updates_in(self.steps)), "num_updates")
        self.best = restored_number(float(learns["best"]), "best", -math.inf, math.inf, whole=False)
        self.figures = _restored_figures(learns["figures"])
        changed = total_steps != self.total_steps or before.get("trainer.hooks") != here.get("trainer.hooks")
        if isinstance(learns.get("stopped"), str) and not changed:
            self.stopped = learns["stopped"]
        self._evaluation_pending = learns.get("evaluation_pending", False) is True and self.eval_every is not None
        finished_at = learns.get("finished_at")
        self._finished_at = None if finished_at is None else restored_number(finished_at, "finished_at")
        seconds = [restored_number(learns.get(f"{name}_seconds", 0.0), "seconds", whole=False) for name in CLOCKS]
        self.collect_seconds, self.learn_seconds, self.env_seconds = seconds
        self.episodes.load_state_dict(learns["episodes"])
        notes += self._restore_hooks(learns.get("hooks", []))
        if not self.collector.restore(learns["collector"], self.agent):
            why = f" ({self.env.why_unsaved})" if self.env.why_unsaved else ""
            notes.append(
                f"the environment was not saved{why}: it begins new episodes, "
                "and results will not be bit-identical to an uninterrupted run's"
            )
            self._begin_episodes()
        if learns["rng"] is None:
            seed_everything(derive_seed(self.seed, ACTING, self.steps, *distributed.own_stream()))
        else:
            restore_rng_state(learns["rng"])
        return notes

    def _own_part(self, saved: dict[str, Any], learns: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """What this one of several processes goes on from; and a line if they were another number.

        Then what each had of its own is dropped: the episodes in progress, and the generators; replays fill anew.
        """
        ranks, parameters = list(learns.get("ranks", [])), saved["agent"]["parameters"]
        if len(ranks) + 1 == self._num_ranks:
            if distributed.is_main():
                return learns, []
            own = ranks[distributed.rank() - 1]
            parameters |= own["buffers"]
            return {**learns, **own, "agent": {**learns["agent"], **own["agent"]}}, []
        for name, here in self.agent.named_buffers():
            if name in parameters and parameters[name].shape != here.shape:  # of each environment
                parameters[name] = here
        dropped = {
            "collector": {**learns["collector"], "env": None},
            "episodes": {**learns["episodes"], **self.episodes.of_new_episodes()},
            "rng": None,
        }
        return {**learns, **dropped}, [
            f"the run had {len(ranks) + 1} processes, has {self._num_ranks}: "
            "results will not be bit-identical to an uninterrupted run's"
        ]

    def _updates_in(self, steps: int) -> int:
        """How many updates are that many steps; where a rollout is of whole episodes nobody knows: 0."""
        return int(steps // ((self.agent.horizon or math.inf) * self.env.num_envs * self._num_ranks))

    def _restore_hooks(self, saved: list[Any]) -> list[str]:
        left, notes = [(name, state) for name, state in saved], []
        for hook in self.hooks:
            kind = type(hook).__name__
            place = next((n for n, (name, _) in enumerate(left) if name == kind), None)
            if place is None:
                notes.append(f"the hook {kind} was not in the run before: it begins anew")
            else:
                hook.load_state_dict(left.pop(place)[1])
        return [*notes, *(f"the hook {name} was in the run before, and is not any more" for name, _ in left)]

    def evaluation_env(self, num_episodes: int) -> Environment:
        """A twin of the environment for the evaluation of that many episodes; see `Environment.evaluation`."""
        return self.evaluator.make_env(num_episodes)

    def _begin_episodes(self) -> None:
        """Begins new episodes, those in progress having been abandoned."""
        self.collector.begin_episodes(self.agent, self.steps)
        self.episodes.on_reset()
        self.agent.on_reset()

    def _settings_of_all(self) -> dict[str, Any]:
        """The settings of environment, agent and trainer, where they have any, by dotted key."""
        parts = {"env": self._first_env, "agent": self.agent, "trainer": self}
        found = {name: getattr(part, "settings", None) for name, part in parts.items()}
        dumped = {name: one.model_dump(mode="json") for name, one in found.items() if isinstance(one, BaseModel)}
        if "num_envs" in dumped.get("env", {}):
            dumped["env"]["num_envs"] *= self._num_ranks  # as the config has it
        return flatten(dumped)

    def _remark(self, *lines: str) -> None:
        """Tells the user each line once."""
        for line in lines:
            if line not in self._remarked and distributed.is_main():
                self._remarked.add(line)
                self.tracker.note(line)

    def _fits(self) -> str:
        """What a checkpoint must match of the environment."""
        env = self.env
        num_envs = env.num_envs * self._num_ranks
        return f"{num_envs} environments of {env.single_observation_space} and {env.single_action_space}"

    def circumstances(self) -> dict[str, str]:
        """What bit-identical results depend on besides the settings."""
        device = self.env.device
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        threads = str(torch.get_num_threads())
        return {"torch": str(torch.__version__), "device": f"{device.type} ({kind})", "threads": threads}

    @property
    def interrupted(self) -> int | None:
        """The signal that ended `updates` early; of several processes, once all of them know."""
        return self._interruption.signal if self._num_ranks == 1 else self._agreed_signal

    @property
    def finished(self) -> bool:
        """Whether the run has reached its end."""
        episodes = self.settings.total_episodes
        reached = self.steps >= self.total_steps or (episodes is not None and self.episodes.num_episodes >= episodes)
        return reached or self.stopped is not None

    def _agree(self) -> None:
        """What ends the run of one of several processes ends that of all, after the same update."""
        if self._num_ranks > 1:
            found = distributed.all_gather(
                "end", torch.tensor([self._interruption.signal or 0, self.stopped is not None], dtype=torch.float64)
            )
            signal_number, stopped = found.amax(0).tolist()
            self._agreed_signal = int(signal_number) or None
            if stopped and self.stopped is None:
                self.stopped = "another process ended it"

    def _at_goal(self) -> bool:
        stop_at = self.settings.stop_at
        return self.interrupted is not None or self.finished or (stop_at is not None and self.steps >= stop_at)

    def _due(self, every: int | None, before: int) -> bool:
        """Whether a multiple of ``every`` lies in (before, steps]."""
        return every is not None and self.steps // every > before // every

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """The agent as hooks want it to answer; see `Hook.answering`."""
        with ExitStack() as stack:
            for hook in self.hooks:
                stack.enter_context(hook.answering(self))
            yield

    @contextmanager
    def _saved_at_last(self) -> Iterator[None]:
        """Saves in the end, and also if anything but learning failed, or the loop was left."""
        self._learning = False
        try:
            yield
        except NonFiniteError:
            raise
        except (Exception, GeneratorExit):
            if not self._learning and self._num_ranks == 1:  # else the others do not save at the same time
                self.save("last")
            raise
        else:
            self.save("last")
        finally:
            self.tracker.status(self._status())
            self.tracker.flush()

    def _close_run(self) -> Report:
        """Lets the agent finish, once at each end of the run, and returns the closing evaluation."""
        evaluated_at, report = self._evaluated
        if self.interrupted is None and self._finished_at != self.steps:
            self.log(self._read(self.agent.finish()))
            self._finished_at = self.steps
        if self.eval_every is None:
            return Report({})
        is_done = evaluated_at == self.steps and type(self.agent).finish is Agent.finish
        if not is_done or self._evaluation_pending:  # else a hook ended the run after an evaluation, of the same agent
            report = self.evaluate()
        tested = self.test() if self.interrupted is None else Report({})
        return tested if tested.scalars else report

    def _read(self, metrics: Metrics) -> dict[str, float]:
        """Metrics of the agent as figures."""
        check_metrics(metrics)
        values = torch.zeros(len(metrics), dtype=torch.float64, device=self.env.device)
        for index, value in enumerate(metrics.values()):
            values[index] = value
        numbers = distributed.mean(values, "metrics").tolist()  # one sync for all of them
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
        shown = {"return": figures["rollout/return"]} if "rollout/return" in figures else {}
        shown["steps/s"] = timing["time/steps_per_second"]
        self.tracker.progress(self.steps, self.total_steps, shown)
        self.tracker.status(self._status())

    def _status(self) -> dict[str, Any]:
        """What status.json says; see `Tracker.status`."""
        criterion = f"eval/{self.settings.best_by or self.env.criterion}"
        return {
            "steps": self.steps,
            "total_steps": self.total_steps,
            "seconds": round(self.seconds, 3),
            "figure": criterion,
            "best": -self.best if criterion in self.errors else self.best,
            "less_is_better": sorted(self.errors),
            "figures": {**self.figures},
        }

    def _keep_if_best(self, report: Report) -> None:
        env, scalars = self.env, report.scalars
        criterion = self.settings.best_by or env.criterion
        if criterion not in scalars:
            what = "trainer.best_by is" if self.settings.best_by else "its criterion is"
            raise InputError(
                f"{type(env).__name__}.score returned {', '.join(scalars) or 'nothing'}; {what} {criterion!r}"
            )
        figure = -scalars[criterion] if criterion in report.errors else scalars[criterion]
        if figure >= self.best:
            self.best = figure
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
    batch = env.num_envs * distributed.size()
    return math.ceil(settings.epochs * env.num_examples / batch) * batch


def _require_same_spaces(what: str, env: Environment, like: Environment) -> None:
    for name in ("single_observation_space", "single_action_space"):
        here, there = getattr(env, name), getattr(like, name)
        if here != there:
            raise InputError(
                f"{what} must have the {name.removeprefix('single_').replace('_', ' ')} {there}, has {here}"
            )
