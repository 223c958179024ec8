"""The logger ``tensorboard``."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore import settings, video
from rlcore.evaluation import Embedding, Film
from rlcore.loggers.base import Logger

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TensorBoardLogger(Logger):
    """TensorBoard events in the run's folder: tensorboard --logdir runs."""

    def __init__(self, settings: settings.Settings, run_dir: Path, purge_step: int | None = None):
        super().__init__(settings, run_dir, purge_step)
        from torch.utils.tensorboard.writer import SummaryWriter

        self.writer = SummaryWriter(str(run_dir), purge_step=purge_step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes scalars as one event: several times cheaper than one event each."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        items = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self.writer._get_file_writer().add_summary(Summary(value=items), step)

    def hyperparameters(self, values: Mapping[str, Any], metric: str) -> None:
        """Fills the hyper-parameters tab for this run."""
        from torch.utils.tensorboard.summary import hparams

        plain = {key: v if isinstance(v, (bool, int, float, str)) else str(v) for key, v in values.items()}
        for summary in hparams(plain, {metric: 0.0}):  # the tag alone: its values are among the scalars
            self.writer._get_file_writer().add_summary(summary)

    def text(self, tag: str, text: str, step: int) -> None:
        """Writes text as a block of Markdown that is shown verbatim."""
        self.writer.add_text(tag, "    " + text.replace("\n", "\n    "), step)

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Writes a figure as an image."""
        self.writer.add_figure(tag, figure, step)

    def film(self, tag: str, film: Film, path: Path, step: int) -> None:
        """Writes a film as an image that moves: torch's add_video needs moviepy 1, which is no more."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        shown = Summary.Value(tag=tag, image=video.moving_image(film))
        self.writer._get_file_writer().add_summary(Summary(value=[shown]), step)

    def embedding(self, tag: str, embedding: Embedding, step: int) -> None:
        """Writes points for the projector."""
        vectors, labels, images = embedding
        written = Path(self.writer.log_dir) / f"{step:05d}" / tag
        shutil.rmtree(written, ignore_errors=True)  # left by an earlier report
        self.writer.add_embedding(vectors, labels, images, step, tag)

    def flush(self) -> None:
        """Writes pending events, so that TensorBoard sees them."""
        self.writer.flush()

    def close(self) -> None:
        """Writes pending events and ends."""
        self.writer.close()
