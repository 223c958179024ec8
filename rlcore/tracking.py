"""What a run reports: to its loggers, the terminal, and the files of figures and films."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from rlcore import video
from rlcore.console import Display
from rlcore.console import make_console as make_console  # also from here, beside the tracker that it is for
from rlcore.errors import InputError
from rlcore.evaluation import Film, Report
from rlcore.files import STATUS_FILE, replace_text, without_nan
from rlcore.loggers import Logger, LoggerChoice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES_FOLDER = "figures"
DEFAULT_LOGGERS = ("tensorboard",)
"""Loggers of a run whose settings name none."""
SECONDS_BETWEEN_STATUSES = 1.0


class Tracker:
    """Passes what one run reports on to its loggers, and writes the files of figures and films.

    A logger that fails, or a disk that refuses the files, is told once and left out from then on: neither the others
    nor training end for that.

    Args:
        run_dir: folder of what is written; None writes nothing.
        console: for the progress bar and the closing table; None is silent.
        loggers: what is written besides figures and films; None: TensorBoard's events.
        purge_step: of a resumed run, the step from which on what an earlier process logged is void.

    Raises:
        InputError: a logger's package is not installed, or its service does not let it begin.
    """

    def __init__(
        self,
        run_dir: str | Path | None = None,
        console: Console | None = None,
        loggers: Sequence[LoggerChoice] | None = None,
        purge_step: int | None = None,
    ):
        self.run_dir, self.display = None if run_dir is None else Path(run_dir), Display(console)
        self.loggers: dict[str, Logger] = {}
        self._begun = False
        self._status: dict[str, Any] | None = None  # not written yet
        self._status_written_at = -math.inf
        if self.run_dir is not None:
            if loggers is None:
                loggers = [LoggerChoice.model_validate(name) for name in DEFAULT_LOGGERS]
            self._open(loggers, self.run_dir, purge_step)

    def _open(self, choices: Sequence[LoggerChoice], run_dir: Path, purge_step: int | None) -> None:
        for choice in choices:
            choice.check()
        for choice in choices:
            try:
                self.loggers[choice.name] = choice.make(run_dir, purge_step)
            except OSError as error:
                self._leave_out(choice.name, error)
            except Exception:
                self.close()
                raise

    def begin(self, hyperparameters: Mapping[str, Any], metric: str, config: str | None = None) -> None:
        """Tells the loggers of what a run that begins is made; once, so that later calls change nothing.

        Args:
            hyperparameters: the settings, by dotted key.
            metric: tag of the figure that runs are compared by.
            config: the settings as one text; default: a line for each.
        """
        if self._begun:
            return
        self._begun = True
        text = "\n".join(f"{key}: {value}" for key, value in hyperparameters.items()) if config is None else config
        self._each(lambda logger: logger.hyperparameters(hyperparameters, metric))
        self._each(lambda logger: logger.config(text))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes scalars, by tag, at an environment step."""
        if values:
            self._each(lambda logger: logger.scalars(values, step))

    def report(self, prefix: str, report: Report, step: int) -> list[Path]:
        """Writes a report: scalars as ``prefix/name``, its text, figures and films to the loggers and as files.

        Returns:
            The files: ``figures/name.png``, of the latest report alone, and ``videos/name-step.mp4``.

        Raises:
            InputError: a film cannot be written, or a name is not that of a file in the run.
        """
        for name in (*report.figures, *report.films):
            if Path(name).name != name or not name.strip("."):
                raise InputError(f"report {prefix}: the name of a figure must be that of a file, got {name!r}")
        self.scalars(report.tagged(prefix), step)
        if report.text:
            self._each(lambda logger: logger.text(prefix, report.text, step))
        files = [self._figure(prefix, name, figure, step) for name, figure in report.figures.items()]
        files += [self._film(prefix, name, film, step) for name, film in report.films.items()]
        embedding = report.embedding
        if embedding is not None:
            self._each(lambda logger: logger.embedding(prefix, embedding, step))
        return [file for file in files if file is not None]

    def _figure(self, prefix: str, name: str, figure: Figure, step: int) -> Path | None:
        self._each(lambda logger: logger.figure(f"{prefix}/{name}", figure, step))
        if self.run_dir is None:
            return None
        path = self.run_dir / FIGURES_FOLDER / f"{name}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=120)
        except OSError as error:
            self.run_dir = None
            self.note(f"figures and films are not written any more: {error}")
            return None
        return path

    def _film(self, prefix: str, name: str, film: Film, step: int) -> Path | None:
        """Writes a film as a file, which loggers are given; its tag is one that no scalar has."""
        if self.run_dir is None:
            return None
        path = _unused(self.run_dir / film.folder / f"{name}-{step}.mp4")
        video.write(film, path)
        self._each(lambda logger: logger.film(f"{prefix}/{name}/film", film, path, step))
        return path

    def note(self, line: str) -> None:
        """Tells the user something; see `Display.note`."""
        self.display.note(line)

    def progress(self, steps: int, total: int, figures: Mapping[str, float]) -> None:
        """Shows how far the run is; see `Display.progress`."""
        self.display.progress(steps, total, figures)

    def status(self, content: Mapping[str, Any]) -> None:
        """Writes status.json, what a run says of itself while it goes on: at most once a second, and at `flush`.

        Args:
            content: ``steps`` and ``total_steps``; ``seconds`` of collecting and learning; ``figure``, the tag of what
                it is judged by, and its ``best``, infinite if none was chosen; ``less_is_better``, tags; ``figures``,
                the latest by tag.
        """
        self._status = dict(content)
        if time.monotonic() >= self._status_written_at + SECONDS_BETWEEN_STATUSES:
            self._write_status()

    def _write_status(self) -> None:
        status, self._status = self._status, None
        if self.run_dir is None or status is None or self._status_written_at == math.inf:
            return
        self._status_written_at = time.monotonic()
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            replace_text(self.run_dir / STATUS_FILE, json.dumps(without_nan(status)) + "\n")
        except OSError as error:
            self._status_written_at = math.inf
            self.note(f"{STATUS_FILE} is not written any more: {error}")

    def closing_table(self, steps: int, figures: Mapping[str, float]) -> None:
        """Prints the latest value of every figure; see `Display.closing_table`."""
        self.display.closing_table(steps, figures)

    def flush(self) -> None:
        """Writes what is pending, and has the loggers do so."""
        self._write_status()
        self._each(lambda logger: logger.flush())

    def close(self) -> None:
        """Ends the progress bar and the loggers."""
        self.display.close()
        self._each(lambda logger: logger.close())

    def _each(self, write: Callable[[Logger], None]) -> None:
        for name, logger in tuple(self.loggers.items()):
            try:
                write(logger)
            except Exception as error:  # the errors of services have no base of their own
                self._leave_out(name, error)

    def _leave_out(self, name: str, error: Exception) -> None:
        self.loggers.pop(name, None)
        self.note(f"the logger {name} writes no more: {type(error).__name__}: {' '.join(str(error).split())}")


def _unused(path: Path) -> Path:
    """The path, with a number if there is such a file."""
    number, stem = 1, path.stem
    while path.exists():
        number += 1
        path = path.with_stem(f"{stem}-{number}")
    return path
