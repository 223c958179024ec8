"""EncoderOf: the encoder of a trained autoencoder, as a body for other agents."""

from typing import Any

import torch
from torch import Tensor, nn

from rlcore import checkpoint, registry
from rlcore.agent import restore_parameters
from rlcore.errors import InputError
from rlcore.networks import Network, NetworkChoice
from rlcore.networks.dropout import dropouts
from rlcore.run import Run
from rlcore.settings import ResolvedPath

PREFIX = "network."
"""Prefix of the network's parameters in the checkpoint of an autoencoder."""


class EncoderOf(Network):
    """The encoder of a run: an agent with this network sees the code (its mean, as one vector) instead of the input.

    The parameters are read from the run's checkpoint when the network is made; from then on they are the agent's.
    Inputs of a data set reach it as the agent scales them, by its own statistics, not as that run did.
    """

    class Settings(Network.Settings):
        """Settings of a trained encoder."""

        run: ResolvedPath
        """Run folder of an autoencoder."""
        frozen: bool = True
        """Keep the encoder's parameters fixed, and the encoder in evaluation mode."""
        body: NetworkChoice | None = None
        """Network that reads the code; null: the agent's output layers read it directly."""

    def __init__(self, in_shape: tuple[int, ...], out_features: int | None, settings: Settings):
        super().__init__()
        self.autoencoder, num_codes = _trained(settings.run, in_shape)
        self.frozen = settings.frozen
        self.autoencoder.requires_grad_(not settings.frozen)
        if settings.frozen:
            for module in dropouts(self.autoencoder):
                module.p = 0.0  # else a policy would replace it by its own dropout, and switch that on
        self.body: nn.Module
        if settings.body is not None:
            self.body = settings.body.build((num_codes,), out_features)
            self.num_features = self.body.num_features
        else:
            self.body = self._end(num_codes, out_features)
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        """[B, *in_shape] to [B, num_features]."""
        return self.body(self.autoencoder.encode(x).mean.flatten(1))

    def train(self, mode: bool = True) -> "EncoderOf":
        """As for every module, except that a frozen encoder stays in evaluation mode."""
        super().train(mode)
        self.autoencoder.train(mode and not self.frozen)
        return self


def _trained(run: str, in_shape: tuple[int, ...]) -> tuple[Any, int]:
    """The network of an autoencoder's run, and how many numbers are in its code."""
    folder = Run(run)
    choice = folder.load().config.agent
    network_choice = getattr(choice.settings, "network", None)
    if network_choice is None or not hasattr(registry.networks[network_choice.name], "encode"):
        raise InputError(f"encoder_of: {run} is a run of the agent {choice.name}, not of an autoencoder")
    saved = checkpoint.load(folder.checkpoint_path(folder.default_checkpoint))
    if (seen := saved.get("observation_shape")) != in_shape:
        raise InputError(f"encoder_of: inputs here have shape {in_shape}, those that {run} encodes have shape {seen}")
    network: Any = network_choice.build(in_shape)
    with checkpoint.fitting(f"the network of {run}"):
        parameters = {name: value for name, value in saved["agent"]["parameters"].items() if name.startswith(PREFIX)}
        restore_parameters(network, {name.removeprefix(PREFIX): value for name, value in parameters.items()})
    with torch.no_grad():
        return network, network.eval().encode(torch.zeros(1, *in_shape)).mean.numel()
