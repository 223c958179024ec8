"""Recorded episodes as an environment: nobody acts, and no simulator is needed."""

import copy
from dataclasses import replace
from typing import Any, Literal

import torch
from gymnasium.spaces import Box
from pydantic import Field, PositiveInt
from torch import Tensor

from rlcore.agent import Agent
from rlcore.checks import check_rollout
from rlcore.collector import Collector
from rlcore.environment import Environment, EnvironmentChoice, StepResult
from rlcore.errors import InputError
from rlcore.evaluation import Report, evaluating
from rlcore.experience.reading import DatasetName, read
from rlcore.experience.recorded import Judge, Recorded
from rlcore.interruption import Interruption
from rlcore.rollout import Rollout
from rlcore.seeding import restore_generator
from rlcore.trees import Tree, take

ROWS = 10_000
"""Steps that are looked at at once."""
FULL_SCALE = 1000.0
"""Range of returns that rewards are scaled to (Kostrikov et al. 2022, "Offline RL with Implicit Q-Learning")."""


class OfflineEnv(Environment):
    """Shows N steps of recorded episodes at a time, drawn at random with their true successors.

    An agent whose ``horizon`` is T is given windows of T steps, each of which ends early with its episode. One that
    follows the gradient of its reward (`Agent.differentiable`) is rewarded by the log-likelihood of what was done: that
    is behaviour cloning. An agent that normalises observations does so by the statistics of all of them.

    It is evaluated in the environment that ``env`` names; without one, by how far its actions are from those recorded.

    Args:
        settings: see `Settings`.
        device: of the episodes.
        recorded: instead of ``settings.dataset``: episodes as tensors.

    Raises:
        InputError: there is no such data set, its spaces are not those of ``env``, or neither or both of ``dataset``
            and ``recorded`` are given.
    """

    class Settings(Environment.Settings):
        """Settings of recorded episodes."""

        num_envs: PositiveInt = 256
        """N, the batch size."""
        dataset: DatasetName | None = None
        """A data set in Minari's format: its folder, or the id of a local one (``rlcore list datasets``)."""
        env: EnvironmentChoice | None = None
        """Where it is evaluated; null: nowhere."""
        best_share: float = Field(default=1.0, gt=0, le=1)
        """Of the episodes, this share is shown, those of the largest returns (%BC, Chen et al. 2021)."""
        reward_scale: float | Literal["returns"] = 1.0
        """Factor of rewards; returns: 1000 over the range of the episodes' returns, as IQL's authors do."""
        reward_shift: float = 0.0
        """Added to rewards after that."""
        reference_returns: list[float] | None = Field(default=None, min_length=2, max_length=2)
        """Returns of a random and of an expert policy, by which ``normalized_score`` is 0 and 100 (D4RL, Fu et al.
        2020); null: those that the data set names, if it does."""

    settings: Settings
    select_best = False
    num_examples: int

    def __init__(self, settings: Settings, device: torch.device | str = "cpu", recorded: Recorded | None = None):
        self.settings = settings
        if (settings.dataset is None) == (recorded is None):
            raise InputError("env.dataset: name a data set, or give OfflineEnv what was recorded")
        recorded = recorded or read(str(settings.dataset))
        spaces = recorded.observation_space, recorded.action_space
        self.inner = None if settings.env is None else settings.env.build(device)
        """Where it is evaluated."""
        if self.inner is not None:
            spaces = self.inner.single_observation_space, self.inner.single_action_space
            recorded.require_spaces(*spaces, "env.dataset")
            self.max_episode_steps = self.inner.max_episode_steps
        super().__init__(settings.num_envs, *spaces, device)
        self.recorded = _rewarded(_best(recorded, settings.best_share), settings).to(self.device)
        """What is shown."""
        self._exact = self.recorded
        self.num_examples = len(self.recorded)
        is_box = isinstance(self.single_action_space, Box)
        self.criterion = "return" if self.inner is not None else "action_error" if is_box else "agreement"
        self._generator = torch.Generator(self.device)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tree, dict[str, Any]]:
        """Shows the observations of N steps."""
        if seed is not None:
            self._generator.manual_seed(seed)
        return take(self.recorded.obs, self.recorded.place[self._drawn()]), {}

    def step(self, actions: Tensor) -> StepResult:
        """Is refused.

        Raises:
            InputError: always; rollouts come from `collector`.
        """
        raise InputError(f"env.dataset: nobody can act in recorded episodes ({self.recorded.name})")

    def draw(self, num_steps: int, progress: float = 0.0, judge: Judge | None = None) -> Rollout:
        """Windows of T steps that begin at N random ones; see `Recorded.rollout`."""
        return self.recorded.rollout(self._drawn(), num_steps, progress, judge)

    def collector(self, seed: int) -> Collector:
        """What draws rollouts."""
        return OfflineCollector(self, seed)

    def on_attach(self, agent: Agent) -> None:
        """Shows observations of float64 as such to an agent that reads them, and all of them to its normaliser."""
        self.float64 = agent.reads_float64
        if self.inner is not None:
            self.inner.on_attach(agent)
        self.recorded = self._exact if self.float64 else self._exact.as_float32()
        for rows in torch.arange(self.num_examples, device=self.device).split(ROWS):
            agent.fit_normalizer(take(self.recorded.obs, self.recorded.place[rows]))

    def evaluation(self, num_envs: int) -> "OfflineEnv":
        """A twin, which plays in so many environments if it is told where."""
        twin = copy.copy(self)
        if self.inner is not None:
            twin.inner = self.inner.evaluation(num_envs)
        return twin

    def score(self, agent: Agent, num_episodes: int, seed: int) -> Report:
        """Evaluates by playing, or by comparing actions with those recorded.

        Returns:
            As `rlcore.evaluation.play` and, with references, ``normalized_score``. Without an environment of up to
            10,000 steps, evenly spaced: ``agreement``, the share of actions that are the recorded ones, or
            ``action_error``, the root mean square of the difference of their numbers.
        """
        if self.inner is None:
            return self._compared(agent)
        self.inner.max_episode_steps, self.inner.deterministic = self.max_episode_steps, self.deterministic
        report = self.inner.score(agent, num_episodes, seed)
        if self.reference_returns is None:
            return report
        low, high = self.reference_returns
        score = 100 * (report.scalars["return"] - low) / (high - low)
        return replace(report, scalars={**report.scalars, "normalized_score": score})

    def filming(self) -> Environment:
        """A twin of where it is evaluated."""
        return super().filming() if self.inner is None else self.inner.filming()

    def close_extras(self, **kwargs: Any) -> None:
        """Closes where it is evaluated."""
        if self.inner is not None:
            self.inner.close()

    def checkpoint(self) -> dict[str, Any]:
        """The state of what draws."""
        return {"generator": self._generator.get_state()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Restores what `checkpoint` returned."""
        restore_generator(self._generator, saved["generator"])

    @property
    def reference_returns(self) -> tuple[float, float] | None:
        """Those of a random and of an expert policy, as set, or as the data set names them; None: neither does."""
        named = [self.recorded.metadata.get(f"ref_{which}_score") for which in ("min", "max")]
        low, high = self.settings.reference_returns or named
        return None if low is None or high is None else (float(low), float(high))

    def _drawn(self) -> Tensor:
        """N steps, [N] int64."""
        return torch.randint(self.num_examples, (self.num_envs,), generator=self._generator, device=self.device)

    @torch.no_grad()
    def _compared(self, agent: Agent) -> Report:
        steps = torch.linspace(0, self.num_examples - 1, min(ROWS, self.num_examples), device=self.device).long()
        with evaluating(agent):
            obs = take(self.recorded.obs, self.recorded.place[steps])
            answers, recorded = agent.predict(obs).action, self.recorded.action[steps]
        if answers.is_floating_point():
            figure = (answers - recorded).square().mean().sqrt()
        else:
            figure = (answers == recorded).view(len(steps), -1).all(1).double().mean()
        return Report({self.criterion: float(figure)})


class OfflineCollector(Collector):
    """Draws rollouts of recorded episodes, in which nobody acts."""

    env: OfflineEnv
    plays = False

    def collect(self, agent: Agent, progress: float = 0.0, interruption: Interruption | None = None) -> Rollout:
        """Draws the next rollout, of ``agent.horizon`` steps; see `Collector.collect`.

        Raises:
            InputError: the agent learns from whole episodes.
        """
        if agent.horizon is None:
            raise InputError("agent.horizon: of recorded episodes windows are drawn; set a number of steps")
        first = self.obs is None
        if first:
            self.begin_episodes(agent)
        judge = None
        if agent.differentiable:  # it is rewarded for what it would have done: that is to imitate

            def judge(obs: Tree, action: Tensor) -> Tensor:
                return agent.distribution(obs).log_prob(action)

        rollout = self.env.draw(agent.horizon, progress, judge)
        if first:
            check_rollout(rollout, self.env)
        return rollout


def _best(recorded: Recorded, share: float) -> Recorded:
    """The share of the episodes whose returns are the largest, in their order."""
    if share == 1:
        return recorded
    kept = max(1, round(share * len(recorded.lengths)))
    return recorded.episodes(recorded.returns.argsort(descending=True)[:kept].sort().values)


def _rewarded(recorded: Recorded, settings: OfflineEnv.Settings) -> Recorded:
    """With rewards scaled and shifted.

    Raises:
        InputError: all returns are the same.
    """
    scale, shift = settings.reward_scale, settings.reward_shift
    if scale == "returns":
        low, high = recorded.returns.aminmax()
        if low == high:
            raise InputError(f"env.reward_scale: returns differ in nothing, all are {low:g}; set a number")
        scale = FULL_SCALE / (high - low).item()
    return replace(recorded, reward=scale * recorded.reward + shift)
