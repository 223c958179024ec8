"""Dropout in a policy, where a new mask in learning would make the policy that learns differ from the one that acted.

So the mask of each row is drawn in ``act``, kept in memory, and used again in ``learn`` (Hausknecht & Wagener 2022,
"Consistent Dropout for Policy Gradient Reinforcement Learning").
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from rlcore.errors import InputError

BY_UNIT, BY_CHANNEL = (nn.Dropout,), (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class ConsistentDropout(_DropoutNd):
    """Dropout that keeps the mask it drew, and can be given one.

    Args:
        p: probability that a unit is dropped.
        by_channel: whether a channel of [B, C, ...] is kept or dropped as a whole.
    """

    def __init__(self, p: float, by_channel: bool = False):
        super().__init__(p)
        self.by_channel = by_channel
        self.drawn: Tensor | None = None
        """[B, ...] bool, the latest mask; True is kept."""
        self.given: Tensor | None = None
        """A mask to use instead of a new one, in one forward pass."""
        self.used = False
        """Whether the given mask has been used."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...], units dropped while training.

        Raises:
            InputError: the given mask has been used, or is for a batch of another size.
        """
        if not self.training:
            return x
        mask = self.given
        if mask is None:
            shape = x.shape[:2] + (1,) * (x.ndim - 2) if self.by_channel else x.shape
            mask = self.drawn = torch.rand(shape, device=x.device) >= self.p
        elif self.used:  # of two masks drawn in one pass only the latter is known
            raise InputError("a dropout module is used twice in a policy's forward pass; give each place its own")
        elif len(mask) != len(x):
            raise InputError(f"dropout saw {len(x)} rows, but {len(mask)} when it acted: its input must be [B, ...]")
        else:
            self.used = True
        return x * mask / (1 - self.p)


INDEPENDENT = (*BY_UNIT, *BY_CHANNEL, nn.AlphaDropout, nn.FeatureAlphaDropout, ConsistentDropout)
"""Classes of modules that drop each unit, or each channel, of their input independently; a subclass may not."""


def dropouts(network: nn.Module) -> list[_DropoutNd]:
    """The dropout modules of a network that drop anything."""
    return [module for module in network.modules() if isinstance(module, _DropoutNd) and module.p > 0]


def make_consistent(network: nn.Module) -> list[ConsistentDropout]:
    """Replaces every dropout within a network that drops anything by a `ConsistentDropout`; returns these, in order.

    Raises:
        InputError: one is of a kind without such a mask, alpha dropout.
    """
    found = []
    for parent in list(network.modules()):
        for name, module in parent.named_children():
            if isinstance(module, _DropoutNd) and module.p > 0 and not isinstance(module, ConsistentDropout):
                if not isinstance(module, (*BY_UNIT, *BY_CHANNEL)):
                    raise InputError(f"{type(module).__name__} keeps no mask for a policy to reuse; use nn.Dropout")
                setattr(parent, name, ConsistentDropout(module.p, isinstance(module, BY_CHANNEL)))
                found.append(getattr(parent, name))
    return found


def drawn_masks(modules: Iterable[ConsistentDropout]) -> tuple[Tensor, ...]:
    """The masks of the latest forward pass, bool [N, ...]; for ``Step.memory``."""
    return tuple(module.drawn for module in modules if module.drawn is not None)


@contextmanager
def recalled(modules: list[ConsistentDropout], masks: tuple[Tensor, ...]) -> Iterator[None]:
    """One forward pass in here uses these masks, bool [B, ...].

    Raises:
        InputError: there are no masks, as the policy acted in evaluation mode.
    """
    if len(masks) != len(modules):
        raise InputError(
            f"a policy with {len(modules)} dropout modules recorded {len(masks)} masks: call agent.train()"
        )
    for module, mask in zip(modules, masks, strict=True):
        module.given, module.used = mask, False
    try:
        yield
    finally:
        for module in modules:
            module.given = None


@contextmanager
def switched_off(modules: Iterable[_DropoutNd]) -> Iterator[None]:
    """Forward passes in here drop nothing."""
    was_on = [module for module in modules if module.training]
    for module in was_on:
        module.eval()
    try:
        yield
    finally:
        for module in was_on:
            module.train()
