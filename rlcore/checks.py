"""Executable contracts of environments and agents, like gymnasium's ``check_env``."""

from copy import deepcopy
from numbers import Real
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Dict
from torch import Tensor

from rlcore.agent import Agent
from rlcore.environment import Environment
from rlcore.observations import ACTION_MASK
from rlcore.rollout import Rollout, collect
from rlcore.seeding import ACTING, derive_seed, seed_everything
from rlcore.trees import Tree, tree_map


def check_environment(env: Environment, num_steps: int = 300, seed: int = 1) -> None:
    """Plays random actions and checks the contract of `Environment`.

    Args:
        env: the environment; it is reset.
        num_steps: steps to play; some should end episodes.
        seed: of the environment and the actions.

    Raises:
        AssertionError: says what is wrong, what was expected and, where it helps, how to fix it.
    """
    first, again = _play_random(env, num_steps, seed), _play_random(env, num_steps, seed)
    for t, (a, b) in enumerate(zip(first, again, strict=True)):
        for name, x, y in zip(("obs", "reward", "terminated", "truncated"), a, b, strict=True):
            assert _equal(x, y), (
                f"{name} of step {t} differs between two runs with seed {seed}: draw from a seeded generator"
            )


def _play_random(env: Environment, num_steps: int, seed: int) -> list[tuple[Tree, ...]]:
    N = env.num_envs
    env.action_space.seed(seed)
    obs, info = env.reset(seed=seed)
    assert isinstance(info, dict), f"reset must return (obs, info), info a dict; got {type(info).__name__}"
    _check_obs(env, obs, env.single_observation_space)
    seen, copies = [], []
    for t in range(num_steps):
        with torch.random.fork_rng():  # the same actions in each run, without seeding what the environment draws
            torch.manual_seed(seed + t)
            actions = env.random_actions()
        _check_allowed(actions, obs)
        obs, reward, terminated, truncated, info = env.step(actions)
        _check_obs(env, obs, env.single_observation_space)
        for name, value, dtype in (
            ("reward", reward, torch.float32),
            ("terminated", terminated, torch.bool),
            ("truncated", truncated, torch.bool),
        ):
            assert isinstance(value, Tensor), f"{name} must be a tensor, got {type(value).__name__}"
            assert value.shape == (N,), f"{name} must have shape ({N},), got {tuple(value.shape)}"
            assert value.dtype == dtype, f"{name} must be {dtype}, got {value.dtype}"
        if truncated.any():
            assert "final_obs" in info, (
                "a row was truncated, but info has no final_obs: put the true last observations [N, *O] there"
            )
            _check_obs(env, info["final_obs"], env.single_observation_space)
        seen.append((obs, reward, terminated, truncated))
        copies.append(tree_map(torch.clone, seen[-1]))
    for t, (given, copy) in enumerate(zip(seen, copies, strict=True)):
        assert _equal(given, copy), f"the tensors of step {t} were written to later: return new ones at every step"
    return seen


def check_agent(agent: Agent, env: Environment, seed: int = 1) -> None:
    """Lets an agent act and learn, and checks the contract of `Agent`.

    Args:
        agent: the agent; it learns from two rollouts.
        env: an environment for it; it is reset.
        seed: of the environment, and of the global generators.

    Raises:
        AssertionError: says what is wrong and what was expected.
    """
    seed_everything(derive_seed(seed, ACTING))
    agent.to(env.device)
    obs, _ = env.reset(seed=seed)
    state = agent.initial_state(env.num_envs)
    step = agent.predict(obs, state)
    expected = tuple(env.action_space.shape or ())
    assert tuple(step.action.shape) == expected, f"actions must have shape {expected}, got {tuple(step.action.shape)}"
    saved = {name: value.clone() for name, value in agent.state_dict().items()}
    rollout: Rollout = collect(agent, env, obs, agent.horizon, state)
    for name, value in agent.state_dict().items():
        assert _equal(value, saved[name]), f"act changed {name}: only learn may change parameters and buffers"
    check_metrics(agent.learn(rollout))
    optimizers = agent.held(torch.optim.Optimizer)
    trained = {id(param) for _, one in optimizers for group in one.param_groups for param in group["params"]}
    left = [name for name, param in agent.named_parameters() if param.requires_grad and id(param) not in trained]
    assert not (optimizers and left), (
        f"no optimizer has {', '.join(left)}: create it after them, use add_param_group, or requires_grad_(False)"
    )
    again = type(agent)(env, agent.settings).to(env.device)
    again.train(agent.training)
    again.restore(deepcopy(agent.checkpoint()))
    for one in (agent, again):
        seed_everything(derive_seed(seed, ACTING))
        obs, _ = env.reset(seed=seed)
        one.learn(collect(one, env, obs, one.horizon, one.initial_state(env.num_envs)))
    for name, value in agent.state_dict().items():
        assert _equal(value, again.state_dict()[name]), (
            f"a restored agent learns a different {name}: what learning changes must be a parameter, a buffer, an "
            "optimizer or a generator among its attributes, or be added to checkpoint and restore"
        )


def check_metrics(metrics: Any) -> None:
    """Checks what `Agent.learn` returned: a dict of detached 0-d tensors and numbers.

    Raises:
        AssertionError: it is anything else; says what.
    """
    assert isinstance(metrics, dict), f"learn must return a dict of metrics, got {type(metrics).__name__}"
    for name, metric in metrics.items():
        if isinstance(metric, Tensor):
            assert metric.ndim == 0, f"the metric {name} must be 0-d, has shape {tuple(metric.shape)}"
            assert not metric.requires_grad, f"the metric {name} has a graph: detach it, or memory grows"
        else:
            assert isinstance(metric, Real), f"the metric {name} must be a number, got {metric!r}"


def _check_allowed(actions: Tensor, obs: Tree) -> None:
    mask = obs.get(ACTION_MASK) if isinstance(obs, dict) else None
    if mask is not None and actions.ndim == 1:
        assert mask.gather(1, actions[:, None]).all(), (
            "random_actions drew an action that the action_mask forbids: override it"
        )


def _check_obs(env: Environment, obs: Tree, space: Space[Any], name: str = "obs") -> None:
    if isinstance(space, Dict):
        assert isinstance(obs, dict), f"{name} must be a dict, got {type(obs).__name__}"
        assert obs.keys() == space.spaces.keys(), f"{name} must have the keys {[*space]}, got {[*obs]}"
        for key, part in obs.items():
            _check_obs(env, part, space[key], f"{name}[{key!r}]")
        return
    expected = (env.num_envs, *(space.shape or ()))
    assert isinstance(obs, Tensor), f"{name} must be a tensor, got {type(obs).__name__}"
    assert tuple(obs.shape) == expected, f"{name} must have shape {expected}, got {tuple(obs.shape)}"
    assert obs.device.type == env.device.type, f"{name} must be on {env.device}, is on {obs.device}"
    if name.endswith(f"[{ACTION_MASK!r}]"):
        assert obs.dtype == torch.bool, f"{name} must be torch.bool, got {obs.dtype}"
    elif isinstance(space, Box) and np.issubdtype(space.dtype, np.floating):
        assert obs.dtype == torch.float32, f"{name} must be torch.float32, got {obs.dtype}"


def _equal(a: Tree, b: Tree) -> bool:
    same: list[bool] = []
    tree_map(lambda x, y: same.append(torch.equal(x, y)), a, b)
    return all(same)
