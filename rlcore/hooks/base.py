"""Hook: the base class of what is done beside training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rlcore import registry, settings
from rlcore.errors import InputError
from rlcore.registry import did_you_mean
from rlcore.settings import Choice
from rlcore.stateful import CountersKept, restore_state, saved_state

if TYPE_CHECKING:
    from rlcore.agent import Metrics
    from rlcore.evaluation import Report
    from rlcore.rollout import Rollout
    from rlcore.trainer import Trainer


class Hook(metaclass=CountersKept):
    """Is called at the moments of a run that it has a method for; the others do nothing.

    In YAML, by the name under which it is registered (``rlcore.registry.hooks``), with its settings::

        trainer:
          hooks: [{name: early_stopping, figure: eval/return, at_least: 475}]

    Saved in checkpoints are, among its attributes, also in lists and dicts: optimizers, generators, whatever else has
    ``state_dict`` and ``load_state_dict``; and attributes that are numbers, if they change after it is made.

    Args:
        settings: an instance of the class's own ``Settings``; None means the defaults.
    """

    class Settings(settings.Settings):
        """Settings of a hook without any."""

    score_names: Sequence[str] | None = None
    """Names of the figures that `on_evaluation` adds to the report; None: they are not known beforehand."""

    def __init__(self, settings: settings.Settings | None = None):
        self.settings = settings if settings is not None else self.Settings()

    def on_start(self, trainer: Trainer) -> None:
        """The trainer has been made; what was saved is restored after this."""

    def on_rollout(self, trainer: Trainer, rollout: Rollout) -> None:
        """A rollout has been collected, and will be learned from."""

    def on_update(self, trainer: Trainer, metrics: Metrics) -> None:
        """The agent has learned from a rollout.

        Args:
            trainer: `Trainer.steps` includes the rollout.
            metrics: what `Agent.learn` returned; what is added here is logged as ``train/<name>``.
        """

    def on_evaluation(self, trainer: Trainer, report: Report) -> None:
        """The agent has been evaluated, and is saved after this. `Trainer.figures` has the report's."""

    @contextmanager
    def answering(self, trainer: Trainer) -> Iterator[None]:
        """In here the agent is as it is to be evaluated and deployed; afterwards, as it learns."""
        yield

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs."""
        return saved_state(self)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; after the agent is restored, before the environment."""
        restore_state(self, saved)


def figure(trainer: Trainer, name: str, hook: str) -> float | None:
    """The latest value of a figure; None while there is none of its kind, as ``rollout`` before an episode has ended.

    Args:
        trainer: whose figures they are.
        name: as in TensorBoard; ``steps`` are environment steps.
        hook: for the message.

    Raises:
        InputError: there are figures of its kind, but not this one.
    """
    if name == "steps":
        return trainer.steps
    known = sorted(trainer.figures)
    if name not in trainer.figures and any(other.startswith(f"{name.partition('/')[0]}/") for other in known):
        message = f"there is no figure {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}"
        raise InputError(f"trainer.hooks: {hook}: {message}")
    return trainer.figures.get(name)


def check_figure(trainer: Trainer, name: str, hook: str) -> None:
    """Refuses the name of a figure that there will not be, as far as that is known before training.

    Args:
        trainer: which has been made.
        name: as in TensorBoard.
        hook: for the message.

    Raises:
        InputError: evaluations will have no such figure.
    """
    kind, _, rest = name.partition("/")
    if kind == "eval":
        trainer.check_figure(rest, f"trainer.hooks: {hook}")


class HookChoice(Choice):
    """A hook by name, with its settings: ``{name: ema, decay: 0.99}``."""

    registry = registry.hooks

    def make(self) -> Hook:
        """A new one."""
        made: Hook = registry.hooks[self.name](self.settings)
        return made
