"""SumTree: drawing in proportion to priorities, and changing them, without looking at all of them."""

import torch
from torch import Tensor

FAN_OUT = 32
"""Children of a node. Wide and shallow: four levels hold a million leaves, and each level costs a few kernels."""


class SumTree:
    """Non-negative numbers, and the sums of each `FAN_OUT` of them, of each `FAN_OUT` of those, up to one node.

    Sums are computed from all children whenever one changes, not by adding differences, so that no error grows.

    Args:
        size: numbers, 0 at first.
        device: of all of them.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu"):
        self.levels: list[Tensor] = []
        """[nodes, FAN_OUT] float64 each, from the leaves to the root, [1, FAN_OUT]."""
        while not self.levels or len(self.levels[-1]) > 1:
            size = -(-size // FAN_OUT)
            self.levels.append(torch.zeros(size, FAN_OUT, dtype=torch.float64, device=device))

    @property
    def total(self) -> Tensor:
        """The sum of all numbers, 0-d float64."""
        return self.levels[-1].sum()

    def __getitem__(self, places: Tensor) -> Tensor:
        """The numbers at places [B] int64, float64."""
        return self.levels[0].view(-1)[places]

    def update(self, places: Tensor, numbers: Tensor) -> None:
        """Sets numbers [B] at places [B] int64; of equal places the last one may or may not win."""
        self.levels[0].view(-1)[places] = numbers.double()
        for children, parents in zip(self.levels, self.levels[1:], strict=False):
            places = places // FAN_OUT
            parents.view(-1)[places] = children[places].sum(1)

    def find(self, mass: Tensor) -> Tensor:
        """The places [B] int64 where the cumulative sum of all numbers first exceeds a mass [B] float64.

        Args:
            mass: in [0, `total`). A number of 0 is never found.
        """
        node = torch.zeros(len(mass), dtype=torch.int64, device=mass.device)
        for level in reversed(self.levels):
            sums = level[node].cumsum(1)
            # rounding may leave as much as a child has: stay below what its parts add up to
            mass = torch.minimum(mass, sums[:, -1] * (1 - 1e-12))
            child = (sums <= mass[:, None]).sum(1)
            before = sums.gather(1, (child - 1).clamp_min(0)[:, None]).squeeze(1)
            mass = mass - before * (child > 0)
            node = node * FAN_OUT + child
        return node
