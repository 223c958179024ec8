"""Executable contracts of environments and agents, like gymnasium's ``check_env``."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor

from rlcore.agent import Agent
from rlcore.errors import ContractError
from rlcore.networks import Network
from rlcore.rollout import Rollout, Step, collect
from rlcore.seeding import ACTING, derive_seed, seed_everything
from rlcore.spaces import ACTION_MASK
from rlcore.stateful import attributes_of_type
from rlcore.trees import Tree, leaves, tree_map

if TYPE_CHECKING:
    from rlcore.environment import Environment

PATIENCE = 100
"""Rollouts in which an agent must begin to learn."""


def check_environment(env: "Environment", num_steps: int = 300, seed: int = 1) -> None:
    """Plays random actions and checks the contract of `Environment`.

    Args:
        env: the environment; it is reset, saved and restored.
        num_steps: steps to play; some should end episodes.
        seed: of the environment and the actions.

    Raises:
        ContractError: says what is wrong, what was expected and, where it helps, how to fix it.
    """
    first = _play_random(env, _reset(env, seed), num_steps, seed)
    again = _play_random(env, _reset(env, seed), num_steps, seed)
    _require_same(first, again, f"between two runs with seed {seed}: draw from a seeded generator")
    saved, obs = deepcopy(env.checkpoint()), again[-1][0]
    if saved is not None:
        ahead = _play_random(env, obs, num_steps, seed)
        _reset(env, seed + 1)
        env.restore(saved)
        repeated = _play_random(env, obs, num_steps, seed)
        _require_same(ahead, repeated, "after the environment was restored: checkpoint lacks a part of its state")
    twin = env.evaluation(1)
    _reset(twin, seed)
    if twin is not env:
        twin.close()


def _require_same(runs: list[tuple[Tree, ...]], others: list[tuple[Tree, ...]], message: str) -> None:
    for t, (a, b) in enumerate(zip(runs, others, strict=True)):
        for name, x, y in zip(("obs", "reward", "terminated", "truncated"), a, b, strict=True):
            _require(_equal(x, y), f"{name} of step {t} differs {message}")


def _reset(env: "Environment", seed: int) -> Tree:
    env.action_space.seed(seed)
    made = env.reset(seed=seed)
    _require(isinstance(made, tuple) and len(made) == 2, f"reset must return (obs, info), got {_kinds(made)}")
    obs, info = made
    _require(isinstance(info, dict), f"reset must return (obs, info), info a dict; got {type(info).__name__}")
    _check_obs(env, obs, env.single_observation_space)
    _check_finite("obs of a reset", obs)
    return obs


def _play_random(env: "Environment", obs: Tree, num_steps: int, seed: int) -> list[tuple[Tree, ...]]:
    seen, copies = [], []
    for t in range(num_steps):
        with torch.random.fork_rng():  # the same actions in each run, without seeding what the environment draws
            torch.manual_seed(seed + t)
            env.action_space.seed(seed + t)
            actions = env.random_actions()
        _check_allowed(actions, obs)
        outcome: Any = env.step(actions)
        _require(
            isinstance(outcome, tuple) and len(outcome) == 5,
            f"step must return (obs, reward, terminated, truncated, info), got {_kinds(outcome)}",
        )
        obs, reward, terminated, truncated, info = outcome
        _require(isinstance(info, dict), f"info of step {t} must be a dict, got {type(info).__name__}")
        _check_obs(env, obs, env.single_observation_space)
        _check_flow(env, reward, terminated, truncated)
        _check_finite(f"obs of step {t}", obs)
        _check_finite(f"reward of step {t}", reward)
        if truncated.any():
            _require(
                "final_obs" in info,
                "a row was truncated, but info has no final_obs: put the true last observations [N, *O] there",
            )
            _check_obs(env, info["final_obs"], env.single_observation_space)
        seen.append((obs, reward, terminated, truncated))
        copies.append(tree_map(torch.clone, seen[-1]))
    for t, (given, copy) in enumerate(zip(seen, copies, strict=True)):
        _require(_equal(given, copy), f"the tensors of step {t} were written to later: return new ones at every step")
    return seen


def check_agent(agent: Agent, env: "Environment", seed: int = 1) -> None:
    """Lets an agent act and learn, and checks the contract of `Agent`.

    Args:
        agent: the agent; it learns until its parameters change, and from one rollout more.
        env: an environment for it; it is reset.
        seed: of the environment, and of the global generators.

    Raises:
        ContractError: says what is wrong and what was expected.
    """
    check_horizon(agent)
    seed_everything(derive_seed(seed, ACTING))
    agent.to(env.device)
    env.on_attach(agent)
    obs, _ = env.reset(seed=seed)
    state = agent.initial_state(env.num_envs)
    check_acting(agent, env, obs, state)
    step: Any = agent.predict(obs, state)
    _require(isinstance(step, Step), f"predict must return a Step, got {type(step).__name__}")
    _check_action(env, step.action)
    optimizers = attributes_of_type(agent, torch.optim.Optimizer)
    trained = [param for _, one in optimizers for group in one.param_groups for param in group["params"]]
    known = set(map(id, trained))
    others = {name: x for name, x in agent.named_parameters() if x.requires_grad and id(x) not in known}
    start = {name: param.clone() for name, param in others.items()}
    _let_it_learn(agent, env, obs, state, trained)
    left = [name for name, param in others.items() if _equal(param, start[name])]  # nor moved otherwise
    _require(
        not (optimizers and left),
        f"no optimizer has {', '.join(left)}: create it after them, use add_param_group, or requires_grad_(False)",
    )
    again = type(agent)(env, agent.settings).to(env.device)
    again.train(agent.training)
    again.restore(deepcopy(agent.checkpoint()))
    for one in (agent, again):  # with other draws than before, or a replay that was lost may not show
        seed_everything(derive_seed(seed + 1, ACTING))
        obs, _ = env.reset(seed=seed + 1)
        one.learn(collect(one, env, obs, one.horizon, one.initial_state(env.num_envs)))
    for name, value in agent.state_dict().items():
        _require(
            _equal(value, again.state_dict()[name]),
            f"a restored agent learns a different {name}: what learning changes must be a parameter, a buffer, a "
            "number, an optimizer, a generator or have state_dict and load_state_dict, and be among its attributes",
        )


def _let_it_learn(agent: Agent, env: "Environment", obs: Tree, state: Tree, trained: list[Tensor]) -> None:
    """Rollouts until one of the trained parameters changes: an agent may first fill a replay."""
    start = [param.clone() for param in trained]
    for _ in range(PATIENCE):
        before = {name: value.clone() for name, value in agent.state_dict().items()}
        rollout = collect(agent, env, obs, agent.horizon, state)
        for name, value in agent.state_dict().items():
            _require(_equal(value, before[name]), f"act changed {name}: only learn may change parameters and buffers")
        check_rollout(rollout, env)
        check_metrics(agent.learn(rollout))
        obs, state = rollout.last_obs, rollout.last_state
        if not start or not _equal(start, trained):
            return
    raise ContractError(
        f"learn changed no parameter in {PATIENCE} rollouts: if the agent begins later, check it with settings by "
        "which it begins sooner; if there is nothing to learn from, in another environment"
    )


def check_horizon(agent: Agent) -> None:
    """Checks the agent's horizon.

    Raises:
        ContractError: it is neither None nor a whole number of steps.
    """
    horizon: Any = agent.horizon
    _require(
        horizon is None or (isinstance(horizon, Integral) and not isinstance(horizon, bool) and int(horizon) > 0),
        f"{type(agent).__name__}.horizon: must be a number of steps, or None for whole episodes; got {horizon!r}",
    )


def check_acting(agent: Agent, env: "Environment", obs: Tree, state: Tree = None) -> None:
    """Checks an observation, and the agent's answer to it.

    Args:
        agent: the agent; it acts once.
        env: the environment of both.
        obs: [N, *O], if it is as it should be.
        state: of a recurrent agent.

    Raises:
        ContractError: says what is wrong and what was expected.
    """
    _check_obs(env, obs, env.single_observation_space)
    with _checked_networks(agent):
        step: Any = agent.act(obs, state)
    _require(isinstance(step, Step), f"act must return a Step, got {type(step).__name__}")
    _check_action(env, step.action)


@contextmanager
def _checked_networks(agent: Agent) -> Iterator[None]:
    """Checks the size of what each network returns, before another module fails on it."""

    def check(network: Network, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and hasattr(network, "num_features"):  # one with an output layer needs none
            _require(
                output.shape[-1] == network.num_features,
                f"{type(network).__name__} returns {list(output.shape)}, but its num_features is "
                f"{network.num_features}: it must return [B, num_features]",
            )

    handles = [module.register_forward_hook(check) for module in agent.modules() if isinstance(module, Network)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_rollout(rollout: Rollout, env: "Environment") -> None:
    """Checks shapes and dtypes of a rollout's first row.

    Raises:
        ContractError: says what is wrong and what was expected.
    """
    row = rollout[0]
    _check_obs(env, row.obs, env.single_observation_space)
    _check_action(env, row.action)
    _check_flow(env, row.reward, row.terminated, row.truncated)


def check_metrics(metrics: Any) -> None:
    """Checks what `Agent.learn` returned: a dict of detached 0-d tensors and numbers.

    Raises:
        ContractError: it is anything else; says what.
    """
    _require(isinstance(metrics, dict), f"learn must return a dict of metrics, got {type(metrics).__name__}")
    for name, metric in metrics.items():
        if isinstance(metric, Tensor):
            _require(metric.ndim == 0, f"the metric {name} must be 0-d, has shape {tuple(metric.shape)}")
            _require(not metric.requires_grad, f"the metric {name} has a graph: detach it, or memory grows")
        else:
            _require(isinstance(metric, Real), f"the metric {name} must be a number, got {metric!r}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ContractError(message)


def _kinds(outcome: Any) -> str:
    """``a tuple of 4``, or the type."""
    return f"a tuple of {len(outcome)}" if isinstance(outcome, tuple) else type(outcome).__name__


def _check_flow(env: "Environment", reward: Any, terminated: Any, truncated: Any) -> None:
    for name, value, dtype in (
        ("reward", reward, torch.float32),
        ("terminated", terminated, torch.bool),
        ("truncated", truncated, torch.bool),
    ):
        _check_tensor(env, name, value, (env.num_envs,))
        _require(value.dtype == dtype, f"{name} must be {dtype}, got {value.dtype}")


def _check_action(env: "Environment", action: Any) -> None:
    space = env.single_action_space
    _check_tensor(env, "an action", action, tuple(env.action_space.shape or ()))
    is_box = isinstance(space, Box)
    whole = is_box and not np.issubdtype(space.dtype, np.floating)  # a Box of integers takes both kinds
    fits = whole or action.is_floating_point() == is_box
    _require(fits, f"an action must have the kind of numbers of {space}, got {action.dtype}")
    if isinstance(space, (Discrete, MultiDiscrete, MultiBinary)):
        choices = space.n if isinstance(space, Discrete) else space.nvec if isinstance(space, MultiDiscrete) else 2
        limit = torch.as_tensor(choices, device=action.device)
        outside = (action < 0) | (action >= limit)
        if outside.any():
            raise ContractError(f"actions must be counted from 0 and lie in {space}, got {action[outside][0].item()}")


def _check_allowed(actions: Tensor, obs: Tree) -> None:
    mask = obs.get(ACTION_MASK) if isinstance(obs, dict) else None
    if mask is not None and actions.ndim == 1:
        _require(
            bool(mask.gather(1, actions[:, None]).all()),
            "random_actions drew an action that the action_mask forbids: override it",
        )


def _check_obs(env: "Environment", obs: Tree, space: Space[Any], name: str = "obs") -> None:
    if isinstance(space, Dict):
        _require(isinstance(obs, dict), f"{name} must be a dict, got {type(obs).__name__}")
        _require(obs.keys() == space.spaces.keys(), f"{name} must have the keys {[*space]}, got {[*obs]}")
        for key, part in obs.items():
            _check_obs(env, part, space[key], f"{name}[{key!r}]")
        return
    _check_tensor(env, name, obs, (env.num_envs, *(space.shape or ())))
    if name.endswith(f"[{ACTION_MASK!r}]"):
        _require(obs.dtype == torch.bool, f"{name} must be torch.bool, got {obs.dtype}")
    elif isinstance(space, Box) and np.issubdtype(space.dtype, np.floating):
        dtype = torch.float64 if env.float64 and space.dtype == np.float64 else torch.float32
        _require(obs.dtype == dtype, f"{name} must be {dtype}, got {obs.dtype}")


def _check_tensor(env: "Environment", name: str, value: Any, shape: tuple[int, ...]) -> None:
    _require(isinstance(value, Tensor), f"{name} must be a tensor, got {type(value).__name__}")
    _require(tuple(value.shape) == shape, f"{name} must have shape {shape}, got {tuple(value.shape)}")
    _require(value.device.type == env.device.type, f"{name} must be on {env.device}, is on {value.device}")


def _check_finite(name: str, tree: Tree) -> None:
    finite = all(x.isfinite().all() for x in leaves(tree) if x.is_floating_point())
    _require(finite, f"{name} has a NaN or an infinity")


def _equal(a: Tree, b: Tree) -> bool:
    same: list[bool] = []
    tree_map(lambda x, y: same.append(torch.equal(x, y)), a, b)
    return all(same)
