"""Two processes against one, the same run: python benchmarks/distributed.py [NAME ...] [--processes K] [--help]

Each run is ``rlcore train`` of a shipped config, with changes that `RUNS` shows, without evaluations, by one process
and by K; in turns, `ROUNDS` times. Speed is the run's own ``time/steps_per_second``: environment steps, examples or
moves per second of collecting and learning, by the clock on the wall, which needs a machine that does nothing else.
Torch has one thread in each process.

``exchange`` is what a message takes between two processes, which compute for 300 microseconds before each: by rlcore's
sockets, and by gloo's ``all_gather``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from gpu_parts import machine

ROUNDS = 3
RUNS: dict[str, list[str]] = {
    "halfcheetah": ["halfcheetah_ppo", "trainer.total_steps=40_960"],
    "halfcheetah, 32 x 256, 4,096": [
        "halfcheetah_ppo", "trainer.total_steps=163_840", "env.num_envs=32", "agent.minibatch_size=4096"
    ],
    "lunarlander": ["lunarlander_ppo", "trainer.total_steps=65_536"],
    "lunarlander, 32 x 512, 4,096": [
        "lunarlander_ppo", "trainer.total_steps=131_072", "env.num_envs=32", "agent.horizon=512",
        "agent.minibatch_size=4096"
    ],
    "breakout (MinAtar)": ["minatar_breakout_ppo", "trainer.total_steps=65_536"],
    "lenet": ["mnist_lenet", "trainer.epochs=1"],
    "lenet, batches of 512": ["mnist_lenet", "trainer.epochs=1", "env.num_envs=512"],
    "connect4": ["connect4_alphazero", "trainer.total_steps=40_000"],
    "cartpole": ["cartpole_ppo", "trainer.total_steps=51_200"],
}  # fmt: skip
"""Commands by name; those with numbers have other environments x steps, and minibatches, than the config."""
QUIET = ["trainer.eval_every=null", "trainer.reports=[]", "trainer.hooks=[]", "trainer.loggers=[]", "threads=1"]
MESSAGE = """
import sys, time, torch
import torch.distributed as dist
from rlcore import distributed
torch.set_num_threads(1)
a = torch.randn(64, 64)
def work():
    start = time.perf_counter()
    while time.perf_counter() - start < 3e-4: a @ a
def took(exchange, num=1000):
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(num): work(); exchange()
        with_it = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(num): work()
        times.append((with_it - (time.perf_counter() - start)) / num * 1e6)
    return min(times)
with distributed.joined():
    for numbers in (16, 9_155, 70_000, 600_000):
        x = torch.randn(numbers); found = torch.empty(distributed.size(), numbers)
        num = 200 if numbers > 1e5 else 1000
        ours = took(lambda: distributed.all_gather("x", x), num)
        theirs = took(lambda: dist.all_gather(list(found), x), num)
        if distributed.is_main(): print(f"{numbers:8,} numbers: {ours:6,.0f} us, by gloo {theirs:6,.0f} us", flush=True)
"""


def speed(words: list[str], processes: int) -> float:
    """Steps per second of a run."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "rlcore", "train", *words, *QUIET, "--run-dir", str(run)]
        several = [] if processes == 1 else ["--processes", str(processes)]
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, *several], capture_output=True, text=True, env=environ)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return float(json.loads((run / "result.json").read_text())["figures"]["time/steps_per_second"])


def exchange(processes: int) -> None:
    """Prints what messages take."""
    environ = {**os.environ, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29477"}
    ranks = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", MESSAGE], env={**environ, "RANK": str(rank)})
        for rank in range(processes)
    ]
    for one in ranks:
        one.wait()


def main() -> None:
    """Measures the runs that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*RUNS, "exchange"], metavar="NAME")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    print(machine("cpu"))
    for name in given.names:
        if name == "exchange":
            exchange(given.processes)
            continue
        speeds: dict[int, list[float]] = {1: [], given.processes: []}
        for _ in range(ROUNDS):
            for processes, found in speeds.items():
                found.append(speed(RUNS[name], processes))
        one, several = (statistics.median(found) for found in speeds.values())
        ratios = [b / a for a, b in zip(*speeds.values(), strict=True)]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{name:34s}{one:12,.0f} /s{several:12,.0f} /s   {statistics.median(ratios):5.2f}   ({each})", flush=True)


if __name__ == "__main__":
    main()
