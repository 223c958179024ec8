"""Evaluation: reports, and playing the first episodes of N environments."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt, model_validator
from torch import Tensor

from rlcore import registry, settings
from rlcore.agent import Agent
from rlcore.errors import InputError
from rlcore.interruption import Interrupted, Interruption
from rlcore.seeding import ACTING, EVALUATION, derive_seed, rewinder, seed_everything
from rlcore.settings import Choice
from rlcore.stateful import attributes_of_type
from rlcore.statistics import numbers_in
from rlcore.trees import where

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rlcore.environment import Environment

VIDEOS_FOLDER = "videos"
MOST_EVALUATED_AT_ONCE = 1024
"""Environments of an evaluation; of more episodes, each plays several."""
CUT = "some episodes of {what} had not ended after {steps:,} steps and were cut; see trainer.max_episode_steps"


class Embedding(NamedTuple):
    """Points for TensorBoard's projector."""

    vectors: Tensor
    """[n, D] float32, on the CPU."""
    labels: list[str]
    """n labels."""
    images: Tensor | None = None
    """[n, C, H, W] in [0, 1], on the CPU."""


class Film(NamedTuple):
    """An episode to look at."""

    frames: list[NDArray[np.uint8]]
    """RGB frames [H, W, 3]: of the episode's beginning, and after each step."""
    fps: float
    """Frames per second."""
    folder: str = VIDEOS_FOLDER
    """Folder of the file, within the run's."""


@dataclass(frozen=True)
class Report:
    """The results of an evaluation."""

    scalars: dict[str, float]
    """Figures by name: ``return``, ``accuracy``."""
    text: str = ""
    """Text for the terminal."""
    figures: "dict[str, Figure]" = field(default_factory=dict)
    """Figures for TensorBoard and the run's ``figures/``."""
    columns: dict[str, list[float]] = field(default_factory=dict)
    """One number per episode or example."""
    embedding: Embedding | None = None
    """Points for TensorBoard's projector."""
    films: dict[str, Film] = field(default_factory=dict)
    """Films for TensorBoard and the run's ``videos/``."""
    remarks: tuple[str, ...] = ()
    """What a user should know of it, a line each."""
    errors: tuple[str, ...] = ()
    """Names of the scalars of which less is better."""

    def tagged(self, prefix: str) -> dict[str, float]:
        """The scalars as ``prefix/name``."""
        return {f"{prefix}/{name}": value for name, value in self.scalars.items()}


Evaluated = tuple[Report, list[tuple[str, Report]]]
"""The results of an evaluation, and the reports made after it, by name."""


class ReportMaker(ABC):
    """Base of the registered reports: constructed with its own ``Settings``, and called after an evaluation."""

    class Settings(settings.Settings):
        """Settings of a report without any."""

    def __init__(self, settings: settings.Settings):
        self.settings = settings

    def check(self, agent: Agent, env: "Environment") -> None:  # noqa: B027 (a report may fit all)
        """Called before training: refuses what no report can be made of.

        Args:
            agent: the agent.
            env: its environment, or the twin for evaluation.

        Raises:
            InputError: says what the report needs.
        """

    @abstractmethod
    def __call__(self, agent: Agent, env: "Environment", evaluation: Report) -> Report:
        """Makes the report.

        Args:
            agent: the agent that was evaluated.
            env: its environment's twin for evaluation.
            evaluation: the results.
        """


class ReportChoice(Choice):
    """A report by name, with its settings: ``{name: episodes, bins: 10}``."""

    registry = registry.reports

    def make(self) -> ReportMaker:
        """The report maker, to be called."""
        return registry.reports[self.name](self.settings)


class Evaluator:
    """Evaluates an agent again and again, in the same episodes.

    Args:
        env: an environment, whose twin (`Environment.evaluation`) is made when it is first needed.
        num_episodes: of one evaluation.
        seed: of the run; that of the episodes is derived from it.
        reports: made after each evaluation.
        num_envs: of the twin; None: as many as episodes, at most `MOST_EVALUATED_AT_ONCE`.
        deterministic: evaluate the agent's best actions, not those that it takes while learning.
    """

    def __init__(
        self,
        env: "Environment",
        num_episodes: int,
        seed: int,
        reports: Sequence[ReportChoice] = (),
        num_envs: int | None = None,
        deterministic: bool = True,
    ):
        self.source, self.num_episodes, self.seed = env, num_episodes, seed
        self.num_envs, self.deterministic = num_envs, deterministic
        self.reports = [(choice.name, choice.make()) for choice in reports]
        self.env: Environment | None = None
        """The twin, once it is made."""
        self.test_env: Environment | None = None
        """The twin for the test at the end, once it is made; see `Environment.test`."""

    def check(self, agent: Agent) -> None:
        """Raises an InputError if a report cannot be made of the agent in this environment."""
        for _, report in self.reports:
            report.check(agent, self.source)

    @property
    def known_names(self) -> "Sequence[str] | None":
        """The names of the figures of an evaluation, if they are known before; see `Environment.score_names`."""
        bases = type(self.source).__mro__
        names, score = (next(kind for kind in bases if name in vars(kind)) for name in ("score_names", "score"))
        return self.source.score_names if issubclass(names, score) else None

    def make_env(self, num_episodes: int) -> "Environment":
        """A twin for the evaluation of that many episodes."""
        return self._set_up(self.source.evaluation(self._num_envs(num_episodes)))

    def make_test_env(self, num_episodes: int) -> "Environment | None":
        """A twin for the test at the end, of that many episodes; None if there is no other than for evaluation."""
        twin = self.source.test(self._num_envs(num_episodes))
        return None if twin is None else self._set_up(twin)

    def make(self) -> "Environment":
        """Makes `env`, unless that is done."""
        if self.env is None:
            self.env = self.make_env(self.num_episodes)
        return self.env

    def make_test(self) -> "Environment | None":
        """Makes `test_env`, unless that is done."""
        if self.test_env is None:
            self.test_env = self.make_test_env(self.num_episodes)
        return self.test_env

    def __call__(self, agent: Agent, interruption: Interruption) -> "Evaluated | None":
        """Evaluates, and leaves training bit-identical.

        Args:
            agent: the agent.
            interruption: whose signal breaks off.

        Returns:
            The results and the reports by name; None if it was broken off.
        """
        return self._evaluated(self.make, agent, interruption)

    def test(self, agent: Agent, interruption: Interruption) -> "Evaluated | None":
        """As a call, but in the twin for the test at the end; also None if there is none."""
        return self._evaluated(self.make_test, agent, interruption)

    def _evaluated(
        self, make: "Callable[[], Environment | None]", agent: Agent, interruption: Interruption
    ) -> "Evaluated | None":
        found = None
        with suppress(Interrupted), preserved(agent):  # making the twin may draw random numbers
            env = make()
            if env is not None and interruption.signal is None:
                with interruption.breaking():
                    report = env.score(agent, self.num_episodes, derive_seed(self.seed, EVALUATION))
                    found = report, [(name, make_report(agent, env, report)) for name, make_report in self.reports]
        return found if interruption.signal is None else None

    def _num_envs(self, num_episodes: int) -> int:
        return self.num_envs or min(num_episodes, MOST_EVALUATED_AT_ONCE)

    def _set_up(self, twin: "Environment") -> "Environment":
        twin.max_episode_steps = self.source.max_episode_steps
        twin.deterministic = self.deterministic
        return twin

    def close(self) -> None:
        """Closes the environments, with any processes they have."""
        for env in (self.env, self.test_env, self.source):
            if env is not None:
                env.close()


@contextmanager
def evaluating(agent: Agent) -> Iterator[None]:
    """Evaluation mode without graphs, which leaves training bit-identical; see `preserved`."""
    with preserved(agent), torch.no_grad():
        agent.eval()
        yield


@contextmanager
def preserved(agent: Agent) -> Iterator[None]:
    """Restores module modes and random generators at the end."""
    modes = {module: module.training for module in agent.modules()}
    rewind = rewinder(generator for _, generator in attributes_of_type(agent, torch.Generator))
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        rewind()


def play(agent: Agent, env: "Environment", num_episodes: int, seed: int, deterministic: bool = True) -> Report:
    """Plays episodes with the agent's best answers.

    Each of the N environments contributes its first ceil(num_episodes / N) episodes: taking the first ones to end
    would favour short ones. An episode that has not ended after ``env.max_episode_steps`` counts as it is then.

    Args:
        agent: the agent, which plays by `Agent.predict`.
        env: a twin for evaluation (`Environment.evaluation`); it is reset.
        num_episodes: at least this many.
        seed: of the environments and of any random numbers that the agent draws.
        deterministic: False: with the answers of `Agent.act`, by which it learns.

    Returns:
        ``return`` and ``length`` (mean), ``return_std``, ``return_min``, ``return_max``, the 95 % interval of the mean
        ``return_low`` and ``return_high``; columns ``return`` and ``length``. Numbers in the ``info`` of the last steps
        of episodes, as ``is_success``: their means over the episodes that have them, and columns, by their names.
    """
    answer = agent.predict if deterministic else agent.act
    quota = math.ceil(num_episodes / env.num_envs)
    returns: list[list[float]] = [[] for _ in range(env.num_envs)]
    lengths: list[list[float]] = [[] for _ in range(env.num_envs)]
    infos: list[list[dict[str, float]]] = [[] for _ in range(env.num_envs)]
    any_cut, num_resets = False, 0
    with evaluating(agent):
        seed_everything(derive_seed(seed, ACTING))
        while min(map(len, returns)) < quota:  # again only if episodes were cut: their environments need a reset
            obs, _ = env.reset(seed=seed if not num_resets else derive_seed(seed, num_resets))
            num_resets += 1
            state = initial_state = agent.initial_state(env.num_envs)
            running = torch.zeros(2, env.num_envs, dtype=torch.float64, device=env.device)  # return and length so far
            waiting = {n for n, episodes in enumerate(returns) if len(episodes) < quota}
            while waiting:
                step = answer(obs, state)
                obs, reward, terminated, truncated, info = env.step(step.action)
                done = terminated | truncated
                running[0] += reward
                running[1] += 1
                if initial_state is not None:
                    state = where(done, initial_state, step.state)
                cut = ~done & (running[1] == env.max_episode_steps)
                ended = (done | cut).nonzero().squeeze(1)
                numbers = (running[:, ended].T.tolist(), cut[ended].tolist())
                for n, (total, length), was_cut in zip(ended.tolist(), *numbers, strict=True):
                    if n in waiting:
                        returns[n].append(total)
                        lengths[n].append(length)
                        infos[n].append(numbers_in(info, n))
                        any_cut |= was_cut
                        if was_cut or len(returns[n]) == quota:
                            waiting.remove(n)
                running *= ~done
    reported = list(chain(*infos))
    names = sorted({name for numbers in reported for name in numbers} - {"return", "length"})
    columns = {name: [numbers.get(name, math.nan) for numbers in reported] for name in names}
    columns |= {"return": list(chain(*returns)), "length": list(chain(*lengths))}
    scores = torch.tensor(columns["return"], dtype=torch.float64)
    low, high = bootstrap_interval(scores)
    remarks = (CUT.format(what="an evaluation", steps=env.max_episode_steps),) if any_cut else ()
    return Report(
        scalars={
            **{name: float(np.nanmean(columns[name])) for name in names},
            "return": scores.mean().item(),
            "return_std": scores.std(correction=0).item(),
            "return_min": scores.min().item(),
            "return_max": scores.max().item(),
            "return_low": low,
            "return_high": high,
            "length": sum(columns["length"]) / len(scores),
        },
        remarks=remarks,
        columns=columns,
    )


def bootstrap_interval(x: Tensor, num_draws: int = 2000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean, by percentiles (Efron 1979).

    Args:
        x: [n].
        num_draws: resamples of n with replacement, always the same ones.
    """
    generator = torch.Generator().manual_seed(0)
    means = x.cpu()[torch.randint(len(x), (num_draws, len(x)), generator=generator)].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return low, high


class EpisodesReport(ReportMaker):
    """Each episode's return and length, and a histogram of the returns."""

    class Settings(settings.Settings):
        """Settings of the report."""

        bins: PositiveInt = 20
        """Bins of the histogram."""

    settings: Settings

    def check(self, agent: Agent, env: "Environment") -> None:
        """See `ReportMaker`."""
        if env.num_examples is not None:
            raise InputError("report episodes: a data set's evaluation has no episodes")

    def __call__(self, agent: Agent, env: "Environment", evaluation: Report) -> Report:
        """Makes the report; see `ReportMaker`."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        if "length" not in evaluation.columns:
            raise InputError("report episodes: this environment's evaluation has no episodes")
        axes: Any = figure.subplots()
        axes.hist(evaluation.columns["return"], bins=self.settings.bins)
        axes.set(xlabel="return of an episode", ylabel="episodes")
        lines = ["episode      return  length"]
        rows = zip(evaluation.columns["return"], evaluation.columns["length"], strict=True)
        lines += [f"{n:7d}  {score:10.2f}  {int(length):6d}" for n, (score, length) in enumerate(rows, 1)]
        return Report(scalars={}, text="\n".join(lines), figures={"episodes": figure})


class NormalizedScoreReport(ReportMaker):
    """The return on a scale where a random policy has 0 and an expert 100 (D4RL, Fu et al. 2020)."""

    class Settings(settings.Settings):
        """Settings of the report."""

        random: float
        """Return of a random policy."""
        expert: float
        """Return of an expert."""

        @model_validator(mode="after")
        def _check_range(self) -> "NormalizedScoreReport.Settings":
            if self.random == self.expert:
                raise InputError(f"expert: must differ from random={self.random:g}")
            return self

    settings: Settings

    def check(self, agent: Agent, env: "Environment") -> None:
        """See `ReportMaker`."""
        if env.criterion != "return":
            raise InputError("report normalized_score: this environment's evaluation has no returns")

    def __call__(self, agent: Agent, env: "Environment", evaluation: Report) -> Report:
        """Makes the report: ``mean``, and the 95 % interval ``low`` and ``high``; see `ReportMaker`."""
        s, tags = self.settings, {"mean": "return", "low": "return_low", "high": "return_high"}
        scores = {
            name: 100 * (evaluation.scalars[tag] - s.random) / (s.expert - s.random) for name, tag in tags.items()
        }
        return Report(scores, f"normalized score: {scores['mean']:.1f} [{scores['low']:.1f}, {scores['high']:.1f}]")
