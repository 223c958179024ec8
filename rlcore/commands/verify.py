"""``rlcore verify``."""

import math
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

from rich.table import Table

from rlcore import config as configs
from rlcore.commands.seeds import claimed, figure_of, train_all, trainings
from rlcore.console import make_console
from rlcore.errors import InputError
from rlcore.run import RUNS_FOLDER


def verify(names: Sequence[str], everything: bool, seeds: int | None, jobs: int) -> int:
    """Reruns configs, or every shipped one with claims, and prints whether each claim holds; 1 if one does not.

    Raises:
        InputError: no config is named, or one has no claims.
    """
    if bool(names) == everything:
        raise InputError("verify: name configs, or give --all" if not names else "verify: give either names or --all")
    if everything:
        names = [name for name in configs.shipped_names() if configs.load(name).config.expect]
    console, table = make_console(), Table("config", "figure", "claim", "source", "measured", "")
    good = True
    loaded = {name: configs.load(name) for name in names}
    for name, one in loaded.items():
        if not one.config.expect:
            raise InputError(f"{name} has no claims: it has no expect block")
    folder = Path(RUNS_FOLDER) / "verify"
    seeds_of = [  # numbered, as two files in different folders may share a name
        trainings(one, name, (), folder / f"{number}-{one.name}", seeds or 1)
        for number, (name, one) in enumerate(loaded.items(), 1)
    ]
    ended = train_all(claimed(list(chain(*seeds_of))), jobs)
    for (name, one), seeds_of_it in zip(loaded.items(), seeds_of, strict=True):
        runs = list(islice(ended, len(seeds_of_it)))
        for figure, claim in one.config.expect.items():
            measured = [figure_of(path, figure) if status == 0 else math.nan for path, status in runs]
            passed = all(map(claim.met, measured))
            good &= passed
            values, verdict = "  ".join(f"{value:,.6g}" for value in measured), "pass" if passed else "FAIL"
            # at once: all of them may take hours
            console.print(f"{name}: {figure} {values}, {verdict}", highlight=False)
            table.add_row(name, figure, str(claim), claim.source, values, verdict)
    console.print(table)
    return 0 if good else 1
