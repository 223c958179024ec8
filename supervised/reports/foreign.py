"""Out-of-distribution inputs, of which an agent should be uncertain."""

import torch
from torch import Tensor
from torch.nn import functional as F

from rlcore.supervised.datasets import Dataset, digits


def foreign_inputs(dataset: Dataset, num: int = 2000, seed: int = 1, channels_last: bool = False) -> dict[str, Tensor]:
    """Out-of-distribution inputs by kind, each [n, *shape] of the data set's dtype and range, n at most ``num``.

    - ``classes``: those left out of the data set, if any (``env.classes``);
    - for images of at least 16 x 16 pixels: ``rotated`` by 90 degrees; ``shuffled``, the pixels of each image in a
      random order of its own; ``digits``, those of scikit-learn enlarged, if the images have one channel;
    - ``noise``: normal, with the mean and standard deviation of the test inputs, clipped to their range.

    Args:
        dataset: ``rotated``, ``shuffled`` and ``noise`` are made from its test inputs.
        num: how many of each kind, at most.
        seed: of the random choices.
        channels_last: whether images are [n, H, W, C].
    """
    assert dataset.test is not None
    generator = torch.Generator().manual_seed(seed)
    shown, left_out = dataset.test.inputs, dataset.foreign
    inputs = shown[torch.randperm(len(shown), generator=generator)[:num]].cpu()
    kinds = {}
    if left_out is not None and len(left_out):
        kinds["classes"] = left_out[torch.randperm(len(left_out), generator=generator)[:num]]
    made = _made(inputs.movedim(-1, 1) if channels_last else inputs, num, generator)
    return kinds | {kind: x.movedim(1, -1) if channels_last else x for kind, x in made.items()}


def _made(inputs: Tensor, num: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Those made from inputs [n, *shape], images [n, C, H, W]."""
    kinds = {}
    if inputs.ndim == 4 and min(inputs.shape[2:]) >= 16:
        kinds["rotated"] = inputs.rot90(1, (2, 3))
        order = torch.rand(inputs[:, :1].shape, generator=generator).flatten(2).argsort(-1)
        kinds["shuffled"] = inputs.flatten(2).gather(2, order.expand(-1, inputs.shape[1], -1)).view_as(inputs)
        if inputs.shape[1] == 1:
            enlarged = F.interpolate(digits().train.inputs[:num], inputs.shape[2:], mode="bilinear")
            kinds["digits"] = (enlarged * inputs.max()).to(inputs.dtype)
    numbers = inputs.double()
    noise = torch.randn(inputs.shape, generator=generator, dtype=torch.float64) * numbers.std() + numbers.mean()
    kinds["noise"] = noise.clamp(numbers.min(), numbers.max()).to(inputs.dtype)
    return kinds
