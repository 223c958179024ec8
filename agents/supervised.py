"""Learning from a reward that carries a gradient: supervised learning."""

import math
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Box
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from rlcore.agent import Metrics
from rlcore.agents.bases.pathwise import PathwiseAgent
from rlcore.distributions import Categorical, DiagonalGaussian, Distribution
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.networks import NetworkChoice
from rlcore.networks.batch_norm import needs_rows
from rlcore.observations import input_scaling, observation_shape
from rlcore.rollout import Rollout, Step
from rlcore.spaces import Logits, LogOdds, Means, Normals, scaled_space
from rlcore.targets import target_scale
from rlcore.trees import Tree

SURE = 1e-6
"""Probability of another class below which an example counts as certain."""


class Batch(NamedTuple):
    """N examples, of which an agent has answered to `obs`."""

    obs: Tree
    """[N, *O]."""
    reward: Tensor
    """[N] float32, with the graph of the answers."""
    target: Any = None
    """Classes [N] int64; numbers, outcomes, or shares of the classes [N, *D] float32; None outside data sets."""
    weight: Tensor | None = None
    """[N] float32, how much each counts; None: all alike."""


class Supervised(PathwiseAgent):
    """Answers with the outputs of a network, and follows the gradient of their reward; see `PathwiseAgent`."""

    class Settings(PathwiseAgent.Settings):
        """Settings of supervised learning."""

        network: NetworkChoice = NetworkChoice.model_validate({"name": "mlp", "activation": "relu", "init": "he"})
        """Network from an example to the answer."""
        label_smoothing: float = Field(default=0.0, ge=0, lt=1)
        """Share of the target that is spread evenly over the classes (Szegedy et al. 2016, section 7). The reported
        reward remains that of the true class."""
        focal: NonNegativeFloat = 0.0
        """gamma: the loss of an example whose class has the probability p is multiplied by (1 - p)^gamma, so that those
        that are learned count less (Lin et al. 2017, equation 4). The reported reward remains as it is."""
        beta_nll: float = Field(default=0.0, ge=0, le=1)
        """The gradient of each normal is multiplied by its variance to this power (beta-NLL, Seitzer et al. 2022, "On
        the Pitfalls of Heteroscedastic Uncertainty Estimation"): 0 is maximum likelihood, which neglects what it takes
        for noise; with 1, means learn as by the squared error. The reported reward remains the log-likelihood."""

    settings: Settings

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        space = env.single_action_space
        if not (isinstance(space, Box) and space.shape):
            raise InputError(
                f"no gradient goes through the action space {space}; supported: Box, e.g. env.action=logits. To learn "
                "from right or wrong alone: agent.name=reinforce or agent.name=ppo"
            )
        if s.label_smoothing and not isinstance(space, Logits):
            raise InputError(f"agent.label_smoothing: answers must be logits of classes, got the action space {space}")
        if s.focal and not (isinstance(space, Logits) or (isinstance(space, LogOdds) and space.shape == (1,))):
            raise InputError(f"agent.focal: answers must be logits, or log-odds of one outcome, got {space}")
        if s.beta_nll and not isinstance(space, Normals):
            raise InputError(f"agent.beta_nll: answers must be normals (env.action=normal), got {space}")
        self.answer_shape = space.shape
        self.scaling = input_scaling(env.single_observation_space)
        shape = observation_shape(scaled_space(env.single_observation_space), s.network)
        self.network = s.network.build(shape, math.prod(space.shape))
        self.target_scale = target_scale(space)
        self.optimizer = self._make_optimizer()

    def forward(self, obs: Any, state: Tree = None) -> Any:
        """As of every agent; but tensors [B, *O] are answered with a graph, [B, *A]."""
        is_batch = isinstance(obs, Tensor) and obs.ndim == len(self.observation_space.shape or ()) + 1
        return self.outputs(obs) if is_batch else super().forward(obs)

    def outputs(self, obs: Tensor) -> Tensor:
        """[B, *O] to answers [B, *A], with their graph."""
        outputs: Tensor = self._computed(self.network, obs if self.scaling is None else self.scaling(obs))
        answers = outputs if len(self.answer_shape) == 1 else outputs.unflatten(1, self.answer_shape)
        return answers if self.target_scale is None else self.target_scale(answers)

    @torch.no_grad()
    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The answers, without a graph; obs [N, *O]."""
        return self.act(obs)

    def distribution(self, obs: Tree) -> Distribution:
        """The distribution of the answers to [B, *O]: the reward is its log-likelihood, up to a constant.

        Classes for logits, or for the log-odds of one outcome; normals for means, of variance 1/2 for a squared error,
        and for means and log-variances.

        Raises:
            InputError: the answers are the log-odds of several outcomes.
        """
        outputs = self.outputs(obs)
        if isinstance(self.action_space, Logits):
            return Categorical(outputs)
        if isinstance(self.action_space, Normals):
            mean, log_var = outputs.unbind(1)
            return DiagonalGaussian(mean, 0.5 * log_var)
        if not isinstance(self.action_space, LogOdds):
            std = self.action_space.std if isinstance(self.action_space, Means) else math.sqrt(0.5)
            return DiagonalGaussian(outputs, outputs.new_full(self.answer_shape, math.log(std)))
        if math.prod(self.answer_shape) > 1:
            raise InputError(f"uncertainty is not defined for {self.action_space}: several outcomes are not classes")
        log_odds = outputs.flatten(1)
        return Categorical(torch.cat([torch.zeros_like(log_odds), log_odds], 1))

    def details(self, obs: Tree, state: Tree = None) -> dict[str, Tensor]:
        """``probabilities`` of classes or outcomes; ``mean`` and ``std`` of normals whose noise is known or learned."""
        space = self.action_space
        if isinstance(space, LogOdds) and math.prod(space.shape) > 1:
            return {"probabilities": self.outputs(obs).sigmoid()}
        return super().details(obs) if isinstance(space, (Logits, LogOdds, Means, Normals)) else {}

    @needs_rows
    def act(self, obs: Tree, state: Tree = None) -> Step:
        """The answers, with their graph; obs [N, *O]."""
        answers, beta = self.outputs(obs), self.settings.beta_nll
        if beta and self.target_scale is not None:
            variance = answers[:, 1:].detach().exp() / self.target_scale.scale.square()
            answers = answers.detach() + variance**beta * (answers - answers.detach())  # equal, with another gradient
        return Step(answers)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """What is minimised, 0-d; override it for a loss of your own.

        The default is minus the mean of weight x reward, with label smoothing and the focal factor of the settings.

        Args:
            output: the answers [N, *A], with their graph.
            batch: the examples.
        """
        s, losses = self.settings, -batch.reward
        if s.focal:
            wrong = (-torch.expm1(-losses)).clamp_min(SURE)  # 1 - p; at 0 a root has no slope
            losses = losses * wrong**s.focal
        if s.label_smoothing:
            losses = (1 - s.label_smoothing) * losses - s.label_smoothing * output.log_softmax(-1).mean(-1)
        return losses.mean() if batch.weight is None else (losses * batch.weight).mean()

    def _loss(self, rollout: Rollout) -> tuple[Tensor, Metrics]:
        row, example = rollout[0], rollout.infos[0].get("example", {})
        return self.loss(row.action, Batch(row.obs, row.reward, **example)), {}
