"""The commands, a file each; each returns its exit status. `rlcore.cli` reads their arguments and options."""

from rlcore.commands.evaluate import evaluate
from rlcore.commands.list_names import list_names
from rlcore.commands.record import record
from rlcore.commands.resume import resume
from rlcore.commands.show import show
from rlcore.commands.train import train
from rlcore.commands.tune import tune
from rlcore.commands.verify import verify

__all__ = ["evaluate", "list_names", "record", "resume", "show", "train", "tune", "verify"]
