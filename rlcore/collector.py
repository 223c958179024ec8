"""Collector: who plays, and where it is."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from rlcore.checkpoint import restored
from rlcore.checks import check_acting, check_rollout
from rlcore.errors import ContractError, EnvironmentChangedError, InputError
from rlcore.interruption import Interrupted, Interruption
from rlcore.rollout import Rollout, collect
from rlcore.seeding import TRAINING, derive_seed, rewinder
from rlcore.stateful import attributes_of_type
from rlcore.trees import Tree

if TYPE_CHECKING:
    from rlcore.agent import Agent
    from rlcore.environment import Environment


class Collector:
    """Plays an environment with an agent, and yields one rollout after another.

    It owns what goes on between two rollouts: the environment with its episodes in progress, the current observation
    and recurrent state. An environment may bring a collector of its own (`Environment.collector`): data that exists
    already is a source of rollouts, too, in which nobody acts. `Agent.learn` cannot tell.

    Args:
        env: the environment.
        seed: of the run; that of the environment is derived from it when the first rollout is collected.
    """

    plays = True
    """Whether its rollouts are episodes, whose returns are figures of the run."""

    def __init__(self, env: "Environment", seed: int = 1):
        self.env, self.seed = env, seed
        self.obs: Tree = None
        """[N, *O], the current observation; None before the first rollout."""
        self.state: Tree = None
        """Recurrent agents only: the current state."""
        self.failed = False
        """Whether a rollout is not complete, so that the environment is no longer where `obs` is from."""

    def check(self, agent: "Agent") -> None:
        """Called before the first rollout: refuses an agent that cannot learn from what is collected here.

        Raises:
            InputError: it learns from recorded episodes, and would not explore.
        """
        if agent.offline:
            name = type(agent).__name__
            raise InputError(f"{name} learns from recorded episodes and does not explore; use env.name=offline")

    def collect(self, agent: "Agent", progress: float = 0.0, interruption: Interruption | None = None) -> Rollout:
        """Plays the next rollout, of ``agent.horizon`` steps or of whole episodes.

        Args:
            agent: the agent that acts.
            progress: see `Rollout`.
            interruption: whose signal breaks off a rollout of whole episodes, which may take long.

        Raises:
            Interrupted: it was broken off; environment, agent and generators are where they were before.
            ContractError: the first rollout is not as it should be.
            EnvironmentFailure: an environment raised an error, died or hung.
        """
        first = self.obs is None
        if first:
            self.obs, _ = self.env.reset(seed=derive_seed(self.seed, TRAINING) + self.env.first)
            self.state = agent.initial_state(self.env.num_envs)
        whole_episodes = agent.horizon is None and self.env.num_examples is None
        self.failed = True
        try:
            with self._undone_by(interruption, agent) if interruption and whole_episodes else nullcontext():
                rollout = collect(agent, self.env, self.obs, agent.horizon, self.state, progress)
        except Exception as error:
            if first:  # it may be that an observation or an action is not as it should be
                try:
                    check_acting(agent, self.env, self.obs, self.state)
                except ContractError as reason:
                    raise reason from error
            raise
        self.failed = False
        if first:
            check_rollout(rollout, self.env)
        self.obs, self.state = rollout.last_obs, rollout.last_state
        return rollout

    def begin_episodes(self, agent: "Agent", *purpose: int) -> None:
        """Begins new episodes; those in progress are abandoned.

        Args:
            agent: the agent that will act in them.
            purpose: numbers that tell the seed of these episodes from others.
        """
        self.obs, _ = self.env.reset(seed=derive_seed(self.seed, TRAINING, *purpose) + self.env.first)
        self.state = agent.initial_state(self.env.num_envs)
        self.failed = False

    def checkpoint(self) -> dict[str, Any]:
        """What `restore` needs; ``env`` is None if the environment cannot be saved, or has failed."""
        env = None if self.failed else self.env.checkpoint()
        why = self.env.why_unsaved if env is None else ""
        return {"env": env, "why_unsaved": why, "obs": self.obs, "state": self.state}

    def restore(self, saved: dict[str, Any], agent: "Agent") -> bool:
        """Restores what `checkpoint` returned.

        Args:
            saved: what `checkpoint` returned.
            agent: the agent that acts here.

        Returns:
            Whether the episodes in progress go on; else the environment was not saved, or has changed, and new ones
            must begin; `Environment.why_unsaved` says why.

        Raises:
            CheckpointError: it does not fit.
        """
        if saved["env"] is None:
            self.env.why_unsaved = str(saved.get("why_unsaved", ""))
            return False
        obs, _ = self.env.reset()
        try:
            self.env.restore(saved["env"])
        except EnvironmentChangedError as error:
            self.env.why_unsaved = str(error)
            return False
        self.obs = None if saved["obs"] is None else restored(saved["obs"], obs, "obs")
        empty = None if self.obs is None else agent.initial_state(self.env.num_envs)
        self.state = restored(saved["state"], empty, "state")
        return True

    @contextmanager
    def _undone_by(self, interruption: Interruption, agent: "Agent") -> Iterator[None]:
        """A signal aborts what is played in here, and environment and generators return to where they were before."""
        before = copy.deepcopy(self.env.checkpoint())
        rewind = rewinder(generator for _, generator in attributes_of_type(agent, torch.Generator))
        try:
            with interruption.breaking():
                yield
        except Interrupted:
            if before is not None:
                self.env.restore(before)
                self.failed = False
            rewind()
            raise
