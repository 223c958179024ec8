"""The network registry.

Any agent works with any network that can read the observations, with these exceptions: ``gru``, ``lstm`` and
``frame_stack`` have a memory and are for agents that keep one, which take no others and no batch norm; autoencoders
need a network with ``encode`` and ``decode``.

A network is registered by an entry point in the group ``rlcore.networks`` or by ``registry.networks.register(name)``.
"""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, model_validator
from torch import nn
from typing_extensions import Self

from rlcore import registry
from rlcore.errors import InputError
from rlcore.networks.base import Network
from rlcore.networks.given import Given
from rlcore.registry import qualified_name
from rlcore.settings import Choice, Settings, mistakes

__all__ = ["Network", "NetworkChoice", "NetworkMaker", "build"]

NetworkMaker = Callable[..., nn.Module]
"""A class of networks, or a function that makes one."""
LONGEST_NAME = 200
"""Characters of the name under which a module is saved."""


class NetworkChoice(Choice):
    """A network by name, with its settings; a field of an agent's settings.

    In Python it may also be

    - a class with ``Settings``, such as a `Network`, which is constructed with their defaults;
    - another class, or a function, called as ``make(in_shape, out_features)``, which returns a module from
      [B, *in_shape] to [B, out_features], or to any number of features if ``out_features`` is None;
    - a module, the body: each network that is built is a copy of it, with a linear layer on it if the agent asks for
      outputs.

    What is registered is saved by its name. Anything else is saved by a name that says what it was, ``module:Class`` or
    the layers, from which it cannot be built again.
    """

    registry = registry.networks

    given: Any = Field(default=None, exclude=True, repr=False)
    """The class, function or module that was given; None for a registered one."""

    if TYPE_CHECKING:

        def __set__(
            self, instance: object, value: Self | Mapping[str, Any] | str | nn.Module | NetworkMaker
        ) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _read_given(cls, given: Any) -> Any:
        name = given.get("name") if isinstance(given, Mapping) else given
        if isinstance(name, str) and re.search("[(:]", name) and name not in cls.registry.names():
            raise InputError(
                f"the network {name!r} was given in Python; to name one in a config, register its class: "
                "@rlcore.registry.networks.register('my_network')"
            )
        if isinstance(given, nn.Module):
            name = " ".join(repr(given).split())
            name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."
            return {"name": name, "settings": Settings(), "given": given}
        if not callable(given):
            return given
        if (known := cls.registry.name_of(given)) is not None:
            return known
        name = qualified_name(given)
        try:
            settings = given.Settings() if _has_settings(given) else Settings()
        except ValidationError as error:
            missing = ", ".join(".".join(path) for path, _ in mistakes(error, given.Settings))
            message = f"{name} needs settings ({missing}); give a function that makes it, or register it and name it"
            raise InputError(message) from None
        return {"name": name, "settings": settings, "given": given}

    @property
    def kind(self) -> Any:
        """The class of the network; or the function that makes it, or the module, that was given."""
        return registry.networks[self.name] if self.given is None else self.given

    def build(self, in_shape: tuple[int, ...], out_features: int | None = None) -> Network:
        """A new network; the arguments are those of `Network`.

        Raises:
            InputError: a class, function or module that was given does not fit.
        """
        kind = self.kind
        if self.given is not None and not _has_settings(kind):
            return Given(kind, self.name, in_shape, out_features)
        network: Network = kind(in_shape, out_features, self.settings)
        return network


def _has_settings(kind: Any) -> bool:
    """Whether it is a class that is constructed with settings, as a `Network` is."""
    schema = getattr(kind, "Settings", None)
    return isinstance(kind, type) and isinstance(schema, type) and issubclass(schema, Settings)


def build(name: str, in_shape: tuple[int, ...] | None, out_features: int | None = None, **settings: Any) -> Network:
    """A new network, by name: ``build("mlp", (4,), 2, hidden=[64, 64])``.

    Raises:
        InputError: no network has that name, or the shape is None, as that of a space without one.
        pydantic.ValidationError: the settings are invalid.
    """
    if in_shape is None:
        raise InputError(f"the network {name} needs a shape, got None; see rlcore.observations.build_body")
    return NetworkChoice.model_validate({"name": name, **settings}).build(in_shape, out_features)
