"""Steps/s and memory against the number of environments: python benchmarks/scaling.py

PPO on CartPole, 128 steps per rollout, four minibatches, four epochs, each size in its own process, torch on one
thread. Memory is the peak of the process beyond what it holds before the first rollout. Writes docs/images/scaling.png.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

SIZES = (1, 8, 64, 1024, 4096)
HORIZON = 128


def measure(num_envs: int) -> dict[str, float]:
    import torch

    from rlcore.agents.ppo import PPO
    from rlcore.envs.cartpole import CartPole
    from rlcore.trainer import Trainer

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    env = CartPole(CartPole.Settings(num_envs=num_envs))
    agent = PPO(env, PPO.Settings(horizon=HORIZON, minibatch_size=HORIZON * num_envs // 4, num_epochs=4))
    trainer = Trainer(agent, env, total_steps=10**12, seed=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    updates = max(3, min(40, 4096 // num_envs))
    trainer.update()
    start = time.process_time()
    for _ in range(updates):
        trainer.update()
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "num_envs": num_envs,
        "steps_per_second": updates * HORIZON * num_envs / seconds,
        "megabytes": (peak - before) / 1024,
    }


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
        return
    rows = []
    for num_envs in SIZES:
        out = subprocess.run([sys.executable, __file__, str(num_envs)], capture_output=True, text=True, check=True)
        rows.append(json.loads(out.stdout))
        row = rows[-1]
        per_row = row["megabytes"] * 2**20 / (HORIZON * num_envs)
        print(
            f"{num_envs:5d} environments: {row['steps_per_second']:10,.0f} steps/s, "
            f"{row['megabytes']:7.1f} MB above the start, {per_row:7,.0f} bytes per row"
        )
    plot(rows)


def plot(rows: list[dict[str, float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    speed, memory = figure.subplots(1, 2)
    sizes = [row["num_envs"] for row in rows]
    speed.loglog(sizes, [row["steps_per_second"] for row in rows], "o-")
    speed.set(xlabel="environments", ylabel="steps/s, collecting and learning")
    memory.loglog(sizes, [row["megabytes"] for row in rows], "o-")
    memory.set(xlabel="environments", ylabel="peak memory above the start, MB")
    for axes in (speed, memory):
        axes.grid(alpha=0.3)
    folder = Path(__file__).parent.parent / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "scaling.png", dpi=110)


if __name__ == "__main__":
    main()
