"""What is in recorded episodes: their number, returns and lengths, and which actions were taken."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from rlcore.evaluation import Report
from rlcore.experience.recorded import Recorded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 20
"""Parts of a number's range, of which so many were tried."""
NEAR = 0.01
"""Share of the range within which a number is at its bound."""
MOST_SHOWN = 8
"""Numbers of an action that are shown."""


def describe(recorded: Recorded) -> Report:
    """Figures, text and a figure of recorded episodes.

    Returns:
        Scalars ``episodes``, those ``cut`` by the end of the recording, and ``steps``; of the others, ``return`` and
        ``length`` (mean) with ``_std``, ``_min``, ``_max``, and the shares ``terminated`` and ``truncated``. Of actions
        that are one of several ``action_entropy``, the entropy of their frequencies over that of the uniform
        distribution; of numbers ``action_coverage``, the share of `BINS` equal parts of each range that was tried, on
        average, and ``action_at_bounds``, the share of numbers within 1 % of a bound.
    """
    whole, all_ends = recorded.comparable, recorded.lengths.cumsum(0) - 1
    ends, returns, lengths = all_ends[whole], recorded.returns[whole], recorded.lengths[whole].double()
    flags = {"terminated": recorded.terminated, "truncated": recorded.truncated & ~recorded.terminated}
    cut = (~recorded.whole).sum().item()
    scalars = {"episodes": float(len(all_ends)), "cut": float(cut), "steps": float(len(recorded))}
    for name, values in (("return", returns), ("length", lengths)):
        spread = values.std(correction=0).item()
        low, high = values.aminmax()
        scalars |= {name: values.mean().item(), f"{name}_std": spread}
        scalars |= {f"{name}_min": low.item(), f"{name}_max": high.item()}
    scalars |= {name: flag[ends].double().mean().item() for name, flag in flags.items()}
    counts = _counts(recorded)
    space = recorded.action_space
    if isinstance(space, Discrete):
        shares = counts[0] / counts[0].sum()
        entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
        scalars["action_entropy"] = float(entropy / np.log(max(2, len(shares))))
        text = "actions: " + ", ".join(f"{n + space.start}: {share:.1%}" for n, share in enumerate(shares))
    elif isinstance(space, Box):
        scalars["action_coverage"] = float(np.mean([(count > 0).mean() for count in counts]))
        scalars["action_at_bounds"] = _at_bounds(recorded, space)
        numbers = recorded.action.reshape(len(recorded), -1).double()
        means = zip(numbers.mean(0).tolist(), numbers.std(0, correction=0).tolist(), strict=True)
        shown = [f"{mean:.3g} +- {std:.3g}" for mean, std in list(means)[:MOST_SHOWN]]
        text = f"numbers of actions: {', '.join(shown)}{', ...' if numbers.shape[1] > MOST_SHOWN else ''}"
    else:
        text = f"actions: {space}"
    return Report(scalars, text, figures={"recorded": _figure(recorded, counts)})


def _counts(recorded: Recorded) -> list[NDArray[np.float64]]:
    """How often each action was taken; of numbers, how often each part of their ranges, for each number."""
    space, action = recorded.action_space, recorded.action.cpu()
    if isinstance(space, Discrete):
        return [torch.bincount(action, minlength=int(space.n)).double().numpy()]
    numbers = action.reshape(len(action), -1).double().numpy()
    low, high = numbers.min(0), numbers.max(0)
    if isinstance(space, Box):
        low = np.where(space.bounded_below, space.low, low.reshape(space.shape)).ravel()
        high = np.where(space.bounded_above, space.high, high.reshape(space.shape)).ravel()
    ranges = zip(numbers.T, low, np.maximum(high, low + 1e-9), strict=True)
    return [np.histogram(x, BINS, (a, b))[0].astype(np.float64) for x, a, b in ranges]


def _at_bounds(recorded: Recorded, space: Box) -> float:
    low, high = (
        torch.as_tensor(end, dtype=torch.float64, device=recorded.action.device) for end in (space.low, space.high)
    )
    margin = NEAR * (high - low)
    near = (recorded.action < low + margin) | (recorded.action > high - margin)
    return near.double().mean().item()


def _figure(recorded: Recorded, counts: list[NDArray[np.float64]]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes: Any = figure.subplots(1, 3)
    axes[0].hist(recorded.returns[recorded.comparable].cpu().numpy(), bins=BINS)
    axes[0].set(xlabel="return of an episode", ylabel="episodes")
    axes[1].hist(recorded.lengths[recorded.comparable].cpu().numpy(), bins=BINS)
    axes[1].set(xlabel="steps of an episode")
    if len(counts) == 1:
        axes[2].bar(np.arange(len(counts[0])), counts[0] / counts[0].sum())
        discrete = isinstance(recorded.action_space, Discrete)
        axes[2].set(xlabel="action" if discrete else "part of its range", ylabel="share of the steps")
    else:
        axes[2].imshow(np.stack(counts) / len(recorded), aspect="auto", cmap="Blues")
        axes[2].set(xlabel="part of its range", ylabel="number of the action")
    return figure
