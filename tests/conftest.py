"""Fixtures of all tests."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Read by torch as it is imported, here and in all processes that the tests start: each has one thread.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("PYTHONWARNINGS", "ignore")

import pytest
import torch
from hypothesis import settings

from rlcore import cli

settings.register_profile("rlcore", deadline=None)  # the machine may be busy
settings.load_profile("rlcore")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def rlcore_(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: exit status, output, errors."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rlcore", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call
