"""What a run shows in the terminal: notes, a progress bar, the closing table."""

import sys
import time
import warnings
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

SECONDS_BETWEEN_REFRESHES = 0.1


def make_console(silent: bool = False) -> Console:
    """A console for the terminal, which prints brackets as they are; wide if there is none, so that no table is cut."""
    return Console(soft_wrap=True, markup=False, width=None if sys.stdout.isatty() else 160, quiet=silent)


def table_of(title: str, figures: Mapping[str, float]) -> Table:
    """A table of names and values, for the terminal."""
    table = Table("figure", "value", title=title)
    for name, value in figures.items():
        table.add_row(name, f"{value:,.6g}")
    return table


def figures_shown(figures: Mapping[str, float]) -> str:
    """Names and values, as they stand beside a progress bar."""
    return "  ".join(f"{name} {value:,.{0 if abs(value) >= 1000 else 1}f}" for name, value in figures.items())


class Display:
    """Notes, progress and closing table of one run.

    Args:
        console: where they are printed; None is silent, and notes become Python warnings.
    """

    def __init__(self, console: Console | None = None):
        self.console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._printed_share = 0.0
        self._refreshed_at = 0.0

    def note(self, line: str) -> None:
        """Tells the user something: in the terminal, or as a Python warning where there is no console."""
        if self.console is not None:
            self.console.print(f"note: {line}", highlight=False)
        else:
            warnings.warn(line, stacklevel=2)

    def progress(self, steps: int, total: int, figures: Mapping[str, float]) -> None:
        """Updates the progress bar; without a terminal, prints a line every tenth of the run.

        Args:
            steps: environment steps done.
            total: environment steps of the whole run.
            figures: shown beside the bar.
        """
        if self.console is None:
            return
        if steps < total and time.monotonic() < self._refreshed_at + SECONDS_BETWEEN_REFRESHES:
            return
        self._refreshed_at = time.monotonic()
        shown = figures_shown(figures)
        if not self.console.is_terminal:
            if steps >= total or steps / total >= self._printed_share + 0.1:
                self._printed_share = steps / total
                self.console.print(f"{steps:>12,} / {total:,}  {shown}", highlight=False)
            return
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.completed:,.0f} / {task.total:,.0f}"),
                BarColumn(None),
                TextColumn("{task.fields[shown]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(elapsed_when_finished=False),
                console=self.console,
                auto_refresh=False,
            )
            self._task = self._progress.add_task("", total=total, completed=steps, shown="")
            self._progress.start()
        assert self._task is not None
        self._progress.update(self._task, completed=steps, shown=shown, refresh=True)

    def closing_table(self, steps: int, figures: Mapping[str, float]) -> None:
        """Ends the progress bar and prints the latest value of every figure."""
        self.close()
        if self.console is not None:
            self.console.print(table_of(f"after {steps:,} steps", figures))

    def close(self) -> None:
        """Ends the progress bar, if there is one."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
