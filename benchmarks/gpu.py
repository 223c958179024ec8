"""Checks and measures rlcore on a machine with a GPU, within six minutes: make gpu

The parts are in gpu_parts.py: the tests marked gpu, figures on the GPU, profiles, and the same figures on the CPU.
They run one after another in a worker process. Each has a time limit: one that hangs is killed, and a new worker goes
on with the next; one that fails does not stop the others. After every part the results so far are written: OUT.json,
the same as a table in OUT.md, and beside them what the parts write. The exit status is 1 if any part failed.

Nothing is installed: this runs by the machine's own Python, and this process needs the standard library alone.

    --out FILE.json   where the results go (gpu.json)
    --device cpu      all parts on the CPU, to try the program out
    --tiny            of the smallest sizes, in seconds
    --only NAME ...   these parts alone
    --seconds S       the time for everything (340)
    --parts MODULE    parts of another module
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from importlib.metadata import entry_points
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MODULES = (
    "gymnasium", "matplotlib", "numpy", "pooch", "pydantic", "pytest", "rich", "scipy", "setuptools", "sklearn",
    "tensorboard", "torch", "typer", "yaml",
)  # fmt: skip
STARTING = 90.0
"""Seconds in which a worker must have started: importing torch takes most of them."""
SHORTEST = 1.0
"""With fewer seconds left, no part is begun."""

Result = dict[str, Any]
"""Of a part: ``part``, ``device``, ``seconds``, and ``error`` or what it found."""


class Job(NamedTuple):
    """A part on a device."""

    name: str
    device: str  # cuda or cpu
    limit: float  # seconds


def serve(connection: Connection, module: str, how: dict[str, Any]) -> None:
    """The worker: tells the jobs that there are, then does those asked for."""
    os.setsid()  # so that it is killed with the processes it started
    try:
        parts = importlib.import_module(module)
        connection.send(parts.jobs(**how))
    except Exception as error:
        connection.send({"error": described(error)})
        return
    with contextlib.suppress(EOFError):  # the program has ended
        while True:
            name, device, out = connection.recv()
            try:
                found = parts.run(name, device, Path(out), **how)
            except Exception as error:
                found = {"error": described(error)}
            connection.send(found)


def described(error: Exception) -> str:
    """An error and its place in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {message} ({Path(place.filename).name}:{place.lineno})"


class Worker:
    """A process that does jobs.

    Args:
        module: of the parts.
        how: see ``gpu_parts.jobs``.
        limit: seconds in which it must have started.
    """

    def __init__(self, module: str, how: dict[str, Any], limit: float):
        self.connection, theirs = multiprocessing.Pipe()
        spawned = multiprocessing.get_context("spawn")
        self.process = spawned.Process(target=serve, args=(theirs, module, how), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is seen
        self.jobs: list[Job] = []
        self.failure = ""
        """Why it did not start; empty if it did."""
        answer = self._answer(limit)
        if isinstance(answer, list):
            self.jobs = [Job(*job) for job in answer]
        else:
            self.failure = f"the worker did not start: {answer['error']}"

    def do(self, job: Job, out: Path, limit: float) -> Result:
        """The result of a job, at most ``limit`` seconds later."""
        return self._answer(limit, (job.name, job.device, str(out)))

    def _answer(self, limit: float, question: Any = None) -> Any:
        try:
            if question is not None:
                self.connection.send(question)
            if self.connection.poll(limit):
                return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return {"error": f"the process died, exit code {self.process.exitcode}"}
        return {"error": f"cut off after {limit:.0f} s"}

    def kill(self) -> None:
        """Ends the process, and those that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()


def run(module: str, how: dict[str, Any], only: list[str], out: Path, seconds: float) -> list[Result]:
    """Does the jobs, all or some, and writes the results after each."""
    results: list[Result] = []
    deadline = time.monotonic() + seconds

    def at_most(limit: float) -> float:
        return min(limit, deadline - time.monotonic())

    worker = Worker(module, how, at_most(STARTING))
    jobs = [job for job in worker.jobs if not only or job.name in only]
    if worker.failure:
        jobs = [Job("start", how["device"], STARTING)]
    try:
        for job in jobs:
            start, limit = time.monotonic(), at_most(job.limit)
            if worker.failure or limit < SHORTEST:
                found = {"error": worker.failure or "no time was left"}
            else:
                found = worker.do(job, out, limit)
            took = {"part": job.name, "device": job.device, "seconds": round(time.monotonic() - start, 1)}
            results.append(took | found)
            write(results, out)
            print(f"{took['seconds']:6.1f} s  {job.device:5s} {job.name:18s} {told(results[-1])}", flush=True)
            if "error" in found and job is not jobs[-1] and at_most(STARTING) >= SHORTEST:
                worker.kill()  # what is left of the part may spoil the next
                worker = Worker(module, how, at_most(STARTING))
    finally:
        worker.kill()
    return results


def told(result: Result) -> str:
    """A result in one line."""
    if "error" in result:
        return f"FAILED: {result['error']}"
    if "per_second" in result:
        remark = f"; no profile: {result['unprofiled']}" if "unprofiled" in result else ""
        return f"{result['per_second']:,.0f} {result['unit']}/s{remark}"
    return ", ".join(f"{key} {value}" for key, value in result.items() if key not in ("part", "device", "seconds"))


def write(results: list[Result], out: Path) -> None:
    """The results as JSON, and as a table; each replaces the previous file as a whole."""
    for path, text in (out, json.dumps(results, indent=1) + "\n"), (out.with_suffix(".md"), table(results)):
        beside = path.with_name(path.name + ".writing")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)


def table(results: list[Result]) -> str:
    """The results as Markdown: what is no figure in lines, then the figures, those of the CPU beside the GPU's."""
    lines = [f"- {one['part']} ({one['device']}): {told(one)}" for one in results if "per_second" not in one]
    figures = [one for one in results if "per_second" in one]
    if not figures:
        return "\n".join(lines) + "\n"
    main = figures[0]["device"]
    beside = {one["part"]: one for one in figures if one["device"] != main}
    lines += ["", f"| | on {main} | kernels per update | card computes | waits per update | MiB | on the CPU | ratio |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for one in figures:
        if one["device"] == main:
            lines.append(f"| {' | '.join(_cells(one, beside.get(one['part'])))} |")
    return "\n".join(lines) + "\n"


def _cells(one: Result, other: Result | None) -> list[str]:
    """A figure beside the CPU's, if there is that."""
    formats = {"kernels": ",.0f", "busy": ".0%", "waits": ",.1f", "memory": ",.0f"}
    cells = [one["what"], f"{one['per_second']:,.0f} {one['unit']}/s"]
    cells += [format(one[key], form) if key in one else "-" for key, form in formats.items()]
    if other is None:
        return [*cells, "-", "-"]
    size = "" if other["what"] == one["what"] else f" ({other['what']})"
    return [*cells, f"{other['per_second']:,.0f}{size}", f"{one['per_second'] / other['per_second']:.2f}"]


def register() -> None:
    """Makes the metadata by which rlcore finds its own objects, where it is not installed."""
    if not entry_points(group="rlcore.agents"):
        subprocess.run([sys.executable, "-c", "from setuptools import setup; setup()", "-q", "egg_info"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--seconds", type=float, default=340.0)
    parser.add_argument("--parts", default="gpu_parts")
    given = parser.parse_args()
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"missing modules: {', '.join(missing)}; put them on PYTHONPATH, nothing is installed here")
    out = given.out.resolve()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))  # workers get the same path
    register()
    how = {"device": given.device, "tiny": given.tiny}
    results = run(given.parts, how, given.only, out, given.seconds)
    if not results:
        sys.exit(f"{given.parts} has no part named {', '.join(given.only)}")
    print(f"\n{table(results)}", end="")
    sys.exit(any("error" in one for one in results))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
