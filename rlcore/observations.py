"""Observations: which actions they allow, and what a network reads of the rest."""

from typing import Any

from gymnasium import Space
from gymnasium.spaces import Box, Dict
from torch import Tensor

from rlcore.errors import InputError
from rlcore.networks import Network, NetworkChoice
from rlcore.rollout import Tree

ACTION_MASK = "action_mask"
"""The part of a dict observation that says which actions are allowed."""


def action_mask(obs: Tree) -> Tensor | None:
    """[B, A] bool, the actions that are allowed; None where observations do not tell."""
    return obs[ACTION_MASK] if isinstance(obs, dict) and ACTION_MASK in obs else None


def observation_shape(space: Space[Any]) -> tuple[int, ...]:
    """The shape that a network is built for.

    Raises:
        InputError: the observations are not one array of floats.
    """
    if not (isinstance(space, Box) and space.dtype.kind == "f" and space.shape):
        served = "Box of floats with at least one dimension"
        raise InputError(f"no network reads the observation space {space}; served: {served}")
    return tuple(space.shape)


def build_body(choice: NetworkChoice, space: Space[Any]) -> Network:
    """A network without an output layer for the observations of a space, the action mask left aside.

    Raises:
        InputError: no network reads them.
    """
    if not isinstance(space, Dict):
        return choice.build(observation_shape(space))
    parts = [key for key in space if key != ACTION_MASK]
    if len(parts) != 1:
        raise InputError(f"no network reads a dict of the parts {', '.join(parts) or 'none'}; served: one, and a mask")
    return Part(choice.build(observation_shape(space[parts[0]])), parts[0])


class Part(Network):
    """Reads one part of a dict observation.

    Args:
        network: reads it.
        key: its name.
    """

    def __init__(self, network: Network, key: str):
        super().__init__()
        self.network, self.key, self.num_features = network, key, network.num_features

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Parts [B, ...] to [B, num_features]."""
        return self.network(obs[self.key])
