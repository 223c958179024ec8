"""What an agent is given and gives where it is deployed: arrays, one row or a batch, actions inside their space."""

from collections.abc import Callable
from functools import wraps
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from torch import Tensor

from rlcore.errors import InputError
from rlcore.rollout import Step
from rlcore.spaces import ACTION_MASK, Inputs, dtype_of_tensor
from rlcore.trees import Tree, leaves

if TYPE_CHECKING:
    from rlcore.agent import Agent

Predict = Callable[..., Step]
BUSY = "_predicting"
"""Attribute of an agent while it predicts."""


class Batch(NamedTuple):
    """Observations as an agent reads them."""

    obs: Tree
    """[B, *O] on the agent's device."""
    single: bool
    """Whether one observation [*O] was given."""


def takes_arrays(predict: Predict) -> Predict:
    """A method ``predict`` that also takes numpy arrays, other floats, and one observation instead of a batch.

    Its actions in a bounded Box are clipped to it, as an environment does.
    """

    @wraps(predict)
    def run(self: "Agent", obs: Any, state: Tree = None) -> Step:
        if BUSY in vars(self):  # called by the predict of a subclass, with observations of its own making
            return predict(self, obs, state)
        batch = as_batch(obs, self.observation_space, device_of(self), self.reads_float64)
        if state is None:
            state = self.initial_state(next(leaves(batch.obs)).shape[0])
        vars(self)[BUSY] = None
        try:
            step = predict(self, batch.obs, state)
        finally:
            del vars(self)[BUSY]
        if self.action_low is not None and isinstance(step, Step):
            step = step._replace(action=step.action.clamp(self.action_low, self.action_high))
        return step._replace(action=step.action[0], memory=None) if batch.single else step

    return run


def device_of(agent: "Agent") -> torch.device:
    """Where the parameters and buffers of an agent are; of one without any, where it acts."""
    return next((x.device for x in chain(agent.parameters(), agent.buffers())), agent.spec.device)


def as_batch(obs: Any, space: Space[Any], device: torch.device, float64: bool = False) -> Batch:
    """Observations as an agent reads them.

    Args:
        obs: [B, *O] or [*O], as elements of the space: tensors or arrays, or a dict of them.
        space: of one observation.
        device: of the agent.
        float64: whether numbers of a float64 space stay so.

    Raises:
        InputError: they are no numbers, have another shape, or are no integers, or no bytes, where the space has these.
    """
    if not isinstance(space, Dict):
        return _as_batch(obs, space, device, float64, "observations")
    if not isinstance(obs, dict) or not space.keys() <= obs.keys():
        given = f"a dict of {', '.join(map(str, obs))}" if isinstance(obs, dict) else f"a {type(obs).__name__}"
        raise InputError(f"observations must be a dict of {', '.join(space)}; got {given}")
    parts = {key: _as_batch(obs[key], part, device, float64, f"obs[{key!r}]") for key, part in space.items()}
    if ACTION_MASK in parts:
        parts[ACTION_MASK] = parts[ACTION_MASK]._replace(obs=parts[ACTION_MASK].obs.bool())
    single = {part.single for part in parts.values()}
    if len(single) > 1:
        raise InputError("observations must be of one row, or of a batch, in all their parts")
    return Batch({key: part.obs for key, part in parts.items()}, single.pop())


def _as_batch(x: Any, space: Space[Any], device: torch.device, float64: bool, name: str) -> Batch:
    shape = space.shape
    if shape is None or space.dtype is None:  # one that no tensors hold; agents refuse it
        return Batch(x, False)
    if not isinstance(x, Tensor) and np.asarray(x).dtype.kind not in "biuf":
        raise InputError(f"{name} must be numbers, got {x!r:.80}")
    tensor = x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))
    if tensor.shape[tensor.ndim - len(shape) :] != shape or tensor.ndim - len(shape) not in (0, 1):
        raise InputError(f"{name} must be [B, {', '.join(map(str, shape))}] or one row; got {tuple(tensor.shape)}")
    wanted = torch.from_numpy(np.empty(0, dtype_of_tensor(space.dtype, float64))).dtype
    if isinstance(space, Inputs) and space.dtype != np.uint8 and space.shift.any():
        wanted = torch.float64  # nothing is rounded before the agent has subtracted
    if tensor.is_floating_point() and not wanted.is_floating_point:
        raise InputError(f"{name} must be {wanted}, as {space}; got {tensor.dtype}")
    if tensor.dtype != wanted:
        if wanted == torch.uint8 and tensor.numel() and not (tensor.min() >= 0 and tensor.max() <= 255):
            raise InputError(f"{name} must be bytes, in [0, 255]; got {tensor.min():g} to {tensor.max():g}")
        tensor = tensor.to(wanted)
    single = tensor.ndim == len(shape)
    tensor = tensor.to(device)
    return Batch(tensor.unsqueeze(0) if single else tensor, single)


def bounds(space: Space[Any]) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """The least and largest actions [*A] of a Box of floats, float32; None if it has no bounds."""
    if not isinstance(space, Box) or space.dtype.kind != "f" or not (space.bounded_below | space.bounded_above).any():
        return None, None
    return torch.tensor(space.low, dtype=torch.float32), torch.tensor(space.high, dtype=torch.float32)


def inside(action: Tensor, space: Space[Any]) -> Tensor:
    """Actions [B, *A] as the environment itself takes them: counted from its start, rounded where it has integers."""
    if isinstance(space, Box) and space.dtype.kind in "iu":
        return action.round().to(torch.int64)
    if isinstance(space, (Discrete, MultiDiscrete)):
        return action + torch.as_tensor(space.start, device=action.device)
    return action


def as_array(action: Tensor, space: Space[Any]) -> Any:
    """Actions [B, *A] as an array of the dtype of their space, to whose bounds float32 may have been rounded."""
    array = action.numpy(force=True).astype(space.dtype, copy=False)
    return np.clip(array, space.low, space.high) if isinstance(space, Box) else array


@torch.no_grad()
def answer(agent: "Agent", obs: Any, state: Tree = None) -> Any:
    """What `Agent.forward` returns."""
    modes = {module: module.training for module in agent.modules()} if agent.training else {}
    if modes:
        agent.eval()
    try:
        step = agent.predict(obs, state)
    finally:
        for module, training in modes.items():
            module.training = training
    action: Any = inside(step.action, agent.action_space)
    if not any(isinstance(leaf, Tensor) for leaf in (obs.values() if isinstance(obs, dict) else (obs,))):
        action = as_array(action, agent.action_space)
    return action if step.state is None else (action, step.state)
