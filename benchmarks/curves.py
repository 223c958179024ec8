"""The learning curves of the README: python benchmarks/curves.py RUNS-OF-A [RUNS-OF-B ...]

Each argument is a folder of runs of one config, as ``rlcore train CONFIG --seeds 5 --run-dir FOLDER`` leaves it. Draws
the mean of ``rollout/return`` over the seeds and their range against environment steps: docs/images/cartpole.png.
"""

import sys
from pathlib import Path

import numpy as np
import yaml
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def main() -> None:
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    for folder in map(Path, sys.argv[1:]):
        runs = sorted(path.parent for path in folder.glob("*/config.yaml"))
        curves = []
        for run in runs:
            events = EventAccumulator(str(run)).Reload().Scalars("rollout/return")
            curves.append(([event.step for event in events], [event.value for event in events]))
        steps = np.linspace(0, max(curve[0][-1] for curve in curves), 200)[1:]
        values = np.array([np.interp(steps, *curve) for curve in curves])
        name = yaml.safe_load((runs[0] / "config.yaml").read_text())["agent"]["name"]
        axes.plot(steps, values.mean(0), label=f"{name}, {len(runs)} seeds")
        axes.fill_between(steps, values.min(0), values.max(0), alpha=0.2)
    axes.axhline(500, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="environment steps", ylabel="return of the last 100 episodes, as played", title="CartPole-v1")
    axes.legend()
    figure.savefig(Path(__file__).parent.parent / "docs" / "images" / "cartpole.png", dpi=110)


if __name__ == "__main__":
    main()
