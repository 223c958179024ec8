"""``rlcore runs``."""

import fnmatch
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlcore.errors import InputError
from rlcore.files import RUNS_FOLDER, without_nan
from rlcore.registry import did_you_mean
from rlcore.runs.status import Status, age, ago, environment_of, find_runs, matches, runs_of, settings_of, status_of
from rlcore.settings import flatten

HEAD = "run", "agent", "environment", "state", "steps", "done", "figure", "best", "seconds", "updated"
NUMBERS = "steps", "done", "figure", "best", "seconds"
"""Columns that end in numbers."""
STATES = "running", "stopped", "failed", "no checkpoint", "done"
"""In the order in which a table is sorted by them."""
ORDERS: dict[str, Callable[[Status], Any]] = {
    "name": lambda run: str(run.path),
    "state": lambda run: STATES.index(run.state),
    "steps": lambda run: -(run.steps or 0),
    "figure": lambda run: -_or(run.value),
    "best": lambda run: -_or(run.best),
    "seconds": lambda run: -(run.seconds or 0),
    "updated": lambda run: -run.updated,
}
"""What runs are sorted by: the largest and the latest first."""


def runs(pattern: str | None, filters: Sequence[str], sort: str, as_json: bool) -> int:
    """Prints a table of runs.

    Args:
        pattern: a folder, or what the paths of the runs in ``runs`` have in them or match; None: all of those.
        filters: ``KEY=VALUE``, each of which a run must meet: a setting by its dotted key, ``state`` or ``env``; the
            value may be a pattern.
        sort: one of `ORDERS`.
        as_json: print a list in JSON instead.

    Raises:
        InputError: there are no such runs.
    """
    if sort not in ORDERS:
        raise InputError(f"--sort: unknown column {sort!r}{did_you_mean(sort, ORDERS)}; known: {', '.join(ORDERS)}")
    wanted = [_filter(item) for item in filters]
    found = _read(_found(pattern))
    shown = [(run, settings) for run, settings in found if all(meets(run, settings) for meets in wanted)]
    if not shown:
        why = f"none of {len(found)} meets --filter {' --filter '.join(filters)}" if found else "all are damaged"
        raise InputError(f"there are no such runs: {why}")
    shown.sort(key=lambda one: ORDERS[sort](one[0]))
    if as_json:
        print(json.dumps([_plain(run, settings) for run, settings in shown]))
        return 0
    print("\n".join(_lines([HEAD, *(_row(run, settings) for run, settings in shown)])))
    return 0


def _row(run: Status, settings: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a run."""
    return (
        str(run.path),
        _agent(settings),
        environment_of(settings),
        run.state,
        "-" if run.steps is None else f"{run.steps:,}",
        "" if run.steps is None or not run.total_steps else f"{min(1, run.steps / run.total_steps):.0%}",
        "-" if run.figure is None else f"{run.figure} {_number(run.value)}",
        _number(run.best),
        "-" if run.seconds is None else age(run.seconds),
        ago(run.updated),
    )


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells in columns, a line each; rich would take most of the time of a thousand, and fold long paths."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [str.rjust if name in NUMBERS else str.ljust for name in HEAD]
    each = ((align(cell, width) for cell, width, align in zip(row, widths, aligned, strict=True)) for row in rows)
    return ["  ".join(cells).rstrip() for cells in each]


def _found(pattern: str | None) -> list[Path]:
    """The runs that a pattern means."""
    if pattern is not None and Path(pattern).is_dir():
        return runs_of(pattern)
    if found := [path for path in find_runs(Path(RUNS_FOLDER)) if pattern is None or matches(path, pattern)]:
        return found
    if not Path(RUNS_FOLDER).is_dir():
        raise InputError(f"there are no runs here: no folder {RUNS_FOLDER}; name another one: rlcore runs FOLDER")
    raise InputError(f"there are no runs in {RUNS_FOLDER}{'' if pattern is None else f' that match {pattern!r}'}")


def _read(paths: Sequence[Path]) -> list[tuple[Status, dict[str, Any]]]:
    """What the runs say of themselves, and their settings; of those that are damaged a line says so."""
    found = []
    for path in paths:
        try:
            found.append((status_of(path), settings_of(path)))
        except InputError as error:
            print(f"rlcore: left out: {' '.join(str(error).split())}", file=sys.stderr)
    return found


def _filter(item: str) -> Callable[[Status, dict[str, Any]], bool]:
    """Whether a run meets ``KEY=VALUE``."""
    key, equals, value = item.partition("=")
    if not equals or not key:
        raise InputError(f"--filter: {item!r} is not KEY=VALUE, e.g. agent.name=ppo or state=running")

    def meets(run: Status, settings: dict[str, Any]) -> bool:
        if key == "state":
            return fnmatch.fnmatch(run.state, value)
        if key == "env":
            return fnmatch.fnmatch(environment_of(settings), value)
        flat = flatten(settings)
        return key in flat and fnmatch.fnmatch(_text(flat[key]), value)

    return meets


def _text(value: Any) -> str:
    """A setting as one writes it in YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def _agent(settings: dict[str, Any]) -> str:
    agent = settings.get("agent")
    return str(agent.get("name", "-") if isinstance(agent, dict) else agent)


def _plain(run: Status, settings: dict[str, Any]) -> dict[str, Any]:
    """A run's row in JSON."""
    row = {**run._asdict(), "path": str(run.path), "figures": dict(run.figures)}
    row["less_is_better"] = None if run.less_is_better is None else sorted(run.less_is_better)
    described = {"agent": _agent(settings), "environment": environment_of(settings), "seed": settings.get("seed")}
    plain: dict[str, Any] = without_nan({**row, **described})
    return plain


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.5g}"


def _or(value: float | None) -> float:
    return -math.inf if value is None else value
