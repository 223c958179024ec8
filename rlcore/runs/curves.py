"""The figures of a run over its steps and seconds, from what its loggers wrote: TensorBoard's events, or progress.csv.

A file is read as it is framed, and of its messages the scalars alone: several times faster than TensorBoard's own
reader, which checks sums and keeps images.
"""

import csv
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlcore.errors import InputError
from rlcore.files import TABLE_FILE

SPEED = "time/steps_per_second"
"""Tag of the steps per second so far, of which the seconds of a step are made."""
HEAD, TAIL = 12, 4
"""Bytes around a message of events: its length and that one's checksum, and the message's own."""


class Curve(NamedTuple):
    """A figure at K steps, in ascending order."""

    step: NDArray[np.int64]
    """[K], environment steps done."""
    value: NDArray[np.float64]
    """[K], finite or not."""

    def until(self, step: float) -> "Curve":
        """The part up to and with a step."""
        end = int(np.searchsorted(self.step, step, side="right"))
        return Curve(self.step[:end], self.value[:end])

    @property
    def finite(self) -> "Curve":
        """The part without NaN and infinities."""
        kept = np.isfinite(self.value)
        return Curve(self.step[kept], self.value[kept])

    @property
    def first(self) -> float:
        """The median over the first twentieth of its steps; K >= 1."""
        return float(np.median(self.value[self.step <= self.step[0] + np.ptp(self.step) / 20]))

    @property
    def last(self) -> float:
        """The median over the last third of its steps; K >= 1."""
        return float(np.median(self.value[self.step >= self.step[-1] - np.ptp(self.step) / 3]))


class Log(NamedTuple):
    """What a run has logged."""

    curves: dict[str, Curve]
    """By tag; from TensorBoard's events float32 numbers."""
    resumed_at: list[int]
    """Steps from which it was resumed, as far as TensorBoard's events tell."""


def read_curves(run: Path, wanted: Callable[[str], bool] = lambda tag: True) -> dict[str, Curve]:
    """The curves of a run, by tag; see `read_log`."""
    return read_log(run, wanted).curves


def read_log(run: Path, wanted: Callable[[str], bool] = lambda tag: True) -> Log:
    """What a run has logged; empty if that is nothing here.

    What a resumed run logged again counts once, as the later process wrote it. A file that is being written, or was cut
    in a crash, is read as far as it goes.

    Args:
        run: the run's folder.
        wanted: whether a tag is read.

    Raises:
        InputError: a file cannot be read.
    """
    events = sorted(run.glob("events.out.tfevents.*"))
    try:
        points, resumed_at = _from_events(events, wanted) if events else (_from_csv(run / TABLE_FILE, wanted), [])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot read the figures of {run}: {error}") from error
    return Log({tag: curve_of(values.items()) for tag, values in points.items() if values}, resumed_at)


def curve_of(points: Iterable[tuple[int, float]]) -> Curve:
    """A curve through points (step, value)."""
    step, value = zip(*sorted(points), strict=True)
    return Curve(np.array(step, np.int64), np.array(value, np.float64))


def seconds_of(speed: Curve, step: NDArray[Any]) -> NDArray[np.float64]:
    """The seconds of collecting and learning that a run took to steps, evaluations left out; between logs, by the line.

    Args:
        speed: the run's curve of the tag `SPEED`, of K >= 1 logs.
        step: [M].
    """
    logged = np.isfinite(speed.value) & (speed.value > 0)
    steps = np.concatenate([[0], speed.step[logged]])
    seconds = np.concatenate([[0.0], speed.step[logged] / speed.value[logged]])
    found: NDArray[np.float64] = np.interp(step, steps, seconds)
    return found


def _from_events(files: list[Path], wanted: Callable[[str], bool]) -> tuple[dict[str, dict[int, float]], list[int]]:
    """Values by tag and step, and where the run was resumed; the files are in the order in which they were written."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    found: dict[str, dict[int, float]] = {}
    resumed_at: list[int] = []
    for file in files:
        for message in _messages(file.read_bytes()):
            try:
                event = Event.FromString(message)
            except Exception:  # DecodeError, whose home differs between versions of protobuf
                break
            if event.session_log.status == SessionLog.START:  # of a resumed run: what was logged from here on is void
                resumed_at.append(event.step - 1)
                for values in found.values():
                    for step in [step for step in values if step >= event.step]:
                        del values[step]
            for value in event.summary.value:
                if value.HasField("simple_value") and wanted(value.tag):
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found, resumed_at


def _messages(content: bytes) -> Iterator[bytes]:
    """The messages of a file of events (TFRecord), as far as they are whole."""
    at = 0
    while at + HEAD <= len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        message = content[at + HEAD : at + HEAD + length]
        at += HEAD + length + TAIL
        if at > len(content):
            return
        yield message


def _from_csv(file: Path, wanted: Callable[[str], bool]) -> dict[str, dict[int, float]]:
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8", errors="replace")
    found: dict[str, dict[int, float]] = {}
    for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):
        step = int(row.pop("step"))
        for tag, value in row.items():
            if value and wanted(tag):
                found.setdefault(tag, {})[step] = float(value)
    return found
