"""The network registry.

Any agent works with any network that can read the observations, with these exceptions: ``gru``, ``lstm`` and
``frame_stack`` have a memory and are for ``recurrent_ppo``, which takes no others and no batch norm; the agent
``autoencoder`` needs a network with ``encode`` and ``decode``.

A network is registered by an entry point in the group ``rlcore.networks`` or by ``registry.networks.register(name)``.
"""

from typing import Any

from rlcore import registry
from rlcore.networks.base import Network
from rlcore.settings import Choice

__all__ = ["Network", "NetworkChoice", "build"]


class NetworkChoice(Choice):
    """A network by name, with its settings; a field of an agent's settings."""

    registry = registry.networks

    def build(self, in_shape: tuple[int, ...], out_features: int | None = None) -> Network:
        """A new network; the arguments are those of `Network`."""
        return registry.networks[self.name](in_shape, out_features, self.settings)


def build(name: str, in_shape: tuple[int, ...], out_features: int | None = None, **settings: Any) -> Network:
    """A new network, by name: ``build("mlp", (4,), 2, hidden=[64, 64])``.

    Raises:
        InputError: no network has that name.
        pydantic.ValidationError: the settings are invalid.
    """
    return NetworkChoice.model_validate({"name": name, **settings}).build(in_shape, out_features)
