"""The network registry: any agent works with any body.

A network is an `nn.Module` with a nested ``Settings`` class, made as ``Network(in_shape, out_features, settings)``:

- ``in_shape``: shape of one observation, without the batch: ``(4,)``, ``(1, 28, 28)``;
- ``out_features``: size of the output layer, or None for the body alone;
- ``num_features``: an attribute, the size F of what ``forward`` makes of [B, *in_shape]: [B, F].

It is registered by an entry point in the group ``rlcore.networks`` or by ``registry.networks.register(name)``.
"""

from typing import Any

from torch import nn

from rlcore import registry
from rlcore.settings import Choice

__all__ = ["NetworkChoice", "build"]


class NetworkChoice(Choice):
    """A network by name, with its settings; a field of an agent's settings."""

    registry = registry.networks

    def build(self, in_shape: tuple[int, ...], out_features: int | None = None) -> nn.Module:
        """A new network; the arguments are those of the module's docstring."""
        return registry.networks[self.name](in_shape, out_features, self.settings)  # type: ignore[no-any-return]


def build(name: str, in_shape: tuple[int, ...], out_features: int | None = None, **settings: Any) -> nn.Module:
    """A new network, by name: ``build("mlp", (4,), 2, hidden=[64, 64])``.

    Raises:
        InputError: no network has that name.
        pydantic.ValidationError: it has no such settings.
    """
    return NetworkChoice.model_validate({"name": name, **settings}).build(in_shape, out_features)
