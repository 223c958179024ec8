"""Whole supervised runs compared with Lightning and a loop by hand: python benchmarks/supervised_runs.py

Each is the same run on MNIST: 6,000 of the training examples held out, scored after every epoch, the best checkpoint by
their loss kept, early stopping by it (with a patience that does not end the run), events for TensorBoard, the test
split at the end. Each run is a process of its own, one after the other; wall time of the training with its
evaluations, without imports and reading the data, and the process's peak memory, medians of the repetitions.
Lightning is left out if it is not installed (``pip install -e '.[bench]'``).
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from rlcore.networks import NetworkChoice
from rlcore.supervised.datasets import hold_out, load

NETWORKS: dict[str, dict[str, Any]] = {
    "784-300-50-10": {"name": "mlp", "hidden": [300, 50], "activation": "relu", "init": "he"},
    "LeNet": {"name": "lenet"},
}
BATCH, HELD_OUT, PATIENCE = 64, 0.1, 100


def splits() -> list[TensorDataset]:
    """Training, validation and test split as float32 in [0, 1]."""
    data = load("mnist")
    train, held = hold_out(data.train, HELD_OUT, True, 1)
    assert data.test is not None
    return [TensorDataset(split.inputs / 255, split.targets) for split in (train, held, data.test)]


def network_of(name: str) -> nn.Module:
    """The same initial network for all."""
    torch.manual_seed(1)
    return NetworkChoice.model_validate(NETWORKS[name]).build((1, 28, 28), 10)


def rlcore(name: str, epochs: int, folder: Path) -> Callable[[], float]:
    """Trainer, with everything that a run from YAML has."""
    from rlcore.agents.supervised import Supervised
    from rlcore.supervised.environment import SupervisedEnv
    from rlcore.trainer import Trainer

    env = SupervisedEnv(SupervisedEnv.Settings(dataset="mnist", num_envs=BATCH, validation_fraction=HELD_OUT))
    agent = Supervised(env, Supervised.Settings(network=NetworkChoice.model_validate(NETWORKS[name])))
    stopping: Any = {"name": "early_stopping", "figure": "eval/log_likelihood", "patience": PATIENCE}
    settings = Trainer.Settings(
        epochs=epochs, eval_every=env.num_examples, best_by="log_likelihood", hooks=[stopping], log_every=50 * BATCH
    )
    trainer = Trainer(agent, env, settings, run_dir=folder)
    return lambda: trainer.fit().scalars["accuracy"]


def by_hand(name: str, epochs: int, folder: Path) -> Callable[[], float]:
    """Tensors indexed by a permutation; nothing is checked, and nothing could be resumed."""
    from torch.utils.tensorboard import SummaryWriter

    data = load("mnist")
    assert data.test is not None
    network, (train, held) = network_of(name), hold_out(data.train, HELD_OUT, True, 1)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)

    @torch.no_grad()
    def scored(split: Any) -> tuple[float, float]:
        network.eval()
        outputs = torch.cat([network(x.float() / 255) for x in split.inputs.split(1000)])
        network.train()
        right = outputs.argmax(1) == split.targets
        return F.cross_entropy(outputs, split.targets).item(), right.double().mean().item()

    def fit() -> float:
        best, events = float("inf"), SummaryWriter(folder)
        for epoch in range(epochs):
            order = torch.randperm(len(train.targets))
            for step, rows in enumerate(order[: len(order) // BATCH * BATCH].split(BATCH)):
                loss = F.cross_entropy(network(train.inputs[rows].float() / 255), train.targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if step % 50 == 0:
                    events.add_scalar("loss", loss.item(), epoch * len(order) // BATCH + step)
            loss_held, accuracy = scored(held)
            events.add_scalar("held_accuracy", accuracy, epoch)
            if loss_held < best:
                best = loss_held
                torch.save(network.state_dict(), folder / "best.pt")
        events.close()
        return scored(data.test)[1]

    return fit


def lightning(name: str, epochs: int, folder: Path, workers: int = 0) -> Callable[[], float]:
    """Its Trainer, with EarlyStopping, ModelCheckpoint and TensorBoardLogger."""
    import lightning as pl
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
    from lightning.pytorch.loggers import TensorBoardLogger

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network_of(name)

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            loss = F.cross_entropy(self.network(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def _score(self, batch: tuple[Tensor, Tensor], tag: str) -> None:
            outputs = self.network(batch[0])
            self.log(f"{tag}_loss", F.cross_entropy(outputs, batch[1]))
            self.log(f"{tag}_accuracy", (outputs.argmax(1) == batch[1]).float().mean())

        def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
            self._score(batch, "held")

        def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
            self._score(batch, "test")

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    train, held, test = splits()
    keep: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    batches = DataLoader(train, BATCH, shuffle=True, drop_last=True, **keep)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=TensorBoardLogger(folder), default_root_dir=folder,
        callbacks=[EarlyStopping("held_loss", patience=PATIENCE), ModelCheckpoint(folder, monitor="held_loss")],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip

    def fit() -> float:
        module = Module()
        trainer.fit(module, batches, DataLoader(held, 1000, **keep))
        return float(trainer.test(module, DataLoader(test, 1000), verbose=False)[0]["test_accuracy"])

    return fit


RIVALS: dict[str, Callable[[str, int, Path], Callable[[], float]]] = {
    "rlcore": rlcore,
    "by hand": by_hand,
    "Lightning": lightning,
    "Lightning, two workers": lambda name, epochs, folder: lightning(name, epochs, folder, 2),
}


def run(rival: str, name: str, epochs: int) -> None:
    """One run; prints seconds, peak MiB and test accuracy as JSON."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        fit = RIVALS[rival](name, epochs, Path(folder))
        start = time.perf_counter()
        accuracy = fit()
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "mib": peak, "accuracy": accuracy}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--rival", choices=RIVALS, help="run this one here, once")
    parser.add_argument("--network", choices=NETWORKS, default="LeNet")
    given = parser.parse_args()
    if given.rival:
        run(given.rival, given.network, given.epochs)
        return
    for network in NETWORKS:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in RIVALS}
        for _ in range(given.repetitions):
            for name, results in found.items():
                command = [sys.executable, __file__, "--rival", name, "--network", network]
                done = subprocess.run([*command, "--epochs", str(given.epochs)], capture_output=True, text=True)
                if done.returncode == 0:
                    results.append(json.loads(done.stdout.splitlines()[-1]))
                else:
                    print(f"{name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        print(f"{network}, batch {BATCH}, {given.epochs} epochs, torch {torch.__version__}, one thread")
        ours = median(result["seconds"] for result in found["rlcore"])
        for name, results in found.items():
            if results:
                seconds, mib, accuracy = (median(one[key] for one in results) for key in ("seconds", "mib", "accuracy"))
                print(f"{name:24} {seconds:7.1f} s, {seconds / ours:5.2f} of rlcore  {mib:6.0f} MiB  {accuracy:.4f}")


if __name__ == "__main__":
    main()
