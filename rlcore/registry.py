"""Names to factories: how a YAML file finds agents, environments, networks, data sets, reports, loggers, commands.

rlcore's own objects are registered exactly as a third party's: by an entry point in ``setup.cfg`` (group
``rlcore.agents`` and so on, ``name = module:object``), imported on first use; or, in a file that the YAML's
``imports:`` names, by a decorator::

    @rlcore.registry.agents.register("mine")
    class Mine(rlcore.Agent): ...
"""

import difflib
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from rlcore.errors import InputError

T = TypeVar("T")


class Registry:
    """The named objects of one kind.

    Args:
        group: the entry-point group, e.g. ``"rlcore.agents"``.
        noun: what one of them is called in an error message.
    """

    def __init__(self, group: str, noun: str):
        self.group, self.noun = group, noun
        self._registered: dict[str, Any] = {}
        self._found: dict[str, EntryPoint] | None = None

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that registers a class or function under ``name``; the latest registration wins."""

        def add(thing: T) -> T:
            self._registered[name] = thing
            return thing

        return add

    def names(self) -> list[str]:
        """All names, sorted; imports nothing."""
        return sorted({*self._registered, *self._entry_points()})

    def name_of(self, thing: Any) -> str | None:
        """The name under which an object is registered, if it is."""
        names = (name for name, known in self._registered.items() if known is thing)
        value = qualified_name(thing)
        points = self._entry_points().items()
        return next(names, next((name for name, point in points if point.value == value), None))

    def __getitem__(self, name: str) -> Any:
        """The object of that name, imported if necessary.

        Raises:
            InputError: the name is unknown, or the object cannot be imported.
        """
        if name not in self._registered:
            points = self._entry_points()
            if name not in points:
                known = ", ".join(self.names()) or "none (is rlcore installed? pip install -e .)"
                raise InputError(
                    f"unknown {self.noun} {name!r}{did_you_mean(name, self.names())}; known: {known}; "
                    "one of your own: name its file in imports"
                )
            try:
                self._registered[name] = points[name].load()
            except (ImportError, AttributeError) as error:
                raise InputError(
                    f"the {self.noun} {name!r} ({points[name].value}) cannot be imported: {error}"
                ) from error
        return self._registered[name]

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._found is None:
            self._found = {point.name: point for point in entry_points(group=self.group)}
        return self._found


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"``, or an empty string if no known name is close."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def qualified_name(thing: Any) -> str:
    """``module:Name`` of a class or a function; of another object that of its class, followed by ``(...)``."""
    name = getattr(thing, "__qualname__", None)
    if name is None:
        return f"{qualified_name(type(thing))}(...)"
    return f"{thing.__module__}:{name}"


agents = Registry("rlcore.agents", "agent")
envs = Registry("rlcore.envs", "environment")
games = Registry("rlcore.games", "game")
players = Registry("rlcore.players", "player")
networks = Registry("rlcore.networks", "network")
hooks = Registry("rlcore.hooks", "hook")
augmentations = Registry("rlcore.augmentations", "augmentation")
metrics = Registry("rlcore.metrics", "metric")
checks = Registry("rlcore.checks", "check")
reports = Registry("rlcore.reports", "report")
loggers = Registry("rlcore.loggers", "logger")
datasets = Registry("rlcore.datasets", "dataset")
commands = Registry("rlcore.commands", "command")
