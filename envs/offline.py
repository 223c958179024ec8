"""Recorded episodes as an environment: nobody acts, and no simulator is needed."""

import copy
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import torch
from gymnasium.spaces import Box
from pydantic import Field, PositiveInt
from torch import Tensor

from rlcore.agent import Agent
from rlcore.checks import check_rollout
from rlcore.collector import Collector
from rlcore.distributed import alone
from rlcore.env_spec import EnvSpec
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
        spec: of an agent that exists already; the episodes are then not read before they are shown.

    Raises:
        InputError: there is no such data set, its spaces are not those of ``env``, or neither or both of ``dataset``
            and ``recorded`` are given.
    """

    class Settings(Environment.Settings):
        """Settings of recorded episodes."""

        num_envs: PositiveInt = 256
        """N, the batch size."""
        dataset: DatasetName | list[DatasetName] | None = None
        """A data set in Minari's format, or several: a folder, or the id of a local one (``rlcore list datasets``)."""
        env: EnvironmentChoice | None = None
        """Where agents are evaluated; null: nowhere."""
        best_share: float = Field(default=1.0, gt=0, le=1)
        """Of the episodes that are whole, this share is shown, those of the largest returns (%BC, Chen et al. 2021)."""
        reward_scale: float | Literal["returns"] = 1.0
        """Factor of rewards; returns: 1000 over the range of the episodes' returns, as IQL's authors do."""
        reward_shift: float = 0.0
        """Added to rewards after that."""

    settings: Settings
    select_best = False

    def __init__(
        self,
        settings: Settings,
        device: torch.device | str = "cpu",
        recorded: Recorded | None = None,
        spec: EnvSpec | None = None,
    ):
        self.settings = settings
        if bool(settings.dataset) == (recorded is not None):
            raise InputError("env.dataset: name a data set, or give OfflineEnv what was recorded")
        self._given, self._agent_exists = recorded, spec is not None
        if spec is None:
            spaces = self.original.observation_space, self.original.action_space
        else:
            spaces = spec.single_observation_space, spec.single_action_space
        self._inner = None if settings.env is None else settings.env.build(device)
        if self._inner is not None and spec is None:
            spaces = self._inner.single_observation_space, self._inner.single_action_space
            self.original.require_spaces(*spaces, "env.dataset")
        super().__init__(settings.num_envs, *spaces, device)
        is_box = isinstance(self.single_action_space, Box)
        self.criterion = "action_error" if is_box else "agreement"
        if self._inner is not None:
            self.criterion = self._inner.criterion
        self._generator = torch.Generator(self.device)

    @classmethod
    def for_agent(cls, settings: Settings, device: torch.device | str, spec: EnvSpec) -> "OfflineEnv":
        """For an agent that exists already, whose evaluation elsewhere needs no episodes."""
        return cls(settings, device, spec=spec)

    @cached_property
    def original(self) -> Recorded:
        """The episodes that are shown, with rewards as they were recorded, on the CPU."""
        named, share = self.settings.dataset, self.settings.best_share
        names = [named] if isinstance(named, str) else named or []
        recorded = self._given or Recorded.joined([read(name) for name in names])
        if self._agent_exists:  # else it is compared with where agents are evaluated
            recorded.require_spaces(self.single_observation_space, self.single_action_space, "env.dataset", "the agent")
        if share == 1:
            return recorded
        among = recorded.comparable
        best = recorded.returns[among].argsort(descending=True)[: max(1, round(share * len(among)))]
        return recorded.episodes(among[best].sort().values)

    @cached_property
    def recorded(self) -> Recorded:
        """What is shown."""
        scaled = replace(self.original, reward=_scaled(self.original, self.settings))
        return (scaled if self.float64 else scaled.as_float32()).to(self.device)

    @property
    def num_examples(self) -> int:  # type: ignore[override]
        """Steps, of which an epoch has as many."""
        return len(self.original)

    @property
    def evaluated(self) -> Environment:
        """Where agents are evaluated."""
        return self if self._inner is None else self._inner

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
        raise InputError(f"env.dataset: nobody can act in recorded episodes ({self.original.name})")

    def draw(self, num_steps: int, progress: float = 0.0, judge: Judge | None = None) -> Rollout:
        """Windows of T steps that begin at N random ones; see `Recorded.rollout`."""
        return self.recorded.rollout(self._drawn(), num_steps, progress, judge)

    def collector(self, seed: int) -> Collector:
        """What draws rollouts."""
        return OfflineCollector(self, seed)

    def on_attach(self, agent: Agent) -> None:
        """Shows observations of float64 as such to an agent that reads them, and all of them to its normaliser."""
        self.float64 = agent.reads_float64
        vars(self).pop("recorded", None)
        if self._agent_exists:
            return
        if not agent.differentiable:  # it does not imitate
            self.original.require_causes("env.dataset")
        with alone():  # as each process has all of them
            for rows in torch.arange(self.num_examples, device=self.device).split(ROWS):
                agent.fit_normalizer(take(self.recorded.obs, self.recorded.place[rows]))

    def evaluation(self, num_envs: int) -> "OfflineEnv":
        """A twin, which reads the same episodes."""
        return copy.copy(self)

    @property
    def score_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Environment`."""
        return (self.criterion,)

    @torch.no_grad()
    def score(self, agent: Agent, num_episodes: int, seed: int) -> Report:
        """Compares actions with those recorded, of up to 10,000 steps, evenly spaced.

        Returns:
            ``agreement``, the share of actions that are the recorded ones; or ``action_error``, the root mean square of
            the difference of their numbers.
        """
        steps = torch.linspace(0, self.num_examples - 1, min(ROWS, self.num_examples), device=self.device).long()
        with evaluating(agent):
            obs = take(self.recorded.obs, self.recorded.place[steps])
            answers, recorded = agent.predict(obs).action, self.recorded.action[steps]
        if answers.is_floating_point():
            figure = (answers - recorded).square().mean().sqrt()
        else:
            figure = (answers == recorded).view(len(steps), -1).all(1).double().mean()
        return Report({self.criterion: float(figure)})

    def close_extras(self, **kwargs: Any) -> None:
        """Closes where agents are evaluated."""
        if self._inner is not None:
            self._inner.close()

    def checkpoint(self) -> dict[str, Any]:
        """The state of what draws."""
        return {"generator": self._generator.get_state()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Restores what `checkpoint` returned."""
        restore_generator(self._generator, saved["generator"])

    def _drawn(self) -> Tensor:
        """N steps, [N] int64."""
        return torch.randint(self.num_examples, (self.num_envs,), generator=self._generator, device=self.device)


class OfflineCollector(Collector):
    """Draws rollouts of recorded episodes, in which nobody acts."""

    env: OfflineEnv
    plays = False

    def check(self, agent: Agent) -> None:
        """Refuses an agent that learns from its own steps; see `Collector.check`."""
        if not agent.offline:
            raise InputError(
                f"{type(agent).__name__} learns from what it does itself, and nobody acts in recorded episodes; use an "
                "agent for these, as bc or iql; dqn, sac and td3 can begin with them: agent.replay_from=DATASET"
            )

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


def _scaled(recorded: Recorded, settings: OfflineEnv.Settings) -> Tensor:
    """Rewards scaled and shifted, [S].

    Raises:
        InputError: all returns are the same.
    """
    scale = settings.reward_scale
    if scale == "returns":
        low, high = recorded.returns[recorded.comparable].aminmax()
        if low == high:
            raise InputError(f"env.reward_scale: returns differ in nothing, all are {low:g}; set a number")
        scale = FULL_SCALE / (high - low).item()
    return scale * recorded.reward + settings.reward_shift
