"""How well an autoencoder explains the test split: its evidence lower bound, and a tighter one."""

import math

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from rlcore import settings
from rlcore.agent import Agent
from rlcore.agents.autoencoder import AutoencoderAgent
from rlcore.distributions import HALF_LOG_2PI
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.evaluation import Report, ReportMaker, evaluating
from rlcore.networks.autoencoder import Code, kl_from_standard_normal
from rlcore.seeding import seed_everything
from rlcore.settings import Seed
from rlcore.spaces import scaled_space, zeros
from rlcore.supervised.reconstruction import ReconstructionEnv


class ELBOReport(ReportMaker):
    """The evidence lower bound on the test split: reconstruction from a sampled code, and KL, nats per example.

    Of each example one code is drawn, and its log-likelihood summed over pixels, the KL over all coordinates of the
    code; then both are averaged over the examples.
    """

    class Settings(settings.Settings):
        """Settings of the report."""

        seed: Seed = 1
        """Seed of the draws."""

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        autoencoding("report elbo", agent, env)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`.

        Returns:
            ``reconstruction`` (minus the reward), ``kl`` and their sum: ``negative_elbo`` if the reward is a
            likelihood, else ``loss``.

        Raises:
            InputError: the agent is not an autoencoder.
        """
        env, agent = autoencoding("report elbo", agent, env)
        reconstruction, kl = [], []
        with evaluating(agent):
            seed_everything(self.settings.seed)
            for obs in env.batches():
                step = agent.act(obs)
                reconstruction.append(-env.action.reward(step.action, env.scaled(obs)))
                kl.append(kl_from_standard_normal(step.memory).flatten(1).sum(1))
        means = [torch.cat(x).double().mean().item() for x in (reconstruction, kl)]
        total = "negative_elbo" if env.is_likelihood else "loss"
        scalars = {"reconstruction": means[0], "kl": means[1], total: sum(means)}
        figures = ", ".join(f"{name} {value:.2f}" for name, value in scalars.items())
        return Report(scalars, f"per example: {figures}; pixels: {env.pixel_kind}")


class BoundReport(ReportMaker):
    """The importance-weighted bound on the log-likelihood of the test split, nats per example.

    L_k = E log 1/k sum_i p(x, z_i) / q(z_i | x),  z_i ~ q(z | x)

    Inside the logarithm is the mean over k draws of the weights, whose logarithms are sums over pixels and over all
    coordinates of the code; outside it the mean over examples. It is the ELBO for k = 1, and approaches log p(x) as k
    grows (Burda et al. 2016, "Importance Weighted Autoencoders", equation 8).
    """

    class Settings(settings.Settings):
        """Settings of the report."""

        k: list[PositiveInt] = Field(default=[1, 50], min_length=1)
        """Draws per bound; each k gives one."""
        num: PositiveInt | None = None
        """Examples, the first ones; null: all of them."""
        seed: Seed = 1
        """Seed of the draws."""
        batch: PositiveInt = 5000
        """Codes decoded at once, which is what takes memory."""

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        self._parts(agent, env)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`.

        Returns:
            ``negative_bound_<k>``, nats per example.

        Raises:
            InputError: the agent is not a variational autoencoder, or the reward is not a likelihood.
        """
        env, agent = self._parts(agent, env)
        with evaluating(agent):
            seed_everything(self.settings.seed)
            rows = torch.arange(env.num_examples, device=env.device)[: self.settings.num]
            scalars = {f"negative_bound_{k}": -self._bound(agent, env, rows, k) for k in self.settings.k}
        lines = [f"{name}: {value:.2f} nats" for name, value in scalars.items()]
        return Report(scalars, "\n".join([f"{len(rows):,} examples; pixels: {env.pixel_kind}", *lines]))

    def _parts(self, agent: Agent, env: Environment) -> tuple[ReconstructionEnv, AutoencoderAgent]:
        env, agent = autoencoding("report bound", agent, env, variational=True)
        if not env.is_likelihood:
            raise InputError(
                "report bound: the reward here is not a likelihood; train with env.binarize=dynamic and "
                "env.action=log_odds, or with env.action=gaussian"
            )
        return env, agent

    def _bound(self, agent: AutoencoderAgent, env: ReconstructionEnv, rows: Tensor, k: int) -> float:
        """L_k of some examples; in pieces if k is above the batch."""
        draws, batch = min(k, self.settings.batch), max(1, self.settings.batch // k)
        bounds = []
        for x in map(env.inputs, rows.split(batch)):
            code = agent.encode(x)
            log_sum = torch.full((len(x),), -math.inf, device=x.device)
            for first in range(0, k, draws):
                weights = log_weights(agent, env, x, code, min(draws, k - first))
                log_sum = torch.logaddexp(log_sum, weights.logsumexp(0))
            bounds.append(log_sum - math.log(k))
        return torch.cat(bounds).double().mean().item()


def log_weights(agent: AutoencoderAgent, env: ReconstructionEnv, obs: Tensor, code: Code, k: int) -> Tensor:
    """Log p(x, z) / q(z | x) of k draws z ~ q(z | x) for each example, [k, B], nats.

    Args:
        agent: variational.
        env: with reward log p(x | z).
        obs: x, [B, *O], as they are shown.
        code: q(z | x).
        k: how many draws.
    """
    assert code.log_var is not None
    noise = torch.randn(k, *code.mean.shape, device=obs.device)
    z = code.mean + (0.5 * code.log_var).exp() * noise
    log_prior = (-0.5 * z.square() - HALF_LOG_2PI).flatten(2).sum(2)
    log_posterior = (-0.5 * noise.square() - 0.5 * code.log_var - HALF_LOG_2PI).flatten(2).sum(2)
    scaled = env.scaled(obs)
    target = scaled.expand(k, *scaled.shape).flatten(0, 1)
    log_likelihood = env.action.reward(agent.decode(z.flatten(0, 1)), target).view(k, len(obs))
    return log_likelihood + log_prior - log_posterior


def autoencoding(
    what: str, agent: Agent, env: Environment, variational: bool = False, images: bool = False
) -> tuple[ReconstructionEnv, AutoencoderAgent]:
    """Both, checked to be what is needed.

    Args:
        what: the name of what needs them, for the message.
        agent: must be an autoencoder.
        env: must be a `ReconstructionEnv`.
        variational: whether the code must be a distribution.
        images: whether examples must be images.

    Raises:
        InputError: they are not.
    """
    if not isinstance(env, ReconstructionEnv) or not isinstance(agent, AutoencoderAgent):
        raise InputError(f"{what}: needs an autoencoder (agent.name=autoencoder, env.name=reconstruction)")
    shape = scaled_space(env.single_observation_space).shape or ()
    with evaluating(agent):
        code = agent.encode(zeros(env.single_observation_space, (1,), env.device))
    if variational and code.log_var is None:
        raise InputError(f"{what}: a plain autoencoder is not a generative model; use agent.network.name=vae")
    if images and (len(shape) != 3 or shape[0] not in (1, 3)):
        raise InputError(f"{what}: needs images (1 or 3 channels, height, width), the examples here have shape {shape}")
    return env, agent
