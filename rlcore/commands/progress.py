"""How far several runs are, each in a process of its own: read from what they say of themselves."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rlcore.console import figures_shown
from rlcore.errors import InputError
from rlcore.files import STATUS_FILE, read_json
from rlcore.runs.status import RETURN

SECONDS_BETWEEN_LOOKS = 0.5
LINES_BESIDE = 4
"""Of the terminal that lines of runs leave free."""


@contextmanager
def following(runs: Mapping[str, Path], console: Console) -> Iterator[None]:
    """Shows how far runs are while what is in here goes on: a line for each on a terminal, else one each tenth of it.

    Args:
        runs: their folders, by what they are called.
        console: where.
    """
    lines = _Live(runs, console) if console.is_terminal else _Printed(runs, console)
    ended = Event()

    def look() -> None:
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            lines.update()

    looking = Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()
        lines.update()
        lines.close()


class _Printed:
    """Lines without a terminal."""

    def __init__(self, runs: Mapping[str, Path], console: Console):
        self.runs, self.console = runs, console
        self._printed_share = dict.fromkeys(runs, 0.0)

    def update(self) -> None:
        """Looks at the runs, and shows what is new."""
        for name, path in self.runs.items():
            if (said := _status(path)) and said["steps"]:
                share = min(1.0, said["steps"] / said["total_steps"])
                if share >= min(1.0, self._printed_share[name] + 0.1) and share > self._printed_share[name]:
                    self._printed_share[name] = share
                    steps = f"{said['steps']:>12,} / {said['total_steps']:,}"
                    self.console.print(f"{name} {steps}  {_shown(said)}", highlight=False)

    def close(self) -> None:
        """Ends."""


class _Live:
    """Lines that move, of the runs that have begun; where they are too many for the terminal, of those in progress."""

    def __init__(self, runs: Mapping[str, Path], console: Console):
        self.runs = runs
        self.progress = Progress(
            TextColumn("{task.description}"),
            TextColumn("{task.completed:,.0f} / {task.total:,.0f}", justify="right"),
            BarColumn(None),
            TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            auto_refresh=False,
        )
        self.tasks: dict[str, TaskID] = {}
        self.progress.start()

    def update(self) -> None:
        """Looks at the runs, and shows what is new."""
        for name, path in self.runs.items():
            if said := _status(path):
                if name not in self.tasks:
                    self.tasks[name] = self.progress.add_task(name, total=said["total_steps"], shown="")
                is_done = said["steps"] >= said["total_steps"]
                fits = len(self.tasks) + LINES_BESIDE <= self.progress.console.height
                self.progress.update(
                    self.tasks[name], completed=said["steps"], shown=_shown(said), visible=fits or not is_done
                )
        self.progress.refresh()

    def close(self) -> None:
        """Leaves the lines as they are."""
        self.progress.stop()


def _status(path: Path) -> dict[str, Any]:
    """What a run says of itself; empty before it says anything."""
    with suppress(InputError):
        return read_json(path / STATUS_FILE)
    return {}


def _shown(said: Mapping[str, Any]) -> str:
    """The figure that the run is judged by, or until then the return of what it does while it learns."""
    found: Sequence[str] = [
        tag for tag in (said["figure"], f"rollout/{RETURN}") if said["figures"].get(tag) is not None
    ]
    return figures_shown({tag: said["figures"][tag] for tag in found[:1]})
