"""The time machine: a run's updates and episodes again, and the page that shows them."""

from rlcore.replaying.replay import Replayed, replay

__all__ = ["Replayed", "replay"]
