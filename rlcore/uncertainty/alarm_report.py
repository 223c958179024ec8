"""The report ``alarm``: whether a surprised model of the physics notices that they have changed."""

import math
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from rlcore import settings
from rlcore.agent import Agent
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.evaluation import Report, ReportMaker, evaluating, preserved
from rlcore.rollout import Rollout, collect_episodes
from rlcore.seeding import ACTING, derive_seed, seed_everything
from rlcore.settings import Seed, with_changes
from rlcore.uncertainty import roc_area
from rlcore.uncertainty.alarm import Alarm, highest_mean
from rlcore.uncertainty.dynamics import DynamicsEnsemble, require_numbers


class AlarmReport(ReportMaker):
    """Plays where the agent was trained and in other physics, and shows where an alarm is raised.

    A `DynamicsEnsemble` is fitted to one episode of each environment of the evaluation, and an `Alarm` to its surprise
    in as many more. The table is of others.
    """

    class Settings(settings.Settings):
        """Settings of the report."""

        changed: list[dict[str, Any]] = Field(min_length=1)
        """Other physics, each as the settings of the environment that differ: ``[{gravity: 40}, {length: 2}]``."""
        false_alarms: float = Field(default=0.05, gt=0, lt=1)
        """Share of nominal episodes in which the alarm may be raised."""
        window: PositiveInt = 16
        """Steps over which surprise is averaged."""
        members: PositiveInt = 5
        """Networks that predict the next observation."""
        num_updates: PositiveInt = 10_000
        """Steps of their optimizer."""
        seed: Seed = 1
        """Seed of the episodes and the networks."""

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        if env.num_examples is not None:
            raise InputError("report alarm: a data set has no physics that could change")
        require_numbers(env)
        for change in self.settings.changed:
            with_changes(env.settings, change, "report alarm: changed")

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """Makes the report; see `rlcore.evaluation.ReportMaker`.

        Returns:
            Of ``nominal`` episodes and of each of the others, e.g. ``gravity=40_raised``: ``return``, the mean;
            ``raised``, the share with an alarm; ``delay``, the median of the step in which it is first raised, NaN if
            never; ``roc_area``, the probability that an episode surprises more than one of those of the threshold.

        Raises:
            InputError: a changed setting is wrong, observations are not numbers, or there are too few episodes for the
                share of false alarms.
        """
        s = self.settings
        self.check(agent, env)
        with preserved(agent):
            fitted, calibration = (episodes(agent, env, derive_seed(s.seed, part)) for part in range(2))
            seed_everything(derive_seed(s.seed, ACTING))
            model = DynamicsEnsemble(env, fitted, s.members, num_updates=s.num_updates)
        usual = model.surprise(calibration)
        alarm = Alarm(usual, s.false_alarms, s.window)
        lines = [f"{'':<24}  {'return':>10}  {'raised':>7}  {'delay':>7}  {'ROC area':>8}"]
        scalars: dict[str, float] = {}
        for number, change in enumerate([{}, *s.changed], 2):
            name = ",".join(f"{key}={value}" for key, value in change.items()) or "nominal"
            physics = with_changes(env.settings, change, "report alarm: changed")
            other = type(env).for_agent(physics, env.device, agent.spec)
            other.max_episode_steps, other.float64 = env.max_episode_steps, env.float64
            played = episodes(agent, other, derive_seed(s.seed, number))
            other.close()
            found = _figures(alarm, played, model.surprise(played), usual)
            scalars |= {f"{name}_{key}": value for key, value in found.items()}
            score, raised, delay, area = found.values()
            lines.append(f"{name:<24}  {score:10.1f}  {raised:7.1%}  {delay:7.0f}  {area:8.3f}")
        return Report(scalars, "\n".join(lines))


def episodes(agent: Agent, env: Environment, seed: int) -> Rollout:
    """One episode in each environment, with the agent's best answers; random generators stay as they are."""
    with evaluating(agent):
        seed_everything(derive_seed(seed, ACTING))
        obs, _ = env.reset(seed=seed)
        return collect_episodes(agent, env, obs, agent.initial_state(env.num_envs), deterministic=True)


def _figures(alarm: Alarm, played: Rollout, surprise: Tensor, usual: Tensor) -> dict[str, float]:
    """What the report tells of episodes, from their surprise and that of those that set the threshold, [T, N]."""
    first = alarm.first(surprise)
    highest = torch.cat([highest_mean(x, alarm.window) for x in (usual, surprise)])
    return {
        "return": played.reward.mul(played.valid).sum(0).mean().item(),
        "raised": (first > 0).double().mean().item(),
        "delay": first[first > 0].double().quantile(0.5).item() if first.any() else math.nan,
        "roc_area": roc_area(highest, torch.arange(len(highest)) >= usual.shape[1]),
    }
