"""Data that are large: mapped files, folders of images, torch Datasets that are fetched ahead."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from compare import same
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from rlcore import InputError, Trainer, check_environment
from rlcore.agents.autoencoder import AutoencoderAgent
from rlcore.agents.supervised import Supervised
from rlcore.supervised import loading
from rlcore.supervised.datasets import FileOptions, from_arrays, from_torch, load
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.examples import Order
from rlcore.supervised.loading import Kept, Loaded
from rlcore.supervised.reconstruction import ReconstructionEnv
from rlcore.supervised.reports.uncertainty import measured

NAMES = ("oak", "elm", "ash")
MLP = {"network": {"name": "mlp", "hidden": [8]}}


def table(n=50, seed=0, shape=(4,), dtype=np.float32):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, *shape)) * 40 + 100).clip(0, 255).astype(dtype), np.arange(n) % 3


def tensors(n=50, seed=0, **like):
    x, y = table(n, seed, **like)
    return TensorDataset(torch.from_numpy(x), torch.from_numpy(y))


def make(data, kind=SupervisedEnv, **settings):
    return kind(kind.Settings.model_validate({"num_envs": 8, **settings}), dataset=data)


def make_trainer(data, **settings):
    env = make(data, **settings)
    torch.manual_seed(1)
    return Trainer(Supervised(env, Supervised.Settings.model_validate(MLP)), env, total_steps=10_000, seed=4)


def updated(trainer, num):
    for _ in range(num):
        trainer.update()
    return trainer


def state(trainer):
    """What a resumed run goes on with, but for the settings and the names of the classes."""
    return trainer.agent.state_dict(), trainer.collector.checkpoint()


def refused(function, *arguments, **named):
    with pytest.raises(InputError) as caught:
        function(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(autouse=True)
def _no_process_is_left():
    before = set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) <= before


class Drawn(torch.utils.data.Dataset):
    """Examples with noise from each of the generators that a transform may use; the first number is the row."""

    classes = NAMES

    def __len__(self):
        return 50

    def __getitem__(self, row):
        noise = [random.random(), np.random.random(), torch.rand(()).item()]  # noqa: NPY002
        return torch.tensor([row, *noise]), row % 3


# Order


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("part", [slice(None), slice(4, 8)])
def test_what_comes_ahead_is_what_comes(shuffle, part):
    order = Order(50, 8, part, shuffle, torch.device("cpu"))
    order.generator.manual_seed(3)
    order.begin_epoch()
    for _ in range(9):  # into the second epoch
        order.next()
    ahead, seeds = order.ahead(), []
    for _ in range(20):
        rows, seed = next(ahead).T
        assert torch.equal(rows, order.next())
        seeds += seed.tolist()
    assert len(dict.fromkeys(seeds)) == 4  # epochs
    assert seeds == sorted(seeds, key=list(dict.fromkeys(seeds)).index)


# torch Datasets


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("like", "settings"), [({}, {"scaling": "standard"}), ({"shape": (6, 5, 3), "dtype": np.uint8}, {})]
)
def test_a_torch_dataset_is_learned_from_as_the_same_data_in_memory(workers, like, settings):
    test = table(20, 1, **like)
    fetched = from_torch(tensors(**like), tensors(20, 1, **like), NAMES, workers)
    held = from_arrays(*table(**like), *test)
    trainer, other = updated(make_trainer(fetched, **settings), 15), updated(make_trainer(held, **settings), 15)
    same(state(trainer), state(other))
    report, expected = trainer.evaluate(), other.evaluate()
    assert report.columns == expected.columns
    assert report.scalars["accuracy"] == expected.scalars["accuracy"]
    same(state(updated(trainer, 3)), state(updated(other, 3)))
    trainer.close()


def test_standard_has_the_statistics_of_the_data_in_memory_whatever_the_pieces(monkeypatch):
    (x, y), test = table(), tensors(20, 1)
    whole = make(from_arrays(x, y, x, y), scaling="standard").single_observation_space
    std, mean = torch.std_mean(torch.from_numpy(x).double(), 0, correction=0)
    assert (whole.shift.tolist(), whole.scale.tolist()) == (mean.tolist(), std.tolist())
    monkeypatch.setattr(loading, "PIECE", 4 * 7)
    held = make(from_arrays(x, y, x, y), scaling="standard").single_observation_space
    env = make(from_torch(tensors(), test, NAMES, 2), scaling="standard")
    space = env.single_observation_space
    assert np.array_equal(space.shift, held.shift)
    assert np.array_equal(space.scale, held.scale)
    np.testing.assert_allclose(held.scale, whole.scale, rtol=1e-14)
    env.close()


def test_a_run_is_the_same_with_any_number_of_workers_and_after_a_resume():
    """N + M = N bit for bit, with random transforms."""
    ends = []
    for workers, resumed_with in ((0, 0), (2, 2), (0, 2), (2, 0)):
        first = updated(make_trainer(from_torch(Drawn(), workers=workers)), 9)
        rest = make_trainer(from_torch(Drawn(), workers=resumed_with))
        rest.restore(first.checkpoint())
        same(updated(first, 9).checkpoint(), updated(rest, 9).checkpoint())
        ends += [first, rest]
        assert first.evaluate().scalars == rest.evaluate().scalars
    for trainer in ends:
        same(state(trainer), state(ends[0]))
        trainer.close()


@pytest.mark.parametrize("shuffle", [True, False])
def test_what_is_drawn_follows_from_seed_epoch_and_example(shuffle):
    def epochs(seed, batch, num=3):
        env = make(from_torch(Drawn(), workers=0), num_envs=batch, shuffle=shuffle, test_fraction=0)
        obs, _ = env.reset(seed=seed)
        seen = []
        while len(seen) < num * 50:
            seen += obs.tolist()
            obs, *_ = env.step(torch.zeros(batch, 3))
        return [{row[0]: row[1:] for row in seen[k * 50 : (k + 1) * 50]} for k in range(num)]

    found = epochs(1, 8)
    assert found == epochs(1, 25)
    numbers = [noise for epoch in found + epochs(2, 8) for noises in epoch.values() for noise in noises]
    assert len(set(numbers)) == len(numbers)


def test_global_generators_are_left_alone():
    for workers in (0, 2):
        env = make(from_torch(Drawn(), workers=workers))
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        env.reset(seed=1)
        env.step(torch.zeros(8, 3))
        assert torch.equal(states[0], torch.get_rng_state())
        assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
        env.close()


def test_evaluation_shows_the_examples_in_order_and_learns_their_targets(monkeypatch):
    env = make(from_torch(tensors(), tensors(21, 1), NAMES, 2), num_envs=4)
    twin = env.evaluation(1)
    x, y = table(21, 1)
    monkeypatch.setattr(twin, "num_envs", 4)
    shown = [twin.inputs(rows) for rows in twin.examples.in_order(4)]
    assert torch.equal(torch.cat(shown), torch.from_numpy(x))
    monkeypatch.setattr(Loaded, "fetch", None)  # no second pass
    assert twin.targets.tolist() == y.tolist()
    assert not multiprocessing.active_children()


def test_targets_that_come_with_inputs_are_passed_through_once_when_all_are_asked_for():
    env = make(from_torch(tensors(), None, NAMES, 0), test_fraction=0.2, validation_fraction=0.25)
    sizes = [len(split.targets) for split in (env.dataset.train, env.dataset.validation, env.dataset.test)]
    assert sizes == [30, 10, 10]
    rows = torch.cat([env.dataset.train.inputs.rows, env.dataset.validation.inputs.rows, env.dataset.test.inputs.rows])
    assert sorted(rows.tolist()) == list(range(50))
    twin = env.test(1)
    assert twin.targets.tolist() == (twin.dataset.test.inputs.rows % 3).tolist()
    agent = Supervised(env, Supervised.Settings.model_validate(MLP))
    with torch.no_grad():
        found = measured(twin, agent.eval().answers).scalars
    assert found["temperature"] > 0
    assert found["accuracy"] == twin.score(agent, 1, 1).scalars["accuracy"]


def test_numbers_and_outcomes_for_targets():
    x, _ = table()
    target = x[:, :1] / 255
    pairs = TensorDataset(torch.from_numpy(x), torch.from_numpy(target))
    for action in ("values", "log_odds"):
        trainer = updated(make_trainer(from_torch(pairs, pairs, workers=0), action=action), 5)
        other = updated(make_trainer(from_arrays(x, target, x, target), action=action), 5)
        same(state(trainer), state(other))
        assert trainer.evaluate().scalars == pytest.approx(other.evaluate().scalars)
    wrong = TensorDataset(torch.from_numpy(x), 2 + torch.from_numpy(target))
    env = make(from_torch(wrong, wrong, workers=0), action="log_odds")
    assert "log_odds needs targets in [0, 1]" in refused(env.reset)


def test_an_autoencoder_reproduces_what_is_fetched():
    x, y = table(50, 0, shape=(1, 4, 4), dtype=np.uint8)
    ends = []
    for dataset in (from_torch(tensors(shape=(1, 4, 4), dtype=np.uint8), None, NAMES, 0), from_arrays(x, y)):
        env = make(dataset, ReconstructionEnv, test_fraction=0)
        torch.manual_seed(1)
        agent = AutoencoderAgent(env, AutoencoderAgent.Settings())
        trainer = updated(Trainer(agent, env, total_steps=10_000), 9)
        ends.append((trainer.agent.state_dict(), env.mean_input(), trainer.evaluate().scalars))
    same(ends[0], ends[1])


def test_the_contract_of_environments_is_kept():
    env = make(from_torch(tensors(), None, NAMES, 2))
    check_environment(env)
    env.close()


def test_a_dataloader_gives_its_dataset_workers_and_collation():
    started = multiprocessing.get_context("fork").Value("i", 0)

    def start(number):
        started.value += 1 + number

    def doubled(examples):
        x, y = torch.utils.data.default_collate(examples)
        return 2 * x, y

    loader = DataLoader(
        tensors(), 5, shuffle=True, num_workers=2, collate_fn=doubled, prefetch_factor=3, worker_init_fn=start
    )
    dataset = from_torch(loader, classes=NAMES)
    recipe = dataset.train.inputs.recipe
    assert (recipe.workers, recipe.prefetch_factor) == (2, 3)
    env = make(dataset, shuffle=False, test_fraction=0)
    assert torch.equal(env.reset(seed=1)[0], 2 * torch.from_numpy(table()[0][:8]))
    env.close()
    assert started.value == 3


def test_torch_datasets_that_cannot_be_resumed_or_do_not_fit_are_one_line():
    class Endless(IterableDataset):
        def __iter__(self):
            yield from tensors()

    weighted = DataLoader(tensors(), sampler=WeightedRandomSampler([1.0] * 50, 50))
    batches = DataLoader(tensors(), batch_sampler=Sampled(range(50), 5, False))
    for given, message in (
        (weighted, "has the sampler WeightedRandomSampler, but the environment decides the order"),
        (batches, "has the sampler Sampled"),
        (Endless(), "must be a map-style Dataset"),
        (DataLoader(Endless()), "must be a map-style Dataset"),
        (Subset(tensors(), []), "the data set is empty"),
        (["a", "b"], "must be a pair"),
        ([("a", 1), ("b", 1)], "must become tensors of numbers, got tuple"),
        (tensors(), "targets are integers; name their classes"),
    ):
        assert message in refused(from_torch, given, workers=0)
    names = tensors()
    names.classes = list(NAMES)
    assert from_torch(names, workers=0).classes == NAMES


class Sampled(BatchSampler):
    pass


class Broken(torch.utils.data.Dataset):
    """One example is not as the others."""

    def __init__(self, wrong):
        self.wrong = wrong

    def __len__(self):
        return 16

    def __getitem__(self, row):
        if row == 11 and callable(self.wrong):
            return self.wrong()
        return (torch.zeros(2), row % 3) if row != 11 else self.wrong


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: 1 / 0, "example 11 cannot be loaded: ZeroDivisionError: division by zero"),
        ((torch.zeros(3), 0), "examples 8, 9, 10, 11, 12, ... are no batch: "),
        ((torch.full((2,), torch.nan), 0), "inputs of examples 8, 9, 10, 11, 12, ... are NaN"),
        ((torch.zeros(2), 3), "a label among examples 8, 9, 10, 11, 12, ... is 3; with 3 classes"),
        ((torch.zeros(2), -1), "is -1; with 3 classes"),
    ],
)
def test_a_wrong_example_is_one_line(wrong, message, workers):
    env = make(from_torch(Broken(wrong), None, NAMES, workers), shuffle=False, test_fraction=0)
    env.reset(seed=1)
    assert message in refused(env.step, torch.zeros(8, 3))
    env.close()


def test_a_worker_that_dies_is_one_line(monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    env = make(from_torch(Broken(killed), None, NAMES, 1), shuffle=False, test_fraction=0)

    def shown():
        env.reset(seed=1)
        time.sleep(0.3)  # nothing is raised until the batch is needed
        env.step(torch.zeros(8, 3))

    assert "a process that loads examples has ended" in refused(shown)
    env.close()


@pytest.mark.parametrize("error", [ConnectionResetError, EOFError, FileNotFoundError])
def test_a_worker_that_dies_as_it_passes_a_batch_on_is_one_line(monkeypatch, error):
    def broken(self, *args, **kwargs):
        raise error

    env = make(from_torch(tensors(), None, NAMES, 1), shuffle=False, test_fraction=0)
    env.reset(seed=1)
    monkeypatch.setattr("torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data", broken)
    assert "a process that loads examples has ended" in refused(lambda: updated_env(env))
    env.close()


def updated_env(env):
    for _ in range(9):  # past what was fetched ahead
        env.step(torch.zeros(8, 3))


# Files of arrays


KINDS = {
    "bytes": {"dtype": np.uint8, "shape": (6, 5, 3)},
    "float32": {},
    "float16": {"dtype": np.float16},
    "float64": {"dtype": np.float64},
    "integers": {"dtype": np.int32},
    "big-endian": {"dtype": ">f4"},
}


def written(tmp_path, form, inputs, targets, **more):
    """The name of a file, or of a folder."""
    arrays = {"inputs": inputs, "targets": targets, **more}
    if form == "npz":
        np.savez(tmp_path / "x.npz", **arrays)
        return str(tmp_path / "x.npz")
    (tmp_path / "folder").mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(tmp_path / "folder" / f"{name}.npy", array)
    return f"{tmp_path / 'folder'}/"


@pytest.mark.parametrize("form", ["npz", "npy"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mapped_file_is_learned_from_as_one_in_memory(tmp_path, form, kind, recwarn):
    x, y = table(**KINDS[kind])
    ends = []
    for in_memory, more in ((False, {}), (True, {}), (False, {"test_inputs": x, "test_targets": y})):
        path = written(tmp_path, form, np.asfortranarray(x) if more else x, y, **more)
        for scaling in ("unit", "standard"):
            trainer = make_trainer(None, dataset=path, in_memory=in_memory, scaling=scaling)
            dataset = trainer.env.dataset
            assert all(isinstance(split.inputs, Kept) != in_memory for split in (dataset.train, dataset.test))
            assert dataset.train.inputs.dtype == (torch.uint8 if kind == "bytes" else trainer.env.reset()[0].dtype)
            updated(trainer, 9)
            ends.append((state(trainer), trainer.evaluate().scalars))
    same(ends[:2], ends[2:4])
    assert not recwarn.list


def test_large_arrays_in_memory_are_not_copied_when_a_split_is_drawn(monkeypatch):
    x, y = table(shape=(6, 5, 3), dtype=np.uint8)
    held = make(from_arrays(x, y), validation_fraction=0.2)
    monkeypatch.setattr(loading, "LARGE", 0)
    env = make(from_arrays(x, y), validation_fraction=0.2)
    for split, expected in zip(
        (env.dataset.train, env.dataset.validation, env.dataset.test),
        (held.dataset.train, held.dataset.validation, held.dataset.test),
        strict=True,
    ):
        assert np.shares_memory(split.inputs.array, x)
        assert torch.equal(split.inputs[:], expected.inputs)
        assert torch.equal(split.targets, expected.targets)
    chosen = make(from_arrays(x, y), classes=["2", "0"]).dataset
    assert np.shares_memory(chosen.foreign.array, x)
    assert set((chosen.foreign.rows % 3).tolist()) == {1}


def test_the_users_own_memory_map_is_kept(tmp_path):
    x, y = table()
    np.save(tmp_path / "x.npy", x)
    for mode in ("r", "c"):
        mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
        if mode == "c":
            mapped[0] = 7
            x[0] = 7
        env = make(from_arrays(mapped, y), scaling="standard", test_fraction=0, shuffle=False)
        assert isinstance(env.dataset.train.inputs, Kept)
        assert env.inputs(slice(None)).tolist() == x.tolist()


def test_numbers_that_are_not_finite_are_found_in_a_mapped_file(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "PIECE", 4 * 7)
    x, y = table(dtype=np.float64)
    for bad in (np.nan, np.inf, 1e39):
        x[[30, 41], 2] = bad
        message = refused(load, written(tmp_path, "npz", x, y), options=FileOptions(in_memory=False))
        assert "2 of the training inputs are NaN, infinite or too large for float32, the first in row 30" in message


def test_damaged_files_are_refused_when_they_are_mapped(tmp_path):
    x, y = table()
    options = FileOptions(in_memory=False)
    path = written(tmp_path, "npz", x, y)
    content = bytearray(Path(path).read_bytes())
    at = bytes(content).index(x.tobytes()[:64])
    content[at + 40] ^= 1
    with open(path, "wb") as file:
        file.write(content)
    assert "Bad CRC-32" in refused(load, path, options=options)
    path = written(tmp_path, "npy", x, y)
    file = tmp_path / "folder" / "inputs.npy"
    whole = file.read_bytes()
    for damaged in (whole[:-5], whole + b"x", whole[:50], b"", b"\x93NUMPY" + whole[7:]):
        file.write_bytes(damaged)
        assert "is not a folder of .npy files, or is damaged" in refused(load, path, options=options)
    np.save(file, np.array([{}] * 50), allow_pickle=True)
    assert "Object arrays cannot be loaded" in refused(load, path, options=options)
    file.unlink()
    (tmp_path / "folder" / "inputs.npy").mkdir()
    assert "is not a folder of .npy files" in refused(load, path, options=options)
    assert "there is no file" in refused(load, f"{tmp_path}/none/")


MEMORY = """
    import re, resource, sys
    import torch
    from rlcore.supervised.environment import SupervisedEnv

    def data():
        return int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

    SupervisedEnv(SupervisedEnv.Settings(dataset="iris", num_envs=8)).reset(seed=1)
    limit = data() + {limit}
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    env = SupervisedEnv(SupervisedEnv.Settings(dataset={path!r}, num_envs=8, in_memory={in_memory}))
    env.reset(seed=1)
    for _ in range(5):
        env.step(torch.zeros(8, 3))
    env.evaluation(1).inputs(slice(0, 8))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
@pytest.mark.parametrize("form", ["npz", "npy"])
def test_a_large_file_takes_no_memory_of_its_size(tmp_path, form):
    """Half of the file's size is all there is."""
    x = np.zeros((90 * 2**10, 2**10), np.uint8)
    path = written(tmp_path, form, x, np.arange(len(x)) % 3)

    def ended(in_memory):
        program = textwrap.dedent(MEMORY).format(limit=x.nbytes // 2, path=path, in_memory=in_memory)
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    found = ended(None)
    assert found.returncode == 0, found.stderr
    if form == "npy":  # it is the limit that decides
        assert ended(True).returncode != 0


# Folders of images


def photos(folder, names=("b", "a", "c"), n=6, shape=(5, 7, 3), seed=0, suffix=".png"):
    """Images [n, *shape] by class."""
    images = {}
    for k, name in enumerate(names):
        rng = np.random.default_rng(10 * seed + k)
        images[name] = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        (folder / name).mkdir(parents=True)
        for i, pixels in enumerate(images[name]):
            Image.fromarray(pixels).save(folder / name / f"{i:03}{suffix}")
    return images


@pytest.mark.parametrize("options", [FileOptions(), FileOptions(False, 0), FileOptions(False, 2)])
@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7)])
def test_a_folder_of_images_is_a_data_set(tmp_path, options, shape):
    images = photos(tmp_path, shape=shape)
    (tmp_path / "a" / ".hidden").write_text("")
    dataset = load(f"{tmp_path}/", options=options)
    assert dataset.classes == ("a", "b", "c")
    assert dataset.train.targets.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert isinstance(dataset.train.inputs, torch.Tensor) == (options.in_memory is None)
    expected = torch.from_numpy(np.concatenate([images[name] for name in dataset.classes]))
    expected = expected.unsqueeze(1) if len(shape) == 2 else expected.movedim(-1, 1)
    assert torch.equal(dataset.train.inputs[:], expected)
    assert dataset.train.inputs.dtype == torch.uint8


def test_images_are_learned_from_as_arrays_are_in_memory_or_not(tmp_path):
    for split, seed in (("train", 1), ("test", 2), ("val", 3)):
        photos(tmp_path / split, seed=seed, n=6 if split == "train" else 2)
    ends = []
    for settings in ({}, {"in_memory": False, "workers": 0}, {"in_memory": False, "workers": 2}):
        trainer = make_trainer(None, dataset=f"{tmp_path}/", scaling="standard", **settings)
        dataset = trainer.env.dataset
        assert [len(x.targets) for x in (dataset.train, dataset.test, dataset.validation)] == [18, 6, 6]
        updated(trainer, 9)
        ends.append((state(trainer), trainer.evaluate().scalars))
        trainer.close()
    same(ends[0], ends[1])
    same(ends[0], ends[2])


def test_images_are_resized_and_their_colours_set(tmp_path):
    images = photos(tmp_path, shape=(8, 6, 3))
    Image.fromarray(images["a"][0, :4, :, 0]).save(tmp_path / "b" / "000.png")  # grey, of half the height
    path = f"{tmp_path}/"
    shapes = {
        (3, 4, 5): FileOptions(image_size=(4, 5)),
        (1, 4, 5): FileOptions(image_size=(4, 5), image_mode="grey"),
    }
    for shape, options in shapes.items():
        assert load(path, options=options).train.inputs.shape == (18, *shape)
    assert "b/000.png has 4 x 6 pixels, the first image 8 x 6; set env.image_size=[8,6]" in refused(load, path)
    settings = SupervisedEnv.Settings.model_validate({"dataset": path, "image_size": (4, 5), "num_envs": 4})
    assert SupervisedEnv(settings).single_observation_space.shape == (3, 4, 5)


def test_a_photo_is_upright(tmp_path):
    photos(tmp_path, shape=(5, 4))
    pixels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees, clockwise
    Image.fromarray(pixels).save(tmp_path / "a" / "000.png", exif=exif)
    assert load(f"{tmp_path}/").train.inputs[0, 0].tolist() == np.rot90(pixels, -1).tolist()


def test_wrong_folders_are_one_line(tmp_path):
    def told(folder, **options):
        return refused(load, f"{folder}/", options=FileOptions(**options))

    (tmp_path / "none").mkdir()
    assert "none has no images; expected" in told(tmp_path / "none")
    folder = tmp_path / "some"
    photos(folder)
    (folder / "empty").mkdir()
    assert "some/empty has no images" in told(folder)
    (folder / "empty").rmdir()
    (folder / "loose.png").write_bytes(b"")
    assert "some/loose.png is not in the folder of a class" in told(folder)
    (folder / "loose.png").rename(folder / "c" / "notes.txt")
    assert "some/c/notes.txt is not an image; expected .png" in told(folder)
    (folder / "c" / "notes.txt").unlink()
    whole = (folder / "a" / "003.png").read_bytes()
    for content in (b"", b"junk", whole[:60], whole[:-30], b"GIF89a" + whole):
        (folder / "a" / "003.png").write_bytes(content)
        assert "some/a/003.png cannot be read as an image: " in told(folder, workers=0)
        assert "some/a/003.png cannot be read as an image: " in told(folder, workers=2)
    Image.fromarray(np.zeros((5, 4), np.uint16)).save(folder / "a" / "003.png")
    assert "003.png has pixels of the mode I;16; expected eight bits a channel" in told(folder)
    (folder / "a" / "003.png").write_bytes(whole)
    (folder / "train").mkdir()
    (folder / "a").rename(folder / "train" / "a")
    assert "some/train/a is a folder in that of a class" in told(folder)
    split = tmp_path / "split"
    photos(split / "train", shape=(5, 4))
    photos(split / "test", ("a", "d"), shape=(5, 4))
    assert "split/test has the class d" in told(split)
    Image.fromarray(np.zeros((5, 4, 3), np.uint8)).save(split / "train" / "b" / "002.png")
    (split / "test" / "d").rename(split / "test" / "b")
    assert "train/b/002.png has colours, the first image has none; set env.image_mode" in told(split)


def test_an_image_that_grows_is_refused(tmp_path, monkeypatch):
    photos(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 19)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "a/000.png cannot be read as an image: Image size (35 pixels) exceeds" in refused(load, f"{tmp_path}/")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr("rlcore.memory.physical_memory", lambda: 1000)
    message = refused(load, f"{tmp_path}/", options=FileOptions(in_memory=True))
    assert "decoded, takes 1.76e-06 GiB of memory" in message


def test_a_signal_to_the_whole_group_ends_a_run_of_images_in_order(tmp_path):
    """The workers leave it to the main process, which finishes its update, saves, and ends them."""
    photos(tmp_path / "photos")
    (tmp_path / "mine.yaml").write_text(
        "env: {name: supervised, dataset: photos/, num_envs: 4, in_memory: false, workers: 2}\n"
        "agent: {name: supervised, network: {name: mlp, hidden: [4]}}\n"
        "trainer: {total_steps: 10_000_000, eval_every: null, log_every: 100}\n"
    )
    command = [sys.executable, "-m", "rlcore", "train", "mine.yaml", "--run-dir", "run"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    events = tmp_path / "run" / "progress.csv"
    for _ in range(300):
        if list((tmp_path / "run").glob("events*")) or events.exists():
            break
        time.sleep(0.1)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert "Traceback" not in output
    assert process.returncode == 130
    assert (tmp_path / "run" / "checkpoints" / "last.pt").is_file()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_program_that_closes_nothing_ends():
    program = """
        import torch
        from rlcore.supervised.datasets import from_torch
        from rlcore.supervised.environment import SupervisedEnv

        pairs = torch.utils.data.TensorDataset(torch.zeros(90, 2), torch.arange(90) % 3)
        env = SupervisedEnv(SupervisedEnv.Settings(num_envs=4), dataset=from_torch(pairs, None, ["a", "b", "c"], 2))
        env.reset(seed=1)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
