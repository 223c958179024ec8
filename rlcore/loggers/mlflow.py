"""The logger ``mlflow``."""

import re
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore import settings
from rlcore.evaluation import Film
from rlcore.loggers.base import Logger, beginning, recall, remember, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PARAMETERS = 100
"""Of one call, by MLflow's rules."""


class MLflowLogger(Logger):
    """MLflow: metrics, parameters, artifacts. A resumed run continues its run there, by the id in .mlflow.json."""

    package = "mlflow"

    class Settings(settings.Settings):
        """Where the run is written to."""

        experiment: str = "rlcore"
        """Name of the experiment; made if there is none."""
        tracking_uri: str | None = None
        """A server, or a database such as ``sqlite:///mlflow.db``; default: the environment variable
        MLFLOW_TRACKING_URI, or else MLflow's own default."""

    settings: Settings

    def __init__(self, settings: Settings, run_dir: Path, purge_step: int | None = None):
        super().__init__(settings, run_dir, purge_step)
        from mlflow import MlflowClient

        file = run_dir / ".mlflow.json"
        known = recall(file).get("id")
        with beginning("mlflow"):
            self.client = MlflowClient(settings.tracking_uri)
            if known is None:
                experiment = self.client.get_experiment_by_name(settings.experiment)
                place = experiment.experiment_id if experiment else self.client.create_experiment(settings.experiment)
                self.id = self.client.create_run(place, run_name=title(run_dir)).info.run_id
            else:
                self.id = known
                self.client.update_run(self.id, status="RUNNING")
        remember(file, {"id": self.id})

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes metrics."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(_key(tag), value, now, step) for tag, value in values.items()]
        self.client.log_batch(self.id, metrics)

    def hyperparameters(self, values: Mapping[str, Any], metric: str) -> None:
        """Fills the run's parameters; those that it has, as one that is begun again may, cannot change in MLflow."""
        from mlflow.entities import Param

        known = self.client.get_run(self.id).data.params
        params = iter([Param(_key(key), str(value)) for key, value in values.items() if _key(key) not in known])
        while some := list(islice(params, MOST_PARAMETERS)):
            self.client.log_batch(self.id, params=some)

    def config(self, text: str) -> None:
        """Writes the artifact config.yaml."""
        self.client.log_text(self.id, text, "config.yaml")

    def text(self, tag: str, text: str, step: int) -> None:
        """Writes the artifact ``<tag>/<step>.txt``."""
        self.client.log_text(self.id, text, f"{_key(tag)}/{step}.txt")

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Writes the artifact ``<tag>/<step>.png``."""
        self.client.log_figure(self.id, figure, f"{_key(tag)}/{step}.png")

    def film(self, tag: str, film: Film, path: Path, step: int) -> None:
        """Writes the film's file as an artifact in ``<tag>/``."""
        self.client.log_artifact(self.id, str(path), _key(tag))

    def close(self) -> None:
        """Ends the run there."""
        self.client.set_terminated(self.id)


def _key(tag: str) -> str:
    """A tag with the characters that MLflow allows."""
    return re.sub(r"[^A-Za-z0-9_\-. :/]", "_", tag)
