"""``rlcore record``."""

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from rlcore import __version__
from rlcore.agent import Agent
from rlcore.console import Display, make_console
from rlcore.deployment import as_array, inside
from rlcore.environment import Environment
from rlcore.errors import EnvironmentFailure, InputError
from rlcore.evaluation import evaluating
from rlcore.experience.writing import EpisodeWriter, Played, arrays
from rlcore.interruption import Interruption
from rlcore.replay import TransitionReplay
from rlcore.run import Run
from rlcore.seeding import ACTING, TRAINING, WORKER, derive_seed, seed_everything
from rlcore.stateful import attributes_of_type
from rlcore.trainer import Trainer
from rlcore.trees import Tree, as_float32, leaves, where

Policy = Literal["act", "predict", "random", "replay"]
"""As the agent explores; its best actions; random ones; or what its replay holds."""
ROUNDING = 1e-9
"""Of a sum of shares."""
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
    expert: str | None = None,
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
        expert: a run whose best actions are written instead of those that were done, for imitation (DAgger).
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
    if rest < -ROUNDING:
        raise InputError(f"--mix: the shares must be at most 1 together, got {1 - rest:g}")
    parts = [_part(run, round(max(0.0, rest) * num_steps), policy, checkpoint, changed, trust)]
    parts += [_part(name, round(share * num_steps), policy, None, (), trust) for name, share in others]
    asked = [] if expert is None else [_part(expert, 0, policy, None, (), trust)]
    _require_same_spaces([*parts, *asked])
    if asked and policy == "replay":
        raise InputError("--expert: is asked while somebody plays; choose another --policy than replay")
    replays = [_replay(part) for part in parts] if policy == "replay" else []
    held = {replay.num_envs for replay in replays}
    if len(held) > 1 or (held and num_envs not in (None, *held)):
        raise InputError(f"--policy replay: replays have {' and '.join(map(str, held))} environments, and keep them")
    stage = parts[0].trainer.env.evaluated
    env = stage.evaluation(num_envs or min(MOST_AT_ONCE, num_steps))
    env.float64, env.max_episode_steps = True, stage.max_episode_steps  # what is written is not rounded
    interruption, display = Interruption(), Display(make_console())
    with ExitStack() as stack:
        stack.callback(env.close)
        for part in (*parts, *asked):
            stack.callback(part.trainer.close)
            stack.enter_context(evaluating(part.trainer.agent))
        writer = EpisodeWriter(out, env)
        stack.callback(writer.abandon)  # of what was closed by then, there is nothing left to remove
        stack.callback(display.close)
        stack.enter_context(interruption.listening())
        written, failure = [], None
        for number, part in enumerate(parts):
            before = writer.num_steps
            writer.cut(within=bool(replays) and replays[number].num_added > replays[number].size)
            if replays:
                source = _kept(replays[number])
            else:
                players = Player(part.trainer.agent, env, policy), *(Player(one.trainer.agent, env) for one in asked)
                source = _acted(env, seed, number, *players)
            try:
                for step in _up_to(part, source):
                    _require_finite(step)
                    writer.add(_played(step, env))
                    display.progress(writer.num_steps, num_steps, {"episodes": writer.num_episodes})
                    if interruption.signal is not None:
                        break
            except EnvironmentFailure as error:
                failure = error  # what was played until then is kept
            written.append({**part.origin, "policy": policy, "steps": writer.num_steps - before})
            if failure is not None or interruption.signal is not None:
                break
        if failure is not None and not writer.num_steps:
            raise failure
        agents = " and ".join(dict.fromkeys(part.trainer.name for part in parts))
        made = {"version": __version__, "seed": seed, "parts": written, "actions_of": [one.origin for one in asked]}
        writer.close({"algorithm_name": agents, "description": f"{policy} of {agents}", "rlcore": made})
    stopped = "" if interruption.signal is None else f"{signal.Signals(interruption.signal).name}: "
    print(f"{stopped}{out}: {writer.num_steps:,} steps in {writer.num_episodes:,} episodes; rlcore show {out}")
    if failure is not None:
        raise failure
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
    if trainer.env.evaluated.num_examples is not None:
        raise InputError(f"{name}: is of a data set, in which nobody plays")
    trained = {"checkpoint": which, "steps_trained": saved["steps"]}
    return Part(trainer, num_steps, {"run": name, "agent": trainer.name, "seed": trainer.seed, **trained})


def _require_same_spaces(parts: Sequence[Part]) -> None:
    first = parts[0].trainer.agent.spec
    for part in parts[1:]:
        spec = part.trainer.agent.spec
        for name in ("single_observation_space", "single_action_space"):
            here, there = getattr(spec, name), getattr(first, name)
            if here != there:
                raise InputError(f"{part.origin['run']} has the space {here}, not {there} as {parts[0].origin['run']}")


def _replay(part: Part) -> TransitionReplay:
    replays = [replay for _, replay in attributes_of_type(part.trainer.agent, TransitionReplay)]
    if not replays or not len(replays[0]):
        run, checkpoint = part.origin["run"], part.origin["checkpoint"]
        raise InputError(f"--policy replay: the checkpoint {checkpoint} of {run} holds no replay")
    return replays[0]


class VectorStep(NamedTuple):
    """What N environments did at once."""

    obs: Tree  # [N, *O]
    action: Tensor  # [N, *A]
    reward: Tensor  # [N]
    terminated: Tensor  # [N]
    truncated: Tensor  # [N]
    next_obs: Tree  # [N, *O], the true ones after it
    cut: Tensor  # [N] bool, of those truncated: because the episode beside had lasted too long


def _up_to(part: Part, source: Iterator[VectorStep]) -> Iterator[VectorStep]:
    """A part's number of steps, or up to N - 1 more."""
    done = 0
    while done < part.num_steps:
        if (step := next(source, None)) is None:
            message = f"holds {done:,} steps, fewer than the {part.num_steps:,} asked for"
            raise InputError(f"--steps: the replay of {part.origin['run']} {message}")
        yield step
        done += len(step.reward)


def _require_finite(step: VectorStep) -> None:
    """Raises an EnvironmentFailure if an observation or a reward is not a finite number."""
    for what, tree in (("reward", step.reward), ("observation", step.next_obs)):
        for x in leaves(tree):
            finite = x.isfinite().flatten(1).all(1) if x.ndim > 1 else x.isfinite()
            if not finite.all():
                raise EnvironmentFailure(int((~finite).nonzero()[0]), f"returned a NaN or an infinity in its {what}")


class Player:
    """An agent in N episodes, in evaluation mode; or nobody but chance.

    Args:
        agent: the agent.
        env: where it plays.
        policy: one of `Policy`.
    """

    def __init__(self, agent: Agent, env: Environment, policy: str = "predict"):
        self.env, self.policy, self.float64 = env, policy, agent.reads_float64
        self.answer = agent.predict if policy == "predict" else agent.act
        self.state = self.initial_state = agent.initial_state(env.num_envs)

    def __call__(self, obs: Tree) -> Tensor:
        """Its actions [N, *A] in observations [N, *O]."""
        if self.policy == "random":
            return self.env.random_actions()
        action, _, self.state = self.answer(obs if self.float64 else as_float32(obs), self.state)
        return action

    def forget(self, done: Tensor) -> None:
        """Where episodes have ended, [N] bool, others begin."""
        if self.initial_state is not None:
            self.state = where(done, self.initial_state, self.state)


def _acted(env: Environment, seed: int, number: int, player: Player, *expert: Player) -> Iterator[VectorStep]:
    """Plays for ever; an episode that does not end is cut as in evaluation. With an expert, the actions are its own."""
    seed_everything(derive_seed(seed, number, ACTING))
    env.action_space.seed(derive_seed(seed, number, WORKER))
    obs, _ = env.reset(seed=derive_seed(seed, number, TRAINING))
    length = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)
    while True:
        action = player(obs)
        written = [one(obs) for one in expert] or [action]
        next_obs, reward, terminated, truncated, info = env.step(action)
        done, length = terminated | truncated, length + 1
        # what terminated may have no true last observation: it is not needed, and never the next episode's first
        following = where(done, info.get("final_obs", obs), next_obs)
        too_long = length >= env.max_episode_steps
        cut = too_long.any() & ~done & ~too_long
        ended = truncated | (~terminated & too_long) | cut
        yield VectorStep(obs, written[0], reward, terminated, ended, following, cut)
        if too_long.any():
            next_obs, _ = env.reset()
            done = torch.ones_like(done)
        for one in (player, *expert):
            one.forget(done)
        obs, length = next_obs, length * ~done


def _kept(replay: TransitionReplay) -> Iterator[VectorStep]:
    """What a replay holds; it does not know the last observation of an episode that terminated, and repeats another."""
    for b, cut in replay.steps():
        following = where(b.terminated, b.obs, b.next_obs)
        yield VectorStep(b.obs, b.action, b.reward, b.terminated, cut, following, torch.zeros_like(cut))


def _played(step: VectorStep, env: Environment) -> Played:
    """A step as arrays, actions as the environment itself takes them."""
    spaces = env.single_observation_space, env.single_action_space
    own = as_array(inside(step.action, spaces[1]), spaces[1])
    obs, next_obs = arrays(step.obs, spaces[0]), arrays(step.next_obs, spaces[0])
    reward, terminated, truncated, cut = (
        x.numpy(force=True) for x in (step.reward, step.terminated, step.truncated, step.cut)
    )
    return Played(obs, own, reward, terminated, truncated, next_obs, cut)
