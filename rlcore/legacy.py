"""What rlcore 0.1, and 0.2 before its release, wrote, as it is written now."""

from typing import Any

from gymnasium import Space

from rlcore.observations import ScaledInputs
from rlcore.spaces import Inputs
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


def showing_inputs(learns: dict[str, Any], fits: str, space: Space[Any]) -> dict[str, Any]:
    """What a run of a data set goes on from, where inputs were scaled before they were shown.

    Args:
        learns: that part of a checkpoint of schema 3.
        fits: what it must match, as a trainer writes it now.
        space: of the observations now.
    """
    if not isinstance(space, Inputs) or learns.get("fits") != fits.replace(str(space), str(space.scaled)):
        return learns
    collector = learns["collector"]
    obs = None if collector["obs"] is None else ScaledInputs(space).unscaled(collector["obs"].cpu())
    return {**learns, "fits": fits, "collector": {**collector, "obs": obs}}


def showed_scaled_inputs(spec: Any, config: Any) -> bool:
    """Whether an agent's spec is of a data set whose inputs were scaled before they were shown.

    Args:
        spec: as a checkpoint holds it.
        config: of the run, as YAML holds it.
    """
    env = config.get("env") if isinstance(config, dict) else None
    name = env.get("name") if isinstance(env, dict) else env
    return name in ("supervised", "reconstruction") and spec["observation_space"]["kind"] != "Inputs"


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
