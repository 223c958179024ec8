"""The logger ``wandb``."""

import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlcore import settings
from rlcore.evaluation import Film
from rlcore.loggers.base import Logger, beginning, image_of, recall, remember, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEP = "global_step"
"""The x-axis, environment steps: unlike wandb's own step it may go back, as it does where a run is resumed."""


class WandbLogger(Logger):
    """Weights & Biases. A resumed run continues its run there, by the id in .wandb.json."""

    package = "wandb"

    class Settings(settings.Settings):
        """Where the run is written to; ``wandb login`` comes first, or WANDB_API_KEY."""

        project: str | None = None
        """Default: the environment variable WANDB_PROJECT, or else rlcore."""
        entity: str | None = None
        """User or team; default: that of the login."""
        group: str | None = None
        """Group of runs, such as the seeds of a config."""
        tags: list[str] = []  # noqa: RUF012 (pydantic copies it)
        """Tags of the run."""
        mode: Literal["online", "offline"] | None = None
        """offline writes into the run's folder, for ``wandb sync``; default: the environment variable WANDB_MODE, or
        else online."""

    settings: Settings

    def __init__(self, settings: Settings, run_dir: Path, purge_step: int | None = None):
        super().__init__(settings, run_dir, purge_step)
        import wandb

        file = run_dir / ".wandb.json"
        known = recall(file).get("id")
        with beginning("wandb"):
            self.run = wandb.init(
                project=settings.project or os.environ.get("WANDB_PROJECT") or "rlcore",
                entity=settings.entity,
                group=settings.group,
                tags=settings.tags or None,
                mode=settings.mode,
                id=known,
                resume="allow" if known else None,
                name=title(run_dir),
                dir=str(run_dir.absolute()),
                reinit="create_new",  # several runs of a process may be open at once
                settings=wandb.Settings(console="off"),  # the terminal is left as it is
            )
            self.run.define_metric(STEP, hidden=True)
            self.run.define_metric("*", step_metric=STEP)
        remember(file, {"id": self.run.id})

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes scalars as one row of the run's history."""
        self.run.log({**values, STEP: step})

    def hyperparameters(self, values: Mapping[str, Any], metric: str) -> None:
        """Fills the run's config."""
        self.run.config.update(dict(values), allow_val_change=True)

    def text(self, tag: str, text: str, step: int) -> None:
        """Writes text as a panel."""
        import wandb

        self.run.log({tag: wandb.Html(f"<pre>{html.escape(text)}</pre>"), STEP: step})

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Writes a figure as an image."""
        import wandb

        self.run.log({tag: wandb.Image(image_of(figure)), STEP: step})

    def film(self, tag: str, film: Film, path: Path, step: int) -> None:
        """Uploads a film's file."""
        import wandb

        self.run.log({tag: wandb.Video(str(path), format="mp4"), STEP: step})

    def close(self) -> None:
        """Uploads what is pending and ends the run there."""
        self.run.finish()
