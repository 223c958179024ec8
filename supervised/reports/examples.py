"""The report ``examples``: answers beside the truth."""

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from rlcore import settings
from rlcore.agent import Agent
from rlcore.environment import Environment
from rlcore.evaluation import Report, ReportMaker
from rlcore.supervised.reports.common import classified, figure_of, terminal_lines


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
        names = (*classes, *env.action.other_answers)
        captions = [f"#{i}: {names[int(answer[i])]}, truth {classes[int(target[i])]}" for i in indices]
        inputs = env.scaled(env.inputs(torch.tensor(indices, dtype=torch.int64, device=env.device))).cpu()
        name = "wrong" if self.settings.wrong else "examples"
        if inputs.ndim != 4 or not indices:
            rows = zip(captions, inputs.flatten(1).tolist(), strict=True)
            lines = [f"{text}   {'  '.join(f'{x:.4g}' for x in row)}" for text, row in rows]
            return Report({}, "\n".join(lines) or "no answer is wrong")
        images = _stretched(inputs.mean(1))  # colours to grey, for the terminal
        drawn = _stretched(inputs).movedim(1, -1) if inputs.shape[1] == 3 else images
        figure, panels = figure_of(len(indices), 1.5, 1.7)
        for axes, image, text in zip(panels, drawn, captions, strict=True):
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


def _stretched(images: Tensor) -> Tensor:
    """Images such that their lowest pixel is 0 and their highest 1."""
    return (images - images.min()) / (images.max() - images.min()).clamp_min(1e-12)
