"""Runs the fuzzers and prints a table.

    --only PART ...   these parts alone
    --num N           trials of each part, instead of those of a full run
    --seed S          (1)
    --trial I         this trial alone; its folder is kept
    --jobs J          trials at once (2)
    --out FOLDER      for the inputs and outputs of what failed (runs/fuzz); what parts left there before is removed

The exit status is 1 if anything came out that is in `trial.BAD`.
"""

import argparse
import json
import os
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from fuzz import checkpoints, configs, data, kills, pairs
from fuzz.trial import BAD, GOOD, Outcome, import_everything

PARTS = {"configs": configs, "checkpoints": checkpoints, "kills": kills, "pairs": pairs, "data": data}
ROOT = Path(__file__).resolve().parents[2]


def trial(part: str, number: int, seed: int, out: Path, keep: bool) -> Outcome:
    """One trial; its folder is left if it failed."""
    folder = out / f"{number:05d}"
    folder.mkdir()
    outcome = PARTS[part].trial(random.Random(f"{part} {seed} {number}"), folder, out / "prepared")
    if outcome.good and not keep:
        shutil.rmtree(folder)
    return outcome


def outcomes(part: str, numbers: Sequence[int], seed: int, out: Path, jobs: int, keep: bool) -> Iterator[str]:
    """Does trials of a part in forks of this process; yields the verdict of each, and tells which failed.

    These are no processes of multiprocessing, in which code may take itself for the worker of an environment.
    """
    reading, writing = os.pipe()
    for first in range(jobs):
        if os.fork() == 0:
            try:
                for number in numbers[first::jobs]:
                    verdict, detail = trial(part, number, seed, out, keep)
                    line = json.dumps([number, verdict, detail[:500]])  # short enough to be written in one piece
                    os.write(writing, f"{line}\n".encode())
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as lines:
        for line in lines:
            number, verdict, detail = json.loads(line)
            if keep or verdict in BAD:
                print(f"{part} {number}: {verdict}: {detail}", flush=True)
            yield verdict
    for _ in range(jobs):
        os.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--num", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trial", type=int)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "fuzz")
    given = parser.parse_args()
    out, keep = given.out.resolve(), given.trial is not None
    import_everything()
    heads = ["tried", *GOOD, *BAD, "seconds"]
    rows = [" " * 12 + "".join(f"{head:>10s}" for head in heads)]
    failures = 0
    for part in given.only:
        start = time.monotonic()
        numbers = [given.trial] if keep else range(given.num or PARTS[part].NUM)
        shutil.rmtree(out / part, ignore_errors=True)
        (out / part / "prepared").mkdir(parents=True)
        PARTS[part].prepare(out / part / "prepared")
        counts = Counter(outcomes(part, numbers, given.seed, out / part, given.jobs, keep))
        failures += sum(counts[verdict] for verdict in BAD) + (counts.total() != len(numbers))
        counts |= {"tried": counts.total(), "seconds": round(time.monotonic() - start)}
        rows.append(f"{part:12s}" + "".join(f"{counts[head]:10,d}" for head in heads))
    print("", *rows, sep="\n")
    if failures:
        print(f"\nWhat failed is in {out}: inputs, outputs, and commands.txt.")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
