"""What of an agent runs without rlcore: functions of named tensors, which `rlcore.export` writes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from gymnasium import Space
from gymnasium.spaces import Dict
from torch import Tensor

from rlcore.deployment import inside
from rlcore.distributions import Distribution
from rlcore.errors import InputError
from rlcore.rollout import Step
from rlcore.trees import Tree, leaves, num_rows, tree_map, where

if TYPE_CHECKING:
    from rlcore.agent import Agent

Tensors = dict[str, Tensor]
UNIFORM, STANDARD_NORMAL = "drawn uniformly from [0, 1)", "drawn from the standard normal distribution"
"""What is said of noise."""


class Program(NamedTuple):
    """A function of named tensors [B, ...], of any number of rows B, each of which is answered by itself."""

    run: Callable[[Tensors], Tensors]
    """Inputs to outputs."""
    inputs: Tensors
    """Examples of the inputs, by which the program is traced and compared; their names are its inputs'."""
    about: dict[str, str]
    """What inputs and outputs are, by name."""


def policy_program(
    agent: "Agent", obs: Tree, sample: bool, predict: Callable[[Tree, Tree], Step] | None = None
) -> Program:
    """`Agent.predict` with `Agent.details`; or a draw from `Agent.distribution`, by noise that is an input.

    Inputs are ``obs``, or the parts of a dict by their names; ``state`` (several: ``state_0`` and so on) of an agent
    with a memory; and ``noise``, if actions are drawn. Outputs are ``action``, as the environment takes it, the
    details, and ``next_state``.

    Args:
        agent: in evaluation mode.
        obs: examples of observations, [B, *O].
        sample: whether actions are drawn.
        predict: instead of the agent's.

    Raises:
        InputError: the agent has no distribution that is drawn by noise.
    """
    predict = predict or agent.predict
    state, flags = _reached(agent, obs)
    memory = _numbered("state", state, flags)
    inputs = {**named_observations(obs), **memory}
    about = described_observations(agent)
    about |= {
        name: f"{_level(field)} at the beginning of an episode, then the next_{name} of the step before"
        for name, field in _numbered("state", agent.initial_state(1), flags).items()
    }
    if sample:
        inputs["noise"], about["noise"] = _noise(agent, obs, state)

    def run(inputs: Tensors) -> Tensors:
        seen = observations_in(inputs, obs)
        fields, are_read = iter([inputs[name] for name in memory]), iter(flags)
        before = tree_map(lambda x: next(fields) if next(are_read) else x[:1], state)
        step = predict(seen, before)
        action = step.action
        if sample:
            action = _distribution(agent, seen, before).drawn(inputs["noise"])  # type: ignore[attr-defined]
            if agent.action_low is not None:
                action = action.clamp(agent.action_low, agent.action_high)
        outputs = {"action": inside(action, agent.action_space), **agent.details(seen, before)}
        return {**outputs, **_numbered("next_state", step.state, flags)}

    return Program(run, inputs, about)


def named_observations(obs: Tree) -> Tensors:
    """Observations as inputs of a program: ``obs``, or the parts of a dict by their names."""
    return obs if isinstance(obs, dict) else {"obs": obs}


def observations_in(inputs: Tensors, like: Tree) -> Tree:
    """The reverse of `named_observations`: the observations among inputs, as others are."""
    return {key: inputs[key] for key in like} if isinstance(like, dict) else inputs["obs"]


def described_observations(agent: "Agent") -> dict[str, str]:
    """What these inputs are."""
    space: Space[Any] = agent.observation_space
    parts = space.spaces if isinstance(space, Dict) else {"obs": space}
    return {key: described(part) for key, part in parts.items()}


def described(space: Space[Any]) -> str:
    """A space in one line; numpy breaks long bounds."""
    return " ".join(str(space).split())


def _reached(agent: "Agent", obs: Tree) -> tuple[Tree, list[bool]]:
    """States before B steps, half of them beginnings; and whether each of their fields is read, or passed on."""
    first = agent.initial_state(num_rows(obs))
    if first is None:
        return None, []
    second = agent.predict(obs, first).state
    flags = [new is not old for new, old in zip(leaves(second), leaves(first), strict=True)]
    begins = torch.arange(num_rows(obs), device=next(leaves(obs)).device) % 2 == 0
    return where(begins, first, second), flags


def _numbered(name: str, state: Tree, flags: list[bool]) -> Tensors:
    """The fields of a state that are read, by the name, and a number if there are several."""
    fields = [field for field, is_read in zip(leaves(state), flags, strict=True) if is_read]
    return {name if len(fields) == 1 else f"{name}_{k}": field for k, field in enumerate(fields)}


def _level(field: Tensor) -> str:
    """The one number of a field of an initial state, or all of them, [1, ...]."""
    return f"{field.flatten()[0].item():g}" if (field == field.flatten()[0]).all() else str(field[0].tolist())


def _distribution(agent: "Agent", obs: Tree, state: Tree) -> Distribution:
    return agent.distribution(obs) if state is None else agent.distribution(obs, state)  # type: ignore[call-arg]


def _noise(agent: "Agent", obs: Tree, state: Tree) -> tuple[Tensor, str]:
    """Examples of the noise by which actions are drawn, and what it is."""
    pi = _distribution(agent, obs, state)
    kind, like = getattr(pi, "noise", None), pi.mode.float()
    if kind == "uniform":
        return torch.rand_like(like), UNIFORM
    if kind == "normal":
        return torch.randn_like(like), STANDARD_NORMAL
    raise InputError(f"--sample: a {type(pi).__name__} is not drawn by noise (Distribution.drawn)")
