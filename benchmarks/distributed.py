"""Two processes against one, the same run: python benchmarks/distributed.py [NAME ...] [--processes K] [--help]

Each run is ``rlcore train`` of a shipped config, with changes that `RUNS` shows, without evaluations, by one process
and by K; in turns, `ROUNDS` times. Speed is the run's own ``time/steps_per_second``: environment steps, examples or
moves per second of collecting and learning, by the clock on the wall, which needs a machine that does nothing else.
Torch has one thread in each process.

``paper`` predicts more processes than there are cores, by what was measured with one: HalfCheetah, 64 environments x
256 steps, 10 epochs. ``exchange`` is what a sum takes over two processes, which compute for 300 microseconds before
each: by rlcore's sockets, and by gloo's ``all_reduce``.
"""

import argparse
import json
import math
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
    dist.init_process_group("gloo")
    for numbers in (16, 9_155, 70_000, 600_000):
        x = torch.zeros(numbers)
        num = 200 if numbers > 1e5 else 1000
        ours = took(lambda: distributed.all_reduce("x", x), num)
        theirs = took(lambda: dist.all_reduce(x), num)
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


def paper() -> None:
    """Prints the speed-up that costs as measured predict for up to 64 processes, by where the time of an update goes.

    An environment step and its action take 40 us, a minibatch 0.6 ms besides 1.8 us a row, and to swap a gradient of
    11,085 numbers 30 us, in log2 K rounds. With another machine a swap takes 60 us more, and a gigabyte 0.8 s (10
    Gbit/s), for which all of a machine's processes queue.
    """
    num_steps, epochs, numbers = 64 * 256, 10, 11_085
    print("minibatch  processes  collect   compute  exchange   speed-up")
    for minibatch in (64, 2_048, 16_384):
        alone = 0.0
        for processes, machines in ((1, 1), (2, 1), (8, 1), (64, 1), (64, 8)):
            steps, batches = num_steps / processes, epochs * num_steps / minibatch
            collect = 40e-6 * steps
            compute = batches * (0.6e-3 + 1.8e-6 * minibatch / processes)
            wire = 60e-6 + 0.8e-9 * 4 * numbers * processes / machines
            exchange = batches * (math.log2(processes) * 30e-6 + math.log2(machines) * wire)
            whole = collect + compute + exchange
            alone = alone or whole
            where = f"{processes} on {machines}"
            print(
                f"{minibatch:9,d}{where:>11s}{1e3 * collect:7,.0f} ms{1e3 * compute:7,.0f} ms{1e3 * exchange:7,.0f} ms"
                f"{alone / whole:11.1f}"
            )


def main() -> None:
    """Measures the runs that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*RUNS, "exchange", "paper"], metavar="NAME")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    print(machine("cpu"))
    for name in given.names:
        if name == "paper":
            paper()
            continue
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
