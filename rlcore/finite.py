"""Finds NaNs and infinities in a rollout."""

from torch import Tensor

from rlcore.rollout import Rollout
from rlcore.trees import Tree


def checksum(rollout: Rollout) -> Tensor:
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
