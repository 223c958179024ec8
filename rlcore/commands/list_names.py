"""``rlcore list``."""

import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin

from rich.table import Table

from rlcore import config as configs
from rlcore import registry
from rlcore.console import make_console
from rlcore.errors import InputError
from rlcore.experience.reading import local_ids
from rlcore.imports import import_module
from rlcore.settings import Choice, Settings
from rlcore.trainer import Trainer

KINDS = {
    "agents": registry.agents,
    "envs": registry.envs,
    "networks": registry.networks,
    "datasets": registry.datasets,
    "games": registry.games,
    "players": registry.players,
    "augmentations": registry.augmentations,
    "metrics": registry.metrics,
    "hooks": registry.hooks,
    "checks": registry.checks,
    "reports": registry.reports,
    "loggers": registry.loggers,
}


def list_names(what: str, imports: Sequence[str] = ()) -> int:
    """Prints the names of a kind, or of all, each with the first line of its documentation; or a name's settings.

    Args:
        what: a kind, ``configs``, ``all``, or a name.
        imports: modules that register more, as in a config.
    """
    for module in imports:
        import_module(module, Path(configs.COMMAND_LINE))
    kinds = [*KINDS, "configs"]
    console = make_console()
    if what not in [*kinds, "all"]:
        for title, schema in _settings_of(what):
            table = Table(title, "default", "", box=None, pad_edge=False)
            for row in _explained(schema):
                table.add_row(*row)
            console.print(table)
            console.print()
        return 0
    for which in kinds if what == "all" else [what]:
        table = Table(which, "", box=None, pad_edge=False)
        for name, text in _documented(which):
            table.add_row(name, text)
        for name in local_ids() if which == "datasets" else ():
            table.add_row(name, "Recorded episodes; rlcore show NAME.")
        console.print(table)
        console.print()
    return 0


def _settings_of(name: str) -> list[tuple[str, type[Settings]]]:
    """The settings of everything of that name, each with a title; ``trainer`` are those of `Trainer`."""
    if name == "trainer":
        return [(name, Trainer.Settings)]
    found = [(kind, known[name]) for kind, known in KINDS.items() if name in known.names()]
    if not found:
        names = [*KINDS, "configs", "all", "trainer", *(name for known in KINDS.values() for name in known.names())]
        raise InputError(
            f"unknown kind or name {name!r}{registry.did_you_mean(name, names)}; known: {', '.join(KINDS)}, configs, "
            "all, trainer, or a name that these list"
        )
    return [(f"{kind}: {name}", getattr(thing, "Settings", Settings)) for kind, thing in found]


def _explained(schema: type[Settings]) -> Iterator[tuple[str, str, str]]:
    """Each setting, its default as in YAML (of a choice, the name), and what it is for."""
    for key, field in schema.model_fields.items():
        default = field.default.name if isinstance(field.default, Choice) else field.default
        written = "required" if field.is_required() else default if isinstance(default, str) else json.dumps(default)
        text = " ".join((field.description or "").split())
        if get_origin(field.annotation) is Literal:
            text += f" One of {', '.join(get_args(field.annotation))}."
        yield key, written, text


def _documented(kind: str) -> list[tuple[str, str]]:
    if kind == "configs":
        files = {name: configs.find(name) for name in configs.shipped_names()}
        return [(name, path.read_text().partition("\n")[0].lstrip("# ")) for name, path in files.items()]
    known = KINDS[kind]
    return [(name, _first_line(known, name)) for name in known.names()]


def _first_line(known: registry.Registry, name: str) -> str:
    try:
        return (inspect.getdoc(known[name]) or "").partition("\n")[0]
    except InputError as error:  # a plugin that cannot be imported
        return str(error)
