"""An ensemble: agents that learn separately and answer together."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from rlcore import settings
from rlcore.agent import Agent, AgentChoice, Metrics
from rlcore.distributed import weigh
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.evaluation import evaluating
from rlcore.rollout import Rollout, Row, Step
from rlcore.spaces import zeros
from rlcore.trees import Tree, stack, take
from rlcore.uncertainty import Answers, answers_of, best_answer, uncertainty


class Ensemble(Agent):
    """K agents of one kind, each with its own initial parameters and N / K of the environments.

    Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles". The
    members learn separately, from their own actions; in `predict` and `answers` all of them answer, and the result is
    their equal mixture. In the same number of steps each member sees 1 / K of what a single agent would: K times the
    steps are K times the cost. An answer costs K forward passes, one after another: with ``torch.func.vmap`` they are
    slower on a CPU, except for a single image and convolutions (`benchmarks/uncertainty.py`).
    """

    class Settings(settings.Settings):
        """Settings of an ensemble."""

        agent: AgentChoice
        """The agent that each member is."""
        members: int = Field(default=5, ge=2)
        """K, number of members; must divide ``env.num_envs``."""

    settings: Settings
    members: Any
    """K agents, an ``nn.ModuleList``."""

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        K = self.settings.members
        if env.num_envs % K:
            raise InputError(f"agent.members: {K} members cannot share {env.num_envs} environments; K must divide them")
        self.share = env.num_envs // K
        part = self.spec._replace(num_envs=self.share)
        self.members = nn.ModuleList(self.settings.agent.build(part) for _ in range(K))
        self.horizon, self.differentiable = self.members[0].horizon, self.members[0].differentiable
        self.reads_float64 = self.members[0].reads_float64
        kind, name = type(self.members[0]), self.settings.agent.name
        if kind.distribution is Agent.distribution:
            raise InputError(f"agent.agent: {name} has no distribution, which members answer by; try ppo or supervised")
        if self.members[0].initial_state(1) is not None:
            raise InputError(f"agent.agent: {name} has a memory, which members cannot have; try ppo")
        obs = zeros(self.observation_space, (1,), torch.device("cpu"))
        with evaluating(self.members[0]):  # not all distributions can be mixed; better said now than when evaluated
            answers_of(self.members[0].distribution(obs))

    def act(self, obs: Tree, state: Tree = None) -> Step:
        """Each member answers in its own environments; obs [N, *O]. Memory is the members' steps, K of them."""
        steps = [member.act(take(obs, envs)) for member, envs in self._shares()]
        # A leaf of the graph: each member goes backward separately, and the first would free what they share.
        action = torch.cat([step.action for step in steps]).detach().requires_grad_(self.differentiable)
        return Step(action, steps)

    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The combined answer of all members; obs [N, *O]."""
        return Step(best_answer(uncertainty(self.answers(obs)), self.action_space))

    def answers(self, obs: Tree) -> Answers:
        """Each member's answers to observations [B, *O], fields [K, B, ...]."""
        return stack([answers_of(member.distribution(obs)) for member in self.members])

    def details(self, obs: Tree, state: Tree = None) -> dict[str, Tensor]:
        """What all members say together: the fields of `ClassUncertainty` or `NumberUncertainty`."""
        return uncertainty(self.answers(obs))._asdict()

    def learn(self, rollout: Rollout) -> Metrics:
        """Each member learns from its own environments; metrics are means over the members."""
        slopes = [
            torch.autograd.grad(row.reward.sum(), row.action)[0] if self.differentiable else None for row in rollout
        ]
        updates = []
        for k, (member, envs) in enumerate(self._shares()):
            rows = [_share(row, k, envs, slope) for row, slope in zip(rollout, slopes, strict=True)]
            part = rollout.part(envs, rows)
            weigh(part.num_steps)
            updates.append(member.learn(part))
        flags = [member.nonfinite for member in self.members if member.nonfinite is not None]
        if flags:
            self.nonfinite = torch.stack(flags).any()
        return _mean(updates)

    def finish(self) -> Metrics:
        """Each member finishes; metrics are means over the members."""
        return _mean([member.finish() for member in self.members])

    def remarks(self, metrics: dict[str, float]) -> list[str]:
        """The members'."""
        return self.members[0].remarks(metrics)

    def on_reset(self) -> None:
        """The members forget the episodes in progress, which were abandoned."""
        for member in self.members:
            member.on_reset()

    def _shares(self) -> list[tuple[Any, slice]]:
        """Each member and its environments."""
        return [(member, slice(k * self.share, (k + 1) * self.share)) for k, member in enumerate(self.members)]


def _mean(metrics: list[Metrics]) -> Metrics:
    return {name: sum(each[name] for each in metrics) / len(metrics) for name in metrics[0]}


def _share(row: Row, k: int, envs: slice, slope: Tensor | None) -> Row:
    """Member k's part of a row, with its own answers.

    Given the slope of the reward in the actions [N, *A], the reward gets a graph that leads to this member alone and is
    linear in its actions, with the same value and the same gradient.
    """
    step: Step = row.memory[k]
    reward = row.reward[envs]
    if slope is not None:
        reward = reward.detach() + ((step.action - step.action.detach()) * slope[envs]).flatten(1).sum(1)
    return Row(take(row.obs, envs), step.action, reward, row.terminated[envs], row.truncated[envs], step.memory)
