"""The figures of docs/ten_days.md: python examples/ten_days.py [FOLDER]    (half a minute; default: docs/images)"""

import os
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from rlcore import config
from rlcore.agents.supervised import Supervised
from rlcore.supervised.datasets import from_arrays, load
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.reports import BoundaryReport
from rlcore.trainer import Trainer


def descent(learning_rate: float, num_steps: int) -> list[float]:
    """Day 1: gradient descent on (x - 3)^2 from 0, as a network of one weight and an example of input 1, target 3."""
    data = from_arrays(torch.ones(1, 1), torch.tensor([3.0]))
    env = SupervisedEnv(SupervisedEnv.Settings(num_envs=1, action="values", test_fraction=0), dataset=data)
    network = {"name": "mlp", "hidden": [], "bias": False, "init": "zeros"}
    agent = Supervised(env, Supervised.Settings(network=network, optimizer="sgd", learning_rate=learning_rate))
    trainer, path = Trainer(agent, env, total_steps=num_steps), [0.0]
    while not trainer.finished:
        trainer.update()
        path.append(next(agent.parameters()).item())
    return path


def draw_descent() -> Figure:
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for learning_rate in (0.01, 0.1, 0.4, 1.1):
        axes.plot(descent(learning_rate, 20), marker=".", label=f"{learning_rate:g}")
    axes.axhline(3, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="step", ylabel="x", ylim=(-6, 12), title="Gradient descent on $(x - 3)^2$")
    axes.legend(title="learning rate")
    return figure


def draw_boundaries(names: list[str], epochs: list[int]) -> Figure:
    """Day 2: one row per config, one column per epoch shown."""
    figure = Figure(figsize=(2 * len(epochs), 2.2 * len(names)), layout="constrained")
    report = BoundaryReport(BoundaryReport.Settings())
    for name, row in zip(names, figure.subplots(len(names), len(epochs), squeeze=False), strict=True):
        trainer, _ = config.build(config.load(name, ["trainer.tensorboard=false"]).config)
        twin = trainer.env.evaluation(1)
        for epoch, axes in zip(epochs, row, strict=True):
            while trainer.steps < epoch * trainer.env.num_envs:
                trainer.update()
            report.draw(axes, trainer.agent, twin)
            accuracy = twin.score(trainer.agent, 1, seed=1).scalars["accuracy"]
            axes.set_title(f"epoch {epoch}: {accuracy:.0%}", fontsize=9)
        row[0].set_ylabel(name)
    return figure


KERNELS = {
    "identity": [[0, 0, 0], [0, 1, 0], [0, 0, 0]],
    "blur": [[1 / 9] * 3] * 3,
    "edges": [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]],
    "left edges": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
}


def draw_kernels() -> Figure:
    """Day 5: kernels on a digit of MNIST, or of scikit-learn if RLCORE_DATA is not set."""
    name = "mnist" if "RLCORE_DATA" in os.environ else "digits"
    image = load(name).train.inputs[0, 0].float()
    figure = Figure(figsize=(2 * len(KERNELS), 2.2), layout="constrained")
    for axes, (name, kernel) in zip(figure.subplots(1, len(KERNELS)), KERNELS.items(), strict=True):
        seen = F.conv2d(image[None, None], torch.tensor(kernel, dtype=torch.float32)[None, None], padding=1)[0, 0]
        axes.imshow(seen.numpy(), cmap="gray")
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
    return figure


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs" / "images")
    draw_descent().savefig(folder / "descent.png", dpi=80)
    draw_boundaries(["circles_gd", "circles_adam"], [0, 50, 200, 500, 1000]).savefig(folder / "circles.png", dpi=80)
    spirals = ["spirals_gd", "spirals_128", "spirals_512", "spirals_deep"]
    draw_boundaries(spirals, [0, 100, 300, 700]).savefig(folder / "spirals.png", dpi=80)
    draw_kernels().savefig(folder / "kernels.png", dpi=80)


if __name__ == "__main__":
    main()
