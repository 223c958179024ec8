"""From a data set as it was loaded to what is shown: its splits, and the space of its inputs."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlcore.errors import InputError
from rlcore.observations import unknown_channels, usual_channels
from rlcore.spaces import Channels, Column, Inputs
from rlcore.supervised import tables
from rlcore.supervised.datasets import (
    Dataset,
    FileOptions,
    Split,
    classes_as,
    fold,
    hold_out,
    load,
    map_inputs,
    only_classes,
)
from rlcore.supervised.loading import Kept, Loaded, Source, kept, pieces

DIM = 32
"""Bytes below this are hardly pixels."""
ROUNDING = 4 * torch.finfo(torch.float64).eps
"""A standard deviation below this share of the mean is that of a constant."""


def load_named(
    settings: Any, columns: tuple[Column, ...] | None, classes: tuple[str, ...] | None, has_targets: bool = True
) -> tuple[tables.Table | None, Dataset]:
    """The data set that settings name; of a table also that, whose rows the inputs are the numbers of.

    Args:
        settings: of a `rlcore.supervised.environment.SupervisedEnv`.
        columns: of an agent that exists already.
        classes: that it knows.
        has_targets: whether a table needs a column to predict.

    Raises:
        InputError: none is named, it cannot be read, or settings are for other data sets.
    """
    s = settings
    if s.dataset is None:
        raise InputError("env.dataset: missing; give a name (rlcore list datasets) or the path of a file")
    if s.dataset.endswith(tables.SUFFIXES):
        if s.target is None and has_targets:
            raise InputError(f"env.target: missing; which column of {s.dataset} is to be predicted?")
        numbers = s.action in ("values", "normal") and classes is None
        return tables.load(s, numbers, columns, classes or ())
    if s.target is not None or s.test_dataset is not None:
        key = "target" if s.target is not None else "test_dataset"
        raise InputError(f"env.{key}: is for tables, .csv or .parquet; env.dataset is {s.dataset}")
    options = FileOptions(s.in_memory, s.workers, s.image_size, s.image_mode)
    return None, load(s.dataset, s.data_dir, s.data_seed, options)


def divided(dataset: Dataset, settings: Any, known: tuple[str, ...] | None) -> Dataset:
    """Selects the classes asked for, and holds out examples for evaluation and validation.

    Args:
        dataset: as it was loaded.
        settings: of the environment.
        known: the classes of an agent, of which the data set may lack some; None: its own.
    """
    names = settings.classes
    if names is not None and known is not None:
        names = [name for name in names if name in (dataset.classes or ())]
        names = names if 0 < len(names) < len(dataset.classes or ()) else None
    if names is not None:
        dataset = only_classes(dataset, names)
    if known is not None:
        dataset = classes_as(dataset, known)
    by_class, seed = dataset.classes is not None, settings.data_seed
    if dataset.test is None and settings.test_fraction:
        train, test = hold_out(dataset.train, settings.test_fraction, by_class, seed)
        dataset = replace(dataset, train=train, test=_some("test_fraction", settings.test_fraction, dataset, test))
    if dataset.validation is not None and (settings.folds or settings.validation_fraction):
        key = "folds" if settings.folds else "validation_fraction"
        raise InputError(f"env.{key}: the data set has a validation split of its own; leave it out")
    if settings.folds is not None:
        train, held = fold(dataset.train, settings.folds, settings.fold, by_class, seed)
        dataset = replace(dataset, train=train, validation=_some("folds", 1 / settings.folds, dataset, held))
    elif share := settings.validation_fraction:
        train, held = hold_out(dataset.train, share, by_class, seed)
        dataset = replace(dataset, train=train, validation=_some("validation_fraction", share, dataset, held))
    if dataset.test is None and dataset.validation is None:
        return replace(dataset, test=dataset.train)
    return dataset


def _some(setting: str, share: float, dataset: Dataset, held: Split) -> Split:
    """The examples held out.

    Raises:
        InputError: there are none.
    """
    if not len(held.targets):
        num = len(dataset.train.targets)
        raise InputError(f"env.{setting}: {share:g} of {num} examples is none; take a larger share, or 0")
    return held


def fitted_space(
    dataset: Dataset, settings: Any, columns: tuple[Column, ...] | None = None
) -> tuple[Inputs, tuple[str, ...]]:
    """The space of an input, with the scaling fitted to the training split; and what a user should know of it.

    Args:
        dataset: divided.
        settings: of the environment.
        columns: of a table.

    Raises:
        InputError: ``standard`` is asked for of images whose channels could be at either end.
    """
    inputs, is_bytes = dataset.train.inputs, dataset.train.inputs.dtype == torch.uint8
    shape = tuple(inputs.shape[1:])
    channels = _channels(shape, settings.channels)
    if settings.scaling == "standard":
        if inputs.ndim == 4 and channels is None:
            raise InputError(f"env.scaling: standard is per channel; {unknown_channels(shape)}")
        dtype = np.uint8 if is_bytes else np.float64 if _is_wide(dataset) else np.float32
        mean, std = mean_and_std(inputs, channels)
        if channels == "last":
            mean, std = (np.moveaxis(x, 0, -1) for x in (mean, std))
        return Inputs(shape, dtype, mean, std, channels, columns), ()
    if not is_bytes or settings.scaling != "unit" or (most := _largest_byte(inputs)) <= 1:
        return Inputs(shape, np.uint8 if is_bytes else np.float32, channels=channels, columns=columns), ()
    dim = (
        f"the largest byte of the inputs is {most}, so that divided by 255 they are at most {most / 255:.2g}; "
        "env.scaling=standard or env.scaling=raw keeps them apart"
    )
    return Inputs(shape, np.uint8, scale=255.0, channels=channels), (dim,) if most < DIM else ()


def mean_and_std(inputs: Tensor | Source, channels: Channels | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of inputs [n, *shape] per number, of images per channel; 1 of a constant.

    Those of pieces are joined as by Chan, Golub & LeVeque (1983, "Algorithms for Computing the Sample Variance").

    Returns:
        Both as [D, 1, ...], D the first dimension of an example, channels first.
    """
    num, mean, variance = 0, torch.zeros(()), torch.zeros(())
    for piece in pieces(inputs):
        x = channels_first(piece, channels).double()
        examples = (0, *range(2, x.ndim))
        of_piece, middle = torch.var_mean(x, examples, correction=0, keepdim=True)
        num += len(piece)
        share, offset = len(piece) / num, middle - mean
        variance = (1 - share) * variance + share * of_piece + share * (1 - share) * offset.square()
        mean = mean + share * offset
    std = torch.where(variance.sqrt() > ROUNDING * mean.abs(), variance.sqrt(), 1.0)
    return mean[0].numpy(force=True), std[0].numpy(force=True)


def _largest_byte(inputs: Tensor | Source) -> int:
    """Of inputs that are bytes; those that are made when they are shown are taken for pixels."""
    return 255 if isinstance(inputs, Loaded) else max(int(piece.max()) for piece in pieces(inputs))


def channels_first(inputs: Tensor, channels: Channels | None) -> Tensor:
    """Images [n, H, W, C] as [n, C, H, W], contiguous; other inputs unchanged."""
    return inputs.movedim(-1, 1).contiguous() if channels == "last" else inputs


def _is_wide(dataset: Dataset) -> bool:
    """Whether float32 would round inputs."""
    splits = (dataset.train, dataset.test, dataset.validation)
    return any(split is not None and split.inputs.dtype == torch.float64 for split in splits)


def space_for(space: Inputs, dataset: Dataset) -> Inputs:
    """The space of an agent for other data; in float64 too where these are and something is subtracted from them.

    Raises:
        InputError: the inputs have another shape.
    """
    shape = tuple(dataset.train.inputs.shape[1:])
    if shape != space.shape:
        raise InputError(f"env.dataset: the agent was trained on inputs of shape {space.shape}; these have {shape}")
    is_shifted = space.dtype != np.uint8 and bool(space.shift.any())
    return space.of_dtype(np.float64) if is_shifted and _is_wide(dataset) else space


def as_shown(dataset: Dataset, space: Inputs) -> Dataset:
    """The data set with its inputs in the dtype of their space, which may change no number but by rounding.

    Raises:
        InputError: the space is one of bytes, and they are other numbers.
    """
    dtype = {"uint8": torch.uint8, "float32": torch.float32, "float64": torch.float64}[space.dtype.name]

    def shown(inputs: Tensor | Source) -> Tensor | Source:
        if dtype == torch.uint8 and inputs.dtype != dtype:
            _require_bytes(inputs)
        if isinstance(inputs, Source):
            return inputs if inputs.dtype == dtype else inputs.of_dtype(dtype)
        converted = inputs.to(dtype)
        if space.channels != "last" or converted.movedim(-1, 1).is_contiguous():
            return converted
        if isinstance(large := kept(converted), Kept):
            return large
        return channels_first(converted, "last").movedim(1, -1)  # in memory as networks read them

    return map_inputs(dataset, shown)


def _require_bytes(inputs: Tensor | Source) -> None:
    if not all(torch.equal(piece.byte().to(piece.dtype), piece) for piece in pieces(inputs)):
        low, high = zip(*(map(float, piece.aminmax()) for piece in pieces(inputs)), strict=True)
        seen = f"{min(low):g} to {max(high):g}"
        raise InputError(f"env.dataset: inputs must be bytes, 0 to 255, as in training; got numbers from {seen}")


def _channels(shape: tuple[int, ...], given: Channels | None) -> Channels | None:
    """Where the channels of examples are, as given or as usual; None if they are not images, or that is not known."""
    if len(shape) == 3:
        return given or usual_channels(shape)
    if given is not None:
        raise InputError(f"env.channels: is for images of three dimensions, these examples have shape {shape}")
    return None
