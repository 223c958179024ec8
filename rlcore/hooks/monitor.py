"""Monitor: a file with every episode of training."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.hooks.base import Hook
from rlcore.statistics import Episodes, EpisodeStatistics

if TYPE_CHECKING:
    from rlcore.agent import Metrics
    from rlcore.rollout import Rollout
    from rlcore.trainer import Trainer

MONITOR_FILE = "monitor.csv"
COLUMNS = "steps", "seconds", "env", "return", "length"


class Monitor(Hook):
    """Writes ``monitor.csv`` into the run's folder: a row for each episode that ended while learning.

    Columns are ``steps``, environment steps after the update in which it ended; ``seconds`` of training until then;
    ``env``, the number of its environment, ``return``, ``length``, and the numbers in the ``info`` of its last step, by
    name. A resumed run drops what was written after its checkpoint.
    """

    def on_start(self, trainer: Trainer) -> None:
        """Begins to count; see `Hook`."""
        self._trainer = trainer
        self.episodes = EpisodeStatistics(trainer.env.num_envs, trainer.env.device, on_episodes=self._write)
        """Episodes in progress."""
        self._columns: list[str] = []  # of the file, once it is open
        self._rows: list[dict[str, Any]] = []

    def on_rollout(self, trainer: Trainer, rollout: Rollout) -> None:
        """Counts; see `Hook`."""
        self.episodes.add(rollout)

    def on_update(self, trainer: Trainer, metrics: Metrics) -> None:
        """Writes the episodes that ended; see `Hook`."""
        self.episodes.flush()

    def _write(self, ended: Episodes) -> None:
        trainer = self._trainer
        if trainer.run_dir is None:
            return
        now = {"steps": trainer.steps, "seconds": round(trainer.seconds, 3)}
        rows = [
            {**now, "env": env, "return": total, "length": int(length), **numbers}
            for env, total, length, numbers in zip(*ended, strict=True)
        ]
        path = trainer.run_dir / MONITOR_FILE
        if not self._columns:
            self._resume(path, trainer.steps)
        new = [name for row in rows for name in row if name not in self._columns]
        if new or not path.exists():
            self._rewrite(path, [*(self._columns or COLUMNS), *dict.fromkeys(new)], _read(path))
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerows(rows)

    def _resume(self, path: Path, steps: int) -> None:
        """Keeps what was written before this update."""
        rows = _read(path)
        if rows:
            self._rewrite(path, list(rows[0]), [row for row in rows if float(row["steps"] or math.inf) < steps])

    def _rewrite(self, path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
        self._columns = columns
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
