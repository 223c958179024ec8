"""Inputs from files, for an agent that is trained: rows of tables, arrays, and images."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlcore.errors import InputError, one_line
from rlcore.observations import unknown_channels
from rlcore.spaces import Column, Inputs
from rlcore.supervised import tables
from rlcore.supervised.datasets import read_npz
from rlcore.supervised.images import FORMATS, opened

ARRAYS = (".npz", ".npy")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""What Pillow calls an image of bytes, by its channels."""


class InputFile(Protocol):
    """Inputs, which are made when they are asked for."""

    remarks: list[str]
    """What a user should know of them, a line each."""
    names: list[str] | None
    """Of each input; None: they have none."""

    def __len__(self) -> int:
        """Their number."""

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Some of them, as a trained agent takes them, [B, *shape]."""


def open_inputs(path: str | Path, space: Inputs) -> InputFile:
    """The inputs in a file, for an agent that is trained.

    Args:
        path: a table, .csv or .parquet; arrays, .npy or .npz, ``inputs`` if there are several; or an image, or a folder
            of images.
        space: ``agent.observation_space``.

    Raises:
        InputError: there is no such file, it cannot be read, or it does not hold such inputs.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no file {path}")
    if path.suffix in tables.SUFFIXES:
        return _rows(path, space)
    if path.suffix in ARRAYS:
        return _Array(path, space)
    if path.is_dir() or path.suffix.lower() in tuple(FORMATS):
        return _Images(path, space)
    kinds = ", ".join((*tables.SUFFIXES, *ARRAYS))
    raise InputError(f"{path} is none of the files that inputs are read from: {kinds}, an image, a folder of images")


def _rows(path: Path, space: Inputs) -> tables.Rows:
    """Those of a table, by the columns of the agent; without these, all its columns are numbers, in order."""
    source = tables.read(path)
    columns = space.columns
    if columns is None:
        names = source.frame.columns
        if space.shape != (len(names),):
            raise InputError(f"{path} has {len(names):,} columns; the agent reads inputs of shape {space.shape}")
        columns = tuple(map(Column, names))
    return tables.encoded(source, columns)


class _Array:
    def __init__(self, path: Path, space: Inputs):
        self.path = path
        self.names: list[str] | None = None
        self.remarks: list[str] = []
        try:
            if path.suffix == ".npy":
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            else:
                arrays = read_npz(path)
                array = arrays["inputs"] if "inputs" in arrays or len(arrays) != 1 else next(iter(arrays.values()))
        except KeyError:
            held = one_line(", ".join(arrays) or "nothing")
            raise InputError(f"{path} holds {held}; inputs must be named so, or the only array") from None
        except InputError:
            raise
        except Exception as error:  # reading damaged bytes may raise anything
            raise InputError(f"{path} holds no plain arrays, or is damaged: {one_line(error)}") from None
        self._array: NDArray[Any] = array[None] if array.shape == space.shape else array
        if self._array.shape[1:] != space.shape or not len(self._array):
            raise InputError(f"{path} has an array {array.shape}; the agent reads inputs [n, *{space.shape}]")

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        inputs = np.array(self._array[rows])
        if inputs.dtype.kind == "f":
            bad = ~(np.abs(inputs) <= np.finfo(np.float32).max).reshape(len(inputs), -1).all(1)
            if bad.any():
                row = (rows.start or 0) + int(bad.argmax())
                raise InputError(f"{self.path}: a number in row {row} is NaN, infinite or too large for float32")
        return inputs


class _Images:
    def __init__(self, path: Path, space: Inputs):
        folder = path if path.is_dir() else path.parent
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        self._files = [file for file in files if file.suffix.lower() in tuple(FORMATS)]
        if not self._files:
            raise InputError(f"there is no image in {path}")
        self.names: list[str] | None = [file.relative_to(folder).as_posix() for file in self._files]
        self.remarks: list[str] = []
        if space.dtype != np.uint8 or len(space.shape) not in (2, 3):
            raise InputError(f"{path}: images are bytes; the agent reads {space}; give it an .npz file of such inputs")
        if len(space.shape) == 3 and space.channels is None:
            raise unknown_channels(space.shape)
        self.channels = space.channels if len(space.shape) == 3 else None
        height, width = space.shape[:2] if self.channels == "last" else space.shape[-2:]
        self.size = width, height
        num = {"first": space.shape[0], "last": space.shape[-1]}.get(self.channels or "", 1)
        if num not in MODES:
            raise InputError(f"{path}: images have 1, 3 or 4 channels, the agent reads {num}: give it an .npz file")
        self.mode = MODES[num]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        return np.stack([self._pixels(file) for file in self._files[rows]])

    def _pixels(self, file: Path) -> NDArray[np.uint8]:
        image = opened(str(file))
        if image.size != self.size:
            sizes = " x ".join(map(str, image.size)), " x ".join(map(str, self.size))
            raise InputError(f"{file} is {sizes[0]} pixels, the agent reads {sizes[1]}: resize it")
        pixels = np.asarray(image.convert(self.mode))
        if self.channels is None:
            return pixels
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        return pixels if self.channels == "last" else np.moveaxis(pixels, -1, 0)
