"""The logger ``trackio``."""

import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore import settings
from rlcore.evaluation import Film
from rlcore.loggers.base import Logger, beginning, image_of, recall, remember, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TrackioLogger(Logger):
    """Trackio, on this machine or in a Hugging Face Space: trackio show. A resumed run continues its run there."""

    package = "trackio"

    class Settings(settings.Settings):
        """Where the run is written to; without a space, into TRACKIO_DIR or else Hugging Face's cache folder."""

        project: str = "rlcore"
        """Name of the project."""
        group: str | None = None
        """Group of runs, such as the seeds of a config."""
        space_id: str | None = None
        """Hugging Face Space to write to, ``user/space``; default: the environment variable TRACKIO_SPACE_ID, or else
        this machine."""

    settings: Settings

    def __init__(self, settings: Settings, run_dir: Path, purge_step: int | None = None):
        super().__init__(settings, run_dir, purge_step)
        import trackio

        self._file = run_dir / ".trackio.json"
        # trackio goes on in a run of the same name, which must thus be no other's, and replaces its config
        self._known = recall(self._file) or {"name": f"{title(run_dir)}-{uuid.uuid4().hex[:6]}".replace("/", "-")}
        with beginning("trackio"):
            self.run = trackio.init(
                settings.project,
                name=self._known["name"],
                group=settings.group,
                space_id=settings.space_id,
                config=self._known.get("config"),
                resume="allow",
                embed=False,
            )
        remember(self._file, self._known)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes scalars."""
        self.run.log(dict(values), step)

    def hyperparameters(self, values: Mapping[str, Any], metric: str) -> None:
        """Fills the run's config, which trackio writes with what is logged next."""
        self._known["config"] = dict(values)
        self.run.config.update(values)
        remember(self._file, self._known)

    def text(self, tag: str, text: str, step: int) -> None:
        """Writes text as Markdown that is shown verbatim."""
        import trackio

        self.run.log({tag: trackio.Markdown("    " + text.replace("\n", "\n    "))}, step)

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Writes a figure as an image."""
        import trackio

        self.run.log({tag: trackio.Image(image_of(figure))}, step)

    def film(self, tag: str, film: Film, path: Path, step: int) -> None:
        """Copies a film's file."""
        import trackio

        self.run.log({tag: trackio.Video(path)}, step)

    def close(self) -> None:
        """Writes what is pending and ends the run there."""
        import trackio

        with suppress(RuntimeError):  # it has ended: trackio has one run in a process at a time
            trackio.finish()
