"""Folders of images: which files are there, and what is in them."""

import os
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from rlcore.errors import InputError, one_line

Mode = Literal["grey", "rgb"]

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".webp": "WEBP"}
"""By the end of a file's name, what Pillow calls it; no other decoder is tried."""
SPLITS = {"train": "train", "test": "test", "validation": "validation", "val": "validation"}
"""By the name of a folder, the split in it."""
GREY, COLOURS = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's modes of eight bits or fewer."""


def find(folder: Path) -> dict[str, dict[str, list[str]]]:
    """The images by split and class, both sorted; without folders for the splits, all are in ``train``.

    Files whose names begin with a dot are passed over.

    Raises:
        InputError: there are no images, or something else is there.
    """
    inside = [entry.name for entry in _entries(folder)]
    named = {SPLITS[name]: folder / name for name in inside if name in SPLITS}
    if "train" not in named or len(named) < len(inside):
        named = {"train": folder}
    found = {split: _classes(path) for split, path in named.items()}
    for split, classes in found.items():
        if other := sorted(set(classes) - set(found["train"])):
            raise InputError(f"env.dataset: {named[split]} has the class {other[0]}, {named['train']} has not")
    return found


class ImageFiles(Dataset[Tensor]):
    """Image files as bytes [C, H, W].

    Args:
        paths: of the files.
        first: the image that decides what is not given.
        size: H and W, to which they are resized; None: all must have those of the first.
        mode: one channel, or three; None: as the first, if it is grey all must be.

    Raises:
        InputError: the first cannot be read.
    """

    def __init__(self, paths: list[str], first: str, size: tuple[int, int] | None, mode: Mode | None):
        self.paths, self.size, self.mode = paths, size, mode
        image = opened(first)
        self._size = size or (image.height, image.width)
        self._mode = mode or ("grey" if image.mode in GREY else "rgb")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        path, (height, width) = self.paths[index], self._size
        image = opened(path)
        if self.size is not None:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if (image.height, image.width) != self._size:
            sizes = f"{image.height} x {image.width} pixels, the first image {height} x {width}"
            raise InputError(f"env.dataset: {path} has {sizes}; set env.image_size=[{height},{width}] to resize them")
        if self._mode == "rgb":
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        if self.mode is None and image.mode not in GREY:
            raise InputError(f"env.dataset: {path} has colours, the first image has none; set env.image_mode")
        return torch.from_numpy(np.array(image.convert("L"))).unsqueeze(0)


def _classes(folder: Path) -> dict[str, list[str]]:
    """The images of each class in a folder, whose folders are the classes."""
    classes = {}
    for entry in _entries(folder):
        if not entry.is_dir():
            raise InputError(
                f"env.dataset: {entry.path} is not in the folder of a class; expected {folder}/CLASS/*.png"
            )
        files = _entries(entry.path)
        for file in files:
            if file.is_dir():
                message = f"{file.path} is a folder in that of a class; expected {folder}/CLASS/*.png, or train/CLASS"
                raise InputError(f"env.dataset: {message} and test/CLASS, and perhaps validation/CLASS, alone")
            if os.path.splitext(file.name)[1].lower() not in FORMATS:
                raise InputError(f"env.dataset: {file.path} is not an image; expected {', '.join(FORMATS)}")
        if not files:
            raise InputError(f"env.dataset: the class {entry.path} has no images; remove the folder, or fill it")
        classes[entry.name] = [file.path for file in files]
    if not classes:
        raise InputError(f"env.dataset: {folder} has no images; expected {folder}/CLASS/*.png")
    return classes


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name, but for what is hidden."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"env.dataset: {folder} cannot be read: {error.strerror}") from None


def opened(path: str) -> Image.Image:
    """An image of eight bits a channel, decoded and upright.

    Raises:
        InputError: it is damaged, of another format or another depth.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=sorted(set(FORMATS.values()))) as image:
                image.load()
                upright = ImageOps.exif_transpose(image)
    except Exception as error:  # reading damaged bytes may raise anything
        raise InputError(f"{path} cannot be read as an image: {one_line(error)}") from None
    if upright.mode not in (*GREY, *COLOURS):
        raise InputError(f"{path} has pixels of the mode {upright.mode}; expected eight bits a channel")
    return upright
