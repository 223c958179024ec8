"""An alarm that the physics are no longer those of training, from any score of steps that rises where they are not."""

import math

import torch
from torch import Tensor

from rlcore.errors import InputError


class Alarm:
    """Raised in an episode where the mean score of the last few steps exceeds what nominal episodes reach.

    Let m_1 <= ... <= m_n be the highest such means of n nominal episodes. The threshold is m_k, k = ceil((n + 1) (1 -
    false_alarms)): in an episode exchangeable with them the alarm is raised with probability at most ``false_alarms``,
    whatever the score (split conformal prediction, Vovk, Gammerman & Shafer 2005). They must not be those that the
    score itself was fitted to.

    Fed step by step it watches N episodes at once::

        raised = alarm(score, done)  # [N] float and bool to [N] bool

    Args:
        scores: of whole nominal episodes, [T, N]; NaN where there is no score, as after an episode's end.
        false_alarms: the share of nominal episodes in which it may be raised, in (0, 1).
        window: steps that a mean is of; at an episode's beginning those that there are.

    Raises:
        InputError: ``false_alarms`` or ``window`` is out of range, or needs more episodes.
    """

    def __init__(self, scores: Tensor, false_alarms: float = 0.05, window: int = 16):
        if window < 1:
            raise InputError(f"window: must be at least 1 step, got {window}")
        if not 0 < false_alarms < 1:
            raise InputError(f"false_alarms: must be in (0, 1), got {false_alarms}")
        self.window = window
        highest = highest_mean(scores, window)
        n = len(highest)
        k = math.ceil((n + 1) * (1 - false_alarms) - 1e-9)
        if k > n:
            needed = math.ceil(1 / false_alarms - 1e-9) - 1
            raise InputError(f"false_alarms: {false_alarms:g} takes {needed:,} nominal episodes or more, got {n:,}")
        self.threshold = highest.sort().values[k - 1]
        """Means above it raise the alarm, 0-d."""
        self._latest: Tensor | None = None  # [window, N], NaN: no score, or of another episode

    def __call__(self, score: Tensor, done: Tensor) -> Tensor:
        """Watches one more step of N episodes; those of the first call have just begun.

        Args:
            score: [N]; NaN if the step has none.
            done: [N] bool: an episode ended in this step, and another one begins.

        Returns:
            Whether the alarm is raised now, [N] bool.
        """
        if self._latest is None:
            self._latest = score.new_full((self.window, len(score)), torch.nan)
        latest = torch.cat([self._latest[1:], score[None]])
        self._latest = latest.masked_fill(done, torch.nan)
        return (latest.nanmean(0) > self.threshold) & ~score.isnan()

    def first(self, scores: Tensor) -> Tensor:
        """The step, counted from 1, in which it is first raised in whole episodes [T, N], [N] int64; 0: never."""
        raised = moving_mean(scores, self.window) > self.threshold
        return torch.where(raised.any(0), raised.int().argmax(0) + 1, 0)


def moving_mean(scores: Tensor, window: int) -> Tensor:
    """The mean of the last ``window`` scores, or as many as there are, [T, N]; NaN does not count, and stays NaN."""
    before = scores.new_full((window - 1, scores.shape[1]), torch.nan)
    means = torch.cat([before, scores]).unfold(0, window, 1).nanmean(-1)
    return means.masked_fill(scores.isnan(), torch.nan)


def highest_mean(scores: Tensor, window: int) -> Tensor:
    """The highest `moving_mean` of each whole episode [T, N], [N]; minus infinity of one without any score."""
    means = moving_mean(scores, window)
    return means.masked_fill(means.isnan(), -math.inf).amax(0)
