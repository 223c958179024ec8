"""Two commands at once, on the same config or run: each run stays whole and its own, and the loser says one line."""

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

from fuzz.kills import compared
from fuzz.trial import PATIENT, Outcome, Process, must, run, unexpected
from rlcore import checkpoint, config

NUM = 40
CONFIG = """\
env: {name: cartpole, num_envs: 8}
agent: {name: ppo, horizon: 32, network: {name: mlp, hidden: [8]}}
trainer: {total_steps: 4096, checkpoint_every: 256, eval_episodes: 2}
threads: 1
"""
RATES = {"a": 0.001, "b": 0.002}
"""Learning rates of two commands."""


def prepare(folder: Path) -> None:
    """Trains a run, and half of one."""
    (folder / "quick.yaml").write_text(CONFIG)
    for name, more in {"whole": [], "half": ["trainer.stop_at=1024"]}.items():
        must(["train", "quick.yaml", "--run-dir", name, *more], folder, name)


def trial(rng: random.Random, folder: Path, prepared: Path) -> Outcome:
    shutil.copy(prepared / "quick.yaml", folder)
    delay = rng.choice([0.0, 0.0, rng.uniform(0, 0.5)])
    return rng.choice([sweeps, trainings, one_folder, resumes, evaluations])(folder, prepared, delay)


def commands(options: list[str]) -> dict[str, list[str]]:
    """Two trainings with different learning rates."""
    return {name: ["train", "quick.yaml", *options, f"agent.learning_rate={rate}"] for name, rate in RATES.items()}


def both(folder: Path, words: dict[str, list[str]], delay: float) -> dict[str, Outcome]:
    """Starts commands, the second a while after the first, and waits for both."""
    processes = {}
    for name, command in words.items():
        processes[name] = Process(command, folder, name, PATIENT)
        time.sleep(delay)
    return {name: process.wait() for name, process in processes.items()}


def sweeps(folder: Path, prepared: Path, delay: float) -> Outcome:
    """Two sweeps of a config with different learning rates: four runs."""
    return apart(folder, ["--seeds", "2"], delay, [1, 2])


def trainings(folder: Path, prepared: Path, delay: float) -> Outcome:
    """Two trainings with different learning rates: two runs."""
    return apart(folder, [], delay, [1])


def apart(folder: Path, options: list[str], delay: float, seeds: list[int]) -> Outcome:
    """Whether two commands with different learning rates leave all their runs, each of one of them alone."""
    for outcome in both(folder, commands(options), delay).values():
        if outcome.verdict != "fine":
            return unexpected(outcome)
    return expecting(folder, [(rate, seed) for rate in RATES.values() for seed in seeds])


def one_folder(folder: Path, prepared: Path, delay: float) -> Outcome:
    """Two trainings into one folder with different learning rates: one is refused."""
    outcomes = both(folder, commands(["--run-dir", "runs/one/run"]), delay)
    if sorted(outcome.verdict for outcome in outcomes.values()) != ["fine", "refused"]:
        return unexpected(*outcomes.values())
    return expecting(folder, [(RATES[name], 1) for name, outcome in outcomes.items() if outcome.verdict == "fine"])


def resumes(folder: Path, prepared: Path, delay: float) -> Outcome:
    """A run resumed twice: one does, the other is refused, or comes late and finds it finished."""
    shutil.copytree(prepared / "half", folder / "run")
    outcomes = both(folder, {"a": ["resume", "run"], "b": ["resume", "run"]}, delay).values()
    if not {"fine"} <= {outcome.verdict for outcome in outcomes} <= {"fine", "refused"}:
        return unexpected(*outcomes)
    return compared(prepared / "whole", folder / "run")


def evaluations(folder: Path, prepared: Path, delay: float) -> Outcome:
    """A run evaluated while it is trained: that changes nothing."""
    training = Process(["train", "quick.yaml", "--run-dir", "run"], folder, "train", PATIENT)
    for number in range(4):
        time.sleep(delay)
        outcome = run(["eval", "run", "--episodes", "2"], folder, f"eval{number}")
        if not outcome.good:
            training.kill()
            training.wait()
            return outcome
    outcome = training.wait()
    return compared(prepared / "whole", folder / "run") if outcome.verdict == "fine" else unexpected(outcome)


def expecting(folder: Path, expected: list[tuple[float, int]]) -> Outcome:
    """Whether the runs in a folder are those of these learning rates and seeds, and each is whole."""
    found = []
    for path in sorted(folder.glob("runs/*/*")):
        try:
            settings: Any = config.load(path / "config.yaml").config
            rate = settings.agent.settings.learning_rate
            saved = checkpoint.load(path / "checkpoints" / "last.pt")
            result = json.loads((path / "result.json").read_text())
            assert saved["settings"]["agent.learning_rate"] == rate, "config.yaml and checkpoint differ"
            assert (result["finished"], result["seed"]) == (True, settings.seed), "result.json is of another run"
            assert len(list(path.glob("events.*"))) == 1, "events of more than one run"
        except Exception as error:
            return Outcome("wrong", f"{path.name}: {error}")
        found.append((rate, settings.seed))
    return Outcome("fine") if sorted(found) == sorted(expected) else Outcome("wrong", f"{found}, not {expected}")
