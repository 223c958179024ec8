"""Modules by the names that they had in rlcore 0.1: still found, with a warning."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

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


class MovedModules(MetaPathFinder, Loader):
    """Finds a module under its former name; it is the same object as under its present one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Puts the module in the place of the new one."""
        former = module.__name__
        warnings.warn(f"{former} is now {MOVED[former]}", DeprecationWarning, stacklevel=2)
        sys.modules[former] = importlib.import_module(MOVED[former])


def install() -> None:
    """From now on, former names are found where no module of that name exists."""
    sys.meta_path.append(MovedModules())
