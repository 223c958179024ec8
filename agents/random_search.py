"""Random local search: learning without gradients."""

import copy
import math
from typing import Annotated

import torch
from gymnasium.spaces import Box, Discrete
from pydantic import Field
from torch import Tensor, nn

from rlcore import settings
from rlcore.agent import Agent, Metrics
from rlcore.distributed import all_reduce, broadcast, size
from rlcore.distributions import box_scale
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.networks import NetworkChoice
from rlcore.observations import input_scaling, observation_shape
from rlcore.rollout import Rollout, Step
from rlcore.spaces import scaled_space
from rlcore.trees import Tree


class RandomSearch(Agent):
    """Perturbs the parameters, and keeps what scores no worse (random optimization: Matyas 1965).

    theta' = theta + std N(0, I);  theta <- theta' if R(theta') >= R(theta), R the mean return of an episode from each
    environment as it was measured when theta was tried

    Only theta' is random: the action is the network's output, or its argmax.
    """

    class Settings(settings.Settings):
        """Settings of random search."""

        std: Annotated[float, Field(gt=0, le=1e6)] = 0.1
        """Standard deviation of the perturbations."""
        max_std: Annotated[float, Field(gt=0, le=1e6)] | None = None
        """If set, the standard deviation doubles with each failure, up to this, and halves with each success, down to
        ``std``: a search that is stuck looks further away."""
        network: NetworkChoice = NetworkChoice.model_validate({"name": "mlp", "hidden": [], "init": "zeros"})
        """Network from an observation to a score for each action, or to the action, of a bounded Box in its units (see
        `rlcore.distributions.BoxScale`)."""

    settings: Settings
    horizon = None

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        space = env.single_action_space
        if not isinstance(space, (Box, Discrete)):
            raise InputError(f"random search supports the action spaces Box and Discrete, got {space}")
        self.answer_shape = space.shape if isinstance(space, Box) else None
        self.scale = box_scale(space) if isinstance(space, Box) else None
        num_outputs = math.prod(space.shape) if isinstance(space, Box) else int(space.n)
        network = self.settings.network
        self.scaling = input_scaling(env.single_observation_space)
        self.kept = network.build(observation_shape(scaled_space(env.single_observation_space), network), num_outputs)
        self.tried = copy.deepcopy(self.kept)
        self.requires_grad_(False)
        self.register_buffer("score", torch.tensor(-math.inf))
        self.score: Tensor
        self.register_buffer("std", torch.tensor(self.settings.std))
        self.std: Tensor

    def act(self, obs: Tree, state: Tree = None) -> Step:
        """The perturbed network's answer; obs [N, *O]."""
        return Step(self._answer(self.tried, obs))

    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """The kept network's answer; obs [N, *O]."""
        return Step(self._answer(self.kept, obs))

    def learn(self, rollout: Rollout) -> Metrics:
        """Keeps the perturbed parameters or drops them, and perturbs again."""
        score = (rollout.reward * rollout.valid).sum()
        all_reduce("score", score)
        score /= rollout.reward.shape[1] * size()
        better = score >= self.score
        self.score = torch.maximum(score, self.score)
        if self.settings.max_std is not None:
            self.std = torch.where(better, self.std / 2, self.std * 2).clamp(self.settings.std, self.settings.max_std)
        for kept, tried in zip(self.kept.parameters(), self.tried.parameters(), strict=True):
            kept.copy_(torch.where(better, tried, kept))
            tried.copy_(kept + self.std * broadcast(torch.randn_like(kept)))
        return {"score": score, "best_score": self.score, "kept": better.float(), "std": self.std}

    def _answer(self, network: nn.Module, obs: Tree) -> Tensor:
        outputs: Tensor = network(obs if self.scaling is None else self.scaling(obs))
        if self.answer_shape is None:
            return outputs.argmax(1)
        answer = outputs.unflatten(1, self.answer_shape)
        return answer if self.scale is None else self.scale(answer)
