"""``rlcore doctor``."""

import json
import time
from pathlib import Path

from rlcore.console import make_console
from rlcore.doctor.diagnosis import CANNOT_KNOW, Diagnosis, examine, examine_all
from rlcore.errors import InputError
from rlcore.files import CHECKPOINTS_FOLDER, CONFIG_FILE
from rlcore.run import Run

FOUND = 1
"""Exit status where something was found, as of linters."""


def doctor(path: str, as_json: bool = False, watch: bool = False, every: float = 60.0, trust: bool = False) -> int:
    """Names what is wrong with a run, or with each run in a folder: a line each, with evidence and remedy.

    Args:
        path: a run, a folder of runs, or a pattern of these.
        as_json: print JSON instead.
        watch: examine a run that trains again whenever it has written a checkpoint, until it has ended.
        every: seconds between two looks.
        trust: see `rlcore.config.load`.

    Returns:
        The exit status: 0 if nothing was found, else 1.
    """
    if watch:
        if as_json or not (Path(path) / CONFIG_FILE).is_file():
            raise InputError("--watch: is for one run that trains, and prints lines; leave out --json, and name a run")
        return _watch(Run(path, trust), every)
    found = examine_all(path, trust)
    if as_json:
        print(json.dumps({str(run): _plain(diagnosis) for run, diagnosis in found.items()}))
    else:
        for run, diagnosis in found.items():
            _print(run, diagnosis)
        make_console().print(CANNOT_KNOW, highlight=False)
    return FOUND if any(diagnosis.findings for diagnosis in found.values()) else 0


def _print(run: Path, diagnosis: Diagnosis) -> None:
    """The findings, what was looked at, and what could not be, by reason."""
    console = make_console()
    for line in [*map(str, diagnosis.findings)] or ["nothing found"]:
        console.print(f"{run}: {line}", highlight=False)
    console.print(f"looked at, and well: {', '.join(diagnosis.looked) or 'nothing'}", highlight=False)
    reasons: dict[str, list[str]] = {}
    for name, reason in diagnosis.unseen.items():
        reasons.setdefault(reason, []).append(name)
    if reasons:
        each = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
        console.print(f"not looked at: {each}", highlight=False)


def _plain(diagnosis: Diagnosis) -> dict[str, object]:
    findings = [one._asdict() for one in diagnosis.findings]
    return {"findings": findings, "looked": diagnosis.looked, "unseen": diagnosis.unseen, "cannot_know": CANNOT_KNOW}


def _watch(run: Run, every: float) -> int:
    """Examines a run after each of its checkpoints, and prints what was not found before."""
    console, told, seen = make_console(), set[str](), 0.0
    last = run.path / CHECKPOINTS_FOLDER / "last.pt"
    while True:
        ended = bool(run.result.get("finished"))
        written = last.stat().st_mtime if last.is_file() else 0.0
        if written > seen or (ended and not written):  # without a checkpoint, the run that ended is refused
            seen, diagnosis = written, examine(run.path, run.trust)
            for finding in diagnosis.findings:
                if finding.name not in told:
                    told.add(finding.name)
                    console.print(f"{run.path}: {finding}", highlight=False)
        if ended:
            console.print(f"{run.path} has ended; {len(told) or 'no'} findings", highlight=False)
            return FOUND if told else 0
        time.sleep(every)
