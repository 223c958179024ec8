"""What one asks of a latent code."""

from typing import Any

import torch

from rlcore import settings
from rlcore.agent import Agent
from rlcore.agents.autoencoder import AutoencoderAgent
from rlcore.checkpoint import seed_everything
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.evaluation import Report, evaluating
from rlcore.networks.autoencoder import kl_from_standard_normal
from rlcore.supervised.reconstruction import ReconstructionEnv


class ELBOReport:
    """The evidence lower bound on the test split, nats an example: reconstruction from a draw of the code, and KL."""

    class Settings(settings.Settings):
        """Settings of the report."""

        seed: int = 1
        """Of the draws."""

    def __init__(self, settings: Settings):
        self.settings = settings

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`.

        Returns:
            ``reconstruction`` (minus the log-likelihood of what was shown), ``kl`` and their sum ``negative_elbo``.

        Raises:
            InputError: the agent is no autoencoder.
        """
        env, agent = autoencoding("elbo", agent, env)
        reconstruction, kl = [], []
        with evaluating(agent):
            seed_everything(self.settings.seed)
            for obs in env.batches():
                step = agent.act(obs)
                reconstruction.append(-env.action.reward(step.action, obs))
                kl.append(kl_from_standard_normal(step.memory).sum(1))
        means = [torch.cat(x).double().mean().item() for x in (reconstruction, kl)]
        scalars = {"reconstruction": means[0], "kl": means[1], "negative_elbo": sum(means)}
        told = ", ".join(f"{name} {value:.2f}" for name, value in scalars.items())
        return Report(scalars, f"nats an example: {told}; pixels: {env.told}")


def autoencoding(report: str, agent: Any, env: Environment) -> tuple[ReconstructionEnv, AutoencoderAgent]:
    """Both, if they are.

    Raises:
        InputError: they are not.
    """
    if not isinstance(env, ReconstructionEnv) or not isinstance(agent, AutoencoderAgent):
        raise InputError(f"{report}: needs an autoencoder (agent.name=autoencoder, env.name=reconstruction)")
    return env, agent
