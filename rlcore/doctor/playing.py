"""Checks of what an agent is shown, does and gets, in steps that it plays."""

import re

import numpy as np
import torch
from gymnasium.spaces import Dict, Discrete

from rlcore.doctor.examination import Examination, Finding, Unseen
from rlcore.gym_maker import num_choices
from rlcore.spaces import ACTION_MASK

LIKE_A_MASK = re.compile(r"mask|legal|allowed|avail|valid", re.IGNORECASE)


def observations_unscaled(x: Examination) -> Finding | None:
    """Numbers that the networks see are far from those that they are made for."""
    high = x.seen.abs().quantile(0.95, 0)
    if high.max() < 300:  # networks are made for mean 0 and variance 1, though raw bytes, up to 255, are learned
        return None
    feature, least = int(high.argmax()), high.min().item()
    evidence = (
        f"number {feature} of an observation reaches {high.max():,.3g}, another one {least:.3g}, as networks see them"
    )
    remedy = "env.scaling=standard" if x.env.num_examples is not None else "agent.normalize_observations=true"
    return Finding(evidence, f"set {remedy}, or scale them in the environment")


def mask_unused(x: Examination) -> Finding | None:
    """The environment tells which actions are allowed, and the agent does not heed it."""
    space, action = x.agent.observation_space, x.agent.action_space
    if not isinstance(space, Dict) or not isinstance(action, Discrete):
        raise Unseen("no observation of several parts")
    size = num_choices(action)
    found = [name for name, part in space.items() if LIKE_A_MASK.search(name) and part.shape == (size,)]
    if not found:
        raise Unseen("no part of an observation is like a mask")
    masks, actions = (
        torch.cat([r.rows(field(r)) for r in x.rollouts]) for field in (lambda r: r.obs[found[0]], lambda r: r.action)
    )
    forbidden = masks.gather(1, actions[:, None]).logical_not()[masks.bool().any(1)].double().mean().item()
    if forbidden == 0 or not masks.unique().numel() <= 2:
        return None
    remedy = "let the agent heed it (rlcore.observations.action_mask)"
    if found[0] != ACTION_MASK:
        remedy = f"give it as action_mask, in info or by a method action_masks(): {found[0]} is just numbers to rlcore"
    return Finding(f"{forbidden:.0%} of the actions are not allowed by the observation's {found[0]}", remedy)


def time_limit_as_death(x: Examination) -> Finding | None:
    """Episodes that a time limit cuts are told to have terminated, so that what would have followed counts as 0."""
    lengths, terminated = x.episodes.lengths, x.episodes.terminated
    if len(lengths) < 4 or hasattr(x.env, "game"):
        raise Unseen("too few episodes ended" if len(lengths) < 4 else "a game ends by its rules")
    limit = getattr(getattr(x.env, "spec", None), "max_episode_steps", None)
    longest = int(lengths.max())
    share = float(((lengths == longest) & terminated).mean())
    at_limit = longest == limit and share > 0.1
    alike = len(lengths) >= 8 and longest >= 20 and share >= 0.8  # bad policies fail alike too, but soon
    if not terminated.all() or not (at_limit or alike):
        return None
    of = f", the time limit of {x.env.spec.id}" if at_limit else ""
    evidence = (
        f"{share:.0%} of {len(lengths)} episodes terminated after exactly {longest} steps{of}; none was truncated"
    )
    return Finding(evidence, "return truncated=True there, unless the task ends then and observations tell the time")


def rewards_constant(x: Examination) -> Finding | None:
    """Whatever is done, the return is the same."""
    x.require_progress(0.5)
    returns, random = x.episodes.returns, x.random_returns
    if len(returns) < 2 or np.ptp(np.concatenate([returns, random])) > 1e-6 * max(1.0, abs(random[0])):
        return None
    evidence = f"{len(returns)} episodes of the agent and {len(random)} of random actions all return {returns[0]:g}"
    return Finding(evidence, "look at the reward; a goal that is never reached by chance needs a reward on the way")


def values_out_of_range(x: Examination) -> Finding | None:
    """Values are to be said that a network hardly reaches, or are said that no rewards could add up to."""
    target = x.targets.abs().quantile(0.95).item()
    if target > 5000:  # a last layer of 64 units moves by some 0.06 an update at a learning rate of 1e-3
        evidence = f"returns to go of {target:,.0f}, as they are learned from"
        return Finding(evidence, "set agent.normalize_rewards=true, or scale the rewards to returns of about 10")
    said = abs(x.curve("train/q").value[-1])
    largest, alpha = max(reward.abs().max().item() for reward in x.rewards), 0.0
    if "train/alpha" in x.curves:  # where entropy counts as a reward
        alpha = x.curve("train/alpha").value.max() * abs(x.curve("train/entropy").value).max()
    bound = (largest + alpha) / max(1e-9, 1 - x.gamma)
    if said < 2 * bound:
        return None
    evidence = f"Q is {said:,.3g}, though rewards of at most {largest:.3g} add up to {bound:,.3g}"
    return Finding(
        evidence, "lower agent.learning_rate, update the target network less (agent.tau, agent.target_every)"
    )
