"""Two commands at once, on one config or run: each run stays whole and of one of them, and the loser says one line."""

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.kills import compared
from fuzz.trial import PATIENT, Outcome, Process, must, run, unexpected
from rlcore import checkpoint, config
from rlcore.errors import InputError

NUM = 40
CONFIG = """\
env: {name: cartpole, num_envs: 8}
agent: {name: ppo, horizon: 32, network: {name: mlp, hidden: [8]}}
trainer: {total_steps: 4096, checkpoint_every: 256, eval_episodes: 2}
threads: 1
"""
RATES = {"a": 0.001, "b": 0.002}
"""Learning rates of the two commands."""


def prepare(folder: Path) -> None:
    """Trains a run, and half of one."""
    (folder / "quick.yaml").write_text(CONFIG)
    for name, more in {"whole": [], "half": ["trainer.stop_at=1024"]}.items():
        must(["train", "quick.yaml", "--run-dir", name, *more], folder, name)


def trial(rng: random.Random, folder: Path, prepared: Path) -> Outcome:
    """One kind of pair, started at once or some time after one another."""
    shutil.copy(prepared / "quick.yaml", folder)
    delay = rng.choice([0.0, 0.0, rng.uniform(0, 0.5)])
    try:
        return rng.choice([sweeps, trainings, one_folder, resumes, evaluations])(folder, prepared, delay)
    except (AssertionError, InputError, OSError) as error:
        return Outcome("wrong", f"a run is not whole: {error}")


def sweeps(folder: Path, prepared: Path, delay: float) -> Outcome:
    """Two sweeps: four runs."""
    outcomes = both(["train", "quick.yaml", "--seeds", "2"], folder, delay)
    four = sorted((rate, seed) for rate in RATES.values() for seed in (1, 2))
    return as_expected(outcomes, ["fine", "fine"], lambda: runs(folder) == four)


def trainings(folder: Path, prepared: Path, delay: float) -> Outcome:
    """Two trainings: two runs."""
    outcomes = both(["train", "quick.yaml"], folder, delay)
    return as_expected(outcomes, ["fine", "fine"], lambda: runs(folder) == sorted((rate, 1) for rate in RATES.values()))


def one_folder(folder: Path, prepared: Path, delay: float) -> Outcome:
    """Two trainings into one folder: one run, the other training is refused."""
    outcomes = both(["train", "quick.yaml", "--run-dir", "runs/one/run"], folder, delay)
    winner = [(RATES[name], 1) for name, outcome in outcomes.items() if outcome.verdict == "fine"]
    return as_expected(outcomes, ["fine", "refused"], lambda: runs(folder) == winner)


def resumes(folder: Path, prepared: Path, delay: float) -> Outcome:
    """A run resumed twice: one does so, the other is refused, or comes late and finds it finished."""
    shutil.copytree(prepared / "half", folder / "runs/half/run")
    outcomes = both(["resume", "runs/half/run", "trainer.total_steps=50_000"], folder, delay)
    late = all(outcome.verdict == "fine" for outcome in outcomes.values())
    return as_expected(outcomes, ["fine", "fine" if late else "refused"], lambda: len(runs(folder, num_events=2)) == 1)


def evaluations(folder: Path, prepared: Path, delay: float) -> Outcome:
    """A run evaluated while it is trained: that changes nothing."""
    training = Process(["train", "quick.yaml", "--run-dir", "run"], folder, "train", PATIENT)
    evaluated = []
    for number in range(4):
        time.sleep(delay)
        evaluated.append(run(["eval", "run", "--episodes", "2"], folder, f"eval{number}"))
    outcome = training.wait()
    if outcome.verdict != "fine" or not all(one.good for one in evaluated):
        return unexpected(outcome, *evaluated)
    return compared(prepared / "whole", folder / "run")


def both(words: list[str], folder: Path, delay: float) -> dict[str, Outcome]:
    """The outcomes of a command with one learning rate and with the other, the second started a while after."""
    processes = {}
    for name, rate in RATES.items():
        processes[name] = Process([*words, f"agent.learning_rate={rate}"], folder, name, PATIENT)
        time.sleep(delay)
    return {name: process.wait() for name, process in processes.items()}


def as_expected(outcomes: dict[str, Outcome], verdicts: list[str], whole: Callable[[], bool]) -> Outcome:
    """Fine, if commands ended with these verdicts and the runs are as they should be."""
    if sorted(outcome.verdict for outcome in outcomes.values()) != verdicts:
        return unexpected(*outcomes.values())
    return Outcome("fine") if whole() else Outcome("wrong", "these are not the runs that were to be made")


def runs(folder: Path, num_events: int = 1) -> list[tuple[float, int]]:
    """Learning rate and seed of each run in a folder, sorted.

    Raises:
        AssertionError: a run is of more than one command.
    """
    found = []
    for path in folder.glob("runs/*/*"):
        settings: Any = config.load(path / "config.yaml").config
        rate = settings.agent.settings.learning_rate
        saved = checkpoint.load(path / "checkpoints" / "last.pt")
        result = json.loads((path / "result.json").read_text())
        assert saved["settings"]["agent.learning_rate"] == rate, f"{path}: config.yaml and checkpoint differ"
        assert (result["finished"], result["seed"]) == (True, settings.seed), f"{path}: not its result.json"
        assert len(list(path.glob("events.*"))) == num_events, f"{path}: not its events"
        found.append((rate, settings.seed))
    return sorted(found)
