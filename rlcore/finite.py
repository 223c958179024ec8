"""Finds NaNs and infinities in rollouts and losses."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from rlcore.agent import Agent
from rlcore.device import sync_is_costly
from rlcore.errors import ContractError, NonFiniteError
from rlcore.rollout import Rollout
from rlcore.trees import Tree, leaves

DIVERGED = "the agent diverged; try a smaller learning rate or a bound on the gradient"


class FiniteCheck:
    """Looks at rollouts and losses: at once on the CPU; elsewhere, where reading a number stalls, when asked."""

    def __init__(self) -> None:
        self._suspect: Tensor | None = None

    def look(self, rollout: Rollout, steps: int) -> None:
        """Looks at the observations and rewards of a rollout; true successors show in the loss, if it depends on them.

        Args:
            rollout: what is learned from next.
            steps: environment steps done before it.

        Raises:
            NonFiniteError: one of them is NaN or infinite; on the CPU only.
        """
        total = _checksum(rollout)
        if sync_is_costly(total.device):
            self._suspect = total * 0 if self._suspect is None else self._suspect + total * 0
        elif not math.isfinite(total) and (message := first_nonfinite(rollout, steps)):
            raise NonFiniteError(message)

    def found(self, agent: Agent) -> bool:
        """Whether, since the last call, anything was not finite that was not read at once; waits for the device."""
        flags = [flag != 0 for flag in (self._suspect, agent.nonfinite) if flag is not None]
        self._suspect = agent.nonfinite = None
        return bool(flags) and bool(torch.stack(flags).any())


def _checksum(rollout: Rollout) -> Tensor:
    """The sum of all float observations and all rewards, 0-d: not finite if any of them is not."""
    total = rollout.reward.detach().sum()
    for leaf in leaves(rollout.obs):
        if leaf.is_floating_point():
            total = total + leaf.detach().sum()
    return total


def _final_obs(rollout: Rollout) -> Tree:
    """The true successors of truncated rows; None if the environment does not give them, which not all agents need."""
    try:
        return rollout.final_obs
    except ContractError:
        return None


def first_nonfinite(rollout: Rollout, steps: int, differentiable: bool = False) -> str:
    """Describes the first cause: the earliest observation, action or reward that is not finite; empty if all are.

    An action that is not finite, after observations that are, is the agent's; so is a reward that is a function of it.

    Args:
        rollout: the rollout to search.
        steps: environment steps done before it.
        differentiable: whether the reward is a differentiable function of the action.
    """
    T, N = rollout.reward.shape
    time, env = torch.cartesian_prod(*(torch.arange(size, device=rollout.reward.device) for size in (T, N))).T
    rows = rollout.rows(time.view(T, N)), rollout.rows(env.view(T, N))
    found = [  # in the order in which they come about within a row
        *_first("observation", rollout.rows(rollout.obs), *rows),
        *_first("action", rollout.rows(rollout.action), *rows),
        *_first("reward", rollout.rows(rollout.reward), *rows),
        *_first("last observation of a truncated episode", _final_obs(rollout), *rollout.cut_places),
        *_first("observation", rollout.last_obs, torch.full_like(env[:N], T), env[:N]),
    ]
    first = min(found, key=lambda place: place.time, default=None)
    if first is None:
        return ""
    row = f"row {first.time} of the rollout" if first.time < T else "behind the last row of the rollout"
    where = f"at step {steps + first.time * N + first.env:,}, environment {first.env} ({row}{first.component})"
    if first.name == "action" or (first.name == "reward" and differentiable):
        return f"the {first.name} is {first.value} {where}, though the observations until then are finite: {DIVERGED}"
    return f"the {first.name} is {first.value} {where}"


class _Place(NamedTuple):
    name: str
    time: int
    env: int
    value: float
    component: str


def _first(name: str, tree: Tree, times: Tensor, envs: Tensor) -> Iterator[_Place]:
    """The first number that is not finite in each tensor [B, *O] of a tree, given the rows' times and environments."""
    named = {f"{name}[{key!r}]": leaf for key, leaf in tree.items()} if isinstance(tree, dict) else {name: tree}
    for full_name, leaf in named.items():
        if leaf is not None and leaf.is_floating_point() and not (finite := leaf.isfinite()).all():
            row, *component = (~finite).nonzero()[0].tolist()
            value = float(leaf.detach()[row][tuple(component)])
            within = f", component {component}" if component else ""
            yield _Place(full_name, int(times[row]), int(envs[row]), value, within)
