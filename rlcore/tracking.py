"""What a run reports: TensorBoard, the progress bar, the closing table."""

from __future__ import annotations

import shutil
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from rlcore import video
from rlcore.errors import InputError
from rlcore.evaluation import Film, Report

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

FIGURES_FOLDER = "figures"
SECONDS_BETWEEN_DRAWINGS = 0.1


def make_console() -> Console:
    """A console for the terminal, which prints brackets as they are; wide if there is none, so that no table is cut."""
    return Console(soft_wrap=True, markup=False, width=None if sys.stdout.isatty() else 160)


def table_of(title: str, figures: Mapping[str, float]) -> Table:
    """A table of names and values, for the terminal."""
    table = Table("figure", "value", title=title)
    for name, value in figures.items():
        table.add_row(name, f"{value:,.6g}")
    return table


Method = TypeVar("Method", bound=Callable[..., Any])


def _without_which_training_goes_on(method: Method) -> Method:
    """A method of the tracker that writes: what the disk refuses is told once, and then nothing more is written."""

    @wraps(method)
    def run(self: Tracker, *arguments: Any, **named: Any) -> Any:
        try:
            return method(self, *arguments, **named)
        except OSError as error:
            self.writer, self.run_dir = None, None
            self.note(f"events and figures are not written any more: {error}")
            return []

    return run  # type: ignore[return-value]


class Tracker:
    """Writes scalars, reports and text of one run.

    If the disk is full, or the folder gone, it says so once and writes no more: training does not end for that.

    Args:
        run_dir: folder of the events, figures and films; None writes no file.
        console: for the progress bar and the closing table; None is silent.
        tensorboard: whether to write events.
        purge_step: a resumed run's step; TensorBoard hides what an earlier process logged from there on.
    """

    def __init__(
        self,
        run_dir: str | Path | None = None,
        console: Console | None = None,
        tensorboard: bool = True,
        purge_step: int | None = None,
    ):
        self.run_dir, self.console = None if run_dir is None else Path(run_dir), console
        self.writer: SummaryWriter | None = None
        if run_dir is not None and tensorboard:
            self._begin(purge_step)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._told = 0.0
        self._drawn = 0.0

    @_without_which_training_goes_on
    def _begin(self, purge_step: int | None) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.writer = SummaryWriter(str(self.run_dir), purge_step=purge_step)

    @_without_which_training_goes_on
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes scalars at an environment step, as one event: several times cheaper than one event each."""
        if self.writer is not None and values:
            from tensorboard.compat.proto.summary_pb2 import Summary

            items = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            self.writer._get_file_writer().add_summary(Summary(value=items), step)

    @_without_which_training_goes_on
    def report(self, prefix: str, report: Report, step: int) -> list[Path]:
        """Writes a report: scalars as ``prefix/name``, its text, figures and films to TensorBoard and as files.

        Returns:
            The files: ``figures/name.png``, of the latest report alone, and ``videos/name-step.mp4``.

        Raises:
            InputError: a film cannot be written, or a name is not that of a file in the run.
        """
        files = []
        for name in (*report.figures, *report.films):
            if Path(name).name != name or not name.strip("."):
                raise InputError(f"report {prefix}: the name of a figure must be that of a file, got {name!r}")
        self.scalars(report.tagged(prefix), step)
        if report.text:
            self.text(prefix, report.text, step)
        for name, figure in report.figures.items():
            if self.run_dir is not None:
                folder = self.run_dir / FIGURES_FOLDER
                folder.mkdir(parents=True, exist_ok=True)
                files.append(folder / f"{name}.png")
                figure.savefig(files[-1], dpi=120)
            if self.writer is not None:
                self.writer.add_figure(f"{prefix}/{name}", figure, step)
        for name, film in report.films.items():
            if self.run_dir is not None:
                files.append(_unused(self.run_dir / film.folder / f"{name}-{step}.mp4"))
                video.write(film, files[-1])
            self._film(
                f"{prefix}/{name}/film", film, step
            )  # a tag that no scalar has: TensorBoard shows one kind of each
        if report.embedding is not None and self.writer is not None:
            vectors, labels, images = report.embedding
            shutil.rmtree(
                Path(self.writer.log_dir) / f"{step:05d}" / prefix, ignore_errors=True
            )  # left by an earlier report
            self.writer.add_embedding(vectors, labels, images, step, prefix)
        return files

    def _film(self, tag: str, film: Film, step: int) -> None:
        """Writes a film as an image that moves: torch's add_video needs moviepy 1, which is no more."""
        if self.writer is not None:
            from tensorboard.compat.proto.summary_pb2 import Summary

            shown = Summary.Value(tag=tag, image=video.moving_image(film))
            self.writer._get_file_writer().add_summary(Summary(value=[shown]), step)

    @_without_which_training_goes_on
    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Writes text, shown verbatim."""
        if self.writer is not None:
            self.writer.add_text(tag, "    " + text.replace("\n", "\n    "), step)

    @_without_which_training_goes_on
    def hyperparameters(self, values: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Fills the hyper-parameters tab for this run, with the tags of the metrics to show."""
        if self.writer is not None:
            from torch.utils.tensorboard.summary import hparams

            plain = {key: v if isinstance(v, (bool, int, float, str)) else str(v) for key, v in values.items()}
            for summary in hparams(plain, dict(metrics)):
                self.writer._get_file_writer().add_summary(summary)

    def note(self, line: str) -> None:
        """Tells the user something: in the terminal, or as a Python warning where there is no console."""
        if self.console is not None:
            self.console.print(f"note: {line}", highlight=False)
        else:
            warnings.warn(line, stacklevel=2)

    def progress(self, steps: int, total: int, figures: Mapping[str, float]) -> None:
        """Updates the progress bar; without a terminal, prints a line every tenth of the run."""
        if self.console is None:
            return
        if steps < total and time.monotonic() < self._drawn + SECONDS_BETWEEN_DRAWINGS:
            return
        self._drawn = time.monotonic()
        shown = "  ".join(f"{name} {value:,.{0 if abs(value) >= 1000 else 1}f}" for name, value in figures.items())
        if not self.console.is_terminal:
            if steps >= total or steps / total >= self._told + 0.1:
                self._told = steps / total
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
        """Prints the latest value of every figure."""
        self.stop_progress()
        if self.console is not None:
            self.console.print(table_of(f"after {steps:,} steps", figures))

    @_without_which_training_goes_on
    def flush(self) -> None:
        """Writes pending events, so that TensorBoard sees them."""
        if self.writer is not None:
            self.writer.flush()

    def stop_progress(self) -> None:
        """Ends the progress bar, if there is one."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    @_without_which_training_goes_on
    def close(self) -> None:
        """Ends the progress bar and writes pending events."""
        self.stop_progress()
        if self.writer is not None:
            self.writer.close()


def _unused(path: Path) -> Path:
    """The path, with a number if there is such a file."""
    number, stem = 1, path.stem
    while path.exists():
        number += 1
        path = path.with_stem(f"{stem}-{number}")
    return path
