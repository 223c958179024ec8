"""Which score notices changed physics: python benchmarks/alarm.py RUN [RUN ...] [--episodes 100]

The runs are all of ``cartpole`` or all of Hopper-v5: an ensemble of agents with values, one such agent (ppo, trpo), or
one with critics (sac). For each agent and each constant of the physics, downwards and upwards, bisection finds the
weakest change at which the mean return is half of the nominal one or less. Prints the ROC area of nominal against
changed episodes, mean (least to largest) over the agents, for scores of their first steps and of all; and how soon the
alarm, at 5 % of false ones, is raised by the surprise. The step in which an episode terminates does not count: a fall
needs no detector.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn

import rlcore
from rlcore.agents.ensemble import Ensemble
from rlcore.envs.cartpole import CartPole
from rlcore.gym_environment import GymEnvironment
from rlcore.rollout import Rollout
from rlcore.uncertainty import roc_area, uncertainty
from rlcore.uncertainty.alarm import Alarm, highest_mean
from rlcore.uncertainty.alarm_report import episodes
from rlcore.uncertainty.dynamics import DynamicsEnsemble, NormalEnsemble, Standardized, with_successor

CARTPOLE = {"gravity": 9.8, "length": 0.5, "force_mag": 10.0}
HOPPER = ("gravity", "mass", "friction", "motor")
WINDOW, FALSE_ALARMS = 16, 0.05
FIRST = {"16": 16, "50": 50, "200": 200, "all": None}
Score = Callable[[Rollout], Tensor]
"""Whole episodes to a number for each step, [T, N]."""


def hopper(gravity: float = 1.0, mass: float = 1.0, friction: float = 1.0, motor: float = 1.0) -> Any:
    """Hopper-v5 with constants times these factors."""
    env = gymnasium.make("Hopper-v5")
    model: Any = env.unwrapped.model  # type: ignore[attr-defined]
    model.opt.gravity[:] *= gravity
    model.body_mass[:] *= mass
    model.body_inertia[:] *= mass
    model.geom_friction[:] *= friction
    model.actuator_gear[:] *= motor
    return env


def played(agent: Any, num: int, seed: int, name: str = "gravity", factor: float = 1.0) -> Rollout:
    """Episodes in physics one constant of which is multiplied by a factor."""
    if agent.observation_space.shape == (4,):
        return episodes(agent, CartPole(CartPole.Settings(num_envs=num, **{name: factor * CARTPOLE[name]})), seed)
    env = GymEnvironment(hopper, num_envs=num, options={name: factor})
    rollout = episodes(agent, env, seed)
    env.close()
    return rollout


def mean_return(rollout: Rollout) -> float:
    return (rollout.reward * rollout.valid).sum(0).mean().item()


def halving(agent: Any, name: str, largest: float, nominal: float, num: int) -> float | None:
    """The factor nearest to 1, up to a largest (or least) one, at which the return is halved; None if it is not."""

    def halves(exponent: float) -> bool:
        return mean_return(played(agent, num, 7, name, largest**exponent)) <= nominal / 2

    low, high = 0.0, 1.0
    if not halves(high):
        return None
    for _ in range(5):
        middle = (low + high) / 2
        low, high = (low, middle) if halves(middle) else (middle, high)
    return largest**high


def asked(function: Callable[[Tensor], Tensor], obs: Tensor) -> Tensor:
    """A function from [B, *O] to [..., B], of observations [T, N, *O]: [..., T, N]."""
    with torch.no_grad():
        return torch.cat([function(part) for part in obs.flatten(0, 1).split(10_000)], -1).unflatten(-1, obs.shape[:2])


def values(agent: Any) -> Callable[[Tensor], Tensor]:
    """What each of the K critics says of observations [B, *O], [K, B]."""
    if isinstance(agent, Ensemble):
        return lambda obs: torch.stack([member.value(obs) for member in agent.members])
    return (lambda obs: agent.value(obs)[None]) if hasattr(agent, "value") else lambda obs: agent.answers(obs)[0]


def td_errors(agent: Any, rollout: Rollout) -> Tensor:
    """r + gamma V(s') - V(s) of each critic, [K, T, N]."""
    gamma = (agent.members[0] if isinstance(agent, Ensemble) else agent).settings.gamma
    V, next_V = (asked(values(agent), obs) for obs in (rollout.obs.float(), rollout.next_obs.float()))
    reward = rollout.reward
    if getattr(agent, "reward_normalizer", None) is not None:
        reward = reward * agent.reward_normalizer.moments.scale
    return reward + gamma * ~rollout.terminated * next_V - V


class TDSurprise:
    """The surprise of temporal-difference errors, of which networks predict what they usually are after s and a."""

    def __init__(self, agent: Any, model: DynamicsEnsemble, nominal: Rollout):
        self.agent, self.model = agent, model
        known = with_successor(nominal)
        inputs, errors = self._rows(nominal)
        self.ensemble = NormalEnsemble(inputs[known.flatten()], errors[known.flatten()])

    def __call__(self, rollout: Rollout) -> Tensor:
        return self.ensemble.surprise(*self._rows(rollout)).view_as(rollout.reward)

    def _rows(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        inputs = self.model.inputs(*(x.flatten(0, 1) for x in (rollout.obs, rollout.action)))
        return inputs, td_errors(self.agent, rollout).flatten(1).T


class RandomNetwork:
    """Random-network distillation of (s, a, s') (Burda et al. 2019): how badly a network imitates a random one."""

    def __init__(self, model: DynamicsEnsemble, nominal: Rollout):
        self.model = model
        rows = self._rows(nominal)[with_successor(nominal).flatten()]
        self.scale = Standardized(rows)
        rows = self.scale(rows)
        self.target, self.learner = (
            nn.Sequential(nn.Linear(rows.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
            for _ in range(2)
        )
        optimizer = torch.optim.Adam(self.learner.parameters())
        for _ in range(5_000):
            batch = rows[torch.randint(len(rows), (256,))]
            loss = (self.learner(batch) - self.target(batch).detach()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def __call__(self, rollout: Rollout) -> Tensor:
        rows = self.scale(self._rows(rollout))
        return (self.learner(rows) - self.target(rows)).square().mean(1).view_as(rollout.reward)

    def _rows(self, rollout: Rollout) -> Tensor:
        obs, action, next_obs = (x.flatten(0, 1) for x in (rollout.obs, rollout.action, rollout.next_obs))
        return torch.cat([self.model.inputs(obs, action), (next_obs - obs).float()], 1)


def scores(agent: Any, nominal: Rollout) -> dict[str, Score]:
    """The scores to compare, those that are learned from nominal episodes."""
    found: dict[str, Score] = {}
    of = values(agent)
    if len(of(nominal.obs[0].float())) > 1:
        found["std of values"] = lambda rollout: asked(of, rollout.obs.float()).std(0, correction=0)
        found["std of TD errors"] = lambda rollout: td_errors(agent, rollout).std(0, correction=0)
    found["TD error"] = lambda rollout: td_errors(agent, rollout).mean(0).abs()
    if isinstance(agent, Ensemble):
        found["mutual information"] = lambda rollout: asked(
            lambda obs: uncertainty(agent.answers(obs)).mutual_information, rollout.obs.float()
        )
    model = DynamicsEnsemble(agent.spec, nominal)
    found["surprise of TD errors"] = TDSurprise(agent, model, nominal)
    found["RND"] = RandomNetwork(model, nominal)
    found["surprise"] = model.surprise
    return found


def before_the_end(scored: Tensor, rollout: Rollout) -> Tensor:
    """Scores, NaN after the episodes and where they terminate."""
    return scored.masked_fill(~rollout.valid | rollout.terminated, torch.nan)


def main(runs: list[str], num: int) -> None:
    areas: dict[Any, list[float]] = defaultdict(list)
    told: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for seed, run in enumerate(runs):
        agent: Any = rlcore.load(run, device="cpu")
        torch.manual_seed(seed)
        fitted, calibration, nominal = (played(agent, num, 100 * seed + part) for part in (1, 2, 3))
        is_cartpole = agent.observation_space.shape == (4,)
        found, usual = scores(agent, fitted), mean_return(nominal)
        alarm = Alarm(found["surprise"](calibration), FALSE_ALARMS, WINDOW)
        told["nominal"].append(figures(alarm, 1.0, nominal, found["surprise"](nominal)))
        for name in CARTPOLE if is_cartpole else HOPPER:
            for sign, largest in zip("-+", (1 / 32, 32) if is_cartpole else (1 / 4, 4), strict=True):
                if (factor := halving(agent, name, largest, usual, num // 8)) is None:
                    print(f"{run}: {name}{sign} never halves the return")
                    continue
                while mean_return(there := played(agent, num, 100 * seed + 4, name, factor)) > usual / 2:
                    factor **= 1.05  # bisection had fewer episodes
                change = f"{name} {sign}"
                told[change].append(figures(alarm, factor, there, found["surprise"](there)))
                for score, of in found.items():
                    pair = [before_the_end(of(rollout), rollout) for rollout in (nominal, there)]
                    for label, first in FIRST.items():
                        highest = torch.cat([highest_mean(scored[:first], WINDOW) for scored in pair])
                        areas[change, score, label].append(roc_area(highest, torch.arange(2 * num) >= num))
                line = {score: round(areas[change, score, "all"][-1], 3) for score in found}
                print(
                    f"{run}: {change} {factor:.3f}, return {mean_return(there):.0f} of {usual:.0f}: {line}", flush=True
                )
    for label in FIRST:
        print(f"\n| first steps: {label} | {' | '.join(found)} |\n|{'---|' * (len(found) + 1)}")
        for change in [name for name in told if name != "nominal"]:
            print(f"| {change} | {' | '.join(spread(areas[change, score, label]) for score in found)} |")
    print("\n| | agents | factor | return | raised | delay | length |\n|---|---|---|---|---|---|---|")
    for change, each in told.items():
        print(f"| {change} | {len(each)} | {' | '.join(spread(list(column)) for column in zip(*each, strict=True))} |")


def figures(alarm: Alarm, factor: float, rollout: Rollout, surprise: Tensor) -> tuple[float, ...]:
    """Factor, return, share with an alarm, median step of the first one and median length of the episode."""
    first, length = alarm.first(surprise), rollout.valid.sum(0)
    delay = first[first > 0].double().quantile(0.5).item() if first.any() else math.nan
    raised = (first > 0).double().mean().item()
    return factor, mean_return(rollout), raised, delay, length.double().quantile(0.5).item()


def spread(each: list[float]) -> str:
    """Mean (least to largest)."""
    return f"{sum(each) / len(each):.4g} ({min(each):.3g} to {max(each):.3g})" if each else "-"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--episodes", type=int, default=100)
    given = parser.parse_args()
    main(given.runs, given.episodes)
