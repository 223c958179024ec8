"""``rlcore show``."""

import re
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from rlcore import config as configs
from rlcore.console import make_console, table_of
from rlcore.errors import InputError
from rlcore.evaluation import evaluating
from rlcore.experience.description import describe
from rlcore.experience.reading import is_dataset, read
from rlcore.seeding import TRAINING, derive_seed
from rlcore.settings import flatten
from rlcore.trainer import Trainer

ENDS_IN_VERSION = re.compile(r"-v\d+$")
"""By which a data set is meant, even one that there is not."""


def show(source: str, overrides: Sequence[str], figure: str | None = None, trust: bool = False) -> int:
    """Prints the resolved settings, where each comes from, and the network; or what is in a data set of episodes.

    Args:
        source: a config; or a data set, its folder or the id of a local one.
        overrides: ``KEY=VALUE``, of a config.
        figure: of a data set, the file to draw its figure into; None: nowhere.
        trust: see `rlcore.config.load`.
    """
    if is_dataset(source) or (ENDS_IN_VERSION.search(source) and not Path(source).is_file()):
        if overrides:
            raise InputError(f"{overrides[0]!r} is a setting of a config; {source} is a data set")
        return _show_dataset(source, figure)
    if figure is not None:
        raise InputError(f"--figure: is of a data set; {source} is none")
    loaded = configs.load(source, overrides, trust)
    table = Table("setting", "value", "from", title=loaded.name)
    for key, value in flatten(loaded.config.model_dump(mode="json")).items():
        origin = loaded.origin.get(key) or loaded.origin.get(key.removesuffix(".name"))  # a choice given by name alone
        table.add_row(key, str(value), origin or "default")
    trainer, notes = configs.build(loaded.config)
    console = make_console()
    console.print(table)
    for note in (*loaded.notes, *notes):
        console.print(note, highlight=False)
    console.print(str(trainer.agent), highlight=False)
    size = sum(param.numel() for param in trainer.agent.parameters())
    console.print(
        f"{size:,} parameters; {_multiply_adds(trainer):,} multiply-adds per answer; a rollout is "
        f"{_rollout_size(trainer)}",
        highlight=False,
    )
    trainer.close()
    return 0


def _show_dataset(dataset: str, figure: str | None) -> int:
    recorded = read(dataset)
    report, made = describe(recorded), recorded.metadata
    console = make_console()
    console.print(table_of(f"{dataset} ({made.get('algorithm_name', 'unknown')})", report.scalars))
    spaces = f"observations: {recorded.observation_space}; actions: {recorded.action_space}"
    experts = "actions are an expert's, to be imitated, not those that were done" if recorded.is_relabelled else ""
    described = f"described as: {made['description']}" if "description" in made else ""
    for line in (spaces, report.text, described, experts):
        if line:
            console.print(" ".join(line.split()), highlight=False)
    if figure is not None:
        try:
            report.figures["recorded"].savefig(figure)
        except (OSError, ValueError) as error:  # ValueError: of a format that there is not
            raise InputError(f"--figure {figure}: {error}") from error
        console.print(f"file: {figure}", highlight=False)
    return 0


def _multiply_adds(trainer: Trainer) -> int:
    """Multiply-adds of matrix products and convolutions for the answer to one observation."""
    from torch.utils.flop_counter import FlopCounterMode

    num_envs, agent = trainer.env.num_envs, trainer.agent
    obs, _ = trainer.env.reset(seed=derive_seed(trainer.seed, TRAINING))
    with evaluating(agent), FlopCounterMode(display=False) as counter:
        agent.predict(obs, agent.initial_state(num_envs))
    return int(counter.get_total_flops()) // (2 * num_envs)


def _rollout_size(trainer: Trainer) -> str:
    horizon, num_envs = trainer.agent.horizon, trainer.env.num_envs
    if horizon is None:
        return f"one episode from each of {num_envs} environments"
    return f"{horizon} steps x {num_envs} environments = {horizon * num_envs:,} rows"
