"""Experience: episodes that were played before, to learn from without a simulator.

``recorded``: their steps as tensors, and windows of them as rollouts; ``reading`` and ``writing``: Minari's files;
``description``: what is in them.
"""

from rlcore.experience.recorded import Episode, Recorded

__all__ = ["Episode", "Recorded"]
