"""rlcore: a reinforcement-learning-centric agent framework. Everything is an agent in an environment."""

import importlib
from typing import TYPE_CHECKING, Any

from rlcore import moved

if TYPE_CHECKING:
    from rlcore import commands, distributed, networks, registry
    from rlcore.agent import Agent, Metrics
    from rlcore.checks import check_agent, check_environment
    from rlcore.collector import Collector
    from rlcore.env_spec import EnvSpec
    from rlcore.environment import Environment
    from rlcore.errors import CheckpointError, ContractError, InputError, NonFiniteError
    from rlcore.evaluation import Report
    from rlcore.exporting.files import export
    from rlcore.game_checks import check_game
    from rlcore.gym_environment import GymEnvironment
    from rlcore.hooks import Hook
    from rlcore.rollout import Rollout, Step, collect
    from rlcore.run import load
    from rlcore.runs.comparison import Comparison, compare
    from rlcore.seeding import seed_everything
    from rlcore.settings import Settings
    from rlcore.trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "CheckpointError",
    "Collector",
    "Comparison",
    "ContractError",
    "EnvSpec",
    "Environment",
    "GymEnvironment",
    "Hook",
    "InputError",
    "Metrics",
    "NonFiniteError",
    "Report",
    "Rollout",
    "Settings",
    "Step",
    "Trainer",
    "check_agent",
    "check_environment",
    "check_game",
    "collect",
    "commands",
    "compare",
    "distributed",
    "export",
    "load",
    "networks",
    "registry",
    "seed_everything",
]

_HOMES = {
    "agent": ("Agent", "Metrics"),
    "checks": ("check_agent", "check_environment"),
    "collector": ("Collector",),
    "runs.comparison": ("Comparison", "compare"),
    "env_spec": ("EnvSpec",),
    "environment": ("Environment",),
    "errors": ("CheckpointError", "ContractError", "InputError", "NonFiniteError"),
    "evaluation": ("Report",),
    "exporting.files": ("export",),
    "game_checks": ("check_game",),
    "gym_environment": ("GymEnvironment",),
    "hooks": ("Hook",),
    "rollout": ("Rollout", "Step", "collect"),
    "run": ("load",),
    "seeding": ("seed_everything",),
    "settings": ("Settings",),
    "trainer": ("Trainer",),
}


moved.install()


def __getattr__(name: str) -> Any:
    """Imports on first use (PEP 562), so that ``rlcore --help`` needs no torch."""
    if name in ("commands", "distributed", "networks", "registry"):
        return importlib.import_module(f"rlcore.{name}")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"rlcore.{module}"), name)
    raise AttributeError(f"module 'rlcore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
