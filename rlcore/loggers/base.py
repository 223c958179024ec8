"""Base of the loggers, and what those of services share."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rlcore import registry, settings
from rlcore.errors import InputError
from rlcore.evaluation import Embedding, Film
from rlcore.files import write_text
from rlcore.imports import optional
from rlcore.settings import Choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image


class Logger(ABC):
    """Base of the registered loggers: writes what one run reports. Only `scalars` must be written.

    If a method raises, the user is told once and the logger is asked no more: training goes on.

    Args:
        settings: its own ``Settings``.
        run_dir: the run's folder, which exists or may be created; one folder is one run.
        purge_step: of a resumed run, the step from which on what an earlier process logged is void; None of a new run.

    Raises:
        InputError: what is needed to begin is not there; in one line.
    """

    package: ClassVar[str] = ""
    """The package that it needs besides rlcore's own, imported on use."""

    class Settings(settings.Settings):
        """Settings of a logger without any."""

    def __init__(self, settings: settings.Settings, run_dir: Path, purge_step: int | None = None):
        self.settings, self.run_dir, self.purge_step = settings, run_dir, purge_step

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes figures.

        Args:
            values: by tag, such as ``train/loss``; NaN and infinities are possible.
            step: environment steps done. Several calls may be of one step, each with other tags.
        """

    def hyperparameters(self, values: Mapping[str, Any], metric: str) -> None:  # noqa: B027 (all but one are optional)
        """Writes the settings of a run that begins, once.

        Args:
            values: numbers, strings, booleans, None and lists, by dotted key, such as ``agent.learning_rate``.
            metric: tag of the figure that runs are compared by.
        """

    def config(self, text: str) -> None:
        """Writes all settings of a run that begins as one text, once; by default as text at step 0."""
        self.text("config", text, 0)

    def text(self, tag: str, text: str, step: int) -> None:  # noqa: B027
        """Writes text, to be shown verbatim."""

    def figure(self, tag: str, figure: "Figure", step: int) -> None:  # noqa: B027
        """Writes a figure."""

    def film(self, tag: str, film: Film, path: Path, step: int) -> None:  # noqa: B027
        """Writes a film.

        Args:
            tag: a tag that no scalar has.
            film: its frames.
            path: the same as an mp4, in the run's folder.
            step: environment steps done.
        """

    def embedding(self, tag: str, embedding: Embedding, step: int) -> None:  # noqa: B027
        """Writes points for a projector."""

    def flush(self) -> None:  # noqa: B027
        """Writes what is pending, at the end of training."""

    def close(self) -> None:  # noqa: B027
        """Ends the logger; nothing is written after it."""


class LoggerChoice(Choice):
    """A logger by name, with its settings: ``{name: wandb, project: robots}``."""

    registry = registry.loggers

    def check(self) -> None:
        """Called before training.

        Raises:
            InputError: the logger's package cannot be imported; says how to install it.
        """
        if package := registry.loggers[self.name].package:
            optional(package, f"the logger {self.name} needs")

    def make(self, run_dir: Path, purge_step: int | None = None) -> Logger:
        """The logger of a run; see `Logger`."""
        return registry.loggers[self.name](self.settings, run_dir, purge_step)


@contextmanager
def beginning(name: str) -> Iterator[None]:
    """Whatever a service raises in here, where a run begins, becomes an `InputError`."""
    try:
        yield
    except Exception as error:
        raise InputError(f"the logger {name} cannot begin: {type(error).__name__}: {error}") from error


def recall(file: Path) -> dict[str, Any]:
    """What `remember` wrote; empty if there is no such file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {error}; without it, a resumed run begins another one there") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} is damaged: not a mapping; without it, a resumed run begins another one there")
    return content


def remember(file: Path, content: Mapping[str, Any]) -> None:
    """Writes what a resumed run needs to go on in the same run of a service.

    Raises:
        InputError: it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(content) + "\n")


def title(run_dir: Path) -> str:
    """The run's name in a service: ``<config>/<time>-seed<k>``, the last two parts of its folder."""
    return "/".join(run_dir.absolute().parts[-2:])


def image_of(figure: "Figure") -> "Image":
    """A figure as an image."""
    from PIL import Image

    content = BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return Image.open(content)
