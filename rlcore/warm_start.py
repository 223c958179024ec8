"""Beginning with what another agent has learned."""

from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from rlcore import checkpoint, legacy
from rlcore.agent import Agent
from rlcore.checkpoint import fitting
from rlcore.errors import InputError
from rlcore.files import CHECKPOINTS_FOLDER
from rlcore.normalization import RunningMoments
from rlcore.observations import ScaledInputs
from rlcore.trees import describe

STATISTICS = RunningMoments, ScaledInputs, _BatchNorm
"""Modules whose buffers are learned from data."""
MEANING = "normalize_observations", "scale_actions", "squash", "network", "critic_network", "value_network"
"""Settings by which the same parameters answer otherwise."""
MOST_NAMED = 5
"""Of what an agent has not copied, so many are named."""


def init_from(agent: Agent, source: str | Path) -> list[str]:
    """Copies into an agent what another one has learned: parameters and statistics of the same names and shapes.

    Targets that the other agent does not have are made equal to what they follow. Bounds of actions, and numbers that
    are set, stay those of the agent.

    Args:
        agent: to begin from there.
        source: a run's folder, whose best checkpoint it is, or else the last one; or a checkpoint's file.

    Returns:
        One line that says how many were copied, and which of the agent's were not.

    Raises:
        InputError: there is no such checkpoint; nothing in it fits; or what fits would answer otherwise, as one of the
            two agents normalises observations, or its network has another activation.
    """
    with fitting("this agent"):
        saved = legacy.upgraded(checkpoint.load(_file(Path(source))))["agent"]
        there: dict[str, Any] = dict(saved["parameters"])
    learned = _learned(agent)
    copied = {name: there[name] for name, x in learned.items() if describe(there.get(name)) == describe(x)}
    if not copied:
        raise InputError(f"init_from: nothing that the agent of {source} has learned fits {type(agent).__name__}")
    _require_same_meaning(agent, saved.get("settings") or {}, source)
    for name in learned.keys() - copied.keys():
        followed = _followed(name)
        if followed in copied:
            copied[name] = copied[followed]
    agent.load_state_dict({**agent.state_dict(), **copied})
    left = [name for name in learned if name not in copied]
    rest = f"; new: {', '.join(left[:MOST_NAMED])}{', ...' if len(left) > MOST_NAMED else ''}" if left else ""
    return [f"begins from {source}: {len(copied)} of {len(learned)} parameters and statistics{rest}"]


def _file(source: Path) -> Path:
    """The checkpoint's file."""
    of_run = [source / CHECKPOINTS_FOLDER / f"{name}.pt" for name in ("best", "last")]
    places = [source] if source.suffix == ".pt" else of_run
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(f"init_from: there is no checkpoint in {source}, nor is it one; name a run or a .pt file")
    return found


def _learned(agent: Agent) -> dict[str, torch.Tensor]:
    """An agent's parameters and statistics, by their names in its ``state_dict``."""
    learned = {name for name, _ in agent.named_parameters()}
    for prefix, module in agent.named_modules():
        if isinstance(module, STATISTICS):
            learned |= {f"{prefix}.{name}" for name, _ in module.named_buffers(recurse=False)}
    return {name: x for name, x in agent.state_dict().items() if name in learned}


def _followed(name: str) -> str:
    """The name of what a target's parameter follows: ``target_policy.0.weight`` follows ``policy.0.weight``."""
    return f"q.{name.removeprefix('target.')}" if name.startswith("target.") else name.removeprefix("target_")


def _require_same_meaning(agent: Agent, before: dict[str, Any], source: str | Path) -> None:
    here = agent.settings.model_dump(mode="json")
    for key in MEANING:
        was, now = (_without_dropout(settings.get(key)) for settings in (before, here))
        if key in before and key in here and was != now:
            raise InputError(
                f"init_from: the agent of {source} has learned with agent.{key}={_in_words(was)}, and would answer "
                f"otherwise with {_in_words(now)}; set it as it was"
            )


def _without_dropout(value: Any) -> Any:
    """A setting, of a network without what changes no answer of its parameters."""
    return {k: v for k, v in value.items() if k not in ("dropout", "init")} if isinstance(value, dict) else value


def _in_words(value: Any) -> str:
    """As YAML has it, on one line."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
