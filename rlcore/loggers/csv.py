"""The logger ``csv``."""

import csv
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path

from rlcore import settings
from rlcore.errors import InputError
from rlcore.files import TABLE_FILE, write_whole
from rlcore.loggers.base import Logger

STEP = "step"
"""The first column: environment steps done."""


class CSVLogger(Logger):
    """A table progress.csv in the run's folder: a row per step, a column per figure.

    A figure that is new adds a column, empty above. A crash leaves at most the last row half there: rows are appended,
    and columns written beside and renamed. A resumed run drops the rows that it writes again.
    """

    def __init__(self, settings: settings.Settings, run_dir: Path, purge_step: int | None = None):
        super().__init__(settings, run_dir, purge_step)
        self.path = run_dir / TABLE_FILE
        self._columns: list[str] = [STEP]
        self._row: dict[str, str] = {}
        self._row_at = 0  # byte at which the last row begins
        rows = self._read() if self.path.exists() else []
        self._write(row for row in rows if purge_step is None or int(row[STEP]) < purge_step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes a row, or further figures into the row of the same step."""
        if self._row.get(STEP) != str(step):
            self._row, self._row_at = {}, self.path.stat().st_size
        self._row |= {tag: repr(float(value)) for tag, value in values.items()} | {STEP: str(step)}
        new = [tag for tag in values if tag not in self._columns]
        if new:
            rows = self._read(self._row_at)
            self._columns += new
            self._write([*rows, self._row])
            return
        with open(self.path, "r+b") as file:
            file.seek(self._row_at)
            file.write(self._line(self._row))
            file.truncate()

    def _read(self, end: int | None = None) -> list[dict[str, str]]:
        """The rows of the file's first bytes, whose columns are kept; not a last one that was cut in a crash."""
        text = self.path.read_bytes()[:end].decode(errors="replace")
        reader = csv.DictReader(StringIO(text[: text.rfind("\n") + 1], newline=""))
        self._columns = list(reader.fieldnames or [STEP])
        rows = [{tag: value for tag, value in row.items() if value} for row in reader]
        if self._columns[0] != STEP or not all(row.get(STEP, "").isdecimal() for row in rows):
            raise InputError(f"{self.path} is not a table by {STEP} of the logger csv; move it elsewhere")
        return rows

    def _write(self, rows: Iterable[Mapping[str, str]]) -> None:
        """Writes the whole file, columns included."""
        header, *lines = [self._line(row) for row in ({tag: tag for tag in self._columns}, *rows)]
        content = header + b"".join(lines)
        self._row_at = len(content) - len(lines[-1]) if lines else len(content)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, lambda file: file.write(content))

    def _line(self, row: Mapping[str, str]) -> bytes:
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerow([row.get(tag, "") for tag in self._columns])
        return text.getvalue().encode()
