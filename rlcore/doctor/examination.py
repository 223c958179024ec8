"""What is looked at when a run is examined: its figures, its agent, some steps that it plays, its data."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rlcore.agent import Agent
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.evaluation import evaluating
from rlcore.optimizers import LONG_AGO
from rlcore.returns import discounted_returns
from rlcore.rollout import Rollout, Step
from rlcore.runs.curves import Curve
from rlcore.seeding import rewinder
from rlcore.spaces import Logits
from rlcore.stateful import attributes_of_type
from rlcore.trainer import Trainer
from rlcore.trees import Tree, concat, leaves, num_rows, take

STEPS = 2048
"""Steps that are played for an examination, summed over environments: enough for a dozen minibatches."""
MOST_STEPS, MOST_SECONDS = 40_000, 10.0
"""Of the steps that are played until some episodes have ended, and of the time that this takes."""
ENOUGH_EPISODES = 8
ROWS = 512
"""Observations that the networks are shown."""
RANDOM_EPISODES = 40


class Unseen(Exception):
    """What a check asks for is not there; it is not made, and the reason is told."""


class Finding(NamedTuple):
    """A defect that a check has found."""

    evidence: str
    """What shows it, with numbers."""
    remedy: str
    """What to change: a setting, where there is one."""
    name: str = ""
    """Of the check; filled in by who asks it."""

    def __str__(self) -> str:
        """One line."""
        return f"{self.name}: {self.evidence}; remedy: {self.remedy}"


class Episodes(NamedTuple):
    """K episodes that ended."""

    returns: NDArray[np.float64]  # [K]
    lengths: NDArray[np.int64]  # [K]
    terminated: NDArray[np.bool_]  # [K], whether nothing followed, rather than a cut


class Layer(NamedTuple):
    """What an activation function returned of B rows."""

    name: str
    """``relu``, ``tanh``, ``sigmoid``."""
    out: Tensor
    """[B, F], or [B, C, ...] with a channel as a unit."""

    @property
    def units(self) -> Tensor:
        """[F, rest]: all that each unit returned."""
        return self.out.movedim(1, 0).flatten(1)


class Examination:
    """A run as a check sees it. What is not there raises `Unseen`, so that a check need not ask first.

    Nothing of the run changes: module modes, buffers and generators are put back.

    Args:
        trainer: with the agent that is examined.
        curves: the figures of the run by tag.
        start: the agent's parameters before the first update, by name; empty if they are not known.
        rollouts: what the agent learns from, the latest last; empty for a data set.
        progress: share of the run that is done, [0, 1].
        random: what `random_returns` played before, [K]; None: it plays when it is asked for.
        complete: whether the rollouts begin with a reset, so that no episode lacks its beginning.
    """

    def __init__(
        self,
        trainer: Trainer,
        curves: Mapping[str, Curve],
        start: Mapping[str, Tensor],
        rollouts: Sequence[Rollout],
        progress: float,
        random: NDArray[np.float64] | None = None,
        complete: bool = True,
    ):
        self.trainer, self.curves, self.start, self.progress = trainer, curves, start, progress
        self._rollouts, self._complete, self.random = list(rollouts), complete, random

    @property
    def agent(self) -> Agent:
        """The agent."""
        return self.trainer.agent

    @property
    def env(self) -> Any:
        """Where it learns; see `Environment`."""
        return self.trainer.env

    def require_progress(self, share: float = 0.5) -> None:
        """Raises `Unseen` unless that share of the run is done: what a run will learn later is no defect."""
        if self.progress < share:
            raise Unseen(f"{self.progress:.0%} of the run is too early to tell, {share:.0%} is not")

    def curve(self, tag: str) -> Curve:
        """A figure of the run, by tag."""
        if tag not in self.curves:
            raise Unseen(f"no figure {tag}")
        return self.curves[tag]

    def setting(self, name: str) -> Any:
        """A setting of the agent."""
        if not hasattr(self.agent.settings, name):
            raise Unseen(f"no setting agent.{name}")
        return getattr(self.agent.settings, name)

    @property
    def rollouts(self) -> list[Rollout]:
        """What the agent learns from, of some of its steps."""
        if not self._rollouts:
            raise Unseen("no steps were played" if self.env.num_examples is None else "a data set has no episodes")
        return self._rollouts

    @cached_property
    def obs(self) -> Tree:
        """Observations that it meets in training, [B, *O], B at most `ROWS`."""
        if self.env.num_examples is not None:
            return self.env.inputs(slice(0, ROWS))
        rows = [rollout.rows(rollout.obs) for rollout in self.rollouts[-ROWS:]]
        spread = [
            take(one, torch.linspace(0, num_rows(one) - 1, -(-ROWS // len(rows))).long().unique()) for one in rows
        ]
        return take(concat(spread), slice(0, ROWS))

    @cached_property
    def seen(self) -> Tensor:
        """The numbers in these that the networks see, [B, D]: scaled and normalised; without masks."""
        with self.undisturbed():
            seen = getattr(self.agent, "normalized", getattr(self.env, "scaled", lambda obs: obs))(self.obs)
        parts = seen.values() if isinstance(seen, dict) else [seen]
        numbers = [part.flatten(1) for part in parts if isinstance(part, Tensor) and part.is_floating_point()]
        if not numbers:
            raise Unseen("observations are no numbers")
        return torch.cat(numbers, 1).cpu()

    @cached_property
    def layers(self) -> list[Layer]:
        """What the activation functions return while the agent answers to `obs`, in order; not those of its critics.

        A value that is nearly the same everywhere, as where all goes well, saturates the layer before it.
        """
        with self.undisturbed(), _Activations() as found:
            try:
                self.agent.distribution(self.obs)
            except InputError:
                self.agent.predict(self.obs, self.agent.initial_state(num_rows(self.obs)))
        if not found.layers:
            raise Unseen("no activations were seen")
        return found.layers

    def outputs(self, obs: Tree) -> Tensor:
        """What the agent says of observations in evaluation mode, [B, D] float32: `Agent.answers`, or its actions."""
        with self.undisturbed():
            try:
                answers = self.agent.answers(obs)
                return torch.cat([part.movedim(1, 0).flatten(1).float() for part in leaves(answers)], 1)
            except InputError:
                action = self.agent.predict(obs, self.agent.initial_state(num_rows(obs))).action
                return action.reshape(num_rows(obs), -1).float()

    def outputs_again(self, obs: Tree) -> Tensor:
        """As `outputs`, by other random numbers if it draws any."""
        with self.undisturbed():
            torch.rand(1, device=next(leaves(obs)).device)
            return self.outputs(obs)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """The agent in evaluation mode, without graphs; modes, buffers and generators are put back."""
        kept = [(buffer, buffer.clone()) for buffer in self.agent.buffers()]
        try:
            with evaluating(self.agent):
                yield
        finally:
            with torch.no_grad():
                for buffer, before in kept:
                    buffer.copy_(before)

    @cached_property
    def movement(self) -> float:
        """How far the weights have moved from where they began, in units of the length that they began with."""
        pairs = [(p.detach(), self.start[name]) for name, p in self.agent.named_parameters() if name in self.start]
        weights = [(now, then) for now, then in pairs if now.ndim > 1 and now.shape == then.shape]
        length = math.sqrt(sum(then.double().square().sum().item() for _, then in weights))
        if not length:
            raise Unseen("the weights that it began with are not known, or 0")
        return math.sqrt(sum((now - then).double().square().sum().item() for now, then in weights)) / length

    @cached_property
    def num_updates(self) -> int:
        """Steps of the optimizers so far, those of the busiest one."""
        optimizers = [one for _, one in attributes_of_type(self.agent, torch.optim.Optimizer)]
        if not optimizers:
            raise Unseen("the agent has no optimizer")
        counts = [int(state["step"]) for one in optimizers for state in one.state.values() if "step" in state]
        if not self.agent.differentiable or 0 < max(counts, default=0) < LONG_AGO:
            return max(counts, default=0)
        return round(self.progress * self.trainer.total_steps / self.env.num_envs)  # not all optimizers count

    @cached_property
    def gamma(self) -> float:
        """The discount."""
        return float(self.setting("gamma"))

    @cached_property
    def rewards(self) -> list[Tensor]:
        """The rewards that are learned from, normalised if they are, [T, N] of each rollout."""
        normalizer = getattr(self.agent, "reward_normalizer", None)
        with torch.no_grad():
            return [rollout.reward if normalizer is None else normalizer(rollout) for rollout in self.rollouts]

    @cached_property
    def targets(self) -> Tensor:
        """Discounted returns to go of these, [B], where an episode goes on cut at the last step that was played."""
        flags = [(rollout.terminated, rollout.truncated) for rollout in self.rollouts]
        if self.rollouts[0].ragged:
            each = [
                rollout.rows(discounted_returns(reward, *flag, self.gamma))
                for rollout, reward, flag in zip(self.rollouts, self.rewards, flags, strict=True)
            ]
            return torch.cat(each)
        terminated, truncated = (torch.cat(column) for column in zip(*flags, strict=True))
        return discounted_returns(torch.cat(self.rewards), terminated, truncated, self.gamma).flatten()

    @cached_property
    def episodes(self) -> Episodes:
        """The episodes that ended in the rollouts."""
        if self.env.num_examples is not None:
            raise Unseen("a data set has no episodes")
        return episodes_of(self.rollouts, self._complete)

    @property
    def random_returns(self) -> NDArray[np.float64]:
        """Returns of episodes of random actions where the agent learns, [K], K >= 2; they are played once."""
        if not self.trainer.collector.plays or self.agent.differentiable:
            raise Unseen("nothing is played")
        if self.random is None:
            self.random = random_returns(self.env)
        if len(self.random) < 2:
            raise Unseen("no episodes of random actions ended in time")
        return self.random

    @property
    def knows_nothing(self) -> str | None:
        """How the agent is seen to be no better than one that has learned nothing; None if it is better.

        By the latest ``rollout/return`` and that of random actions, with twice the error of the latter's mean.
        """
        random = self.random_returns
        late = self.curve("rollout/return").value[-3:].mean()
        error = 2 * random.std() / math.sqrt(len(random))
        if late > random.mean() + max(error, 1e-3 * abs(random.mean())):
            return None
        return f"rollout/return is {late:.4g}, that of random actions {random.mean():.4g} +- {error:.2g}"

    @property
    def learned_nothing(self) -> str | None:
        """As `knows_nothing`; of supervised learning, how the loss is near that of a guess, or has not fallen."""
        if not self.agent.differentiable:
            return self.knows_nothing
        loss, space = self.curve("train/loss"), self.agent.action_space
        if isinstance(space, Logits):
            guess = math.log(math.prod(space.shape))
            return None if loss.last < 0.75 * guess else f"train/loss is {loss.last:.3g}, that of a guess {guess:.3g}"
        if loss.last < loss.first - 0.1 * abs(loss.first):
            return None
        return f"train/loss is {loss.last:.4g}, was {loss.first:.4g} at first"

    @cached_property
    def highest_entropy(self) -> float:
        """The entropy of a policy that draws actions uniformly, nats."""
        space = self.agent.action_space
        if isinstance(space, Discrete):
            return math.log(space.n)
        if isinstance(space, MultiDiscrete):
            return float(np.log(space.nvec).sum())
        if isinstance(space, MultiBinary):
            return math.prod(space.shape) * math.log(2)
        raise Unseen("the entropy of numbers has no bound")


def play(trainer: Trainer) -> list[Rollout]:
    """Rollouts of a trainer that is examined and then thrown away, as the agent acts while learning.

    At least `STEPS`; and until some episodes have ended, within `MOST_STEPS` and `MOST_SECONDS`.
    """
    agent, rollouts, num, ended = trainer.agent, list[Rollout](), 0, 0
    if agent.differentiable:
        return []
    agent.train()
    start = time.monotonic()
    while num < STEPS or ended < ENOUGH_EPISODES:
        if num >= MOST_STEPS or (rollouts and time.monotonic() > start + MOST_SECONDS):
            break
        rollouts.append(trainer.collector.collect(agent))
        num += rollouts[-1].num_steps
        ended += int(rollouts[-1].rows(rollouts[-1].done).sum())
    return rollouts


def episodes_of(rollouts: Sequence[Rollout], complete: bool = True) -> Episodes:
    """The episodes that ended in rollouts, which follow each other unless they are of whole episodes.

    Args:
        rollouts: in order.
        complete: whether the first one begins with a reset; else the first episode of each environment is left out.
    """
    found: list[tuple[float, int, bool]] = []
    if rollouts[0].ragged:
        parts = [(r.reward * r.valid, r.terminated & r.valid, r.done & r.valid, True) for r in rollouts]
    else:
        columns = zip(*((r.reward, r.terminated, r.done) for r in rollouts), strict=True)
        reward, terminated, done = map(torch.cat, columns)
        parts = [(reward, terminated, done, complete)]
    for reward, terminated, done, whole in parts:
        sums = reward.detach().double().cumsum(0).cpu()
        for n in range(reward.shape[1]):
            ends = done[:, n].nonzero().squeeze(1).tolist()
            for start, end in list(zip([-1, *ends], ends, strict=False))[0 if whole else 1 :]:
                before = sums[start, n].item() if start >= 0 else 0.0
                found.append((sums[end, n].item() - before, end - start, bool(terminated[end, n])))
    returns, lengths, ends_so = zip(*found, strict=True) if found else ((), (), ())
    return Episodes(np.array(returns), np.array(lengths, np.int64), np.array(ends_so, bool))


def random_returns(env: Environment) -> NDArray[np.float64]:
    """Returns of episodes of random actions in a twin of an environment, [K], within `MOST_STEPS` and `MOST_SECONDS`.

    Raises:
        Unseen: there can be no twin.
    """
    if getattr(getattr(env, "settings", None), "single_instance", False):
        raise Unseen("there can be no second environment, in which to act at random")
    rewind, rollout, start, ended = rewinder([]), Rollout(), time.monotonic(), 0
    twin = env.evaluation(min(env.num_envs, RANDOM_EPISODES))
    try:
        torch.manual_seed(0)
        twin.action_space.seed(0)
        twin.reset(seed=0)
        while ended < RANDOM_EPISODES and len(rollout) * twin.num_envs < MOST_STEPS:
            if time.monotonic() > start + MOST_SECONDS:
                break
            action = twin.random_actions()
            _, reward, terminated, truncated, _ = twin.step(action)
            rollout.append(None, Step(action), reward, terminated, truncated, {})
            ended += int((terminated | truncated).sum())
    finally:
        rewind()
        twin.close()
    return episodes_of([rollout]).returns


class _Activations(TorchDispatchMode):
    """Keeps what activation functions return, as modules or as functions, of networks of any kind."""

    names = ("relu", "tanh", "sigmoid")

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Layer] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_")
        if name in self.names and out.ndim > 1:
            self.layers.append(Layer(name, out.detach().float().cpu()))
        return out
