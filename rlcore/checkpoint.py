"""Checkpoints: written atomically, safe to read, and sufficient to resume a run.

A checkpoint holds only tensors, numbers, strings and None in dicts, lists and tuples, so it is read with
``weights_only=True``, and a file that would run code is refused.
"""

import contextlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlcore.errors import CheckpointError

SCHEMA = 1
"""Version of the layout; a checkpoint with a larger one was written by a newer rlcore."""


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a temporary file, then renames it, so that a crash or a full disk leaves the previous file intact.

    Raises:
        CheckpointError: a value is neither a tensor nor plain data, or the file cannot be written.
    """
    path = Path(path)
    plain = _plain({"schema": SCHEMA, **content}, "checkpoint")
    beside = path.with_name(path.name + ".writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            torch.save(plain, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__ or error
        kept = "; the previous one is untouched" if path.exists() else ""
        raise CheckpointError(f"cannot write {path}: {' '.join(str(cause).split())}{kept}") from error


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads what `save` wrote; runs no code in it.

    Raises:
        CheckpointError: the file is missing, damaged, of a newer schema, or holds more than tensors and plain data.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it is damaged, or holds more than tensors and plain data and might run code"
        ) from error
    except Exception as error:  # reading damaged bytes may raise anything
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
        raise CheckpointError(f"{path} is not an rlcore checkpoint")
    if content["schema"] > SCHEMA:
        raise CheckpointError(
            f"{path} has schema {content['schema']}, of a newer rlcore; this one reads up to {SCHEMA}: upgrade rlcore"
        )
    return content


def _plain(value: Any, path: str) -> Any:
    """The same tree with views cloned and numpy scalars converted; any other type is an error that names its place."""
    if isinstance(value, Tensor):
        value = value.detach()
        return value.clone() if value.untyped_storage().nbytes() > value.numel() * value.element_size() else value
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {_plain(key, path): _plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise CheckpointError(
        f"{path} is a {type(value).__module__}.{type(value).__qualname__}; a checkpoint holds tensors, numbers, "
        "strings and None in dicts, lists and tuples"
    )
