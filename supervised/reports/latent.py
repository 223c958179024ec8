"""What a latent code looks like: what it decodes to, and where examples lie in it."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from rlcore import settings
from rlcore.agent import Agent
from rlcore.agents.autoencoder import AutoencoderAgent
from rlcore.environment import Environment
from rlcore.evaluation import Embedding, Report, ReportMaker, evaluating
from rlcore.networks.autoencoder import Code, kl_from_standard_normal
from rlcore.seeding import seed_everything
from rlcore.settings import Seed
from rlcore.supervised.metrics import MOST_CLASSES
from rlcore.supervised.reconstruction import ReconstructionEnv
from rlcore.supervised.reports.common import figure_of
from rlcore.supervised.reports.likelihood import autoencoding
from rlcore.trees import tree_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVE = 0.01
"""Variance of a coordinate's mean over the data above which it is active (Burda et al. 2016, section 5.2)."""
INCHES = 0.45
"""Side of an image in a figure."""
GREY = 0.5
"""Of the lines between images, and of hidden halves."""
MOST_COORDINATES = 100
"""Coordinates of the code that are shown one by one."""

Drawn = Callable[[Tensor], list[Tensor]]
"""Maps codes [B, L] to their images, B of [C, H, W]."""


class LatentReport(ReportMaker):
    """What the code looks like: reconstructions, samples, interpolations, and what each coordinate does.

    Of a two-dimensional code also where the test split lies in it, and the images on a grid over it. The coordinates of
    a code of several dimensions are numbered in the order of its memory.
    """

    class Settings(settings.Settings):
        """Settings of the report."""

        num: int = Field(default=10, ge=2, le=100)
        """Images per row, taken evenly from the test split."""
        extent: PositiveFloat = 3.0
        """How far from 0 the coordinates of the code are varied."""
        side: int = Field(default=21, ge=2, le=100)
        """Images on each side of the manifold; by default in steps of 0.3 from -3 to 3."""
        seed: Seed = 1
        """Seed of the samples."""

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        autoencoding("report latent", agent, env, images=True)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`.

        Returns:
            ``active_units``, how many coordinates are active, by the variance over examples of the means of their
            codes; if the code is a distribution, ``kl_<i>`` of each, nats, the mean over examples of KL(q || p), of the
            `MOST_COORDINATES` with the highest.

        Raises:
            InputError: the agent is not an autoencoder, or its inputs are not images.
        """
        env, agent = autoencoding("report latent", agent, env, images=True)
        s = self.settings
        with evaluating(agent):
            seed_everything(s.seed)
            codes = encoded(agent, env)
            means, shape = codes.mean.flatten(1), codes.mean.shape[1:]
            order = torch.arange(means.shape[1], device=env.device)
            kl = None if codes.log_var is None else kl_from_standard_normal(codes).mean(0).flatten()
            if kl is not None:
                order = kl.argsort(descending=True)
            order = order[:MOST_COORDINATES]

            def drawn(z: Tensor) -> list[Tensor]:
                return list(decoded(agent, env, z.unflatten(1, shape)))

            rows = _evenly(env, s.num)
            figures = {
                "reconstructions": _grid(
                    [*env.shades(env.scaled(env.inputs(rows))), *drawn(means[rows])],
                    len(rows),
                    ["shown", "reconstructed"],
                ),
                "interpolation": _grid(drawn(_interpolated(means[rows])), len(rows)),
            }
            if kl is not None:
                figures["samples"] = _grid(list(sampled(agent, env, s.num**2)), s.num)
            if means.shape[1] == 2:
                figures["scatter"] = _scatter(means, env)
                figures["manifold"] = self._manifold(drawn, env.device)
            figures["traversal"] = self._traversal(drawn, means[0], order, kl)
        scalars = {"active_units": float((means.var(0) > ACTIVE).sum())}
        if kl is not None:
            scalars |= {f"kl_{i}": float(kl[i]) for i in sorted(order.tolist())}
        text = f"{scalars['active_units']:g} of {means.shape[1]:,} coordinates active; pixels: {env.pixel_kind}"
        return Report(scalars, text, figures)

    def _manifold(self, drawn: Drawn, device: torch.device) -> "Figure":
        """The images on a grid over a two-dimensional code, the second coordinate upwards."""
        s = self.settings
        ends = torch.linspace(-s.extent, s.extent, s.side, device=device)
        z = torch.cartesian_prod(ends.flip(0), ends).flip(1)
        return _grid(drawn(z), s.side)

    def _traversal(self, drawn: Drawn, mean: Tensor, order: Tensor, kl: Tensor | None) -> "Figure":
        """Coordinates of an image's code, in their order, each varied from end to end, one per row."""
        s, rows = self.settings, len(order)
        z = mean.repeat(rows, s.num, 1)  # [rows, num, L]
        z[torch.arange(rows), :, order] = torch.linspace(-s.extent, s.extent, s.num, device=mean.device)
        labels = [f"z{i}" if kl is None else f"z{i}: {kl[i]:.2f}" for i in order.tolist()]
        return _grid(drawn(z.flatten(0, 1)), s.num, labels)


class InpaintingReport(ReportMaker):
    """Completes images whose lower half is hidden, by gradient ascent on the code.

    maximise  log p(x_seen | z) + log N(z; 0, 1)  over z: the most likely code, given what is seen; the best of several
    starts.
    """

    class Settings(settings.Settings):
        """Settings of the report."""

        num: int = Field(default=10, ge=1, le=100)
        """Images, taken evenly from the test split."""
        starts: int = Field(default=16, ge=1, le=1000)
        """Starts of the ascent per image, drawn from the prior."""
        steps: PositiveInt = 300
        """Steps of Adam."""
        learning_rate: PositiveFloat = 0.05
        """Learning rate of Adam, in units of the code."""
        seed: Seed = 1
        """Seed of the starts."""

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        autoencoding("report inpainting", agent, env, variational=True, images=True)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`.

        Returns:
            The mean reward of the hidden halves: as ``completed``, as ``reconstructed`` from the whole image, and as in
            the ``mean_image`` of the training split, which ignores the upper half.

        Raises:
            InputError: the agent is not a variational autoencoder of images.
        """
        env, agent = autoencoding("report inpainting", agent, env, variational=True, images=True)
        s = self.settings
        with evaluating(agent):
            seed_everything(s.seed)
            obs = env.inputs(_evenly(env, s.num))
            shown = env.scaled(obs)
            half = shown.shape[2] // 2
            completed = agent.decode(self._completed(agent, env, obs, half))
            answers = {
                "completed": completed,
                "reconstructed": agent.decode(agent.encode(obs).mean),
                "mean_image": env.answers(env.mean_input().expand_as(shown)),
            }
            rewards = {
                name: env.action.reward(answer[:, :, half:], shown[:, :, half:]).mean().item()
                for name, answer in answers.items()
            }
            whole, filled = env.shades(shown), env.shades(env.pixels(completed))
            seen = torch.cat([whole[:, :, :half], torch.full_like(whole[:, :, half:], GREY)], 2)
            joined = torch.cat([whole[:, :, :half], filled[:, :, half:]], 2)
            figure = _grid([*whole, *seen, *joined], len(whole), ["whole", "seen", "completed"])
        lines = [f"{name}: {value:.1f}" for name, value in rewards.items()]
        text = f"reward of the hidden half: {', '.join(lines)}; pixels: {env.pixel_kind}"
        return Report(rewards, text, {"inpainting": figure})

    def _completed(self, agent: AutoencoderAgent, env: ReconstructionEnv, obs: Tensor, half: int) -> Tensor:
        """The code of each image, [B, *L], from its upper half."""
        s = self.settings
        shape = agent.encode(obs[:1]).mean.shape[1:]
        z = torch.randn(s.starts * len(obs), *shape, device=env.device).requires_grad_()
        seen = env.scaled(obs)[:, :, :half].repeat(s.starts, 1, 1, 1)
        optimizer = torch.optim.Adam([z], s.learning_rate)

        def height() -> Tensor:
            """Log p(x_seen | z) + log N(z; 0, 1), up to a constant, [starts * B]."""
            return env.action.reward(agent.decode(z)[:, :, :half], seen) - 0.5 * z.square().flatten(1).sum(1)

        for _ in range(s.steps):
            with torch.enable_grad():
                (z.grad,) = torch.autograd.grad(-height().sum(), z)
            optimizer.step()
        best = height().view(s.starts, len(obs)).argmax(0)
        return z.detach().unflatten(0, (s.starts, len(obs)))[best, torch.arange(len(obs), device=env.device)]


class ProjectorReport(ReportMaker):
    """The codes of test examples, with labels and images, for TensorBoard's projector."""

    class Settings(settings.Settings):
        """Settings of the report."""

        num: PositiveInt = 2500
        """Examples, the first ones. Their images form one picture, which browsers limit to 8,192 pixels per side."""

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        autoencoding("report projector", agent, env)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`.

        Raises:
            InputError: the agent is not an autoencoder.
        """
        env, agent = autoencoding("report projector", agent, env)
        num = min(self.settings.num, env.num_examples)
        with evaluating(agent):
            codes = encoded(agent, env).mean[:num]
            obs = env.scaled(env.inputs(slice(0, num)))
        labels = [env.dataset.classes[k] if env.dataset.classes else str(k) for k in env.targets[:num].tolist()]
        images = env.shades(obs).cpu() if obs.ndim == 4 else None
        embedding = Embedding(codes.flatten(1).cpu(), labels, images)
        return Report({}, f"{num:,} codes for TensorBoard's projector", embedding=embedding)


def encoded(agent: AutoencoderAgent, env: ReconstructionEnv) -> Code:
    """The code of every example, [n, *L]."""
    code: Code = tree_map(lambda *x: torch.cat(x), *map(agent.encode, env.batches()))
    return code


def sampled(agent: AutoencoderAgent, env: ReconstructionEnv, num: int) -> Tensor:
    """Images of codes drawn from N(0, 1), [num, *O], from torch's global generator of the device."""
    code = agent.encode(env.inputs(slice(0, 1)))
    return decoded(agent, env, torch.randn(num, *code.mean.shape[1:], device=env.device))


def decoded(agent: AutoencoderAgent, env: ReconstructionEnv, z: Tensor) -> Tensor:
    """The images of codes [B, *L], as figures show them, [B, *O] in [0, 1]."""
    return torch.cat([env.shades(env.pixels(agent.decode(some))) for some in z.split(env.evaluation_batch)])


def tiled(images: list[Tensor], columns: int) -> Tensor:
    """Images [C, H, W] in [0, 1] in a grid, grey lines between, [rows * (H + 1) + 1, columns * (W + 1) + 1, C]."""
    rows = math.ceil(len(images) / columns)
    blank = torch.zeros_like(images[0])
    full = torch.stack([*images, *[blank] * (rows * columns - len(images))]).cpu()
    framed = nn.functional.pad(full, (1, 0, 1, 0), value=GREY).unflatten(0, (rows, columns))  # [rows, columns, C, H, W]
    picture = framed.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    return nn.functional.pad(picture, (0, 1, 0, 1), value=GREY).permute(1, 2, 0)


def _evenly(env: ReconstructionEnv, num: int) -> Tensor:
    """The rows of so many examples, or of all if there are fewer, taken evenly, [num] int64."""
    num = min(num, env.num_examples)
    return torch.linspace(0, env.num_examples - 1, num, device=env.device).round().long()


def _interpolated(codes: Tensor) -> Tensor:
    """From each code [n, L] to the next, n evenly spaced points each, [n * n, L]."""
    share = torch.linspace(0, 1, len(codes), device=codes.device)[:, None]
    return torch.lerp(codes[:, None], codes.roll(-1, 0)[:, None], share).flatten(0, 1)


def _grid(images: list[Tensor], columns: int, labels: list[str] | None = None) -> "Figure":
    """A figure of images, with a label beside each row."""
    picture = tiled(images, columns)
    rows = math.ceil(len(images) / columns)
    height, width = images[0].shape[1:]
    figure, (axes,) = figure_of(1, INCHES * columns, INCHES * rows * height / width)
    axes.imshow(picture.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    if labels:
        axes.set_yticks([(height + 1) * (row + 0.5) for row in range(rows)], labels, fontsize=7)
    return figure


def _scatter(means: Tensor, env: ReconstructionEnv) -> "Figure":
    figure, (axes,) = figure_of(1, 6, 5.5)
    scatter(axes, means, env)
    return figure


def scatter(axes: Any, means: Tensor, env: ReconstructionEnv) -> None:
    """Draws where two-dimensional codes [n, 2] lie; by class, if there are up to `MOST_CLASSES`."""
    classes = env.dataset.classes or ()
    by_class = 0 < len(classes) <= MOST_CLASSES
    which = env.targets.cpu() if by_class else torch.zeros(len(means))
    for k, name in enumerate(classes if by_class else ("",)):
        axes.scatter(*means.cpu()[which == k].T.numpy(), s=2, label=name)
    if by_class:
        axes.legend(fontsize=8, loc="upper right", markerscale=4)
    axes.set(xlabel="z0", ylabel="z1", aspect="equal")
