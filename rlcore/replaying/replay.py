"""A time machine: an update or an episode of a run again, bit for bit, from the nearest checkpoint.

It is trained again in memory, by the one loop, and nothing is written into the run. Whether it was the same is not
believed but compared: with every figure that the run has logged of the updates on the way.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlcore import checkpoint as checkpoints
from rlcore import config as configs
from rlcore import legacy
from rlcore.agent import Metrics
from rlcore.checkpoint import fitting
from rlcore.errors import CheckpointError, InputError
from rlcore.files import CHECKPOINTS_FOLDER
from rlcore.hooks import Hook
from rlcore.rollout import Rollout
from rlcore.run import Run
from rlcore.runs.curves import Log, read_log
from rlcore.seeding import restore_rng_state, rewinder, rng_state
from rlcore.stateful import attributes_of_type
from rlcore.tracking import Tracker
from rlcore.trainer import Trainer
from rlcore.trees import Tree

Fields = dict[str, Tensor]
"""By name, [T, N, ...]: observations (``obs``, or ``obs/<part>``), actions, rewards, what the agent made of them."""
COMPARED = "train/", "rollout/"
"""Begins the tags of the figures that an update has, rather than a clock or an evaluation."""


class Wanted(NamedTuple):
    """What is looked for: an update or an episode, by its number."""

    kind: Literal["update", "episode"]
    number: int
    """From 1 on."""

    def count(self, saved: dict[str, Any]) -> int:
        """How many of its kind had ended at a checkpoint."""
        if self.kind == "update":
            return int(saved["learns"]["num_updates"])
        kept = saved["learns"]["episodes"]
        ended = ((terminated | truncated, valid) for _, terminated, truncated, valid in kept["pending"])
        return int(kept["num_episodes"]) + sum(int((x if valid is None else x & valid).sum()) for x, valid in ended)


class Replayed(NamedTuple):
    """An update, or an episode with the update that it ended in."""

    title: str
    """What it is, in one line."""
    fields: dict[str, NDArray[Any]]
    """By name, [T, N, ...]; of an episode N is 1."""
    first_step: int
    """The number of row 0: 1 of an episode, 0 of an update."""
    metrics: dict[str, float]
    """What the agent said of the update."""
    gradients: dict[str, NDArray[np.float32]]
    """By parameter, the 2-norms of its gradients before any clipping, one for each step of an optimizer."""
    verdict: str
    """Whether the figures on the way are those that the run has logged, in one line."""
    as_logged: bool
    """Whether they are; also where the run has logged none."""
    notes: list[str]
    """What else there is to know, a line each."""


def replay(path: str | Path, update: int | None = None, episode: int | None = None, *, trust: bool = False) -> Replayed:
    """Trains an update of a run again, or what an episode was played in.

    Args:
        path: of the run.
        update: its number, from 1 on.
        episode: instead, its number, from 1 on, in the order in which they ended.
        trust: import modules within the run's folder, though it was trained elsewhere.

    Raises:
        InputError: this is no run, it has no checkpoint, no such update or episode, was trained by several processes,
            or cannot be replayed across a resume since its environment cannot be saved.
    """
    asked = [Wanted("update", update)] if update is not None else []
    asked += [Wanted("episode", episode)] if episode is not None else []
    if len(asked) != 1:
        raise InputError("replay: needs either --update N or --episode K")
    run, rng, threads = Run(path, trust), rng_state(), torch.get_num_threads()
    try:
        return _replay(run, asked[0])
    finally:
        restore_rng_state(rng)
        torch.set_num_threads(threads)


def _replay(run: Run, wanted: Wanted) -> Replayed:
    if not run.has_checkpoints:
        raise InputError(f"{run.path} has no checkpoint: nothing of it was saved; rlcore resume {run.path} trains it")
    last = _load(run, "last")
    if last["learns"].get("ranks"):
        raise InputError(f"{run.path} was trained by several processes, which a replay cannot be")
    _check_is_within(last, wanted)
    logged = read_log(run.folder)
    for start in chain(_kept(run, logged.resumed_at), [None]):
        if start is not None and wanted.count(start) >= wanted.number:
            continue
        made = _replay_from(run, start, last, logged, wanted)
        if made is not None:
            return made
    raise AssertionError("from the beginning an episode is whole")


def _check_is_within(last: dict[str, Any], wanted: Wanted) -> None:
    """Raises an InputError if the run has no such update or episode, as far as its last checkpoint tells."""
    things = "updates" if wanted.kind == "update" else "ended episodes"
    is_known = wanted.kind == "episode" or "num_updates" in last["learns"]
    known = wanted.count(last) if is_known else math.inf
    if not 1 <= wanted.number <= known:
        has = f"the run has {known:,} {things}, counted from 1" if is_known else f"{things} count from 1"
        raise InputError(f"--{wanted.kind}: {has}; got {wanted.number:,}")


def _kept(run: Run, resumed_at: list[int]) -> Iterator[dict[str, Any]]:
    """The checkpoints that a replay can begin from, the latest first."""
    files = (run.folder / CHECKPOINTS_FOLDER).glob("*.pt")
    steps = sorted((int(file.stem) for file in files if file.stem.isdecimal()), reverse=True)
    for step in steps:
        saved = _load(run, str(step))
        # where the environment was not saved, the run itself began new episodes if it was resumed there
        if "num_updates" in saved["learns"] and (saved["learns"]["collector"]["env"] is not None or step in resumed_at):
            yield saved


def _load(run: Run, which: str) -> dict[str, Any]:
    saved = checkpoints.load(run.checkpoint_path(which))
    with fitting("a replay"):
        upgraded = legacy.upgraded(saved)
        if "learns" not in upgraded:
            raise CheckpointError(f"the checkpoint {which} holds only what answers, not what learning goes on from")
        return upgraded


def _replay_from(
    run: Run, start: dict[str, Any] | None, last: dict[str, Any], logged: Log, wanted: Wanted
) -> Replayed | None:
    """What is looked for; None if it began before this checkpoint, or the beginning of the run."""
    trainer, notes = _trainer(run, start, last)
    with closing(trainer):
        recorder = Recorder(trainer, wanted)
        trainer.hooks.append(recorder)
        kept = _Kept()
        trainer.write_to(None, kept)
        for _ in trainer.updates():
            if recorder.found is not None or recorder.missed:
                break
            _check_goes_on(trainer, last, logged)
        if trainer.interrupted is not None:
            raise SystemExit(128 + trainer.interrupted)
        if recorder.missed:
            return None
        if recorder.found is None:
            raise InputError(f"replay: the run ends with update {trainer.num_updates:,}, before what was asked for")
        verdict, as_logged = _verdict(kept.figures, logged, notes)
        begun = "the beginning of the run" if start is None else f"the checkpoint of step {start['steps']:,}"
        notes.insert(0, f"replayed from {begun}")
        fields = {name: x.numpy(force=True) for name, x in recorder.found.items()}
        names = [name for name, _ in trainer.agent.named_parameters() if name in recorder.norms]
        norms = {name: torch.stack(recorder.norms[name]).numpy(force=True) for name in names}
        return Replayed(
            recorder.title, fields, int(wanted.kind == "episode"), recorder.metrics, norms, verdict, as_logged, notes
        )


def _trainer(run: Run, start: dict[str, Any] | None, last: dict[str, Any]) -> tuple[Trainer, list[str]]:
    """A trainer of the run that writes nothing, where the checkpoint is; and what differs from then, a line each."""
    changed = {"trainer.stop_at": "null", "trainer.reports": "[]"}
    config = run.load().config
    if not config.trainer.hooks and not getattr(config.env.settings, "single_instance", False):
        changed |= {"trainer.eval_every": "null", "trainer.best_by": "null"}  # here evaluations change nothing
    loaded = run.load([f"{key}={value}" for key, value in changed.items()])
    if start is None:
        trainer, _ = configs.build(loaded.config)
        before, here = last["learns"]["made_with"], trainer.circumstances()
        return trainer, [f"{key} was {was}, is {here.get(key)}" for key, was in before.items() if here.get(key) != was]
    trainer, saved, _ = run.build(loaded, run.checkpoint_path(str(start["steps"])))
    return trainer, [note for note in trainer.restore(saved) if not note.startswith(tuple(changed))]


def _check_goes_on(trainer: Trainer, last: dict[str, Any], logged: Log) -> None:
    """Raises an InputError where the run was resumed, and began new episodes, which a replay does not."""
    collector = last["learns"]["collector"]
    if collector["env"] is None and trainer.steps in logged.resumed_at:
        why = collector.get("why_unsaved") or "it was not saved"
        raise InputError(
            f"replay: the run was resumed at step {trainer.steps:,}, where its environment began new episodes ({why}); "
            "beyond, only a checkpoint that was kept there or later could be replayed from"
        )


class Recorder(Hook):
    """Keeps what is looked for as it passes.

    Args:
        trainer: where the replay begins.
        wanted: what is looked for.
    """

    def __init__(self, trainer: Trainer, wanted: Wanted):
        super().__init__()
        self.wanted = wanted
        if wanted.kind == "episode" and not trainer.collector.plays:
            raise InputError("--episode: nobody plays here, so no episode ends; use --update")
        self.found: Fields | None = None
        self.missed = False
        """Whether the episode had begun before the replay did."""
        self.title = ""
        self.metrics: dict[str, float] = {}
        self.norms: dict[str, list[Tensor]] = {}
        episodes = copy.deepcopy(trainer.episodes)
        self._ended = episodes.count()  # a copy counts, so that the means add up as they did
        self._whole = (episodes.state_dict()["running"][1] == 0).tolist()
        self._parts: list[list[Fields]] = [[] for _ in self._whole]
        self._since = [trainer.num_updates + 1 for _ in self._whole]
        self._handles: list[Any] = []

    def on_rollout(self, trainer: Trainer, rollout: Rollout) -> None:
        """Looks at it, if it may be that which is looked for; see `Hook`."""
        number = trainer.num_updates + 1
        if self.wanted.kind == "episode":
            self._cut(_fields(trainer, rollout), rollout, number)
        elif number == self.wanted.number:
            self.found, self.title = _fields(trainer, rollout), f"update {number:,}, which ended at step {{steps:,}}"
        if self.found is not None:
            self._handles = [
                param.register_post_accumulate_grad_hook(self._keeper(name))
                for name, param in trainer.agent.named_parameters()
                if param.requires_grad
            ]

    def on_update(self, trainer: Trainer, metrics: Metrics) -> None:
        """Keeps the metrics; see `Hook`."""
        if self.found is not None and not self.metrics:
            self.metrics = {name: float(value) for name, value in metrics.items()}
            self.title = self.title.format(steps=trainer.steps)
            for handle in self._handles:
                handle.remove()

    def _keeper(self, name: str) -> Any:
        def keep(param: Tensor) -> None:
            assert param.grad is not None
            self.norms.setdefault(name, []).append(torch.linalg.vector_norm(param.grad))

        return keep

    def _cut(self, fields: Fields, rollout: Rollout, number: int) -> None:
        """Adds a rollout to the episodes in progress, until it is the one that ends."""
        valid = rollout.valid
        begun = [0] * valid.shape[1]
        for t, n in (rollout.done & valid).nonzero().tolist():
            self._ended += 1
            part = _of_env(fields, n, begun[n], t + 1)
            if self._ended == self.wanted.number:
                self._finish(n, [*self._parts[n], part], number)
                return
            self._parts[n], self._whole[n], begun[n] = [], True, t + 1
            self._since[n] = number if t + 1 < len(valid) else number + 1
        for n, start in enumerate(begun):
            if start < len(valid) and valid[-1, n]:
                self._parts[n].append(_of_env(fields, n, start, len(valid)))

    def _finish(self, n: int, parts: list[Fields], number: int) -> None:
        if not self._whole[n]:
            self.missed = True
            return
        self.found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        updates = f"update {number:,}" if self._since[n] == number else f"updates {self._since[n]:,} to {number:,}"
        length, total = len(self.found["reward"]), self.found["reward"].double().sum().item()
        self.title = (
            f"episode {self.wanted.number:,}: {length:,} steps of environment {n}, return {total:,.6g}, learned from "
            f"in {updates}, at step {{steps:,}}"
        )


def _fields(trainer: Trainer, rollout: Rollout) -> Fields:
    """A rollout, and what the agent makes of it, on the CPU; the generators stay where they are."""
    agent = trainer.agent
    rewind = rewinder(generator for _, generator in attributes_of_type(agent, torch.Generator))
    made = agent.inspect(rollout)
    rewind()
    flags = {"terminated": rollout.terminated, "truncated": rollout.truncated}
    played = {"action": rollout.action, "reward": rollout.reward, **flags}
    if rollout.ragged:
        played["valid"] = rollout.valid
    return {name: x.detach().cpu() for name, x in {**dict(_named("obs", rollout.obs)), **played, **made}.items()}


def _of_env(fields: Fields, n: int, start: int, end: int) -> Fields:
    """Rows of one environment, [T, 1, ...], a copy."""
    return {name: x[start:end, n : n + 1].clone() for name, x in fields.items()}


def _named(name: str, tree: Tree) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tree, by their place."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif tree is not None:
        inner = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, part in inner:
            yield from _named(f"{name}/{key}", part)


class _Kept(Tracker):
    """Keeps every figure in memory, and says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.figures: dict[int, dict[str, float]] = {}

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.figures.setdefault(step, {}).update(values)

    def note(self, line: str) -> None:
        """Nothing: the run has said it."""


def _verdict(replayed: dict[int, dict[str, float]], logged: Log, notes: list[str]) -> tuple[str, bool]:
    """One line, and whether all figures that were logged are the same float32 numbers."""
    compared = sorted(
        (step, tag, value)
        for tag, curve in logged.curves.items()
        for step, value in zip(curve.step.tolist(), curve.value.tolist(), strict=True)
        if tag.startswith(COMPARED) and tag in replayed.get(step, {})
    )
    for step, tag, was in compared:
        now = replayed[step][tag]
        if np.float32(now) != np.float32(was) and not (math.isnan(now) and math.isnan(was)):
            why = f" ({'; '.join(notes)})" if notes else ""
            return f"not as logged: at step {step:,} {tag} was {was:.9g}, is {now:.9g}{why}", False
    if not compared:
        return "not compared: the run has logged nothing of the updates on the way (trainer.log_every)", True
    steps = len({step for step, _, _ in compared})
    return f"as logged: {len(compared):,} figures of {steps:,} logged updates on the way have the same bits", True
