"""A run on disk: ``config.yaml``, ``events.*``, ``checkpoints/``, ``figures/``, ``result.json``."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from rlcore import checkpoint as checkpoints
from rlcore import config, legacy, registry
from rlcore.agent import Agent
from rlcore.checkpoint import fitting
from rlcore.config import HOME_FILE, Loaded
from rlcore.device import SMALL_NETWORK, choose_device
from rlcore.env_spec import EnvSpec
from rlcore.errors import CheckpointError, InputError
from rlcore.files import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    RESULT_FILE,
    claim_folder,
    locked,
    read_json,
    without_nan,
    write_text,
)
from rlcore.files import RUNS_FOLDER as RUNS_FOLDER  # also from here
from rlcore.hooks import Hook
from rlcore.registry import did_you_mean
from rlcore.seeding import restore_rng_state, rng_state
from rlcore.trainer import Trainer
from rlcore.trees import describe
from rlcore.yaml_files import read_yaml


class Run:
    """A run folder.

    Args:
        path: the folder.
        trust: import modules within it, though it was trained elsewhere; see `rlcore.config.load`.

    Raises:
        InputError: it is not a run.
    """

    def __init__(self, path: str | Path, trust: bool = False):
        self.path, self.trust = Path(path), trust
        self.folder = self.path.absolute()
        """The same, wherever an environment moves to."""
        if not (self.path / CONFIG_FILE).is_file():
            inside = [*self.path.glob(f"*/{CONFIG_FILE}"), *self.path.glob(f"*/*/{CONFIG_FILE}")]
            latest = max(inside, key=lambda file: file.stat().st_mtime, default=None)
            hint = "" if latest is None else f"; the latest run in it is {latest.parent}"
            raise InputError(f"{self.path} is not a run: there is no {self.path / CONFIG_FILE}{hint}")

    @classmethod
    def create(cls, loaded: Loaded, path: str | Path | None = None) -> "Run":
        """Creates the folder, ``runs/<config>/<time>-seed<k>`` if none is given, and writes the resolved settings.

        Raises:
            InputError: the folder already holds a run or is in use, or cannot be created.
        """
        if not str(path or "").isprintable():
            raise InputError(f"--run-dir: the name of a run must be printable text, got {str(path)!r}")
        if path is None:
            stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-seed{loaded.config.seed}"
            folder = claim_folder(Path(RUNS_FOLDER) / loaded.name / stamp)
        else:
            folder = Path(path)
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"cannot create the run folder {folder}: {error}") from error
        with locked(folder):
            if (folder / CONFIG_FILE).exists():
                raise InputError(f"{folder} already holds a run; resume it with: rlcore resume {folder}")
            if any((folder / CHECKPOINTS_FOLDER).glob("*.pt")):
                message = f"holds checkpoints but no {CONFIG_FILE}; restore that, or choose another folder"
                raise InputError(f"{folder} {message}")
            write_text(folder / HOME_FILE, str(folder.resolve()))
            write_text(folder / CONFIG_FILE, config.dump(loaded.config))
        return cls(folder)

    def locked(self) -> AbstractContextManager[None]:
        """No other process writes into the run in here; see `rlcore.files.locked`."""
        return locked(self.folder)

    def load(self, overrides: Sequence[str] = ()) -> Loaded:
        """The run's settings."""
        return config.load(self.folder / CONFIG_FILE, overrides, self.trust)

    def write_config(self, loaded: Loaded) -> None:
        """Overwrites ``config.yaml`` with changed settings.

        Raises:
            InputError: it cannot be written.
        """
        write_text(self.folder / CONFIG_FILE, config.dump(loaded.config))

    @property
    def default_checkpoint(self) -> str:
        """``best`` if there is one, else ``last``: a data set's evaluation does not choose a best one."""
        return "best" if (self.path / CHECKPOINTS_FOLDER / "best.pt").is_file() else "last"

    @property
    def has_checkpoints(self) -> bool:
        """Whether any was written; a run that was killed early has none."""
        return any((self.path / CHECKPOINTS_FOLDER).glob("*.pt"))

    def checkpoint_path(self, which: str) -> Path:
        """The path of one of the run's checkpoints (``best``, ``last``, a kept one), or of a file.

        Raises:
            InputError: there is no such file.
        """
        folder = self.path / CHECKPOINTS_FOLDER
        path = Path(which) if Path(which).suffix else folder / f"{which}.pt"
        if not path.is_file():
            names = sorted(path.stem for path in folder.glob("*.pt"))
            message = f"the run has {', '.join(names) or 'none'}; a path is also allowed"
            raise InputError(f"there is no checkpoint {which}{did_you_mean(which, names)}: {message}")
        return path

    def trainer(self, which: str, overrides: Sequence[str] = ()) -> tuple[Trainer, dict[str, Any]]:
        """A trainer without hooks that writes, prints and chooses nothing, its agent restored; and the checkpoint."""
        nothing = "trainer.hooks=[]", "trainer.best_by=null"
        loaded = self.load((*overrides, *nothing, *self._of_other_settings(overrides)))
        trainer, saved, _ = self.build(loaded, self.checkpoint_path(which))
        trainer.restore_agent(saved)
        return trainer, saved

    def _of_other_settings(self, overrides: Sequence[str]) -> list[str]:
        """Overrides by which settings go back to their defaults that are about what is changed here."""
        changed = {item.partition("=")[0] for item in overrides}
        kind = registry.envs[self.load().config.env.name]
        described: Mapping[str, Sequence[str]] = getattr(kind, "described_with", {})
        others = {name for key, names in described.items() if f"env.{key}" in changed for name in names}
        fields = kind.Settings.model_fields
        return [f"env.{name}={json.dumps(fields[name].default)}" for name in others if f"env.{name}" not in changed]

    def build(
        self, loaded: Loaded, path: Path, hooks: Sequence[Hook] = ()
    ) -> tuple[Trainer, dict[str, Any], list[str]]:
        """A trainer for the agent of a checkpoint, the checkpoint, and one line for each choice made.

        Args:
            loaded: the run's settings, perhaps changed.
            path: of the checkpoint, which the trainer may then restore.
            hooks: beside those of the settings.

        Raises:
            InputError: a changed setting says what is fitted in training; or they do not fit together.
        """
        here, before = (one.config.env for one in (loaded, self.load()))
        kept = getattr(registry.envs[here.name], "kept_by_agents", ()) if here.name == before.name else ()
        for key in kept:
            was, now = (getattr(env.settings, key, None) for env in (before, here))
            if was != now:
                raise InputError(
                    f"env.{key}: is {describe(was)} for good, as what it says is fitted in training and saved with the "
                    f"agent; {describe(now)} would have no effect"
                )
        saved = checkpoints.load(path)
        trainer, notes = config.build(loaded.config, saved.get("spec"), hooks)
        if trainer.env.device.type != "cpu":
            saved = checkpoints.load(path, trainer.env.device)
        return trainer, saved, notes

    @property
    def result(self) -> dict[str, Any]:
        """The content of ``result.json``; empty if there is none.

        Raises:
            InputError: it cannot be read.
        """
        return read_json(self.folder / RESULT_FILE)

    def write_result(self, content: dict[str, Any]) -> None:
        """Writes ``result.json``; NaN and infinities become null.

        Raises:
            InputError: it cannot be written.
        """
        write_text(self.folder / RESULT_FILE, json.dumps(without_nan(content), indent=2) + "\n")


def load(
    run: str | Path, checkpoint: str | None = None, device: torch.device | str | None = None, trust: bool = False
) -> Agent:
    """The agent of a run, ready to `predict` and to be called: ``action = agent(obs)``.

    It is made of what the checkpoint holds: no environment is made, no data set read. The simulator need not be
    installed, nor a module be there that only brought the environment. An agent of a data set takes inputs as that has
    them; the names of the classes are ``agent.spec.classes``.

    Args:
        run: the run's folder.
        checkpoint: ``best``, ``last``, a kept one, or a path; None means ``best`` if there is one, else ``last``.
        device: the agent's device; None means the one of the run's settings.
        trust: import modules within the run's folder, though it was trained elsewhere; see SECURITY.md.

    Raises:
        InputError: there is no such run, checkpoint or device, or the checkpoint does not fit.
    """
    folder = Run(run, trust)
    path = folder.checkpoint_path(checkpoint or folder.default_checkpoint)
    saved = checkpoints.load(path)
    tree = read_yaml(folder.folder / CONFIG_FILE)
    with fitting("this run"):
        is_old = saved.get("spec") is None or legacy.showed_scaled_inputs(saved["spec"], tree)
    if is_old:  # or of a space that cannot be saved
        return load_trainer(run, checkpoint, device, trust).agent
    choice = config.load_agent(folder.folder / CONFIG_FILE, trust)
    if saved.get("name") != choice.name:
        raise CheckpointError(f"{path} is of the agent {describe(saved.get('name'))}, not of {choice.name!r}")
    name = tree.get("device", "auto") if device is None else str(device)
    place, _ = choose_device(name)
    rng = rng_state()
    try:
        with fitting(f"the agent {choice.name}"):
            spec = EnvSpec.from_plain(saved["spec"], place)
            try:
                agent = choice.build(spec)
            except AttributeError as error:
                if EnvSpec.__name__ not in str(error):
                    raise
                return load_trainer(run, checkpoint, device, trust).agent  # it reads more of its environment
            agent.restore(saved["agent"])
    finally:
        restore_rng_state(rng)
    if name == "auto" and sum(param.numel() for param in agent.parameters()) <= SMALL_NETWORK:
        place = torch.device("cpu")
    return agent.to(place).eval()


def load_trainer(
    run: str | Path, checkpoint: str | None = None, device: torch.device | str | None = None, trust: bool = False
) -> Trainer:
    """A closed trainer that writes and prints nothing, for its agent and facts about its environment; see `load`."""
    rng, threads = rng_state(), torch.get_num_threads()
    try:
        folder = Run(run, trust)
        moved = [] if device is None else [f"device={device}"]
        trainer, _ = folder.trainer(checkpoint or folder.default_checkpoint, moved)
    finally:
        restore_rng_state(rng)
        torch.set_num_threads(threads)
    trainer.close()
    trainer.agent.eval()
    return trainer
