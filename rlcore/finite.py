"""Finds NaNs and infinities in rollouts and losses."""

import math

import torch
from torch import Tensor

from rlcore.agent import Agent
from rlcore.device import reading_waits
from rlcore.errors import NonFiniteError
from rlcore.rollout import Rollout
from rlcore.trees import Tree


class FiniteCheck:
    """Looks at rollouts and losses: at once on the CPU; elsewhere, where reading a number stalls, when asked."""

    def __init__(self) -> None:
        self._suspect: Tensor | None = None

    def look(self, rollout: Rollout, steps: int) -> None:
        """Looks at the observations and rewards of a rollout, made after so many environment steps.

        Raises:
            NonFiniteError: one of them is NaN or infinite; on the CPU only.
        """
        total = _checksum(rollout)
        if reading_waits(total.device):
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
    for leaf in rollout.obs.values() if isinstance(rollout.obs, dict) else [rollout.obs]:
        if leaf.is_floating_point():
            total = total + leaf.detach().sum()
    return total


def first_nonfinite(rollout: Rollout, steps: int) -> str:
    """Describes the first observation, reward or action that is not finite, and its place; empty if all are finite.

    Args:
        rollout: the rollout to search.
        steps: environment steps done before it.
    """
    fields: dict[str, Tree] = {"observation": rollout.obs, "reward": rollout.reward, "action": rollout.action}
    if isinstance(rollout.obs, dict):
        fields |= {f"observation[{key!r}]": leaf for key, leaf in fields.pop("observation").items()}
    for name, tensor in fields.items():
        if tensor.is_floating_point() and not (finite := tensor.isfinite()).all():
            t, n, *component = (~finite).nonzero()[0].tolist()
            value = float(tensor[t, n].flatten()[~finite[t, n].flatten()][0])
            within = f", component {component}" if component else ""
            step = steps + t * finite.shape[1] + n
            return f"the {name} is {value} at step {step:,}, environment {n} (row {t} of the rollout{within})"
    return ""
