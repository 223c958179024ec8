"""Augmentations: what is done to the examples of a training batch, drawn anew each time they are shown."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from rlcore import registry, settings
from rlcore.errors import InputError
from rlcore.settings import Choice

Share = Annotated[float, Field(gt=0, le=1)]


class Augmentation(nn.Module, ABC):
    """Changes the inputs of a batch, and perhaps their targets; draws from the generator it is given, and no other.

    In YAML, by the name under which it is registered (``rlcore.registry.augmentations``), with its settings::

        env: {name: supervised, dataset: mnist, augment: [{name: shift, pixels: 2}, {name: mixup, alpha: 0.2}]}

    Args:
        settings: an instance of the class's own ``Settings``; None means the defaults.
    """

    class Settings(settings.Settings):
        """Settings of an augmentation without any."""

    mixes_targets: bool = False
    """Whether targets are mixed, so that classes are given as shares of them."""
    makes_fractions: bool = False
    """Whether it makes numbers that were not there, to which bytes are rounded."""

    def __init__(self, settings: settings.Settings | None = None):
        super().__init__()
        self.settings = settings if settings is not None else self.Settings()

    @abstractmethod
    def forward(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """New inputs and targets.

        Args:
            inputs: [N, *shape], images [N, C, H, W]; bytes, or floats as the data set has them. Not to be written to.
            targets: as they are rewarded: classes [N] int64, with a mixing augmentation [N, K] float32; or [N, *D].
            generator: of all random numbers, on the device of the inputs.
        """


class Flip(Augmentation):
    """Mirrors images."""

    class Settings(settings.Settings):
        """Settings of the augmentation."""

        probability: Share = 0.5
        """Share of the images that are mirrored."""
        vertical: bool = False
        """Upside down, instead of left and right."""

    settings: Settings

    def forward(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Augmentation`."""
        _require_images(inputs, "flip")
        chosen = torch.rand(len(inputs), generator=generator, device=inputs.device) < self.settings.probability
        mirrored = inputs.flip(2 if self.settings.vertical else 3)
        return torch.where(chosen[:, None, None, None], mirrored, inputs), targets


class Shift(Augmentation):
    """Moves images by whole pixels, each by its own; what comes in from outside is 0."""

    class Settings(settings.Settings):
        """Settings of the augmentation."""

        pixels: PositiveInt = 4
        """At most, up or down and left or right."""

    settings: Settings

    def forward(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Augmentation`."""
        _require_images(inputs, "shift")
        N, most = len(inputs), self.settings.pixels
        down, right = torch.randint(0, 2 * most + 1, (2, N, 1), generator=generator, device=inputs.device)
        rows, columns = (
            first + torch.arange(size, device=inputs.device)
            for first, size in zip((down, right), inputs.shape[2:], strict=True)
        )
        padded = F.pad(inputs, (most,) * 4).movedim(1, -1)  # [N, H', W', C]
        examples = torch.arange(N, device=inputs.device)[:, None, None]
        return padded[examples, rows[:, :, None], columns[:, None, :]].movedim(-1, 1), targets


class Crop(Augmentation):
    """Shows a random part of each image in its size, interpolated (Szegedy et al. 2015, section 6)."""

    class Settings(settings.Settings):
        """Settings of the augmentation."""

        least: Share = 0.5
        """Share of the area, at least; drawn evenly up to 1."""
        stretch: float = Field(default=4 / 3, ge=1)
        """The ratio of the part's sides, at most, relative to that of the image."""

    settings: Settings
    makes_fractions = True

    def forward(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Augmentation`."""
        _require_images(inputs, "crop")
        s, N = self.settings, len(inputs)
        area, stretch, *places = torch.rand(4, N, generator=generator, device=inputs.device)
        area, stretch = s.least + (1 - s.least) * area, s.stretch ** (2 * stretch - 1)
        width, height = ((area * ratio).sqrt().clamp_max(1) for ratio in (stretch, 1 / stretch))
        x, y = ((1 - size) * (2 * place - 1) for size, place in zip((width, height), places, strict=True))
        zero = torch.zeros_like(x)
        matrix = torch.stack([torch.stack([width, zero, x], 1), torch.stack([zero, height, y], 1)], 1)
        grid = F.affine_grid(matrix, list(inputs.shape), align_corners=False)
        shown = F.grid_sample(inputs.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
        return _like(shown, inputs), targets


class Noise(Augmentation):
    """Adds normal noise."""

    class Settings(settings.Settings):
        """Settings of the augmentation."""

        std: PositiveFloat
        """Standard deviation, in the units of the data set: for bytes 0 to 255, to which they are rounded and cut."""

    settings: Settings
    makes_fractions = True

    def forward(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Augmentation`."""
        noise = torch.randn(inputs.shape, generator=generator, device=inputs.device)
        dtype = torch.promote_types(inputs.dtype, torch.float32)
        return _like(inputs.to(dtype) + self.settings.std * noise, inputs), targets


class Mixup(Augmentation):
    """Mixes each example with another one of the batch, and their targets alike (Zhang et al. 2018)."""

    class Settings(settings.Settings):
        """Settings of the augmentation."""

        alpha: PositiveFloat = 0.2
        """The share of the first one is drawn from Beta(alpha, alpha), once per batch."""

    settings: Settings
    mixes_targets = True
    makes_fractions = True

    def forward(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Augmentation`."""
        alpha = torch.full((2,), self.settings.alpha, dtype=torch.float64, device=inputs.device)
        first, second = torch._standard_gamma(alpha, generator=generator)
        share = (first / (first + second)).float()  # of two gammas, a beta
        order = torch.randperm(len(inputs), generator=generator, device=inputs.device)
        dtype = torch.promote_types(inputs.dtype, torch.float32)
        shown = inputs.to(dtype)
        return _like(shown[order].lerp(shown, share.to(dtype)), inputs), targets[order].lerp(targets, share)


class AugmentationChoice(Choice):
    """An augmentation by name, with its settings: ``{name: shift, pixels: 2}``."""

    registry = registry.augmentations

    def make(self) -> Augmentation:
        """A new one."""
        made: Augmentation = registry.augmentations[self.name](self.settings)
        return made


class Augmentations:
    """Several, one after another.

    Args:
        choices: which ones.
        channels_last: whether images are shown as [N, H, W, C].
    """

    def __init__(self, choices: Sequence[AugmentationChoice], channels_last: bool):
        self.each, self.channels_last = [choice.make() for choice in choices], channels_last
        self.mixes_targets = any(augmentation.mixes_targets for augmentation in self.each)
        """Whether any of them does."""

    def __call__(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """New inputs [N, *shape] and targets; see `Augmentation.forward`."""
        inputs = inputs.movedim(-1, 1) if self.channels_last else inputs
        for augmentation in self.each:
            inputs, targets = augmentation(inputs, targets, generator)
        return (inputs.movedim(1, -1) if self.channels_last else inputs), targets

    def require_whole(self, what: str) -> None:
        """Raises an InputError if one of them would not leave inputs as whole numbers."""
        for augmentation in self.each:
            if augmentation.makes_fractions:
                name = type(augmentation).__name__.lower()
                raise InputError(f"env.augment: {name} makes other numbers of {what}; store them as floats")

    def check(self, inputs: Tensor, targets: Tensor) -> None:
        """Tries them out on a few examples.

        Raises:
            InputError: one is not for these inputs or targets, or returns others.
        """
        shown, wanted = self(inputs, targets, torch.Generator(inputs.device).manual_seed(0))
        for what, before, after in (("inputs", inputs, shown), ("targets", targets, wanted)):
            if (before.shape, before.dtype) != (after.shape, after.dtype):
                kinds = [f"{x.dtype} {tuple(x.shape)}" for x in (before, after)]
                raise InputError(f"env.augment: the {what} must remain {kinds[0]}, got {kinds[1]}")


def _require_images(inputs: Tensor, name: str) -> None:
    if inputs.ndim != 4:
        raise InputError(f"env.augment: {name} is for images, the inputs have shape {tuple(inputs.shape[1:])}")


def _like(numbers: Tensor, inputs: Tensor) -> Tensor:
    """Floats in the dtype of the inputs; as bytes, rounded and cut."""
    return numbers.round().clamp(0, 255).byte() if inputs.dtype == torch.uint8 else numbers.to(inputs.dtype)
