"""Learning curves: python benchmarks/curves.py [OPTIONS] RUNS-OF-A [RUNS-OF-B ...]

Each argument is a folder of runs of one config, as ``rlcore train CONFIG --seeds 5 --run-dir FOLDER`` leaves it. Draws
the mean over the seeds and their range against environment steps. By default the README's: docs/images/cartpole.png.
That of docs/latent.md: --tag eval/accuracy --names pixels "code, beta 1" ... --out docs/images/codes.png --from 0.8
That of docs/ten_days.md: --tag eval/accuracy --label accuracy --title MNIST --out docs/images/bandit.png --from 0.8
"""

import argparse
from pathlib import Path

import numpy as np
import yaml
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--tag", default="rollout/return")
    parser.add_argument("--label", default="return of the last 100 training episodes")
    parser.add_argument("--title", default="CartPole-v1")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "images" / "cartpole.png")
    parser.add_argument("--names", nargs="+", help="labels of the folders; default: the names of their agents")
    parser.add_argument("--from", dest="bottom", type=float, help="where the vertical axis begins")
    given = parser.parse_args()

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    for number, folder in enumerate(given.folders):
        runs = sorted(path.parent for path in folder.glob("*/config.yaml"))
        curves = []
        for run in runs:
            events = EventAccumulator(str(run)).Reload().Scalars(given.tag)
            curves.append(([event.step for event in events], [event.value for event in events]))
        first, last = max(curve[0][0] for curve in curves), max(curve[0][-1] for curve in curves)
        steps = np.linspace(first, last, 200)
        values = np.array([np.interp(steps, *curve) for curve in curves])
        agent = yaml.safe_load((runs[0] / "config.yaml").read_text())["agent"]["name"]
        name = given.names[number] if given.names else agent
        axes.plot(steps, values.mean(0), label=f"{name}, {len(runs)} seeds")
        axes.fill_between(steps, values.min(0), values.max(0), alpha=0.2)
    if given.tag == "rollout/return":
        axes.axhline(500, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="environment steps", ylabel=given.label, title=given.title)
    axes.set_ylim(bottom=given.bottom)
    axes.legend()
    figure.savefig(given.out, dpi=110)


if __name__ == "__main__":
    main()
