"""Reports on the evaluation of a data set: confusion, examples, filters, decision boundaries, packed bits."""

import math
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from rlcore import settings
from rlcore.agent import Agent
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.evaluation import Report, ReportMaker, evaluating
from rlcore.networks.binarized import BinarizedMLP, PackedMLP
from rlcore.spaces import scaled_space
from rlcore.supervised.environment import MOST_CLASSES, SupervisedEnv, confusion_matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS_OF_TWO = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
"""The character for an upper and a lower pixel."""


class ConfusionReport(ReportMaker):
    """How often each class was answered with each: a figure of the confusion matrix."""

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        classified("confusion", env)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`.

        Raises:
            InputError: the environment is not a data set of classes, or has more than `MOST_CLASSES`.
        """
        _, classes = classified("confusion", env)
        if len(classes) > MOST_CLASSES:
            raise InputError(f"report confusion: needs at most {MOST_CLASSES} classes, there are {len(classes):,}")
        target, answer = (torch.tensor(evaluation.columns[name], dtype=torch.int64) for name in ("target", "answer"))
        answered = answer < len(classes)
        matrix = confusion_matrix(target[answered], answer[answered], len(classes))
        figure, (axes,) = figure_of(1, 6, 5.5)
        axes.imshow((matrix / matrix.sum(1, keepdim=True)).numpy(), cmap="Blues", vmin=0, vmax=1)
        for i, row in enumerate(matrix.int().tolist()):
            for j, count in enumerate(row):
                dark = count > matrix[i].sum() / 2
                axes.text(j, i, count, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        axes.set(xlabel="answer", ylabel="truth", xticks=range(len(classes)), yticks=range(len(classes)))
        axes.set_xticklabels(classes)
        axes.set_yticklabels(classes)
        return Report({}, evaluation.text, {"confusion": figure})


class ExamplesReport(ReportMaker):
    """Examples with the agent's answer and the truth, images drawn in the terminal; or those it is most wrong about."""

    class Settings(settings.Settings):
        """Settings of the report."""

        num: int = Field(default=10, ge=1, le=1000)
        """How many examples."""
        wrong: bool = False
        """Show the wrong answers of lowest reward, instead of the first examples of the split."""
        width: PositiveInt = 120
        """Characters per line."""
        threshold: float = Field(default=0.4, gt=0, lt=1)
        """Share of the range of pixel values above which a pixel is drawn."""

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        classified("examples", env)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`."""
        env, classes = classified("examples", env)
        target, answer = evaluation.columns["target"], evaluation.columns["answer"]
        indices = list(range(len(target)))
        if self.settings.wrong:
            indices = [i for i in indices if target[i] != answer[i] < len(classes)]
            indices.sort(key=evaluation.columns["reward"].__getitem__)
        indices = indices[: self.settings.num]
        names = (*classes, "asks")
        captions = [f"#{i}: {names[int(answer[i])]}, truth {classes[int(target[i])]}" for i in indices]
        inputs = env.scaled(env.inputs(torch.tensor(indices, dtype=torch.int64, device=env.device))).cpu()
        name = "wrong" if self.settings.wrong else "examples"
        if inputs.ndim != 4 or not indices:
            rows = zip(captions, inputs.flatten(1).tolist(), strict=True)
            lines = [f"{text}   {'  '.join(f'{x:.4g}' for x in row)}" for text, row in rows]
            return Report({}, "\n".join(lines) or "no answer is wrong")
        images = inputs.mean(1)  # colours to grey
        images = (images - images.min()) / (images.max() - images.min()).clamp_min(1e-12)
        figure, panels = figure_of(len(indices), 1.5, 1.7)
        for axes, image, text in zip(panels, images, captions, strict=True):
            axes.imshow(image.numpy(), cmap="gray_r")
            axes.set_title(text.replace(", ", "\n"), fontsize=7)
            axes.set_axis_off()
        return Report({}, self._draw(images > self.settings.threshold, captions), {name: figure})

    def _draw(self, images: Tensor, captions: list[str]) -> str:
        """Images [B, H, W] bool side by side, two rows of pixels per line of text."""
        blocks = [[text, *terminal_lines(image)] for image, text in zip(images, captions, strict=True)]
        width = max(len(line) for block in blocks for line in block) + 2
        abreast = max(1, self.settings.width // width)
        drawn = []
        for first in range(0, len(blocks), abreast):
            for row in zip(*blocks[first : first + abreast], strict=True):
                drawn.append("".join(line.ljust(width) for line in row).rstrip())
            drawn.append("")
        return "\n".join(drawn)


class FiltersReport(ReportMaker):
    """The weights of the first layer as images: what each unit responds to."""

    class Settings(settings.Settings):
        """Settings of the report."""

        num: int = Field(default=64, ge=1, le=1000)
        """How many filters, at most."""

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        _first_weights(agent, env)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`."""
        first = _first_weights(agent, env)
        filters = first.detach().cpu()
        filters = filters.mean(1) if filters.ndim == 4 else filters.unflatten(1, _seen_shape(env)).mean(1)
        filters = filters[: self.settings.num]
        figure, panels = figure_of(len(filters), 1, 1)
        for axes, image in zip(panels, filters, strict=True):
            bound = float(image.abs().max())
            axes.imshow(image.numpy(), cmap="RdBu", vmin=-bound, vmax=bound)
            axes.set_axis_off()
        return Report({}, f"{len(first)} filters of {tuple(filters.shape[1:])}", {"filters": figure})


class PackedReport(ReportMaker):
    """A binarized network on bytes and bits: whether it answers as on floats, and its size."""

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        _binarized(agent, env)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`."""
        env, network = _binarized(agent, env)
        split = env.dataset.test
        assert split is not None
        packed = PackedMLP(network)
        answers = torch.cat(
            [
                torch.from_numpy(packed(env.scaled(x.to(env.device)).byte().cpu().numpy()).argmax(1))
                for x in split.inputs.split(env.evaluation_batch)
            ]
        )
        same = (answers == torch.tensor(evaluation.columns["answer"])).double().mean().item()
        accuracy = (answers == split.targets.cpu()).double().mean().item()
        floats = 4 * sum(parameter.numel() for parameter in network.parameters())
        text = (
            f"on bits: accuracy {accuracy:.2%}; {same:.2%} of {len(answers):,} answers match those on floats\n"
            f"{packed.num_bytes:,} bytes, {8 * packed.num_bytes / packed.num_weights:.2f} bits per weight in total; "
            f"as float32 {floats:,} bytes, {floats / packed.num_bytes:.1f} times as many"
        )
        return Report({"packed_accuracy": accuracy, "packed_same_answers": same}, text)


class BoundaryReport(ReportMaker):
    """For two inputs: the answer everywhere in the plane, and the training examples."""

    class Settings(settings.Settings):
        """Settings of the report."""

        resolution: int = Field(default=150, ge=1, le=1000)
        """Points along each axis."""
        margin: float = Field(default=0.2, ge=0, le=100)
        """Margin around the examples, as a share of their range."""

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        _in_a_plane(env)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`."""
        figure, (axes,) = figure_of(1, 4, 4)
        self.draw(axes, agent, env)
        if "accuracy" in evaluation.scalars:
            axes.set_title(f"accuracy {evaluation.scalars['accuracy']:.1%}", fontsize=9)
        return Report({}, figures={"boundary": figure})

    def draw(self, axes: Any, agent: Agent, env: Environment) -> None:
        """Draws the boundary into given matplotlib axes.

        Raises:
            InputError: the environment is not a data set of two inputs and classes.
        """
        env, classes = _in_a_plane(env)
        inputs, targets = env.dataset.train
        margin = self.settings.margin * (inputs.amax(0) - inputs.amin(0))
        ends = torch.stack([inputs.amin(0) - margin, inputs.amax(0) + margin], 1).tolist()
        x, y = (torch.linspace(low, high, self.settings.resolution, dtype=torch.float64) for low, high in ends)
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        with evaluating(agent):
            points = grid.view(-1, 2).to(env.device)
            points = points.round().clamp(0, 255).byte() if inputs.dtype == torch.uint8 else points.to(inputs.dtype)
            answers = agent.predict(points).action
            probabilities = env.action.probabilities(answers, len(classes)).cpu()
        level = probabilities @ torch.linspace(0, 1, len(classes))  # two classes: P of the second
        level += 0.5 * (1 - probabilities.sum(1))  # in between where it asks
        extent = [*ends[0], *ends[1]]
        shades = level.view(len(y), len(x)).numpy()
        axes.imshow(shades, extent=extent, origin="lower", aspect="auto", cmap="RdBu", vmin=-0.3, vmax=1.3)
        axes.scatter(*inputs.T.numpy(), c=targets.numpy(), cmap="RdBu", s=6, edgecolors="k", linewidths=0.3)
        axes.set(xticks=[], yticks=[])


def classified(report: str, env: Environment) -> tuple[SupervisedEnv, tuple[str, ...]]:
    """The environment as a data set of classes, and the class names.

    Raises:
        InputError: it is not one.
    """
    if not isinstance(env, SupervisedEnv) or env.dataset.classes is None or not env.names_classes:
        raise InputError(f"report {report}: needs a data set of classes (env.name=supervised)")
    return env, env.dataset.classes


def _seen_shape(env: Environment) -> tuple[int, ...]:
    """The shape of what a network sees of an observation."""
    return scaled_space(env.single_observation_space).shape or ()


def _first_weights(agent: Agent, env: Environment) -> Tensor:
    """The weights of the first layer that reads images; InputError if there is none."""
    shape = _seen_shape(env)
    weights = (p for p in agent.parameters() if p.ndim == 4 or (p.ndim == 2 and p.shape[1] == math.prod(shape)))
    first = next(weights, None)
    if first is None or len(shape) != 3:
        raise InputError(f"report filters: needs a network that reads images, this one reads {shape}")
    return first


def _binarized(agent: Agent, env: Environment) -> tuple[SupervisedEnv, BinarizedMLP]:
    """A data set of raw bytes, and a binarized network; InputError if they are not."""
    env, _ = classified("packed", env)
    network, is_bytes = getattr(agent, "network", None), env.dataset.train.inputs.dtype == torch.uint8
    if not isinstance(network, BinarizedMLP) or not is_bytes or env.settings.scaling != "raw":
        raise InputError(
            "report packed: needs the agent supervised with the network binarized_mlp, trained on raw bytes "
            "(env.scaling=raw)"
        )
    return env, network


def _in_a_plane(env: Environment) -> tuple[SupervisedEnv, tuple[str, ...]]:
    """A data set of two numbers, and its class names; InputError if it is not one."""
    env, classes = classified("boundary", env)
    shape = tuple(env.dataset.train.inputs.shape[1:])
    if shape != (2,):
        raise InputError(f"report boundary: needs examples of 2 numbers, these have shape {shape}")
    return env, classes


def figure_of(num_panels: int, width: float, height: float) -> "tuple[Figure, list[Any]]":
    """A figure of panels in a grid, at most ten per row; width and height are a panel's, in inches."""
    from matplotlib.figure import Figure

    columns = min(num_panels, 10)
    rows = math.ceil(num_panels / columns)
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in panels[num_panels:]:
        unused.set_axis_off()
    return figure, panels[:num_panels]


def terminal_lines(image: Tensor) -> list[str]:
    """An image [H, W] bool as ceil(H / 2) lines of W characters."""
    rows = image.tolist()
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return ["".join(ROWS_OF_TWO[pair] for pair in zip(a, b, strict=True)) for a, b in pairs]
