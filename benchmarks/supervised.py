"""The speed of supervised learning compared with a loop written by hand, one with a DataLoader, and Lightning.

python benchmarks/supervised.py

Random data of MNIST's shape and size (which makes no difference in speed), and iris; the same network and the same
optimizer in all rivals of a table; torch on one thread; one process, the rivals alternating block by block, process
CPU time. Lightning is left out if it is not installed (``pip install -e '.[bench]'``).
"""

import copy
import itertools
import logging
import warnings
from typing import Any

import torch
from measure import Block, interleave, table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from rlcore.agents.supervised import Supervised
from rlcore.networks import NetworkChoice
from rlcore.optimizers import Adam
from rlcore.supervised.datasets import Dataset, from_arrays, load
from rlcore.supervised.environment import SupervisedEnv
from rlcore.trainer import Trainer

try:
    import lightning
except ImportError:
    lightning = None  # type: ignore[assignment]


def rlcore_block(data: Dataset, network: NetworkChoice, batch: int, steps: int) -> tuple[Block, nn.Module]:
    """Blocks of the Trainer, and its network for the rivals to copy."""
    env = SupervisedEnv(SupervisedEnv.Settings(num_envs=batch, test_fraction=0), dataset=data)
    torch.manual_seed(1)
    agent = Supervised(env, Supervised.Settings(network=network))
    trainer = Trainer(agent, env, total_steps=10**12)

    def block() -> int:
        for _ in range(steps):
            trainer.update()
        return steps * batch

    return block, copy.deepcopy(agent.network)


class HandWritten:
    """Slices tensors by a permutation; nothing is checked, counted or kept."""

    def __init__(self, data: Dataset, network: nn.Module, optimizer: type, batch: int, steps: int):
        self.inputs, self.targets = data.train
        self.network, self.batch, self.steps = copy.deepcopy(network), batch, steps
        self.optimizer = optimizer(self.network.parameters(), lr=1e-3)
        self.order = torch.empty(0, dtype=torch.int64)

    def __call__(self) -> int:
        for _ in range(self.steps):
            if len(self.order) < self.batch:
                self.order = torch.randperm(len(self.targets))
            rows, self.order = self.order[: self.batch], self.order[self.batch :]
            inputs = self.inputs[rows]
            if inputs.dtype == torch.uint8:
                inputs = inputs.float().div_(255)
            loss = F.cross_entropy(self.network(inputs), self.targets[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return self.steps * self.batch


def loader(data: Dataset, batch: int) -> DataLoader[Any]:
    """Made as in tutorials, of the images as float32 in [0, 1]."""
    inputs = data.train.inputs
    inputs = inputs / 255 if inputs.dtype == torch.uint8 else inputs
    return DataLoader(TensorDataset(inputs, data.train.targets), batch, shuffle=True, drop_last=True)


class WithDataLoader:
    """The loop of the tutorials: DataLoader and torch.optim.Adam."""

    def __init__(self, data: Dataset, network: nn.Module, batch: int, steps: int):
        self.network, self.batch, self.steps = copy.deepcopy(network), batch, steps
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        self.batches = itertools.chain.from_iterable(itertools.repeat(loader(data, batch)))

    def __call__(self) -> int:
        for inputs, targets in itertools.islice(self.batches, self.steps):
            loss = F.cross_entropy(self.network(inputs), targets)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return self.steps * self.batch


def lightning_block(data: Dataset, network: nn.Module, batch: int, steps: int) -> Block:
    """Lightning's Trainer with everything optional switched off."""

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(network)

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            inputs, targets = batch
            return F.cross_entropy(self.network(inputs), targets)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    module, batches = Module(), loader(data, batch)

    def block() -> int:
        trainer = lightning.Trainer(
            accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, batches)
        return steps * batch

    return block


def compare(title: str, data: Dataset, network: dict[str, Any], batch: int, steps: int) -> None:
    """Prints one table; ``steps`` updates make a block."""
    ours, net = rlcore_block(data, NetworkChoice.model_validate(network), batch, steps)
    rivals: dict[str, Block] = {
        "rlcore": ours,
        "by hand, the same step": HandWritten(data, net, Adam, batch, steps),
        "by hand, torch.optim.Adam": HandWritten(data, net, torch.optim.Adam, batch, steps),
        "with a DataLoader": WithDataLoader(data, net, batch, steps),
    }
    if lightning is not None:
        rivals["Lightning"] = lightning_block(data, net, batch, steps)
    print(f"{title}, batch {batch}, torch {torch.__version__}, one thread")
    print(table(interleave(rivals), "rlcore", "examples/s"))
    print()


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = from_arrays(torch.randint(0, 256, (60_000, 1, 28, 28), dtype=torch.uint8), torch.randint(0, 10, (60_000,)))
    mlp = {"name": "mlp", "hidden": [300, 50], "activation": "relu", "init": "he"}
    compare("784-300-50-10", images, mlp, batch=128, steps=200)
    compare("LeNet", images, {"name": "lenet"}, batch=64, steps=60)
    compare("Iris, 4-16-3", load("iris"), {**mlp, "hidden": [16]}, batch=30, steps=1000)


if __name__ == "__main__":
    main()
