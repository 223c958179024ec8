"""Monitor: a file with every episode of training."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.files import write_whole
from rlcore.hooks.base import Hook
from rlcore.statistics import Episodes

if TYPE_CHECKING:
    from rlcore.agent import Metrics
    from rlcore.trainer import Trainer

MONITOR_FILE = "monitor.csv"
COLUMNS = "steps", "seconds", "env", "return", "length"


class Monitor(Hook):
    """Writes ``monitor.csv`` into the run's folder: a row for each episode that ended while learning.

    Columns are ``steps``, environment steps after the update in which it ended; ``seconds`` of training until then;
    ``env``, the number of its environment, ``return``, ``length``, and the numbers in the ``info`` of its last step, by
    name, unless one of these columns has it. A resumed run drops what was written after its checkpoint.
    """

    def on_start(self, trainer: Trainer) -> None:
        """Begins to listen; see `Hook`."""
        self._trainer = trainer
        trainer.episodes.listeners.append(self._write)
        self.written_until = 0
        """Environment steps up to which every episode that ended is in the file."""
        self._columns: list[str] = []  # of the file, once it is open
        self._writes = True

    def on_update(self, trainer: Trainer, metrics: Metrics) -> None:
        """Writes the episodes that ended; see `Hook`."""
        trainer.episodes.flush()
        self.written_until = trainer.steps

    def _write(self, ended: Episodes) -> None:
        trainer = self._trainer
        if trainer.run_dir is None or not self._writes:
            return
        now = {"steps": trainer.steps, "seconds": round(trainer.seconds, 3)}
        rows = [
            {**numbers, **now, "env": env, "return": total, "length": int(length)}
            for env, total, length, numbers in zip(*ended, strict=True)
        ]
        try:
            self._append(trainer.run_dir / MONITOR_FILE, rows)
        except OSError as error:  # for which training does not end
            self._writes = False
            trainer.tracker.note(f"{MONITOR_FILE} is not written any more: {error}")

    def _append(self, path: Path, rows: list[dict[str, Any]]) -> None:
        first = not self._columns
        new = dict.fromkeys(name for row in rows for name in row if name not in (self._columns or COLUMNS))
        if first or new:
            before = _read(path)
            if first:  # what an earlier process wrote after its last checkpoint comes again
                before = [row for row in before if int(row["steps"]) <= self.written_until]
            self._columns = list(dict.fromkeys([*(self._columns or COLUMNS), *(before[0] if before else ()), *new]))
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file: file.write(_lines(self._columns, before, header=True)))
        with path.open("ab") as file:
            file.write(_lines(self._columns, rows))


def _read(path: Path) -> list[dict[str, str]]:
    """The rows of a file; not a last one that was cut in a crash."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if (row["steps"] or "").isdecimal() and None not in row.values()]


def _lines(columns: list[str], rows: list[dict[str, Any]], header: bool = False) -> bytes:
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
