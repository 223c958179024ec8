"""One command line in a process of its own, within limits of time and memory, and what is to be said of its end."""

import contextlib
import importlib
import os
import resource
import shlex
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rlcore import cli, registry

GIB = 2**30

GOOD = {
    "fine": "it ended with status 0",
    "refused": "status 2, and one line that says why, or how the command is used",
    "long": "it was still at work after some seconds, and ended when asked to",
}
BAD = {
    "traceback": "an error of ours was raised",
    "hang": "it did not end in time, or had not begun to work after some seconds",
    "memory": "it took too much",
    "crash": "a signal ended it",
    "wrong": "anything else: more lines, another status, a run that is not what it should be",
}


class Outcome(NamedTuple):
    """What came of a command, or of a trial."""

    verdict: str  # of GOOD or BAD
    detail: str = ""  # one line

    @property
    def good(self) -> bool:
        return self.verdict in GOOD


KILLED = Outcome("crash", "SIGKILL")
"""By the fuzzer; or by the system, for want of memory."""


class Limits(NamedTuple):
    """Of a command, in seconds and bytes."""

    ask: tuple[float, ...] = (5.0, 10.0)  # after which it is asked to end, by SIGTERM; a second one ends it at once
    hang: float = 60.0  # after which it is killed
    memory: int = 2 * GIB  # resident; with more, it took too much
    address_space: int = 4 * GIB  # of each process, beyond that of this one; it gets no more
    cpu: int = 120  # of each process, should one be left behind
    file: int = GIB  # of each file


def _address_space() -> int:
    """Of this process, bytes: what it has imported, which a fork has too."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 0


USUAL, PATIENT = Limits(), Limits(ask=())
"""For any command; for those that end by themselves."""


class Process:
    """The command line in a fork of this process, where all modules are imported already: that saves seconds each time.

    Args:
        words: of the command line, after ``rlcore``.
        folder: where it works; NAME.out and NAME.err are written there, and the command is added to commands.txt.
        name: of this command in that folder.
        limits: see `Limits`.
        before: called in the new process first.
    """

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        name: str = "1",
        limits: Limits = USUAL,
        before: Callable[[], object] = lambda: None,
    ):
        self.words, self.limits, self.before = words, limits, before
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        with open(folder / "commands.txt", "a", errors="surrogateescape") as commands:
            commands.write(f"{shlex.join(['rlcore', *words])}    # {name}\n")
        self.start = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(folder)
        with contextlib.suppress(OSError):  # it has done so itself
            os.setpgid(self.pid, self.pid)

    def _run(self, folder: Path) -> None:
        """What the new process does; never returns."""
        status = 1
        try:
            os.setpgid(0, 0)
            os.chdir(folder)
            for number, path in ((1, self.out), (2, self.err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8")
            sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace")
            for kind, most in (
                (resource.RLIMIT_AS, _address_space() + self.limits.address_space),
                (resource.RLIMIT_CPU, self.limits.cpu),
                (resource.RLIMIT_FSIZE, self.limits.file),
                (resource.RLIMIT_CORE, 0),
            ):
                resource.setrlimit(kind, (most, most))
            nowhere = "http://127.0.0.1:9"  # nothing is downloaded
            os.environ |= {"http_proxy": nowhere, "https_proxy": nowhere, "PYTHONWARNINGS": "ignore"}
            warnings.simplefilter("ignore")
            sys.argv = ["rlcore", *self.words]
            self.before()
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def kill(self) -> None:
        """Ends it at once, with the processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> Outcome:
        """The outcome, once it has ended, which the limits make sure of."""
        asked = hung = False
        due = list(self.limits.ask)
        while not self._has_ended():
            elapsed = time.monotonic() - self.start
            if elapsed > self.limits.hang:
                hung = True
                self.kill()
            elif due and elapsed > due[0]:
                due.pop(0)
                asked = True
                os.kill(self.pid, signal.SIGTERM)
            time.sleep(0.005)
        self.kill()  # what it left behind
        _, status, usage = os.wait4(self.pid, 0)
        code, peak = os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
        if hung:
            return Outcome("hang", f"killed after {self.limits.hang:.0f} s")
        if peak > self.limits.memory:
            return Outcome("memory", f"{peak / GIB:.1f} GiB")
        if asked and code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            begun = self.out.stat().st_size or self.words[0] == "eval"  # which prints at its end
            return Outcome("long") if begun else Outcome("hang", f"nothing was begun in {self.limits.ask[0]:.0f} s")
        return judge(code, self.err.read_text(errors="replace"))

    def _has_ended(self) -> bool:
        """Whether it has; its number stays taken."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def judge(code: int, err: str) -> Outcome:
    """The outcome by an exit status, negative for a signal, and standard error."""
    lines = err.splitlines()
    last = lines[-1] if lines else ""
    raised = any(line.startswith("Traceback (most recent call last)") for line in lines)
    told = [line for line in lines if line.startswith("rlcore: ")]
    if code < 0:
        return Outcome("crash", signal.Signals(-code).name)
    if code == 2 and told == [last] and (len(lines) == 1 or (raised and "environment" in last)):
        return Outcome("refused", last)  # an environment's own traceback may stand before it
    if raised:
        return Outcome("traceback", last)
    if code == 2 and err.lstrip().startswith("Usage:"):
        return Outcome("refused", last)
    return Outcome("fine") if code == 0 else Outcome("wrong", f"status {code}, {len(lines)} lines: {last}")


def run(words: Sequence[str], folder: Path, name: str = "1", limits: Limits = USUAL) -> Outcome:
    """The outcome of a command; see `Process`."""
    return Process(words, folder, name, limits).wait()


def must(words: Sequence[str], folder: Path, name: str = "1") -> None:
    """Runs a command that trials need; if it fails, the fuzzers end."""
    outcome = run(words, folder, name, PATIENT)
    if outcome.verdict != "fine":
        sys.exit(f"rlcore {shlex.join(words)}: {outcome.verdict}: {outcome.detail} ({folder})")


def unexpected(*outcomes: Outcome) -> Outcome:
    """The outcome of a trial whose commands ended so, where they should not have: the first bad one, or wrong."""
    told = " / ".join(f"{outcome.verdict}: {outcome.detail}" for outcome in outcomes)
    return next((outcome for outcome in outcomes if not outcome.good), Outcome("wrong", told))


def import_everything() -> None:
    """Imports what the commands do when they need it."""
    for module in (
        "gymnasium.envs.classic_control",
        "matplotlib.backends.backend_agg",
        "rlcore.commands",
        "sklearn.datasets",
        "torch._dynamo",
        "torch.utils.tensorboard.writer",
    ):
        importlib.import_module(module)
    for known in (
        registry.agents, registry.envs, registry.networks, registry.datasets, registry.reports, registry.loggers
    ):  # fmt: skip
        for name in known.names():
            known[name]
