"""Autoencoders: observations are encoded and reconstructed, and the code is penalised."""

from typing import Any

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from rlcore.agent import Metrics
from rlcore.agents.bases.pathwise import PathwiseAgent
from rlcore.distributed import mean
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.exporting.programs import (
    STANDARD_NORMAL,
    Program,
    Tensors,
    described_observations,
    named_observations,
    observations_in,
)
from rlcore.networks import NetworkChoice
from rlcore.networks.autoencoder import Code, kl_from_standard_normal
from rlcore.networks.batch_norm import needs_rows
from rlcore.observations import input_scaling, observation_shape
from rlcore.rollout import Rollout, Step
from rlcore.spaces import LogOdds, scaled_space
from rlcore.trees import Tree


class AutoencoderAgent(PathwiseAgent):
    """Reconstructs observations from a code; plain, or variational if the network's code is a normal.

    What it reconstructs of the inputs of a data set is their scaled numbers, float32, images as [C, H, W].

    maximise  E[log p(x | z)] - beta KL(q(z | x) || N(0, 1)),  z ~ q(z | x)

    The evidence lower bound for beta = 1 (Kingma & Welling 2014, equation 3; beta: Higgins et al. 2017). The first term
    is the environment's reward, summed over pixels; the second is summed over the code; both are averaged over the
    batch. The gradient goes through the draw z = mean + std * noise.
    """

    class Settings(PathwiseAgent.Settings):
        """Settings of an autoencoder."""

        network: NetworkChoice = NetworkChoice.model_validate({"name": "vae"})
        """Network with ``encode`` and ``decode``: autoencoder, vae, conv_vae."""
        beta: NonNegativeFloat = 1.0
        """Weight of the KL divergence."""
        kl_warmup: float = Field(default=0.0, ge=0, le=1)
        """Share of the run over which ``beta`` rises from 0 (Bowman et al. 2016)."""
        free_bits: NonNegativeFloat = 0.0
        """Nats of each coordinate's KL, averaged over the batch, that cost nothing (Kingma et al. 2016, eq. 15)."""

    settings: Settings

    def __init__(self, env: Environment | EnvSpec, settings: Settings | None = None):
        super().__init__(env, settings)
        s = self.settings
        self.scaling = input_scaling(env.single_observation_space)
        shape = observation_shape(scaled_space(env.single_observation_space), s.network)
        if env.single_action_space.shape != shape:
            raise InputError(
                f"an autoencoder's actions have the shape of its observations, {shape}, got the action space "
                f"{env.single_action_space}; use env.name=reconstruction"
            )
        self.network: Any = s.network.build(shape)
        if not (hasattr(self.network, "encode") and hasattr(self.network, "decode")):
            raise InputError(
                f"agent.network: {s.network.name} has no encode and decode; autoencoder, vae and conv_vae have them"
            )
        if not getattr(self.network, "is_variational", True) and (s.beta, s.kl_warmup, s.free_bits) != (1, 0, 0):
            raise InputError(
                f"agent.beta, kl_warmup, free_bits: need a code that is a distribution; {s.network.name}'s is not, use "
                "agent.network.name=vae"
            )
        self.optimizer = self._make_optimizer()

    def encode(self, obs: Tree) -> Code:
        """[B, *O] to the code."""
        return self._computed(self.network.encode, obs if self.scaling is None else self.scaling(obs))

    def decode(self, z: Tensor) -> Tensor:
        """[B, *L] to reconstructions [B, *A]."""
        return self._computed(self.network.decode, z)

    @needs_rows
    def act(self, obs: Tree, state: Tree = None) -> Step:
        """Reconstructs from a draw of the code; obs [N, *O]. Memory is the code."""
        code = self.encode(obs)
        return Step(self.decode(draw(code)), code)

    @torch.no_grad()
    def predict(self, obs: Tree, state: Tree = None) -> Step:
        """Reconstructs from the mean of the code; obs [N, *O]."""
        return Step(self.decode(self.encode(obs).mean))

    def programs(self, obs: Tree, sample: bool = False) -> dict[str, Program]:
        """An ``encoder``, to ``code``, its mean or a draw, and ``std``; and a ``decoder``, as `decode`."""
        code = self.encode(obs)
        if sample and code.log_var is None:
            raise InputError(f"--sample: {self.settings.network.name}'s code is a point; nothing is drawn")
        inputs, about = named_observations(obs), described_observations(self)
        if sample:
            inputs = {**inputs, "noise": torch.randn_like(code.mean)}
            about["noise"] = STANDARD_NORMAL

        def encode(inputs: Tensors) -> Tensors:
            mean, log_var = self.encode(observations_in(inputs, obs))
            if log_var is None:
                return {"code": mean}
            std = (0.5 * log_var).exp()
            if not sample:
                return {"code": mean, "std": std}
            return {"code": mean + std * inputs["noise"], "mean": mean, "std": std}

        def decode(inputs: Tensors) -> Tensors:
            reconstruction = self.decode(inputs["code"])
            odds = {"probabilities": reconstruction.sigmoid()} if isinstance(self.action_space, LogOdds) else {}
            return {"reconstruction": reconstruction, **odds}

        decoded = Program(decode, {"code": code.mean}, {"reconstruction": str(self.action_space)})
        return {"encoder": Program(encode, inputs, about), "decoder": decoded}

    def _loss(self, rollout: Rollout) -> tuple[Tensor, Metrics]:
        s, row = self.settings, rollout[0]
        log_likelihood = row.reward.mean()
        if row.memory.log_var is None:
            return -log_likelihood, {}
        beta = s.beta * min(1.0, rollout.progress / s.kl_warmup) if s.kl_warmup else s.beta
        kl = kl_from_standard_normal(row.memory).mean(0)
        cost = torch.where(mean(kl.detach()) >= s.free_bits, kl, s.free_bits) if s.free_bits else kl
        return beta * cost.sum() - log_likelihood, {"kl": kl.detach().sum(), "beta": beta}


def draw(code: Code) -> Tensor:
    """One z ~ q(z | x) per row, [B, *L], with its gradient; from torch's global generator of the device."""
    if code.log_var is None:
        return code.mean
    return code.mean + (0.5 * code.log_var).exp() * torch.randn_like(code.mean)
