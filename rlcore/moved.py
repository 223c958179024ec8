"""Modules and methods by the names that they had in rlcore 0.1: still found, with a warning."""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "rlcore.agents.dropout_probe": "rlcore.uncertainty.dropout_probe",
    "rlcore.agents.encoder_of": "rlcore.networks.encoder_of",
    "rlcore.agents.game_replay": "rlcore.envs.games.replay",
    "rlcore.agents.mc_dropout": "rlcore.uncertainty.mc_dropout",
    "rlcore.agents.policy": "rlcore.agents.bases.policy",
    "rlcore.agents.replay": "rlcore.replay",
    "rlcore.agents.self_play": "rlcore.agents.bases.self_play",
    "rlcore.envs.connect4_solver": "rlcore.envs.games.solver",
    "rlcore.envs.elo": "rlcore.envs.games.elo",
    "rlcore.envs.game_env": "rlcore.envs.games.game_env",
    "rlcore.envs.matches": "rlcore.envs.games.matches",
    "rlcore.envs.play": "rlcore.envs.games.play",
    "rlcore.envs.players": "rlcore.envs.games.players",
    "rlcore.envs.selfplay": "rlcore.envs.games.selfplay",
    "rlcore.envs.truth": "rlcore.envs.games.truth",
    "rlcore.envs.versus": "rlcore.envs.games.versus",
    "rlcore.supervised.disentanglement": "rlcore.supervised.reports.disentanglement",
    "rlcore.supervised.foreign": "rlcore.supervised.reports.foreign",
    "rlcore.supervised.latent": "rlcore.supervised.reports.latent",
    "rlcore.supervised.likelihood": "rlcore.supervised.reports.likelihood",
    "rlcore.supervised.uncertainty_report": "rlcore.supervised.reports.uncertainty",
}


class MovedModules:
    """Finds a module under its former name; it is the same object as under its present one.

    A finder and a loader as in `importlib.abc`, which is not imported: it imports modules of names such as ``random``,
    while those of the working folder still stand in front.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module that has moved."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """None: an empty module, which `exec_module` replaces."""

    def exec_module(self, module: ModuleType) -> None:
        """Puts the module in the place of the new one."""
        former = module.__name__
        warnings.warn(f"{former} is now {MOVED[former]}", DeprecationWarning, stacklevel=2)
        sys.modules[former] = importlib.import_module(MOVED[former])


def install() -> None:
    """From now on, former names are found where no module of that name exists."""
    sys.meta_path.append(MovedModules())


def keep_former_names(kind: type, renamed: Mapping[str, str]) -> None:
    """Lets methods of a class be called and overridden by their former names, with a warning.

    Args:
        kind: the class; a base calls this for itself, and in ``__init_subclass__`` for those below it.
        renamed: former names to present ones.
    """
    for former, now in renamed.items():
        first = next(one for one in kind.__mro__ if former in vars(one) or now in vars(one))
        if now not in vars(first):  # an override, of the class itself or of one that it is mixed with
            warnings.warn(f"{first.__qualname__}.{former} is now called {now}", DeprecationWarning, stacklevel=3)
            setattr(kind, now, vars(first)[former])
        if now in vars(kind) and former not in vars(kind):
            setattr(kind, former, _warning(vars(kind)[now], former, now))


def former_names(module: str, renamed: Mapping[str, Any]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module whose functions are found by their former names, with a warning.

    Args:
        module: its name.
        renamed: former names to the functions, or to where they are now: ``"package.module.name"``.
    """

    def find(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        now = renamed[name]
        where = now if isinstance(now, str) else f"{module}.{now.__name__}"
        warnings.warn(f"{module}.{name} is now {where}", DeprecationWarning, stacklevel=2)
        if not isinstance(now, str):
            return now
        home, _, function = now.rpartition(".")
        return getattr(importlib.import_module(home), function)

    return find


def _warning(method: Callable[..., Any], former: str, now: str) -> Callable[..., Any]:
    @wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        warnings.warn(f"{former} is now called {now}", DeprecationWarning, stacklevel=2)
        return method(*arguments, **named)

    return call
