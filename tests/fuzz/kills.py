"""Training killed at random instants and at chosen points, then resumed: it ends in the bits of an unbroken run."""

import io
import json
import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

from compare import same
from matplotlib.figure import Figure

from fuzz.trial import KILLED, PATIENT, Outcome, Process, must, run, unexpected
from rlcore import checkpoint

NUM, AT_POINTS = 160, 60
"""Trials, and about how many of them are at chosen points."""
LAST = "checkpoints/last.pt"
SMALL = "agent.network={name: mlp, hidden: [8]}"
RUNS = {
    "ppo": ["cartpole_ppo", SMALL, "agent.horizon=16", "agent.minibatch_size=64", "trainer.total_steps=4096"],
    "reinforce": ["cartpole_reinforce", SMALL, "trainer.total_steps=8000"],
    "dqn": [
        "dqn_cartpole", "env={name: cartpole, num_envs: 4}", SMALL, "agent.horizon=8", "agent.priority_alpha=0.6",
        "agent.replay_size=1000", "agent.learning_starts=200", "trainer.total_steps=2000",
    ],
    "iris": ["iris_perceptron", "trainer.epochs=60", "trainer.reports=[confusion]"],
    "alphazero": [
        "tictactoe_alphazero", "agent.network={name: policy_value, hidden: [8], head: 8}", "env.num_envs=8",
        "agent.horizon=4", "agent.simulations=4", "agent.eval_simulations=4", "trainer.total_steps=512",
    ],
}  # fmt: skip
"""A config and overrides."""
WHEN = ("half of", "before", "after")
"""Half of a file is written; or all of it, before or after it gets its name."""


def words(name: str) -> list[str]:
    """The command that begins a run, or goes on with it."""
    often = ["trainer.checkpoint_every=100", "trainer.eval_episodes=4"]
    return ["train", *RUNS[name], *often, "--run-dir", "run", "--or-resume"]


def prepare(folder: Path) -> None:
    """Trains the unbroken runs, and keeps how many seconds they take."""
    seconds = {}
    for name in RUNS:
        (folder / name).mkdir()
        start = time.monotonic()
        must(words(name), folder / name)
        seconds[name] = time.monotonic() - start
    (folder / "seconds.json").write_text(json.dumps(seconds))


def trial(rng: random.Random, folder: Path, prepared: Path) -> Outcome:
    """Kills a run up to three times, and lets it end."""
    name = rng.choice(list(RUNS))
    for attempt in range(rng.choice([1, 1, 2, 3])):
        if rng.random() < AT_POINTS / NUM:
            file = rng.choice(["config.yaml", "last.pt", "result.json", "figure" if name == "iris" else "best.pt"])
            point = rng.choice(WHEN), file, rng.choice([1, 2]) if file in ("last.pt", "best.pt", "figure") else 1
            process = Process(words(name), folder, f"{attempt} {point}", PATIENT, partial(kill_at, *point))
        else:
            process = Process(words(name), folder, f"{attempt}", PATIENT)
            time.sleep(rng.uniform(0, json.loads((prepared / "seconds.json").read_text())[name]))
            process.kill()
        outcome = process.wait()
        if outcome.verdict != "fine" and outcome != KILLED:
            return unexpected(outcome)
    outcome = run(words(name), folder, "last", PATIENT)
    return compared(prepared / name / "run", folder / "run") if outcome.verdict == "fine" else unexpected(outcome)


def compared(whole: Path, broken: Path) -> Outcome:
    """Whether a run ended in the state of another, bit for bit."""
    try:
        same(checkpoint.load(whole / LAST), checkpoint.load(broken / LAST))
        assert json.loads((broken / "result.json").read_text())["finished"], "result.json"
    except Exception as error:
        return Outcome("wrong", f"not as the unbroken run: {error}")
    return Outcome("fine")


def kill_at(when: str, file: str, nth: int) -> None:
    """Has this process kill itself when it writes a file for the n-th time; see `WHEN`."""
    real_replace, real_savefig, times = os.replace, Figure.savefig, 0

    def is_due(name: str) -> bool:
        nonlocal times
        times += name == file
        return name == file and times == nth

    def replace(source: Any, target: Any) -> None:
        due = is_due(Path(target).name)
        if due and when == "half of":
            os.truncate(source, os.path.getsize(source) // 2)
        if not due or when == "after":
            real_replace(source, target)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)

    def savefig(figure: Figure, target: Any, **how: Any) -> None:
        due = is_due("figure")
        if due and when == "half of":
            png = io.BytesIO()
            real_savefig(figure, png, **how)
            with open(target, "wb") if isinstance(target, (str, Path)) else target as out:
                out.write(png.getvalue()[: len(png.getvalue()) // 2])
        if not due or when == "after":
            real_savefig(figure, target, **how)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace, Figure.savefig = replace, savefig  # type: ignore[assignment, method-assign]
