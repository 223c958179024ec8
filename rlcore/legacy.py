"""What rlcore 0.1 wrote, as it is written now."""

from typing import Any

from rlcore.stateful import LEARNS

ANSWERS = "name", "steps", "observation_shape"
"""Parts of a checkpoint of 0.1 that stay where they are."""


def upgraded(saved: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of schema 1 or 2 with its contents where those of schema 3 are; others unchanged."""
    if "learns" in saved or "fits" not in saved:
        return saved
    agent = _agent(saved["agent"])
    learns = {key: value for key, value in saved.items() if key not in (*ANSWERS, "agent", "env", "obs", "state")}
    learns["agent"] = {key: agent.pop(key) for key in LEARNS if key in agent}
    if learns.get("settings", {}).get("trainer.eval_every", "") is None:  # which meant the default
        learns["settings"] = {**learns["settings"], "trainer.eval_every": "auto"}
    learns["collector"] = {key: saved[key] for key in ("env", "obs", "state") if key in saved}
    return {**{key: saved[key] for key in ANSWERS if key in saved}, "agent": agent, "learns": learns}


def upgraded_settings(tree: dict[str, Any]) -> dict[str, Any]:
    """A resolved config of 0.1, where a null of ``trainer.eval_every`` meant the default; others unchanged."""
    trainer = tree.get("trainer")
    if isinstance(trainer, dict) and "keep_checkpoints" in trainer and "hooks" not in trainer:  # every key was written
        return {
            **tree,
            "trainer": {key: value for key, value in trainer.items() if (key, value) != ("eval_every", None)},
        }
    return tree


def _agent(saved: dict[str, Any]) -> dict[str, Any]:
    """What agents saved by methods of their own: members of an ensemble, replays of games, a number of updates."""
    if "members" in saved:
        members = [_agent(member) for member in saved["members"]]
        joined: dict[str, Any] = {key: {} for key in ("parameters", *LEARNS)}
        for k, member in enumerate(members):
            for part, named in joined.items():
                named |= {f"members.{k}.{name}": value for name, value in member.get(part, {}).items()}
        return joined
    agent = dict(saved)
    if {"replay", "waiting"} <= agent.keys():
        agent["states"] = {"replay": {"replay": agent.pop("replay"), "waiting": agent.pop("waiting")}}
    if "num_rollouts" in agent:
        agent["numbers"] = {"num_rollouts": agent.pop("num_rollouts")}
    return agent
