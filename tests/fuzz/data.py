"""Data sets and positions in files that are damaged: cut, flipped, or with other arrays or headers inside."""

import gzip
import io
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.damage import damaged
from fuzz.trial import Outcome, run
from rlcore import config
from rlcore.supervised.datasets import MNIST_FILES

NUM = 600
SHORT = ["trainer.epochs=1", "trainer.eval_every=1000000", "--run-dir", "run"]
MLP = "agent.network={name: mlp, hidden: [4]}"


def prepare(folder: Path) -> None:
    """Writes data sets as .npz, plain and compressed, MNIST's four files with a few images, and some positions."""
    rng = np.random.default_rng(1)
    inputs, labels = rng.normal(size=(40, 3)), np.arange(40) % 3
    images = rng.integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)
    np.savez(folder / "table.npz", inputs=inputs, targets=labels, test_inputs=inputs[:9], test_targets=labels[:9])
    np.savez_compressed(folder / "images.npz", inputs=images, targets=np.arange(30, dtype=np.uint8) % 10)
    np.savez(folder / "numbers.npz", inputs=inputs.astype(np.float32), targets=rng.normal(size=(40, 2)))
    for name in MNIST_FILES:
        array = rng.integers(0, 10, (30, 28, 28) if "images" in name else (30,), dtype=np.uint8)
        header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes()))
    lines = (config.SHIPPED / "connect4_positions.csv").read_bytes().splitlines(keepends=True)
    (folder / "positions.csv").write_bytes(b"".join(lines[:50]))


def trial(rng: random.Random, folder: Path, prepared: Path) -> Outcome:
    kind = rng.choice(["npz", "npz", "npz", "npz", "idx", "positions"])
    if kind == "npz":
        path = Path(shutil.copy(rng.choice(sorted(prepared.glob("*.npz"))), folder))
        rng.choice([damage, rewrite, rewrite])(rng, path)
        action = "values" if path.stem == "numbers" else "logits"
        words = ["digits_lenet", f"env.dataset={path.name}", f"env.action={action}", "env.num_envs=8", MLP, *SHORT]
    elif kind == "idx":
        for path in prepared.glob("*.gz"):
            shutil.copy(path, folder)
        path = folder / f"{rng.choice(list(MNIST_FILES))}.gz"
        if rng.random() < 0.5:
            damage(rng, path)
        else:
            path.write_bytes(gzip.compress(damaged(rng, gzip.decompress(path.read_bytes()))))
        words = ["digits_lenet", "env.dataset=mnist", "env.data_dir=.", MLP, *SHORT]
    else:
        path = Path(shutil.copy(prepared / "positions.csv", folder))
        damage(rng, path)
        short = ["env.num_envs=8", "trainer.total_steps=64", "trainer.eval_episodes=2", "--run-dir", "run"]
        words = ["connect4_pool_reinforce", "env.positions=./positions.csv", MLP, *short]
    return run(["train", *words], folder)


def damage(rng: random.Random, path: Path) -> None:
    """Damages the bytes of a file."""
    path.write_bytes(damaged(rng, path.read_bytes()))


def rewrite(rng: random.Random, path: Path) -> None:
    """Damages an array in an .npz file, which is zipped again, so that only the array is wrong; or replaces it."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    name = rng.choice(list(members))
    kind = rng.randrange(5)
    if kind == 0:
        members[name] = damaged(rng, members[name])
    elif kind == 1:  # the header alone
        members[name] = damaged(rng, members[name][:128]) + members[name][128:]
    elif kind == 2:
        members[name] = other(rng, np.load(io.BytesIO(members[name])))
    elif kind == 3:
        del members[name]
    else:
        members[rng.choice(["x.npy", "inputs", "../inputs.npy"])] = members[name]
    with zipfile.ZipFile(path, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as file:
        for name, content in members.items():
            file.writestr(name, content)


def other(rng: random.Random, array: np.ndarray) -> bytes:
    """An array of another type, shape or content, as an .npy file."""
    floats = array.astype(float)
    kinds = [object, str, "S3", complex, bool, ">f8", "f2", "datetime64[s]", np.longdouble]
    new: Any = rng.choice([
        array[:-1], array[:0], array[0], array[None], array[..., None], np.float64(3), -floats,
        floats + 100, floats * np.nan, floats * 1e300, array.astype(np.int64) * 10**17,
        array.astype(np.uint64) + 2**63, np.zeros(len(array), [("a", int)]), *map(array.astype, kinds),
    ])  # fmt: skip
    file = io.BytesIO()
    np.save(file, new, allow_pickle=True)
    return file.getvalue()
