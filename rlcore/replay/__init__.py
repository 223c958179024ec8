"""Replays: what was seen before, to learn from again.

``rows``: rows of any kind; ``transitions``: steps of environments, each observation once; ``sum_tree``: drawing in
proportion to priorities.
"""

from rlcore.replay.rows import Replay
from rlcore.replay.sum_tree import SumTree
from rlcore.replay.transitions import TransitionReplay

__all__ = ["Replay", "SumTree", "TransitionReplay"]
