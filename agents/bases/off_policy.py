"""What the agents that learn from a replay have in common."""

from abc import abstractmethod
from itertools import chain

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from rlcore.agent import Metrics
from rlcore.agents.bases.exploration import random_actions
from rlcore.agents.bases.transitions import TransitionAgent
from rlcore.device import choose_device
from rlcore.distributed import rank, share, size
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.experience.reading import DatasetName, read
from rlcore.replay import TransitionReplay
from rlcore.rollout import Rollout, Step
from rlcore.trees import Tree

CHUNK = 10_000
"""Rows that are added to a replay at once."""


class OffPolicyAgent(TransitionAgent):
    """Keeps what it did in a replay, and learns from batches of it; a subclass explores, and updates its networks.

    What is kept is as the environment gave it. Observations and rewards are normalised when they are drawn, by the
    statistics of that time.
    """

    class Settings(TransitionAgent.Settings):
        """Settings of an agent with a replay."""

        horizon: PositiveInt = 1
        """T, steps in each environment between two calls of `learn`."""
        updates_per_step: PositiveFloat = 1.0
        """Batches learned from per environment step: 0.25 is one for every four steps."""
        batch_size: PositiveInt = 256
        """Transitions per batch."""
        replay_size: PositiveInt = 1_000_000
        """Environment steps kept; the oldest are dropped first."""
        learning_starts: NonNegativeInt = 100
        """Environment steps before the first batch, with actions drawn uniformly."""
        n_step: PositiveInt = 1
        """Steps of rewards before the value of what follows (Sutton & Barto 2018, section 7.1)."""
        priority_alpha: float | None = Field(default=None, ge=0, le=1)
        """If set, transitions are drawn by priority (Schaul et al. 2016): 0 is uniformly, 1 in proportion to errors."""
        priority_beta: float = Field(default=0.4, ge=0, le=1)
        """How far weights make up for that at first; 1 at the end of the run."""
        frames: PositiveInt | None = Field(default=None, ge=2, le=256)
        """Of observations that are stacks of that many images, as gymnasium's FrameStackObservation: keep each once."""
        save_replay: bool = True
        """Save the replay in checkpoints; if not, a resumed run fills a new one before it goes on learning."""
        replay_from: DatasetName | None = None
        """Recorded episodes with which the replay begins: a data set's folder, or the id of a local one of Minari."""
        replay_device: str | None = None
        """Where the replay is, e.g. ``cpu`` if the GPU has no room for it; null: where the agent is."""

        @model_validator(mode="after")
        def _check_sizes(self) -> "OffPolicyAgent.Settings":
            if self.replay_size < self.batch_size:
                raise InputError(f"replay_size: {self.replay_size:,} holds no batch of batch_size={self.batch_size:,}")
            if self.replay_size < self.learning_starts:
                raise InputError(
                    f"replay_size: {self.replay_size:,} is never filled to learning_starts={self.learning_starts:,}"
                )
            if self.replay_size < self.n_step:
                raise InputError(f"replay_size: {self.replay_size:,} holds no window of n_step={self.n_step:,} steps")
            if self.replay_from is not None and self.frames is not None:
                raise InputError("replay_from: stacks of recorded images cannot be kept by frames; leave that null")
            if self.priority_alpha is None and self.priority_beta != type(self).model_fields["priority_beta"].default:
                raise InputError("priority_beta: is of transitions drawn by priority; set priority_alpha")
            return self

    settings: Settings

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        self.horizon = s.horizon
        device = env.device if s.replay_device is None else choose_device(s.replay_device)[0]
        self.batch_size = share(s.batch_size, "agent.batch_size")
        """B of this process."""
        self.replay = TransitionReplay(
            share(s.replay_size, "agent.replay_size"),
            env.num_envs,
            s.n_step,
            s.gamma,
            s.priority_alpha,
            s.frames,
            device,
        )
        self.replay.saves_steps = s.save_replay
        num_envs = env.num_envs * size()
        room = (self.replay.num_rows - 1) * num_envs  # whole rows
        if room < s.learning_starts or s.horizon >= self.replay.num_rows:
            raise InputError(
                f"agent.replay_size: {s.replay_size:,} holds {room:,} steps of {num_envs:,} environments, too few "
                f"for learning_starts={s.learning_starts:,} and horizon={s.horizon:,}"
            )
        self._owed = 0.0  # batches, a fraction of one

    @property
    def num_seen(self) -> int:
        """Environment steps added to the replay so far; of several processes, by all of them."""
        return self.replay.num_added * self.spec.num_envs * size()

    @abstractmethod
    def explore(self, obs: Tree) -> Tensor:
        """Actions [N, *A] to learn from; obs [N, *O], normalised."""

    def act(self, obs: Tree, state: Tree = None) -> Step:
        """Explores; in training at first by actions drawn uniformly. obs [N, *O]."""
        if self.training and self.num_seen < self.settings.learning_starts:
            return Step(random_actions(self.action_space, obs))
        return Step(self.explore(self.normalized(obs)))

    def learn(self, rollout: Rollout) -> Metrics:
        """Adds the rollout to the replay, and learns from as many batches as are due."""
        s = self.settings
        if s.replay_from is not None and not len(self.replay):
            self._fill(s.replay_from)
        self.replay.add(rollout)
        self.progress = rollout.progress
        self._update_normalizers(rollout)
        if len(self.replay) * size() < max(1, s.learning_starts, self.replay.to_refill * size()):
            return {}
        self._owed += s.updates_per_step * rollout.num_steps * size()
        beta = s.priority_beta + (1 - s.priority_beta) * self.progress
        scale = None if self.reward_normalizer is None else self.reward_normalizer.moments.scale
        each: list[Metrics] = []
        while self._owed >= 1:
            self._owed -= 1
            b = self.replay.sample(self.batch_size, beta, scale)
            metrics, error = self.update(self._normalized_batch(b))
            each.append(metrics)
            if b.place is not None:
                self.replay.update(b.place, error)
        return _means(each)

    def _fill(self, dataset: str) -> None:
        """Adds the latest recorded steps to the replay, as many as there is room for."""
        recorded, N, room = read(dataset), self.spec.num_envs * size(), self.replay.num_rows - 1
        own = slice(rank() * self.spec.num_envs, (rank() + 1) * self.spec.num_envs)
        recorded.require_spaces(self.observation_space, self.action_space, "agent.replay_from")
        recorded.require_causes("agent.replay_from")
        if len(recorded) < N:
            raise InputError(f"agent.replay_from: {dataset} has {len(recorded):,} steps for {N:,} environments")
        is_first = not self.replay.num_added  # else a resumed run fills what was not saved
        recorded = (recorded if self.reads_float64 else recorded.as_float32()).to(self.spec.device)
        for rollout in recorded.columns(N, min(CHUNK, room), room, own):
            self.replay.add(rollout)
            if is_first:
                self._update_normalizers(rollout)

    def on_reset(self) -> None:
        """The steps before are not followed by what is seen next."""
        super().on_reset()
        self.replay.end_episodes()

    def remarks(self, metrics: dict[str, float]) -> list[str]:
        """Says so while the replay of a resumed run is filled again."""
        if len(self.replay) >= self.replay.to_refill:
            return []
        cause = "not saved (agent.save_replay=false) or of other environments"
        return [f"the replay, {cause}, is filled again before learning"]


def _means(each: list[Metrics]) -> Metrics:
    """The mean of each figure over the updates that have it."""
    if len(each) < 2:
        return each[0] if each else {}
    values = {name: [torch.as_tensor(one[name]) for one in each if name in one] for name in dict.fromkeys(chain(*each))}
    return {name: torch.stack(found).mean() for name, found in values.items()}
