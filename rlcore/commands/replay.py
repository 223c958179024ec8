"""``rlcore replay``."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from rlcore.console import make_console, table_of
from rlcore.errors import InputError
from rlcore.replaying import Replayed, page
from rlcore.replaying import replay as replay_run

ROWS = 20
"""Steps that are printed, at most."""
NUMBERS = 4
"""Numbers that a cell shows, at most; of more, their shape."""


def replay(
    path: str, update: int | None, episode: int | None, step: int | None, out: str | None, trust: bool = False
) -> int:
    """Trains an update of a run again, or what an episode was played in, and shows it; 1 if it is not as logged."""
    if step is not None and episode is None:
        raise InputError("--step: is a step of an episode, which --episode K must name")
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise InputError(f"--out: {out} is a file; give a folder")
    made = replay_run(path, update, episode, trust=trust)
    length = len(made.fields["reward"])
    if step is not None and not 1 <= step <= length:
        raise InputError(f"--step: episode {episode} has {length:,} steps, counted from 1; got {step:,}")
    console = make_console()
    for line in (made.title, *made.notes, made.verdict):
        console.print(line, highlight=False)
    console.print(steps_of(made) if step is None else one_step(made, step))
    console.print(table_of("the update's metrics", made.metrics))
    if made.gradients:
        console.print(gradients_of(made))
    if out is not None:
        for file in page.write(made, Path(out)):
            console.print(f"file: {file}", highlight=False)
    return 0 if made.as_logged else 1


def steps_of(made: Replayed) -> Table:
    """The first steps, with everything that fits into a cell."""
    T, N = made.fields["reward"].shape
    rows = [(t, n) for t in range(T) for n in range(N)][:ROWS]
    rest = f"; {T * N - len(rows):,} more, all in the data of --out" if len(rows) < T * N else ""
    table = Table("step", *(["env"] if N > 1 else []), *made.fields, title=f"steps{rest}")
    for t, n in rows:
        place = [str(t + made.first_step), *([str(n)] if N > 1 else [])]
        table.add_row(*place, *(_cell(field[t, n]) for field in made.fields.values()))
    return table


def one_step(made: Replayed, step: int) -> Table:
    """All that there is of one step."""
    table = Table("what", "value", title=f"step {step}")
    for name, field in made.fields.items():
        table.add_row(name, np.array2string(field[step - 1, 0], precision=6, threshold=100))
    return table


def gradients_of(made: Replayed) -> Table:
    """The gradients' norms by parameter, over the optimizer's steps of the update."""
    table = Table("gradient", "steps", "mean norm", "largest", title="gradients before any clipping")
    for name, norms in made.gradients.items():
        table.add_row(name, str(len(norms)), f"{norms.mean():.4g}", f"{norms.max():.4g}")
    return table


def _cell(value: Any) -> str:
    if value.size > NUMBERS:
        return "x".join(map(str, value.shape)) + f" {value.dtype}"
    if value.dtype == bool:
        return " ".join("yes" if x else "-" for x in value.flat)
    return " ".join(f"{x:.3g}" for x in value.flat)
