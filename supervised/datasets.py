"""Data sets: the shipped ones, and the user's own arrays.

A data set is registered by an entry point in the group ``rlcore.datasets``, or by ``registry.datasets.register(name)``,
as a function ``(data_dir, seed) -> Dataset``.
"""

import gzip
import hashlib
import logging
import math
import os
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from rlcore import registry
from rlcore.errors import InputError, one_line
from rlcore.memory import physical_memory, require_memory
from rlcore.supervised import images
from rlcore.supervised.loading import LARGE, Kept, Loaded, Recipe, Source, gathered, pieces, taken

MNIST_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""By name, the SHA-256 of the decompressed content."""

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
DOWNLOAD_TIMEOUT = 20  # seconds
ABANDONED = 3600  # seconds

MOST_INFLATED = 1032
"""Bytes that one compressed byte becomes, at most (deflate, RFC 1951: 258 bytes of two bits)."""
READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""By the version of an .npy file."""

PARTS = "", "test_", "validation_"
"""What the names of a split's arrays begin with; training has none."""
ARRAYS = tuple(f"{part}{kind}" for part in PARTS for kind in ("inputs", "targets"))
"""What an .npz file, or a folder of .npy files, holds: those of training, and of the other splits that there are."""
READ_AT_ONCE = 2**20
"""Bytes."""

IDX_UINT8 = 8
"""The third byte of an IDX file of bytes."""
MOST_NAMED = 5
"""Classes that a message names, at most."""
MOST_SIZES = 32
"""Dimensions of an IDX file, at most; numpy has no more."""


class Split(NamedTuple):
    """Examples: inputs and their targets, in memory or to be read by rows."""

    inputs: Tensor | Source  # [n, *shape] uint8 (images, 0 to 255) or float32; float64 where float32 would round
    targets: Tensor | Source  # [n] int64 classes; or numbers [n] or [n, *D], int64, float32, or float64 as for inputs


class FileOptions(NamedTuple):
    """How files of data are read; see the settings of `rlcore.supervised.environment.SupervisedEnv`."""

    in_memory: bool | None = None
    workers: int = 0
    image_size: tuple[int, int] | None = None
    image_mode: images.Mode | None = None


@dataclass(frozen=True)
class Dataset:
    """Examples for training, and others for evaluation.

    Raises:
        InputError: a split is empty, or its parts do not match each other or the other split.
    """

    train: Split
    test: Split | None
    """None if it has no test split of its own."""
    classes: tuple[str, ...] | None
    """Their names; None if the targets are numbers."""
    validation: Split | None = None
    """Examples held out from training, to fit what is not learned, such as a temperature."""
    foreign: Tensor | Source | None = None
    """Inputs [n, *shape] of classes that were left out, which have no right answer."""
    counted: bool = False
    """Whether the classes were only counted: targets are integers, which may as well be numbers."""
    why_numbers: str = ""
    """Why targets that are integers cannot be classes, for the message of what needs classes."""
    target_names: tuple[str, ...] | None = None
    """The names of several numbers that are one target, in order; None if they have none."""

    def __post_init__(self) -> None:
        for name, split in (("training", self.train), ("test", self.test), ("validation", self.validation)):
            if split is not None:
                _check(name, split, self.classes)
        for name, split in (("test", self.test), ("validation", self.validation)):
            for part, held, shown in zip(("input", "target"), split or (), self.train, strict=False):
                if held.shape[1:] != shown.shape[1:]:
                    shapes = f"{tuple(held.shape[1:])}, a training {part} {tuple(shown.shape[1:])}"
                    raise InputError(f"a {name} {part} has shape {shapes}; they must be equal")


def is_path(name: str) -> bool:
    """Whether a data set is named by the path of a file or folder."""
    return name.endswith(".npz") or "/" in name or os.sep in name


def load(name: str, data_dir: str | Path | None = None, seed: int = 1, options: FileOptions | None = None) -> Dataset:
    """A data set by name, or from files.

    Args:
        name: a registered name; or the path of an ``.npz`` file with ``inputs`` and ``targets``, and perhaps
            ``test_inputs`` and ``test_targets``, ``validation_inputs`` and ``validation_targets`` (see `from_arrays`),
            or of a folder, ending in ``/``, with these as ``.npy`` files, or with images (see `from_images`).
        data_dir: where its files are; None looks in the usual places.
        seed: of data that are generated.
        options: how files are read.

    Raises:
        InputError: it is unknown, missing or damaged.
    """
    if not is_path(name):
        dataset: Dataset = registry.datasets[name](None if data_dir is None else Path(data_dir), seed)
        return dataset
    path, options = Path(name), options or FileOptions()
    is_folder = path.is_dir() and path.suffix != ".npz"
    if is_folder and not (path / "inputs.npy").exists():
        return from_images(path, options)
    try:
        arrays = _read_folder(path, options) if is_folder else read_npz(path, options)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"env.dataset: there is no file {name}") from None
    except Exception as error:  # reading damaged bytes may raise anything
        what = "a folder of .npy files" if is_folder else "an .npz file of plain arrays"
        message = f"{name} is not {what}, or is damaged: {one_line(error)}"
        raise InputError(f"env.dataset: {message}") from None
    in_pairs = all((f"{part}inputs" in arrays) == (f"{part}targets" in arrays) for part in PARTS)
    if not {"inputs", "targets"} <= arrays.keys() <= set(ARRAYS) or not in_pairs:
        held = one_line(", ".join(arrays) or "nothing")
        raise InputError(f"env.dataset: {name} holds {held}; expected {', '.join(ARRAYS)}")
    try:
        return from_arrays(**arrays)
    except InputError as error:
        raise InputError(f"env.dataset: {name}: {error}") from None


def from_arrays(
    inputs: Any,
    targets: Any,
    test_inputs: Any = None,
    test_targets: Any = None,
    validation_inputs: Any = None,
    validation_targets: Any = None,
) -> Dataset:
    """The user's own arrays or tensors as a data set.

    Args:
        inputs: [n, *shape]; uint8 is kept, other numbers become float32, or float64 where float32 would round. What is
            mapped from a file (``np.load(path, mmap_mode="r")``) is not copied.
        targets: [n] integers are classes, 0 to K - 1, with K <= n taken from training; where the answers are numbers
            (``env.action=values``) they are numbers, as are floats [n] or [n, *D] and integers that cannot be classes.
        test_inputs: as ``inputs``; None: no test split.
        test_targets: as ``targets``.
        validation_inputs: as ``inputs``, by which training is judged; None: no validation split of its own.
        validation_targets: as ``targets``.

    Raises:
        InputError: an array does not hold real numbers; or see `Dataset`.
    """
    labels = _targets(targets)
    train = Split(_inputs(inputs), labels)
    given = {"test": (test_inputs, test_targets), "validation": (validation_inputs, validation_targets)}
    held = {name: Split(_inputs(x), _targets(y)) for name, (x, y) in given.items() if x is not None or y is not None}
    if labels.is_floating_point():
        return Dataset(train, held.get("test"), None, held.get("validation"))
    num_classes, num = 1 + int(labels.max()) if labels.numel() else 0, len(labels)
    why_numbers = _not_classes("training", labels, num_classes)
    if num_classes > num:
        why_numbers = f"labels from 0 to {num_classes - 1:,} are more classes than the {num:,} training examples"
    for name, split in held.items():
        why_numbers = why_numbers or _not_classes(name, gathered(split.targets), num_classes)
    names = None if why_numbers else tuple(map(str, range(num_classes)))
    return Dataset(
        train, held.get("test"), names, held.get("validation"), counted=not why_numbers, why_numbers=why_numbers
    )


def from_torch(
    train: Any,
    test: Any = None,
    classes: Sequence[str] | None = None,
    workers: int | None = None,
    validation: Any = None,
) -> Dataset:
    """Examples of torch Datasets, each made when it is shown.

    They are shown in the environment's own order, in batches of its ``num_envs``, and fetched ahead by processes. What
    a Dataset draws at random, such as a transform of an image, follows from the seed, the epoch and the example.

    Args:
        train: a map-style Dataset of pairs, of inputs and their target: arrays, tensors or numbers, all of one shape.
            uint8 is kept, other inputs become float32. Integers are classes, other targets float32. Or a DataLoader of
            one: its dataset, ``collate_fn``, ``num_workers``, ``prefetch_factor``, ``worker_init_fn`` and
            ``multiprocessing_context`` are taken.
        test: the same, for evaluation; None holds out a part of ``train``.
        classes: their names; None: ``train.classes``, if it has them.
        workers: processes that fetch; 0: the main one. None: those of the DataLoader, or 2.
        validation: as ``test``, by which training is judged; None: no validation split of its own.

    Raises:
        InputError: it is not such a Dataset, or a sampler decides what it shows.
    """
    parts = {"train": train, "test": test, "validation": validation}
    recipes = {name: _recipe(name, given, workers) for name, given in parts.items() if given is not None}
    if classes is None and isinstance(names := getattr(recipes["train"].dataset, "classes", None), (list, tuple)):
        classes = tuple(map(str, names))
    splits = {}
    for name, recipe in recipes.items():
        examples = Loaded(recipe)
        is_class = examples.targets.dtype == torch.int64 and examples.targets.ndim == 1
        if is_class and classes is None:
            raise InputError("from_torch: targets are integers; name their classes=[...], or make numbers floats")
        if is_class and classes is not None:
            examples = Loaded(replace(recipe, num_classes=len(classes)))
        splits[name] = Split(examples, examples.targets)
    names = None if classes is None or splits["train"].targets.dtype != torch.int64 else tuple(classes)
    return Dataset(splits["train"], splits.get("test"), names, splits.get("validation"))


def from_images(folder: Path, options: FileOptions | None = None) -> Dataset:
    """Images in a folder for each class: ``<class>/*.png``.

    Or ``train/<class>/``, ``test/<class>/`` and ``validation/<class>/`` (or ``val``), of which ``train`` must be there.
    They are decoded once, into bytes [n, C, H, W]; if these take more than half of the memory, each is decoded when it
    is shown.

    Args:
        folder: of the images.
        options: how they are read.

    Raises:
        InputError: there is none, or one is not as the others.
    """
    options = options or FileOptions()
    found = images.find(folder)
    classes = tuple(found["train"])
    paths = {name: [path for some in split.values() for path in some] for name, split in found.items()}
    sources = {}
    for name, some in paths.items():
        files = images.ImageFiles(some, paths["train"][0], options.image_size, options.image_mode)
        sources[name] = Loaded(Recipe(files, has_targets=False, workers=options.workers))
    num_bytes = sum(math.prod(source.shape) for source in sources.values())
    in_memory = 2 * num_bytes <= physical_memory() if options.in_memory is None else options.in_memory
    if in_memory:
        require_memory(num_bytes, f"env.dataset: {folder}, decoded,")
    splits = {}
    for name, source in sources.items():
        counts = torch.tensor([len(found[name].get(known, ())) for known in classes])
        labels = torch.arange(len(classes)).repeat_interleave(counts)
        splits[name] = Split(gathered(source) if in_memory else source, labels)
    return Dataset(splits["train"], splits.get("test"), classes, splits.get("validation"))


def hold_out(split: Split, share: float, by_class: bool, seed: int) -> tuple[Split, Split]:
    """Holds out a share of the examples, drawn at random; returns the rest, then these, in random order.

    Either may be empty. Inputs that are large are not copied.

    Args:
        split: the examples.
        share: to hold out, [0, 1).
        by_class: draw the same share of each class, but never all examples of one, if the
            targets are known before they are shown.
        seed: of the draw.
    """
    places = torch.arange(len(split.targets) + 1, dtype=torch.float64)
    return _without(split, (places * share).floor().diff() > 0, by_class, seed)  # every (1 / share)-th


def fold(split: Split, num_folds: int, index: int, by_class: bool, seed: int) -> tuple[Split, Split]:
    """As `hold_out`, but one of several parts of the same draw, which together are all of the examples.

    Args:
        split: the examples.
        num_folds: K, into how many parts they are divided.
        index: of the part held out, 0 to K - 1.
        by_class: divide each class alike; an only example of a class is never held out.
        seed: of the draw.
    """
    return _without(split, torch.arange(len(split.targets)) % num_folds == index, by_class, seed)


def _without(split: Split, held: Tensor, by_class: bool, seed: int) -> tuple[Split, Split]:
    """The rest, and the examples at the places ``held`` [n] bool of a random order, which is sorted by class if asked.

    Of a class, one example at least is left.
    """
    targets = split.targets
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(targets), generator=generator)
    if by_class and isinstance(targets, Tensor):
        order = order[targets[order].argsort(stable=True)]
        num, firsts = torch.unique_consecutive(targets[order], return_counts=True)[1], held.new_zeros(len(held))
        firsts[num.cumsum(0) - num] = True
        is_whole = torch.stack([part.all() for part in held.split(num.tolist())]).repeat_interleave(num)
        held = held & ~(firsts & is_whole)
    drawn = order[held]
    drawn = drawn[torch.randperm(len(drawn), generator=generator)]  # reports show the first ones, of any class
    return _rows(split, order[~held]), _rows(split, drawn)


def lacking(dataset: Dataset) -> list[str]:
    """A line for each split in which classes have no example, with their names."""
    found = []
    splits = {"training": dataset.train, "validation": dataset.validation, "test": dataset.test}
    for name, split in splits.items():
        if split is None or dataset.classes is None or not isinstance(split.targets, Tensor):
            continue
        counts = torch.bincount(split.targets, minlength=len(dataset.classes)).tolist()
        if missing := [known for known, num in zip(dataset.classes, counts, strict=True) if not num]:
            more = f" and {len(missing) - MOST_NAMED:,} more" if len(missing) > MOST_NAMED else ""
            begins = name == "training" and dataset.counted and missing[0] == "0"
            hint = "; labels are counted from 0, so subtract 1 from labels that begin at 1" if begins else ""
            found.append(f"the {name} split has no example of {', '.join(missing[:MOST_NAMED])}{more}{hint}")
    return found


def class_weights(dataset: Dataset, given: Literal["balanced"] | Mapping[str, float]) -> Tensor:
    """How much an example of each class counts, with a mean of 1 over the training examples, [K] float32.

    Args:
        dataset: with classes.
        given: by class, 1 of those not named; or in proportion to 1 / the number of training examples.

    Raises:
        InputError: there are no classes, or none of that name.
    """
    if dataset.classes is None:
        raise InputError("env.class_weights: needs classes, the targets are numbers")
    num = torch.bincount(gathered(dataset.train.targets), minlength=len(dataset.classes)).double()
    if given == "balanced":
        weights = 1 / num.clamp_min(1)
    else:
        if unknown := [name for name in given if name not in dataset.classes]:
            known = ", ".join(dataset.classes)
            raise InputError(f"env.class_weights: there is no class {unknown[0]!r}; there are {known}")
        weights = torch.tensor([given.get(name, 1.0) for name in dataset.classes], dtype=torch.float64)
    return (weights / (weights * num).sum() * num.sum()).float()


def weights_of(target: Tensor, of_classes: Tensor) -> Tensor:
    """Of examples, [N].

    Args:
        target: classes [N] int64; or shares of them [N, K], or whether it is the second of two [N, 1], float32.
        of_classes: [K].
    """
    if not target.is_floating_point():
        return of_classes[target]
    return (target if target.shape[1] > 1 else torch.cat([1 - target, target], 1)) @ of_classes


def only_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The examples of some classes, renumbered in the order of ``names``; the other test inputs become ``foreign``.

    Raises:
        InputError: there is no such class, one is repeated, fewer than two are named, or none is left out.
    """
    known = dataset.classes or ()
    if not set(names) < set(known) or len(set(names)) < max(2, len(names)):
        raise InputError(
            f"env.classes: must be two or more of the data set's, each once, and not all; got {', '.join(names)}; the "
            f"data set has {', '.join(known) or 'none, its targets are numbers'}"
        )
    if not isinstance(dataset.train.targets, Tensor):
        raise InputError(
            "env.classes: targets are not known before they are shown; select with torch.utils.data.Subset"
        )
    numbers = torch.full((len(known),), -1)
    numbers[[known.index(name) for name in names]] = torch.arange(len(names))

    def kept(split: Split) -> Split:
        targets = numbers[gathered(split.targets)]
        return _rows(Split(split.inputs, targets), (targets >= 0).nonzero().flatten())

    shown = dataset.test or dataset.train
    foreign = taken(shown.inputs, (numbers[gathered(shown.targets)] < 0).nonzero().flatten())
    test = None if dataset.test is None else kept(dataset.test)
    validation = None if dataset.validation is None else kept(dataset.validation)
    return Dataset(kept(dataset.train), test, tuple(names), validation, foreign)


def map_inputs(dataset: Dataset, change: Callable[[Tensor | Source], Tensor | Source]) -> Dataset:
    """The data set with the inputs [n, ...] of all its parts changed; itself, if none are."""
    parts: dict[str, Any] = {name: getattr(dataset, name) for name in ("train", "test", "validation")}
    changed = {name: part and part._replace(inputs=change(part.inputs)) for name, part in parts.items()}
    foreign = None if dataset.foreign is None else change(dataset.foreign)
    if all(part is None or part.inputs is changed[name].inputs for name, part in parts.items()):
        return dataset
    return replace(dataset, **changed, foreign=foreign)


def classes_as(dataset: Dataset, names: tuple[str, ...]) -> Dataset:
    """The data set with its classes numbered as in ``names``, some of which it may lack.

    Args:
        dataset: its targets are classes of these names; or integers, which are the numbers of these.
        names: of all classes.

    Raises:
        InputError: it has other classes.
    """
    if dataset.classes == names:
        return dataset
    known = f"the agent knows {len(names):,} classes"
    if dataset.classes is None or dataset.counted:
        try:
            return replace(dataset, classes=names, counted=False, why_numbers="")
        except InputError as error:
            raise InputError(f"env.dataset: {known}, but {error}") from None
    if other := sorted(set(dataset.classes) - set(names)):
        raise InputError(f"env.dataset: {known}, {', '.join(names)}; the data set also has {', '.join(other)}")
    numbers = torch.tensor([names.index(name) for name in dataset.classes])

    def renumbered(split: Split | None) -> Split | None:
        if split is None:
            return None
        if not isinstance(split.targets, Tensor):
            raise InputError(f"env.dataset: {known}; pass from_torch classes=[{', '.join(names)}], in this order")
        return split._replace(targets=numbers[split.targets])

    train, test, validation = map(renumbered, (dataset.train, dataset.test, dataset.validation))
    assert train is not None
    return replace(dataset, train=train, test=test, validation=validation, classes=names)


def iris(data_dir: Path | None = None, seed: int = 1) -> Dataset:
    """150 flowers of 3 species, 4 lengths in cm each (Anderson 1935, Fisher 1936), from scikit-learn."""
    from sklearn.datasets import load_iris

    data = load_iris()
    split = Split(torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target, dtype=torch.int64))
    return Dataset(split, None, tuple(str(name) for name in data.target_names))


def digits(data_dir: Path | None = None, seed: int = 1) -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels in [0, 1] (Alpaydin & Kaynak 1998), from scikit-learn."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images / 16, dtype=torch.float32).unsqueeze(1)
    return Dataset(Split(images, torch.tensor(data.target, dtype=torch.int64)), None, tuple("0123456789"))


def diabetes(data_dir: Path | None = None, seed: int = 1) -> Dataset:
    """442 patients: 10 measurements, and a measure of the disease a year later, 25 to 346 (Efron et al. 2004)."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    return Dataset(Split(*(torch.tensor(x, dtype=torch.float32) for x in (data.data, data.target))), None, None)


def x_sin_x(data_dir: Path | None = None, seed: int = 1) -> Dataset:
    """500 numbers x in [0, 10] and x sin x with normal noise, which grows: its variance is 0.09 (1 + x^2).

    Skafte et al. 2019, "Reliable training and estimation of variance networks". As many for evaluation.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(num: int) -> Split:
        x = 10 * torch.rand(num, 1, generator=generator)
        noise = 0.3 * (1 + x.square()).sqrt() * torch.randn(num, 1, generator=generator)
        return Split(x, (x * x.sin() + noise).squeeze(1))

    return Dataset(draw(500), draw(500), None)


def circles(data_dir: Path | None = None, seed: int = 1) -> Dataset:
    """200 points around two circles of radius 1 and 0.6, with normal noise of 0.1; half as many for evaluation."""
    generator = torch.Generator().manual_seed(seed)

    def draw(num: int) -> Split:
        targets = torch.arange(num) % 2
        angle = 2 * math.pi * torch.rand(num, generator=generator)
        radius = torch.where(targets == 0, 1.0, 0.6)
        points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        return Split(points + 0.1 * torch.randn(num, 2, generator=generator), targets)

    return Dataset(draw(200), draw(100), ("outer", "inner"))


def spirals(data_dir: Path | None = None, seed: int = 1) -> Dataset:
    """400 points on a noisy spiral and on its mirror image; half as many for evaluation."""
    generator = torch.Generator().manual_seed(seed)

    def draw(num: int) -> Split:
        u, noise_x, noise_y = torch.rand(3, num // 2, generator=generator)
        r = 780 * 2 * math.pi / 360 * u.sqrt()
        arm = torch.stack([-r.cos() * r + 0.5 * noise_x, r.sin() * r + 0.5 * noise_y], 1) / 10
        return Split(torch.cat([arm, -arm]), torch.arange(num) // (num // 2))

    return Dataset(draw(400), draw(200), ("spiral", "mirror image"))


def shapes(data_dir: Path | None = None, seed: int = 1) -> Dataset:
    """3,000 coloured discs, squares and triangles, [3, 32, 32] bytes, on dark grounds; 600 for evaluation.

    Place, size (radius 5 to 10 pixels) and colours are uniform.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    def draw(num: int) -> Split:
        targets = torch.arange(num) % 3
        radius = uniform(5, 10, num, 1, 1)
        y, x = (torch.arange(32.0).view(axis) - uniform(10, 22, num, 1, 1) for axis in ((1, -1, 1), (1, 1, -1)))
        disc = x.square() + y.square() < radius.square()
        square = torch.maximum(x.abs(), y.abs()) < radius
        triangle = (y.abs() < radius) & (x.abs() < (y + radius) / 2)
        inside = torch.stack([disc, square, triangle])[targets, torch.arange(num)].unsqueeze(1)  # [num, 1, 32, 32]
        images = torch.where(inside, uniform(100, 255, num, 3, 1, 1), uniform(0, 60, num, 3, 1, 1))
        return Split(images.round().byte(), targets)

    return Dataset(draw(3000), draw(600), ("disc", "square", "triangle"))


def mnist(data_dir: Path | None = None, seed: int = 1) -> Dataset:
    """60,000 and 10,000 handwritten digits of 28 x 28 bytes (LeCun et al. 1998), from the four IDX files.

    They are read from ``data_dir`` if given, else from ``$RLCORE_DATA/mnist``, else from the user's cache folder, into
    which they are downloaded if needed. Each is checked against its known hash.

    Raises:
        InputError: a file is missing and cannot be downloaded, is damaged, or is not MNIST's.
    """
    arrays = {name: _mnist_file(name, data_dir) for name in MNIST_FILES}
    images, labels, test_images, test_labels = arrays.values()
    train = Split(images.unsqueeze(1), labels.long())
    return Dataset(train, Split(test_images.unsqueeze(1), test_labels.long()), tuple("0123456789"))


def read_idx(path: Path, sha256: str | None = None) -> Tensor:
    """The bytes of an IDX file, gzipped or not, as uint8 of the shape in its header.

    Args:
        path: the file.
        sha256: the expected hash of its decompressed content; None: not checked.

    Raises:
        InputError: it is damaged, not an IDX file of bytes, or has another hash.
    """
    try:
        with open(path, "rb") as plain, gzip.open(plain) if path.suffix == ".gz" else plain as file:
            start = file.read(4)
            num_sizes = start[3] if start[:3] == bytes([0, 0, IDX_UINT8]) and len(start) == 4 else 0
            sizes = file.read(4 * num_sizes)
            shape = np.frombuffer(sizes.ljust(4 * num_sizes, b"\0"), ">u4").tolist()
            announced = math.prod(shape)
            _require_inflated(announced, path.stat().st_size, "its header")
            require_memory(announced, str(path))
            data = file.read(announced + 1)  # beyond its end, where its checksum is compared
    except InputError:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}; replace the file") from None
    if not 0 < num_sizes <= MOST_SIZES:
        raise InputError(f"{path} is not an IDX file of bytes: it begins with {start.hex(' ') or 'nothing'}")
    if len(sizes) < 4 * num_sizes or len(data) != announced:
        message = f"{len(data):,} bytes follow a header that announces {announced:,}"
        raise InputError(f"{path} is cut short or damaged: {message}; replace the file")
    content = start + sizes + data
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise InputError(
            f"{path} is not MNIST's: its content has the SHA-256 {found[:12]}..., expected {sha256[:12]}...; "
            "pass your own data as an .npz file"
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(shape).copy())


def read_npz(path: Path, options: FileOptions | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, by name, of which large ones are mapped unless compressed.

    Where it is damaged, any error.

    numpy's own reader first makes an array as large as a header says, which may be any size.
    """
    options = options or FileOptions()
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as whole:
        members = archive.infolist()
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{member.filename} is not compressed as numpy does it")
            _require_inflated(member.file_size, member.compress_size, member.filename)
        mapped = [m for m in members if m.compress_type == zipfile.ZIP_STORED and _to_map(m.file_size, options)]
        size = sum(member.file_size for member in members if member not in mapped)
        require_memory(size, f"env.dataset: {path}")
        for member in members:
            with archive.open(member) as file:
                array = _ArrayInFile.described(file, member.filename, member.file_size)
            with archive.open(member) as file:  # read to its end, its checksum is compared
                if member in mapped and not array.dtype.hasobject:
                    while file.read(READ_AT_ONCE):
                        pass
                    found = array.mapped(path, _start(whole, member))
                else:
                    found = np.lib.format.read_array(file, allow_pickle=False)
            arrays[member.filename.removesuffix(".npy")] = found
    return arrays


def _read_folder(folder: Path, options: FileOptions) -> dict[str, NDArray[Any]]:
    """The arrays of a folder of .npy files, of which large ones are mapped; where one is damaged, any error."""
    arrays: dict[str, NDArray[Any]] = {}
    for name in ARRAYS:
        path = folder / f"{name}.npy"
        if not path.exists():
            continue
        size = path.stat().st_size
        with open(path, "rb") as file:
            array = _ArrayInFile.described(file, path.name, size)
            if _to_map(size, options) and not array.dtype.hasobject:
                arrays[name] = array.mapped(path, 0)
                continue
            require_memory(size, f"env.dataset: {path}")
            file.seek(0)
            arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


class _ArrayInFile(NamedTuple):
    """What the header of an .npy file says."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    offset: int  # of the numbers, bytes

    @classmethod
    def described(cls, file: Any, name: str, size: int) -> "_ArrayInFile":
        """Read from a file of that many bytes; a ValueError if the array has another size."""
        shape, is_fortran, dtype = READ_HEADER[np.lib.format.read_magic(file)](file)
        announced = file.tell() + math.prod(shape) * dtype.itemsize
        if announced != size and not dtype.hasobject:
            raise ValueError(f"{name} has {size:,} bytes, its header {announced:,}")
        return cls(shape, is_fortran, dtype, file.tell())

    def mapped(self, path: Path, start: int) -> NDArray[Any]:
        """The numbers, read where they are used; the .npy file begins at that byte of the file."""
        order: Literal["F", "C"] = "F" if self.is_fortran else "C"
        return np.memmap(path, self.dtype, "r", start + self.offset, self.shape, order)


def _to_map(num_bytes: int, options: FileOptions) -> bool:
    return num_bytes >= LARGE if options.in_memory is None else not options.in_memory


def _start(file: Any, member: zipfile.ZipInfo) -> int:
    """The byte at which the content of a stored member begins, behind its own header (PKWARE's APPNOTE 4.3.7)."""
    file.seek(member.header_offset + 26)
    return member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))


def _recipe(name: str, given: Any, workers: int | None) -> Recipe:
    """How the examples of a Dataset or of a DataLoader are made."""
    if not isinstance(given, DataLoader):
        dataset, recipe = given, Recipe(given, workers=2 if workers is None else workers)
    else:
        dataset = given.dataset
        order, batches = type(given.sampler), type(given.batch_sampler)
        if not isinstance(dataset, IterableDataset) and (
            order not in (SequentialSampler, RandomSampler)
            or batches is not BatchSampler
            or getattr(given.sampler, "replacement", False)
        ):
            which = order if batches is BatchSampler else batches
            message = f"the DataLoader {name} has the sampler {which.__name__}, but the environment decides the order"
            raise InputError(f"from_torch: {message}; leave it out, and select rows with torch.utils.data.Subset")
        recipe = Recipe(
            dataset,
            collate=given.collate_fn,
            workers=given.num_workers if workers is None else workers,
            prefetch_factor=given.prefetch_factor if given.num_workers else None,
            on_start=given.worker_init_fn,
            context=given.multiprocessing_context,
        )
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        message = f"{name} must be a map-style Dataset, with __getitem__ and __len__; got {type(dataset).__name__}"
        raise InputError(f"from_torch: {message}, whose examples have no numbers to be drawn and resumed by")
    return recipe


def _rows(split: Split, rows: Tensor) -> Split:
    return Split(taken(split.inputs, rows), taken(split.targets, rows))


def _require_inflated(num_bytes: int, num_stored: int, what: str) -> None:
    """Raises a ValueError if no compression makes so few bytes of so many."""
    if num_bytes > MOST_INFLATED * (num_stored + 1):
        raise ValueError(f"{what} announces {num_bytes:,} bytes, more than are in {num_stored:,} stored ones")


def _mnist_file(name: str, data_dir: Path | None) -> Tensor:
    given = data_dir is not None
    if data_dir is None and os.environ.get("RLCORE_DATA"):
        data_dir = Path(os.environ["RLCORE_DATA"])
    for folder in () if data_dir is None else (data_dir / "mnist", data_dir):
        for path in (folder / f"{name}.gz", folder / name):
            if path.is_file():
                return read_idx(path, MNIST_FILES[name])
    if given:
        raise InputError(f"env.data_dir: {data_dir} has no file {name}.gz or {name}")
    return _download(name)


def _download(name: str) -> Tensor:
    """Reads from the user's cache, downloading into it if needed from the first mirror that has the right file."""
    import pooch

    pooch.get_logger().setLevel(logging.CRITICAL)
    folder = Path(pooch.os_cache("rlcore")) / "mnist"
    path = folder / f"{name}.gz"
    if path.is_file():
        return read_idx(path, MNIST_FILES[name])
    for left in folder.glob("tmp*"):  # by a process that was killed while it downloaded
        if time.time() - left.stat().st_mtime > ABANDONED:
            left.unlink(missing_ok=True)
    downloader = pooch.HTTPDownloader(timeout=DOWNLOAD_TIMEOUT)
    for mirror in MNIST_MIRRORS:
        try:
            pooch.retrieve(f"{mirror}{name}.gz", None, path.name, folder, downloader=downloader)
            return read_idx(path, MNIST_FILES[name])
        except (OSError, ValueError):  # no network, or the wrong file: try the next mirror
            path.unlink(missing_ok=True)
    files = ", ".join(f"{name}.gz" for name in MNIST_FILES)
    raise InputError(
        f"MNIST cannot be downloaded; put its four files ({files}) into a folder and give it as env.data_dir=FOLDER, "
        "or as $RLCORE_DATA/mnist; env.dataset=digits needs no download"
    )


def _inputs(inputs: Any) -> Tensor | Kept:
    if isinstance(inputs, np.memmap) and inputs.ndim and inputs.dtype.kind in "biuf":
        return Kept(inputs, _dtype_of(inputs))
    tensor = _tensor(inputs)
    return tensor if tensor.dtype == torch.uint8 else as_floats(tensor)


def _targets(targets: Any) -> Tensor:
    tensor = _tensor(targets)
    return as_floats(tensor) if tensor.is_floating_point() else tensor.long()


def _dtype_of(array: NDArray[Any]) -> torch.dtype:
    """In which a mapped array is read: as bytes, or as float32, or as float64 where float32 would round."""
    if array.dtype == np.uint8:
        return torch.uint8
    if array.dtype.kind == "f" and array.dtype.itemsize <= 4:
        return torch.float32
    same = (torch.equal(x.float().double(), x) for x in pieces(Kept(array, torch.float64)))
    return torch.float32 if all(same) else torch.float64


def _tensor(array: Any) -> Tensor:
    """Real numbers as a tensor on the CPU; a copy where torch cannot use the array's memory."""
    if not isinstance(array, Tensor):
        array = np.asarray(array)
        if array.dtype.kind not in "biuf":
            raise InputError(f"inputs and targets must be numbers, got an array of {array.dtype}")
        is_wide = array.dtype.kind == "f" and array.dtype.itemsize > 8
        native = np.dtype(np.float64) if is_wide else array.dtype.newbyteorder("=")
        array = torch.from_numpy(np.require(array, native, ["C", "A", "W"]))
    if array.is_complex():
        raise InputError(f"inputs and targets must be numbers, got a tensor of {array.dtype}")
    if not array.ndim:
        raise InputError("inputs and targets must be [n, ...], got a single number")
    tensor: Tensor = array.detach().cpu()
    if tensor.dtype == torch.uint64 and (tensor.double() >= 2**63).any():
        return tensor.double()
    return tensor


def as_floats(numbers: Tensor) -> Tensor:
    """Numbers as float32, or float64 where float32 would round."""
    if numbers.is_floating_point() and numbers.dtype != torch.float64:
        return numbers.float()
    same = all((x.float() == x.double()).all() for x in pieces(numbers)) if numbers.ndim else True
    return numbers.float() if same else numbers.double()


def _check(name: str, split: Split, classes: tuple[str, ...] | None) -> None:
    inputs, targets = split
    if len(inputs) != len(targets):
        raise InputError(
            f"the {name} split has {len(inputs):,} inputs and {len(targets):,} targets; their numbers must be equal"
        )
    if len(inputs) == 0:
        raise InputError(f"the {name} split is empty")
    if inputs.ndim < 2:
        raise InputError(f"inputs must be [n, *shape], got {tuple(inputs.shape)}; for one number each, use [n, 1]")
    for kind, numbers in (("inputs", inputs), ("targets", targets)):
        if bad := _not_finite(numbers):
            message = f"{len(bad):,} of the {name} {kind} are NaN, infinite or too large for float32"
            raise InputError(f"{message}, the first in row {bad[0]}")
    if classes is not None and isinstance(targets, Tensor) and (fault := _not_classes(name, targets, len(classes))):
        raise InputError(fault)


def _not_finite(numbers: Tensor | Source) -> list[int]:
    """The rows in which a number is not finite as float32; what is loaded is checked when it is."""
    is_known = numbers.is_finite if isinstance(numbers, Kept) else isinstance(numbers, Source)
    if is_known or numbers.dtype in (torch.uint8, torch.int64):
        return []
    bad: list[int] = []
    start = 0
    for piece in pieces(numbers):
        finite = piece.float().reshape(len(piece), -1).isfinite().all(1)
        bad += (start + (~finite).nonzero().flatten()).tolist()
        start += len(piece)
    if isinstance(numbers, Kept):
        numbers.is_finite = not bad
    return bad


def _not_classes(name: str, targets: Tensor, num_classes: int) -> str:
    """Why the targets of a split cannot be classes, 0 to num_classes - 1; empty if they can."""
    if targets.dtype != torch.int64 or targets.ndim != 1:
        return f"classes must be integers [n], got {targets.dtype} {tuple(targets.shape)}"
    if not len(targets):
        return f"the {name} split is empty"
    low, high = (int(end) for end in targets.aminmax())
    if low < 0:
        return f"a {name} label is {low}; classes are counted from 0"
    if high >= num_classes:
        return f"a {name} label is {high}; with {num_classes} classes, labels run from 0 to {num_classes - 1}"
    return "" if num_classes > 1 else "all targets are class 0; there must be at least two classes"
