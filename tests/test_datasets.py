import gzip
import io
import os
import pickle
import random
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from rlcore import InputError
from rlcore.supervised import datasets
from rlcore.supervised.datasets import from_arrays, load, read_idx


def refused(function, *arguments):
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def idx(array, kind=8):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize(
    ("name", "shape", "num", "num_test", "num_classes"),
    [("iris", (4,), 150, None, 3), ("digits", (1, 8, 8), 1797, None, 10), ("circles", (2,), 200, 100, 2),
     ("spirals", (2,), 400, 200, 2)],
)  # fmt: skip
def test_shipped_data(name, shape, num, num_test, num_classes):
    data = load(name)
    assert data.train.inputs.shape == (num, *shape)
    assert data.train.inputs.dtype == torch.float32
    assert (data.test is None) if num_test is None else len(data.test.targets) == num_test
    assert data.train.targets.unique().tolist() == list(range(num_classes)) == list(range(len(data.classes)))


def test_circles_have_their_radii_and_spirals_their_mirror_image():
    points, targets = load("circles").train
    radius = points.norm(dim=1)
    assert torch.bincount(targets).tolist() == [100, 100]
    assert float(radius[targets == 0].mean()) == pytest.approx(1.0, abs=0.03)
    assert float(radius[targets == 1].mean()) == pytest.approx(0.6, abs=0.03)
    points, targets = load("spirals").train
    assert torch.equal(points[targets == 0], -points[targets == 1])
    assert float(points.norm(dim=1).max()) < 780 * 2 * np.pi / 360 / 10 + 0.1


@pytest.mark.parametrize("name", ["circles", "spirals"])
def test_drawn_data_depend_on_their_seed_alone(name):
    first, again, other = load(name, seed=3), load(name, seed=3), load(name, seed=4)
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.train.inputs, other.train.inputs)
    assert not torch.equal(first.train.inputs[: len(first.test.inputs)], first.test.inputs)


@pytest.mark.skipif(not (Path(os.environ.get("RLCORE_DATA", "")) / "mnist").is_dir(), reason="needs RLCORE_DATA")
def test_mnist_is_the_canonical_one():
    data = load("mnist")
    assert data.train.inputs.shape == (60_000, 1, 28, 28)
    assert data.train.inputs.dtype == torch.uint8
    assert torch.bincount(data.train.targets).tolist()[:3] == [5923, 6742, 5958]
    assert torch.bincount(data.test.targets).tolist()[:3] == [980, 1135, 1032]


def test_idx_files_gzipped_or_not(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx(array))
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(idx(array)))
    for name in ("plain", "zipped.gz"):
        assert read_idx(tmp_path / name).tolist() == array.tolist()


def test_damaged_idx_files_are_refused_by_name(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for content, expected in {
        idx(array)[:-3]: "21 bytes follow a header that announces 24",
        idx(array) + b"x": "25 bytes",
        idx(array)[:9]: "cut short",
        idx(array, kind=9): "not an IDX file of bytes",
        b"": "not an IDX file of bytes: it begins with nothing",
        b"<html>": "not an IDX file of bytes",
    }.items():
        path = tmp_path / "file"
        path.write_bytes(content)
        message = refused(read_idx, path)
        assert str(path) in message
        assert expected in message
    for content in (b"no gzip at all", gzip.compress(idx(array))[:-9]):
        (tmp_path / "file.gz").write_bytes(content)
        assert "cannot be read" in refused(read_idx, tmp_path / "file.gz")


def test_mnist_refuses_other_data_and_missing_files(tmp_path):
    assert "has no file train-images-idx3-ubyte.gz" in refused(load, "mnist", tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((5, 28, 28), np.uint8)))
    assert "is not MNIST's" in refused(load, "mnist", tmp_path)


def test_without_network_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("RLCORE_DATA", raising=False)
    monkeypatch.setattr(datasets, "MNIST_MIRRORS", ("http://127.0.0.1:9/",))
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path)
    (tmp_path / "mnist").mkdir()
    for name, age in (
        ("tmpleft", 2 * datasets.ABANDONED),
        ("tmpinuse", 0),
    ):  # of processes that were killed, or are not
        (tmp_path / "mnist" / name).write_bytes(b"half")
        os.utime(tmp_path / "mnist" / name, (time.time() - age, time.time() - age))
    message = refused(load, "mnist")
    assert "env.data_dir=FOLDER" in message
    assert "env.dataset=digits needs no download" in message
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == ["tmpinuse"]


def test_a_file_in_the_cache_is_used_and_a_foreign_one_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("RLCORE_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path)
    (tmp_path / "mnist").mkdir()
    file = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(idx(np.zeros((5, 28, 28), np.uint8))))
    assert str(file) in refused(load, "mnist")


def test_npz_files_and_their_mistakes(tmp_path):
    x, y = np.ones((6, 3)), np.arange(6) % 2
    path = tmp_path / "mine.npz"
    np.savez(path, inputs=x, targets=y, test_inputs=x[:2], test_targets=y[:2])
    data = load(str(path))
    assert data.classes == ("0", "1")
    assert len(data.test.targets) == 2
    np.savez(path, x=x, y=y)
    assert "holds x, y; expected inputs, targets" in refused(load, str(path))
    np.savez(path, inputs=x, targets=y, test_inputs=x)
    assert "expected inputs, targets, test_inputs, test_targets, validation_inputs, val" in refused(load, str(path))
    np.savez(path, inputs=x, targets=y, test_inputs=x, validation_targets=y)
    assert "holds inputs, targets, test_inputs, validation_targets; expected" in refused(load, str(path))
    np.savez(path, inputs=np.array([{}]), targets=y)
    assert "is not an .npz file of plain arrays" in refused(load, str(path))
    path.write_bytes(b"junk")
    assert "is not an .npz file of plain arrays" in refused(load, str(path))
    assert "there is no file" in refused(load, str(tmp_path / "none.npz"))
    assert "did you mean 'circles'" in refused(load, "circle")


def damaged(whole, num, draws):
    """Cut copies of a file, then copies with one bit flipped."""
    for _ in range(num):
        yield whole[: draws.randrange(len(whole))]
    for _ in range(num):
        at = draws.randrange(len(whole))
        yield whole[:at] + bytes([whole[at] ^ 1 << draws.randrange(8)]) + whole[at + 1 :]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_cut_npz_file_is_refused_and_no_flipped_bit_changes_a_number(tmp_path, save):
    draws = random.Random(1)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(2, size=40)
    path = tmp_path / "mine.npz"
    save(path, inputs=x, targets=y)
    for k, content in enumerate(damaged(path.read_bytes(), 300, draws)):
        path.write_bytes(content)
        try:
            data = load(str(path))
        except InputError as error:
            message = str(error)
            assert message.startswith(f"env.dataset: {path} ")
            assert "\n" not in message
        else:  # such as a flag of the file system
            assert k >= 300
            assert np.array_equal(data.train.inputs, x)
            assert np.array_equal(data.train.targets, y)


def test_every_cut_idx_file_is_refused_and_no_flipped_bit_changes_a_number(tmp_path):
    draws = random.Random(1)
    array = np.random.default_rng(1).integers(256, size=(5, 6, 7), dtype=np.uint8)
    for path, whole, checked in (
        (tmp_path / "x.gz", gzip.compress(idx(array)), True),
        (tmp_path / "x", idx(array), False),
    ):
        for k, content in enumerate(damaged(whole, 300, draws)):
            path.write_bytes(content)
            try:
                data = read_idx(path)
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017
            else:
                assert k >= 300
                assert not checked or np.array_equal(data, array)


def header(shape, dtype="<f8"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def zipped(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def frugally_refused(function, *arguments):
    tracemalloc.start()
    message = refused(function, *arguments)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    return message


def test_npz_files_that_promise_too_much_are_refused_before_memory_is_taken(tmp_path, monkeypatch):
    path = tmp_path / "mine.npz"
    for shape in ((10**12,), (10**6, 10**6, 10**6), (2**63,), (-5,)):
        zipped(path, {"inputs": header(shape) + bytes(80), "targets": header((10,)) + bytes(80)})
        assert "not an .npz file of plain arrays, or is damaged" in frugally_refused(load, str(path))
    zipped(path, {"inputs": header((2, 1)) + bytes(16), "targets": header((2,)) + bytes(16)})
    content = path.read_bytes()
    size = struct.pack("<I", len(header((2, 1))) + 16)
    path.write_bytes(content.replace(2 * size, size + struct.pack("<I", 2**31)))
    assert "announces 2,147,483,648 bytes, more than are in" in frugally_refused(load, str(path))
    zipped(
        path, {"inputs": header((2**20, 1)) + bytes(2**23), "targets": header((2,)) + bytes(16)}, zipfile.ZIP_DEFLATED
    )
    monkeypatch.setattr("rlcore.memory.physical_memory", lambda: 2**22)
    assert "takes 0.007813 GiB of memory; this machine has 0.003906" in frugally_refused(load, str(path))
    (tmp_path / "x.gz").write_bytes(gzip.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, 2**31, 2**31, 2**31)))
    assert "its header announces" in frugally_refused(read_idx, tmp_path / "x.gz")
    (tmp_path / "x.gz").write_bytes(gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, 10) + bytes(2**26)))
    assert "11 bytes follow a header that announces 10" in frugally_refused(read_idx, tmp_path / "x.gz")


def test_other_files_under_the_name_of_an_npz_file_are_one_line(tmp_path, monkeypatch):
    path, refusal = tmp_path / "mine.npz", "not an .npz file of plain arrays, or is damaged: "
    np.save(tmp_path / "one.npy", np.ones((6, 3)))
    (tmp_path / "one.npy").rename(path)
    assert refusal in refused(load, str(path))
    path.write_bytes(b"")
    assert refusal in refused(load, str(path))
    zipped(path, {"inputs": header((), "<f8") + bytes(8), "targets": header((), "<f8") + bytes(8)})
    assert "must be [n, ...], got a single number" in refused(load, str(path))
    zipped(path, {"inputs": header((6, 3)) + bytes(144)}, zipfile.ZIP_LZMA)
    assert "is not compressed as numpy does it" in refused(load, str(path))
    zipped(path, {"inputs": header((6, 3)) + bytes(144)})
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1  # encrypted
    path.write_bytes(content)
    assert "is encrypted" in refused(load, str(path))
    zipped(path, {"inputs": header((1,), "|O") + pickle.dumps(Hostile()), "targets": header((1,)) + bytes(8)})
    monkeypatch.chdir(tmp_path)
    assert "Object arrays cannot be loaded" in refused(load, str(path))
    assert not (tmp_path / "it_ran").exists()
    path.unlink()
    path.mkdir()
    assert "it is not a file" in refused(load, str(path))


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("it_ran",)


def test_bad_arrays_are_one_line():
    x, y = np.ones((6, 3)), np.arange(6) % 2
    assert "6 inputs and 5 targets; their numbers must be equal" in refused(from_arrays, x, y[:5])
    assert "the test split is empty" in refused(from_arrays, x, y, x[:0], y[:0])
    assert "a test input has shape (2,), a training input (3,)" in refused(from_arrays, x, y, x[:, :2], y)
    assert "a test target has shape (), a training target (3,)" in refused(from_arrays, x, x, x, x[:, 0])
    for strange in (x.astype(str), x.astype(object), x.astype(complex), torch.zeros(6, 3, dtype=torch.complex64)):
        assert "must be numbers" in refused(from_arrays, strange, y)
    assert "[n, 1]" in refused(from_arrays, x[:, 0], y)
    bad = x.copy()
    bad[4, 1] = np.nan
    message = "1 of the training inputs are NaN, infinite or too large for float32, the first in row 4"
    assert message in refused(from_arrays, bad, y)
    bad[4, 1] = 1e39
    assert message in refused(from_arrays, bad, y)
    assert "1 of the training targets are NaN" in refused(from_arrays, x, np.array([0, 1, 2, 3, np.inf, 5]))


def test_named_classes_are_checked():
    x, y = torch.ones(6, 3), torch.arange(6) % 2
    train, names = datasets.Split(x, y), ("oak", "elm")
    for split, message in (
        (datasets.Split(x, y - 1), "a test label is -1; classes are counted from 0"),
        (datasets.Split(x, y + 1), "a test label is 2; with 2 classes, labels run from 0 to 1"),
        (datasets.Split(x, y.float()), "classes must be integers [n], got torch.float32 (6,)"),
    ):
        assert message in refused(datasets.Dataset, train, split, names)
    assert "at least two classes" in refused(datasets.Dataset, datasets.Split(x, y * 0), None, ("oak",))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24.0).reshape(6, 4)[::-1],
        np.arange(24.0).reshape(6, 4)[:, ::-1],
        np.arange(24, dtype=np.uint8).reshape(6, 4)[:, ::-1],
        *(np.arange(24).reshape(6, 4).astype(kind) for kind in (">f8", ">f4", ">i2", ">u4", "f2", "u2", "u4", "u8")),
        np.arange(24).reshape(6, 4) % 5 > 2,
        np.arange(24).reshape(6, 4).astype(np.longdouble),
        np.broadcast_to(np.arange(4.0), (6, 4)),
        torch.arange(24).reshape(6, 4).to(torch.uint16),
        torch.arange(24).reshape(6, 4).to(torch.bfloat16),
        np.arange(24.0).reshape(6, 4).tolist(),
    ],
)
def test_numbers_of_every_kind_are_taken(array, recwarn):
    data = from_arrays(array, np.arange(6) % 2)
    assert data.train.inputs.tolist() == (array if isinstance(array, list) else array.tolist())
    assert data.train.inputs.dtype == (torch.uint8 if getattr(array, "dtype", None) == np.uint8 else torch.float32)
    assert not recwarn.list


def test_targets_of_every_kind_of_integer_are_classes():
    labels = np.array([2, 0, 1, 1, 0, 2])
    kinds = (labels[::-1], *(labels.astype(kind) for kind in (">i8", ">u2", "u1", "u2", "u4", "u8", "i1")))
    for these in (*kinds, torch.from_numpy(labels).to(torch.uint16)):
        data = from_arrays(np.zeros((6, 1)), these)
        assert data.train.targets.tolist() == these.tolist()
        assert data.train.targets.dtype == torch.int64
        assert data.classes == ("0", "1", "2")
    huge = from_arrays(np.zeros((2, 1)), np.array([1, 2**64 - 1], np.uint64))
    assert huge.train.targets.tolist() == [1, 2.0**64]


def test_float64_is_kept_where_float32_would_round():
    y = np.arange(4) % 2
    for inputs, dtype in (
        (np.array([0.5, 1, 2, 3.0]), torch.float32),
        (np.array([0.1, 1, 2, 3.0]), torch.float64),
        (np.array([1, 2, 3, 2**24]), torch.float32),
        (np.array([1, 2, 3, 2**24 + 1]), torch.float64),
    ):
        kept = from_arrays(inputs[:, None], y, inputs[:, None], inputs.astype(float)).train.inputs
        assert kept.dtype == dtype
        assert kept.flatten().tolist() == inputs.tolist()
