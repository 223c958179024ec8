"""``rlcore record``."""

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from torch import Tensor

from rlcore import __version__
from rlcore.agent import Agent
from rlcore.console import Display, make_console
from rlcore.deployment import as_array, inside
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.evaluation import evaluating
from rlcore.experience.writing import EpisodeWriter, Played, arrays
from rlcore.interruption import Interruption
from rlcore.replay import TransitionReplay
from rlcore.run import Run
from rlcore.seeding import ACTING, derive_seed, seed_everything
from rlcore.stateful import attributes_of_type
from rlcore.trainer import Trainer
from rlcore.trees import Tree, where

Policy = Literal["act", "predict", "random", "replay"]
"""As the agent explores; its best actions; random ones; or what its replay holds."""
MOST_AT_ONCE = 8
"""Environments in which is played, at most, unless another number is asked for."""


class Part(NamedTuple):
    """What one agent adds to a data set."""

    trainer: Trainer
    num_steps: int
    origin: dict[str, Any]
    """What the data set says of it."""


def record(
    run: str,
    out: str,
    num_steps: int,
    policy: str = "act",
    checkpoint: str | None = None,
    mix: Sequence[str] = (),
    num_envs: int | None = None,
    seed: int = 1,
    changed: Sequence[str] = (),
    trust: bool = False,
) -> int:
    """Plays with the agents of runs, and writes what they did as a data set in Minari's format.

    Args:
        run: a run's folder; its environment is the one played in.
        out: folder of the data set, whose name ends in a version.
        num_steps: to record, over all environments; rounded up to a multiple of their number.
        policy: one of `Policy`.
        checkpoint: of the run; see `rlcore.load`.
        mix: further runs, ``RUN:SHARE``, each of which plays that share of the steps.
        num_envs: environments in lockstep; None: 8, or as many as a replay has.
        seed: of the environments and of all that is drawn.
        changed: settings of the run, just for now.
        trust: see `rlcore.config.load`.

    Raises:
        InputError: one of these is wrong, the spaces of the runs differ, or the data set cannot be written.
    """
    if policy not in get_args(Policy):
        raise InputError(f"--policy: must be one of {', '.join(get_args(Policy))}, got {policy!r}")
    others = [_share(text) for text in mix]
    rest = 1 - sum(share for _, share in others)
    if rest < 0:
        raise InputError(f"--mix: the shares must be at most 1 together, got {1 - rest:g}")
    parts = [_part(run, round(rest * num_steps), policy, checkpoint, changed, trust)]
    parts += [_part(name, round(share * num_steps), policy, None, (), trust) for name, share in others]
    _require_same_spaces(parts)
    replays = [_replay(part) for part in parts] if policy == "replay" else []
    if len({replay.num_envs for replay in replays}) > 1:
        raise InputError("--policy replay: the runs have different numbers of environments")
    num_envs = replays[0].num_envs if replays else num_envs or min(MOST_AT_ONCE, num_steps)
    env = parts[0].trainer.env.evaluation(num_envs)
    agents = " and ".join(dict.fromkeys(part.trainer.name for part in parts))
    metadata = {
        "algorithm_name": agents,
        "description": f"{policy} of {agents}",
        "rlcore": {"version": __version__, "seed": seed, "parts": [part.origin for part in parts]},
    }
    interruption, display = Interruption(), Display(make_console())
    writer = EpisodeWriter(out, env, metadata)
    with ExitStack() as stack:
        for part in parts:
            stack.callback(part.trainer.close)
        stack.callback(env.close)
        stack.callback(writer.abandon)  # of what was closed by then, there is nothing left to remove
        stack.callback(display.close)
        stack.enter_context(interruption.listening())
        for number, part in enumerate(parts):
            where_from = _kept(replays[number]) if replays else _acted(part.trainer.agent, env, policy, seed + number)
            for _ in range(0, part.num_steps, num_envs):
                if interruption.signal is not None:
                    break
                if (step := next(where_from, None)) is None:
                    message = f"holds {writer.num_steps:,} steps, fewer than the {part.num_steps:,} asked for"
                    raise InputError(f"--steps: the replay of {part.origin['run']} {message}")
                writer.add(_played(*step, env))
                display.progress(writer.num_steps, num_steps, {"episodes": writer.num_episodes})
            writer.cut()
        writer.close()
    stopped = "" if interruption.signal is None else f"{signal.Signals(interruption.signal).name}: "
    print(f"{stopped}{out}: {writer.num_steps:,} steps in {writer.num_episodes:,} episodes; rlcore show {out}")
    return 0 if interruption.signal is None else 128 + interruption.signal


def _share(text: str) -> tuple[str, float]:
    """``RUN:SHARE``."""
    run, _, share = text.rpartition(":")
    try:
        number = float(share)
    except ValueError:
        number = math.nan
    if not run or not 0 < number <= 1:
        raise InputError(f"--mix: must be RUN:SHARE, e.g. runs/other:0.5, the share in (0, 1]; got {text!r}")
    return run, number


def _part(name: str, num_steps: int, policy: str, checkpoint: str | None, changed: Sequence[str], trust: bool) -> Part:
    run = Run(name, trust)
    which = checkpoint or ("last" if policy == "replay" else run.default_checkpoint)
    trainer, saved = run.trainer(which, changed)
    if trainer.env.num_examples is not None:
        raise InputError(f"{name}: is of a data set, in which nobody plays")
    trained = {"checkpoint": which, "steps_trained": saved["steps"]}
    made = {"run": name, "agent": trainer.name, "seed": trainer.seed, **trained}
    return Part(trainer, num_steps, {**made, "policy": policy, "steps": num_steps})


def _require_same_spaces(parts: Sequence[Part]) -> None:
    first, *others = (part.trainer.agent.spec for part in parts)
    for part, spec in zip(parts[1:], others, strict=True):
        for here, there in zip(spec[1:3], first[1:3], strict=True):
            if here != there:
                raise InputError(f"--mix: {part.origin['run']} has the space {here}, not {there}")


def _replay(part: Part) -> TransitionReplay:
    replays = [replay for _, replay in attributes_of_type(part.trainer.agent, TransitionReplay)]
    if not replays or not len(replays[0]):
        run, checkpoint = part.origin["run"], part.origin["checkpoint"]
        raise InputError(f"--policy replay: the checkpoint {checkpoint} of {run} holds no replay")
    return replays[0]


Step = tuple[Tree, Tensor, Tensor, Tensor, Tensor, Tree]
"""obs [N, *O], action [N, *A], reward [N], terminated [N], truncated [N], and the true observations after it."""


def _acted(agent: Agent, env: Environment, policy: str, seed: int) -> Iterator[Step]:
    """Plays for ever."""
    with evaluating(agent):
        seed_everything(derive_seed(seed, ACTING))
        env.action_space.seed(seed)
        obs, _ = env.reset(seed=seed)
        state = initial_state = agent.initial_state(env.num_envs)
        while True:
            if policy == "random":
                action = env.random_actions()
            else:
                action, _, state = agent.predict(obs, state) if policy == "predict" else agent.act(obs, state)
            next_obs, reward, terminated, truncated, info = env.step(action)
            done = terminated | truncated
            # what terminated may have no true last observation: it is not needed, and never the next episode's first
            yield obs, action, reward, terminated, truncated, where(done, info.get("final_obs", obs), next_obs)
            if initial_state is not None:
                state = where(done, initial_state, state)
            obs = next_obs


def _kept(replay: TransitionReplay) -> Iterator[Step]:
    """What a replay holds."""
    for b, cut in replay.steps():
        yield b.obs, b.action, b.reward, b.terminated, cut, b.next_obs


def _played(
    obs: Tree, action: Tensor, reward: Tensor, terminated: Tensor, truncated: Tensor, next_obs: Tree, env: Environment
) -> Played:
    """A step as arrays, actions as the environment itself takes them."""
    spaces = env.single_observation_space, env.single_action_space
    own = as_array(inside(action, spaces[1]), spaces[1])
    return Played(
        arrays(obs, spaces[0]),
        own,
        reward.numpy(force=True),
        terminated.numpy(force=True),
        np.array(truncated.numpy(force=True)),
        arrays(next_obs, spaces[0]),
    )
