"""``rlcore show``."""

from collections.abc import Sequence

from rich.table import Table

from rlcore import config as configs
from rlcore.console import make_console
from rlcore.evaluation import evaluating
from rlcore.seeding import TRAINING, derive_seed
from rlcore.settings import flatten
from rlcore.trainer import Trainer


def show(source: str, overrides: Sequence[str], trust: bool = False) -> int:
    """Prints the resolved settings, where each comes from, and the network."""
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
