import errno
import math
import os
import pickle
import random
import zipfile
from typing import NamedTuple

import numpy as np
import pytest
import torch

from rlcore import checkpoint, seeding
from rlcore.errors import CheckpointError, InputError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "x.pt"


def test_what_is_saved_comes_back(path):
    content = {
        "tensor": torch.arange(4),
        "nested": {"list": [1, 2.5, "three", None, True], "tuple": (1, torch.ones(2))},
        "numpy": np.float32(0.5),
        1: "a key that is a number",
    }
    checkpoint.save(path, content)
    got = checkpoint.load(path)
    assert got["schema"] == checkpoint.SCHEMA
    assert torch.equal(got["tensor"], content["tensor"])
    assert got["nested"]["list"] == content["nested"]["list"]
    assert torch.equal(got["nested"]["tuple"][1], torch.ones(2))
    assert type(got["numpy"]) is float
    assert got[1] == "a key that is a number"
    assert [file.name for file in path.parent.iterdir()] == ["x.pt"]


def test_a_view_does_not_drag_its_storage_along(path):
    checkpoint.save(path, {"view": torch.zeros(1_000_000)[:3]})
    assert path.stat().st_size < 10_000


def test_anything_else_is_an_error_that_names_its_place(path):
    with pytest.raises(CheckpointError, match=r"checkpoint\.agent\.things\[1\] is a builtins\.object"):
        checkpoint.save(path, {"agent": {"things": [1, object()]}})
    assert not path.exists()


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("it_ran",)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_hostile_file_is_refused_and_nothing_runs(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write({"schema": 1, "agent": Hostile()}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match="is refused"):
        checkpoint.load(tmp_path / "bad.pt")
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("keep", [0, 10, 500, -50])
def test_a_truncated_file_is_refused(path, keep):
    checkpoint.save(path, {"x": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"damaged|refused"):
        checkpoint.load(path)


CONTENT = {"x": torch.arange(100.0), "more": {"a": [1, 2.0, "three"], "y": torch.arange(7)}}


def test_every_damaged_byte_is_found(path):
    checkpoint.save(path, CONTENT)
    whole, draws = path.read_bytes(), random.Random(1)
    places = [*range(0, len(whole), 13), *range(len(whole) - 60, len(whole))]
    for at in places:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << draws.randrange(8)]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match=r"damaged|refused"):
            checkpoint.load(path)
    for at in range(0, len(whole), 101):  # a hole, as a lost block of a disk leaves
        hole = whole[:at] + bytes(64) + whole[at + 64 :]
        path.write_bytes(hole)
        if hole != whole:
            with pytest.raises(CheckpointError, match=r"damaged|refused"):
                checkpoint.load(path)
    path.write_bytes(b"env: {name: cartpole}\n")
    with pytest.raises(CheckpointError, match=r"damaged|refused"):
        checkpoint.load(path)
    path.write_bytes(whole)
    assert torch.equal(checkpoint.load(path)["x"], CONTENT["x"])


def test_what_was_saved_without_a_digest_is_read_and_its_data_verified(path):
    path.parent.mkdir()
    torch.save({"schema": 1, **CONTENT}, path)
    assert torch.equal(checkpoint.load(path)["x"], CONTENT["x"])
    whole = path.read_bytes()
    at = whole.index(CONTENT["x"].numpy().tobytes()) + 41
    path.write_bytes(whole[:at] + b"\x41" + whole[at + 1 :])
    with pytest.raises(CheckpointError, match=r"is damaged .*: the part .* is not as it was written"):
        checkpoint.load(path)
    torch.save({"schema": checkpoint.SCHEMA, **CONTENT}, path)
    with pytest.raises(CheckpointError, match="is damaged: it has no digest"):
        checkpoint.load(path)


def test_a_part_that_would_grow_in_memory_is_refused(path):
    path.parent.mkdir()
    torch.save({"schema": 1, "x": torch.zeros(100_000)}, path.with_suffix(".plain"))
    with (
        zipfile.ZipFile(path.with_suffix(".plain")) as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for member in plain.infolist():
            small.writestr(member.filename, plain.read(member))
    assert path.stat().st_size < 10_000
    with pytest.raises(CheckpointError, match="its parts are compressed"):
        checkpoint.load(path)


def test_a_newer_schema_is_refused(path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SCHEMA", checkpoint.SCHEMA + 1)
    checkpoint.save(path, {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="of a newer rlcore"):
        checkpoint.load(path)


def test_a_foreign_or_missing_file_is_refused(tmp_path):
    torch.save({"weights": torch.ones(2)}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="is not an rlcore checkpoint"):
        checkpoint.load(tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "missing.pt")


def test_a_full_disk_leaves_the_previous_checkpoint(path, monkeypatch):
    checkpoint.save(path, {"x": 1})

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

    monkeypatch.setattr(
        "builtins.open", lambda name, mode: Full(os.fdopen(os.open(name, os.O_CREAT | os.O_WRONLY), mode))
    )
    with pytest.raises(CheckpointError, match=r"No space left on device.*the previous one is untouched"):
        checkpoint.save(path, {"x": 2})
    monkeypatch.undo()
    assert checkpoint.load(path)["x"] == 1
    assert [file.name for file in path.parent.iterdir()] == ["x.pt"]


def test_every_global_generator_is_restored():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    seeding.seed_everything(5)
    draw()
    saved = seeding.rng_state()
    first = draw()
    draw()
    seeding.restore_rng_state(saved)
    assert draw() == first


def test_a_generator_of_another_device_is_seeded_by_the_state_that_does_not_fit():
    def drawn(state):
        generator = torch.Generator()
        seeding.restore_generator(generator, state)
        return torch.rand(8, generator=generator)

    one, other = (torch.arange(16, dtype=torch.uint8) + k for k in (0, 1))  # 16 bytes are a state on CUDA
    assert torch.equal(drawn(one), drawn(one))
    assert not torch.equal(drawn(one), drawn(other))
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(drawn(generator.get_state()), torch.rand(8, generator=generator))


class Pair(NamedTuple):
    x: torch.Tensor
    y: dict[str, torch.Tensor] | None


LIKE = Pair(torch.zeros(2, 3), {"a": torch.zeros(4, dtype=torch.int64)})


def test_what_is_restored_is_a_copy_in_the_place_of_what_it_is_like():
    saved = (torch.arange(3.0).expand(2, 3), {"a": torch.arange(4)})
    got = checkpoint.restored(saved, LIKE, "it")
    assert type(got) is Pair
    assert got.x.is_contiguous()
    got.y["a"][0] = 7
    assert saved[1]["a"].tolist() == [0, 1, 2, 3]
    assert checkpoint.restored((saved[0], None), LIKE._replace(y=None), "it").y is None
    assert len(checkpoint.restored(torch.ones(5, 3), LIKE.x, "it", free=0)) == 5


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        ((torch.zeros(2, 3), None), r"it\[1\] is None, not a dict of 'a'"),
        ((torch.zeros(2, 4), LIKE.y), r"it\[0\] is a tensor of torch.float32 \[2, 4\], not .* \[2, 3\]"),
        ((torch.zeros(2, 3).double(), LIKE.y), r"it\[0\] is a tensor of torch.float64"),
        ((LIKE.x, {"a": torch.zeros(4)}), r"it\[1\]\['a'\] is a tensor of torch.float32"),
        ((LIKE.x.to_sparse(), LIKE.y), ".*torch.sparse_coo"),
        ((LIKE.x,), "it is 1 items, not 2 items"),
        ("text", "it is 'text', not 2 items"),
    ],
)
def test_what_differs_is_refused_by_name(saved, expected):
    with pytest.raises(CheckpointError, match=f"the checkpoint does not fit: {expected}"):
        checkpoint.restored(saved, LIKE, "it")


def test_sizes_and_numbers_out_of_range_are_refused():
    x, rows = torch.arange(3), torch.zeros(1, 2)
    with pytest.raises(CheckpointError, match=r"it has a number that is not in \[0, 1\]"):
        checkpoint.restored(x, x, "it", low=0, high=1)
    with pytest.raises(CheckpointError, match=r"not in \[0, 1\]"):
        checkpoint.restored(rows * math.nan, rows, "it", low=0, high=1)
    with pytest.raises(CheckpointError, match=r"it has parts of sizes \[1, 2\]"):
        checkpoint.restored((rows, rows.expand(2, 2)), (rows, rows), "it", free=0)
    with pytest.raises(InputError, match=r"the checkpoint's it takes .* GiB of memory"):
        checkpoint.restored(rows.expand(10**13, 2), rows, "it", free=0)


@pytest.mark.parametrize("wrong", [-1, 10**30, 2.0, True, None, "1", torch.tensor(1)])
def test_a_count_is_a_whole_number_in_range(wrong):
    assert checkpoint.restored_number(7, "it") == 7
    with pytest.raises(CheckpointError, match=r"it is .*, not a whole number in"):
        checkpoint.restored_number(wrong, "it")
    with pytest.raises(CheckpointError, match="it is nan, not a number in"):
        checkpoint.restored_number(math.nan, "it", -math.inf, math.inf, whole=False)
