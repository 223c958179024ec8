"""Hooks: what is done beside training, at the moments that the trainer offers."""

from rlcore.hooks.base import Hook, HookChoice

__all__ = ["Hook", "HookChoice"]
