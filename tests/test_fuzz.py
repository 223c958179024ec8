"""That the fuzzers see what goes wrong; what they try is run by make fuzz."""

import os
import signal
import sys
import time

import pytest
from fuzz.trial import Limits, Process, judge

GIB = 2**30


def fail():
    raise ValueError("planted")


def hang():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


def hog(size):
    b"x" * size


def say(*lines):
    print(*lines, sep="\n", file=sys.stderr)
    sys.exit(2)


def die():
    os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize(
    ("before", "verdict", "detail"),
    [
        (lambda: None, "fine", ""),
        (lambda: say("rlcore: planted"), "refused", "rlcore: planted"),
        (fail, "traceback", "ValueError: planted"),
        (hang, "hang", "killed after 1 s"),
        (lambda: hog(2 * GIB), "memory", "GiB"),
        (lambda: hog(8 * GIB), "traceback", "MemoryError"),
        (die, "crash", "SIGUSR1"),
        (lambda: say("rlcore: one", "rlcore: two"), "wrong", "2 lines"),
        (lambda: sys.exit(1), "wrong", "status 1"),
    ],
)
def test_what_goes_wrong_is_seen(tmp_path, before, verdict, detail):
    limits = Limits(ask=(), hang=1.0 if verdict == "hang" else 60.0)
    outcome = Process(["--help"], tmp_path, limits=limits, before=before).wait()
    assert outcome.verdict == verdict
    assert detail in outcome.detail


def test_who_is_asked_to_end_and_does_was_at_work_or_had_not_begun(tmp_path):
    limits = Limits(ask=(0.3,))
    at_work = Process(["train"], tmp_path, "1", limits, lambda: (print("begun"), time.sleep(60)))
    idle = Process(["train"], tmp_path, "2", limits, lambda: time.sleep(60))
    assert at_work.wait().verdict == "long"
    assert idle.wait().verdict == "hang"


def test_an_environments_traceback_may_stand_before_the_line():
    raised = "Traceback (most recent call last)\nValueError: x\n"
    assert judge(2, f"{raised}rlcore: environment 3 raised ValueError\n").verdict == "refused"
    assert judge(2, f"{raised}rlcore: something else\n").verdict == "traceback"
    assert judge(2, "Usage: rlcore [OPTIONS]\n\nNo such option\n").verdict == "refused"
