"""The runs in a folder, and what each says of itself: read from small files, without torch."""

import fnmatch
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlcore.errors import InputError
from rlcore.files import CHECKPOINTS_FOLDER, CONFIG_FILE, RESULT_FILE, STATUS_FILE, is_locked, read_json
from rlcore.registry import did_you_mean
from rlcore.runs.curves import read_curves
from rlcore.settings import flatten
from rlcore.yaml_files import read_dumped

NAMING = "id", "game", "dataset"
"""Settings by which environments of one name are different ones."""
APART = ("env.num_envs", "seed", "device", "threads", "expect.", "imports", "trainer.loggers", "trainer.reports")
"""Settings, or how their keys begin, in which the seeds of one config may differ."""
RETURN = "return"
"""A sum of rewards, of which more is better whatever the environment."""


class Status(NamedTuple):
    """What a run says of itself; None is what it does not say."""

    path: Path
    state: str
    """``running``; ``done``; ``stopped``, by a signal or ``trainer.stop_at``; ``failed``, which ended otherwise;
    ``no checkpoint``, the same before its first one."""
    steps: int | None
    """Environment steps done."""
    total_steps: int | None
    """Of the whole run; None of one that was not told its length in steps, by rlcore before 0.2."""
    seconds: float | None
    """Of collecting and learning."""
    figure: str | None
    """Tag of what it is judged by."""
    value: float | None
    """The latest of it."""
    best: float | None
    """The best of it, where a best checkpoint is chosen."""
    figures: Mapping[str, float | None]
    """The latest of all figures, by tag."""
    less_is_better: frozenset[str] | None
    """Tags of the figures of which less is better; None if it does not say."""
    updated: float
    """When it last wrote; seconds since the epoch."""

    @property
    def resumable(self) -> bool:
        """Whether ``rlcore resume`` would go on."""
        return self.state in ("stopped", "failed")


def find_runs(folder: Path) -> Iterator[Path]:
    """The runs in a folder, at any depth, in the order of their names; the folder itself, if it is one."""
    if (folder / CONFIG_FILE).is_file():
        yield folder
        return
    try:
        inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    except OSError:
        return
    for name in inside:
        yield from find_runs(folder / name)


def runs_of(given: str | Path) -> list[Path]:
    """The runs that a name means: a run, the runs in a folder, or those in all folders that a pattern matches.

    Raises:
        InputError: there are none.
    """
    path = Path(given)
    if path.is_dir():
        if found := list(find_runs(path)):
            return found
        raise InputError(f"{given} is no run, and holds none: there is no {CONFIG_FILE} in it")
    if any(sign in str(given) for sign in "*?["):
        root = Path(path.anchor)
        matched = sorted(root.glob(str(path.relative_to(root))))
        if found := [run for folder in matched if folder.is_dir() for run in find_runs(folder)]:
            return found
        raise InputError(f"no run matches {given}")
    beside = [str(path.parent / one.name) for one in path.parent.glob("*") if one.is_dir()]
    raise InputError(
        f"there is no folder {given}{did_you_mean(str(given), beside)}; expected a run, or a folder of runs"
    )


def settings_of(run: Path) -> dict[str, Any]:
    """The settings of a run as its config.yaml has them.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return read_dumped(run / CONFIG_FILE)
    except InputError as error:
        raise InputError(f"{run}: {error}") from None


def differences(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which runs differ, as dotted keys, but for those in which the seeds of one config may."""
    flat = [{k: v for k, v in flatten(one).items() if not k.startswith(APART)} for one in settings]
    keys = dict.fromkeys(key for one in flat for key in one)
    return [key for key in keys if any(one.get(key) != flat[0].get(key) for one in flat)]


def environment_of(settings: Mapping[str, Any]) -> str:
    """What a run is evaluated in, as ``gym CartPole-v1``, ``selfplay connect4``, ``cartpole``."""
    env, other = settings.get("env"), settings.get("eval_env")
    env = {"name": env} if isinstance(env, str) else env if isinstance(env, dict) else {}
    if isinstance(other, dict):
        env = other if "name" in other else {**env, **other}
    return " ".join(str(env[key]) for key in ("name", *NAMING) if isinstance(env.get(key), str))


def status_of(run: Path) -> Status:
    """What a run says of itself.

    Raises:
        InputError: one of its files is damaged.
    """
    said, result = read_json(run / STATUS_FILE), read_json(run / RESULT_FILE)
    steps = said.get("steps", result.get("steps"))
    figures = {**said.get("figures", {}), **(result.get("figures", {}) if result.get("steps") == steps else {})}
    if not said and "steps" not in result:  # killed, of rlcore before 0.2
        curves = read_curves(run)
        steps = max((int(curve.step[-1]) for curve in curves.values()), default=None)
        figures = {tag: float(curve.value[-1]) for tag, curve in curves.items()}
    figure = said.get("figure", f"eval/{RETURN}" if f"eval/{RETURN}" in figures else None)
    total = said.get("total_steps")
    if total is None:
        trainer = settings_of(run).get("trainer")
        total = trainer.get("total_steps") if isinstance(trainer, dict) else None
    less = said.get("less_is_better")
    return Status(
        path=run,
        state=_state(run, result, steps),
        steps=steps,
        total_steps=total,
        seconds=said.get("seconds", result.get("seconds")),
        figure=figure,
        value=None if figure is None else figures.get(figure),
        best=said.get("best"),
        figures=figures,
        less_is_better=None if less is None else frozenset(less),
        updated=max(_written(run / name) for name in (STATUS_FILE, RESULT_FILE, CONFIG_FILE)),
    )


def _state(run: Path, result: Mapping[str, Any], steps: int | None) -> str:
    if is_locked(run):
        return "running"
    if "finished" in result and result.get("steps") == steps:
        return "done" if result["finished"] else "stopped"
    has_checkpoint = any((run / CHECKPOINTS_FOLDER).glob("*.pt"))
    return "failed" if has_checkpoint else "no checkpoint"


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def is_less_better(tag: str, status: Status, settings: Mapping[str, Any]) -> bool | None:
    """Whether less of a figure is better; None if the run does not say.

    Evaluations and reports say of which of their figures; agents do not of theirs (``train/...``), but for the loss.

    Args:
        tag: of the figure.
        status: of a run that has it.
        settings: of the same run.
    """
    if status.less_is_better is not None and tag in status.less_is_better:
        return True
    group, _, name = tag.partition("/")
    if name == RETURN:
        return False
    if status.less_is_better is not None and group not in ("train", "time"):
        return False
    claims = settings.get("expect")
    claim = claims.get(tag, {}) if isinstance(claims, dict) else {}
    if isinstance(claim, dict) and (claim.get("at_least") is None) != (claim.get("at_most") is None):
        return claim.get("at_least") is None
    return None


def matches(path: Path, pattern: str) -> bool:
    """Whether a path has a pattern's text in it, or matches it as a whole or by its last part."""
    return pattern in str(path) or fnmatch.fnmatch(str(path), pattern) or fnmatch.fnmatch(path.name, pattern)


def age(seconds: float) -> str:
    """A duration in its largest unit: ``5 s``, ``12 min``, ``3 h``, ``2 d``."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def ago(when: float) -> str:
    """How long ago a time since the epoch was."""
    return age(time.time() - when)
