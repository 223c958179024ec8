"""``rlcore compare``."""

import json
import math
from collections.abc import Sequence
from typing import Any, Literal

from rich.table import Table

from rlcore.console import make_console
from rlcore.files import without_nan
from rlcore.runs.aggregates import Interval
from rlcore.runs.comparison import Comparison, Of
from rlcore.runs.comparison import compare as compare_sides


def compare(
    sides: Sequence[str],
    by: str | None,
    of: Of,
    at: str | None,
    better: Literal["less", "more"] | None,
    paired: bool,
    figure: str | None,
    as_json: bool,
) -> int:
    """Compares runs, or folders of runs, with the first of them; see `rlcore.runs.comparison.compare`.

    Args:
        sides: what to compare.
        by: tag of the figure.
        of: last, best or area.
        at: steps, or seconds as ``60s``.
        better: less or more.
        paired: compare runs of one seed.
        figure: file to draw curves and profiles into; None: none.
        as_json: print JSON instead of a table.
    """
    found = compare_sides(*sides, by=by, of=of, at=at, better=better, paired=paired)
    drawn = None
    if figure is not None:
        from rlcore.runs.drawing import draw_comparison, save

        drawn = save(draw_comparison(found), figure, "--figure")
    if as_json:
        print(json.dumps(without_nan(_plain(found))))
        return 0
    console = make_console()
    console.print(_table(found))
    for other in found.against:
        console.print(found.verdict(other), highlight=False)
    for note in found.notes:
        console.print(f"note: {note}", highlight=False)
    if drawn is not None:
        console.print(f"file: {drawn}", highlight=False)
    return 0


def _table(found: Comparison) -> Table:
    first = found.sides[0]
    at = "" if found.at is None else f" at {found.at}{'' if found.at.endswith('s') else ' steps'}"
    scale = f", each of {len(first.environments)} environments from 0 to 1" if found.scaled else ""
    less = "less" if found.less_is_better else "more"
    title = f"{found.figure}, {found.of}{at}; {less} is better{scale}"
    table = Table("", "seeds", "IQM [95 %]", f"minus {first.name}", f"better than {first.name}", "", title=title)
    rest: list[tuple[str, ...]] = [("", "", "")]
    for other in found.against:
        pairs = "" if not other.paired else "pairs"
        if other.correlation is not None:
            pairs = f"pairs, correlation {other.correlation:.2f}"
        chance = other.improvement
        rest.append((_interval(other.difference), f"{chance.value:.0%} [{chance.low:.0%}, {chance.high:.0%}]", pairs))
    for side, mean, cells in zip(found.sides, found.iqm, rest, strict=True):
        numbers = [len(side.scores(environment)) for environment in side.environments]
        table.add_row(side.name, " + ".join(map(str, numbers)), _interval(mean), *cells)
    return table


def _interval(one: Interval) -> str:
    """``12.3 [10.1, 14.2]``, each to as many digits as the width of the interval needs."""
    if math.isnan(one.low):
        return f"{one.value:,.4g}"
    width = one.high - one.low
    digits = max(0, 1 - math.floor(math.log10(width))) if width > 1e-9 * abs(one.value) else 2
    value, low, high = (f"{number:,.{digits}f}" for number in one)
    return f"{value} [{low}, {high}]"


def _plain(found: Comparison) -> dict[str, Any]:
    """The comparison in JSON."""
    sides = {}
    for side, mean in zip(found.sides, found.iqm, strict=True):
        runs = [
            {"run": str(run.path), "environment": run.environment, "seed": run.seed, "score": run.score}
            for run in side.runs
        ]
        sides[side.name] = {"iqm": without_nan(mean._asdict()), "runs": runs}
    against = {}
    for other in found.against:
        intervals = {"difference": other.difference, "improvement": other.improvement}
        against[other.name] = {
            **{name: one._asdict() for name, one in intervals.items()},
            "paired": other.paired,
            "correlation": other.correlation,
            "winner": other.winner,
            "more_seeds": other.more_seeds,
        }
    settings = {name: getattr(found, name) for name in ("figure", "of", "at", "less_is_better", "scaled", "notes")}
    return {**settings, "sides": sides, "against": against}
