"""The commands, a file each; each returns its exit status. `rlcore.cli` reads their arguments and options."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlcore.commands.compare import compare
    from rlcore.commands.doctor import doctor
    from rlcore.commands.evaluate import evaluate
    from rlcore.commands.export import export
    from rlcore.commands.list_names import list_names
    from rlcore.commands.plot import plot
    from rlcore.commands.record import record
    from rlcore.commands.replay import replay
    from rlcore.commands.resume import resume
    from rlcore.commands.runs import runs
    from rlcore.commands.show import show
    from rlcore.commands.train import train
    from rlcore.commands.tune import tune
    from rlcore.commands.verify import verify

__all__ = [
    "compare",
    "doctor",
    "evaluate",
    "export",
    "list_names",
    "plot",
    "record",
    "replay",
    "resume",
    "runs",
    "show",
    "train",
    "tune",
    "verify",
]


class _Commands(ModuleType):
    """This package, in which the name of a command is the command, not the module that it is in."""

    def __setattr__(self, name: str, value: Any) -> None:
        is_module = name in __all__ and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if is_module else value)


sys.modules[__name__].__class__ = _Commands


def __getattr__(name: str) -> Any:
    """Imports a command on first use, so that those that look at runs need no torch."""
    if name not in __all__:
        raise AttributeError(f"module 'rlcore.commands' has no attribute {name!r}")
    return getattr(import_module(f"rlcore.commands.{name}"), name)
