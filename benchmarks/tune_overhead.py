"""What `rlcore tune` adds to Optuna: python benchmarks/tune_overhead.py [--trials 100] [--repeats 5]

Seconds of trials whose training returns at once, of one process: ours, and a plain `Study.optimize` that suggests the
same parameters, with the same sampler, pruner and storage. The least of some repeats, in which both take turns; by the
clock, and of the processor.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import optuna

from rlcore.commands.study import Plan, Tuner, _Watch
from rlcore.config import Loaded

CONFIG = """\
env: {name: gym, id: CartPole-v1, num_envs: 8}
agent: {name: ppo}
trainer: {total_steps: 50_000}
search:
  agent.learning_rate: {low: 1e-5, high: 1e-2, log: true}
  agent.horizon: {low: 32, high: 256, step: 32}
  agent.gae_lambda: {low: 0.8, high: 1.0}
  agent.network.hidden: [[64, 64], [256, 256]]
"""
STORAGES = {"file": "{folder}/study.log", "SQLite": "sqlite:///{folder}/study.db"}


class Empty(Tuner):
    """A tuner whose runs return at once."""

    def _run_seed(self, loaded: Loaded, path: Path, watch: _Watch) -> tuple[float, int | None]:
        return figure(getattr(loaded.config.agent.settings, "learning_rate", math.nan)), None


def figure(learning_rate: float) -> float:
    """What a trial is judged by."""
    return -abs(math.log10(learning_rate) + 3)


def objective(trial: optuna.Trial) -> float:
    """The same trial in plain Optuna."""
    learning_rate = trial.suggest_float("agent.learning_rate", 1e-5, 1e-2, log=True)
    trial.suggest_int("agent.horizon", 32, 256, step=32)
    trial.suggest_float("agent.gae_lambda", 0.8, 1.0)
    trial.suggest_categorical("agent.network.hidden", ["[64, 64]", "[256, 256]"])
    return figure(learning_rate)


def seconds(storage: str, trials: int, ours: bool) -> tuple[float, float]:
    """Of so many trials in a new study, without what comes before them: by the clock, and of the processor."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "empty.yaml")
        config.write_text(CONFIG)
        place = storage.format(folder=folder)
        tuner = Empty(Plan(str(config), (), "eval/return", (1,)), place, Path(folder, "runs"), "empty", "maximize")
        start, used = time.perf_counter(), time.process_time()
        if ours:
            tuner.work(trials, lambda line: None)
        else:
            tuner.study.optimize(objective, n_trials=trials)
        return time.perf_counter() - start, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(f"{args.trials} empty trials, seconds{'ours':>13}{'Optuna':>8}{'beyond':>8}")
    for name, storage in STORAGES.items():
        rounds = [[seconds(storage, args.trials, ours) for ours in (True, False)] for _ in range(args.repeats)]
        for which, kind in enumerate(("by the clock", "of the processor")):
            ours, plain = (min(one[side][which] for one in rounds) for side in (0, 1))
            print(f"{f'{name}, {kind}':32}{ours:8.2f}{plain:8.2f}{ours - plain:8.2f}")


if __name__ == "__main__":
    main()
