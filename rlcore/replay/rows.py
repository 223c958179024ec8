"""Replay: a buffer of the latest examples, to draw from."""

from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from rlcore.checkpoint import restored, restored_number
from rlcore.errors import CheckpointError, InputError
from rlcore.trees import difference, leaves, take, tree_map

Rows = TypeVar("Rows", bound=tuple[Any, ...])


class Replay(Generic[Rows]):
    """Keeps the latest rows of a NamedTuple of tensors, or dicts of tensors, [B, ...], on the device they came from.

    Args:
        capacity: rows kept.
        kind: the NamedTuple, which a replay that is restored must know before rows are added.
    """

    def __init__(self, capacity: int, kind: type[Rows] | None = None):
        self.capacity, self.kind = capacity, kind
        self.num_added = 0
        """Rows added so far."""
        self._rows: Rows | None = None  # [capacity, ...]

    def __len__(self) -> int:
        """Rows kept."""
        return min(self.num_added, self.capacity)

    def add(self, rows: Rows) -> None:
        """Adds rows [B, ...]; beyond the capacity, the oldest are dropped.

        Raises:
            InputError: they have other fields, dtypes or shapes than those before.
        """
        first, *_ = leaves(rows)
        num = len(first)
        if self._rows is None:
            self.kind = type(rows)
            self._rows = tree_map(lambda x: x.new_zeros(self.capacity, *x.shape[1:]), rows)
        elif found := difference(rows, self._rows, free=0):
            raise InputError(f"Replay.add: what is added{found} as in the rows before")
        elif next(leaves(self._rows)).device != first.device:  # restored from a file that was read elsewhere
            self._rows = tree_map(lambda x: x.to(first.device), self._rows)
        places = torch.arange(self.num_added, self.num_added + num, device=first.device)[-self.capacity :]

        def write(kept: Tensor, new: Tensor) -> None:
            kept[places % self.capacity] = new[-self.capacity :]

        tree_map(write, self._rows, rows)
        self.num_added += num

    def sample(self, size: int) -> Rows:
        """Rows [size, ...], drawn with replacement by torch's global generator of their device.

        Raises:
            InputError: there are none.
        """
        if self._rows is None:
            raise InputError("Replay.sample: the replay is empty; add rows first")
        first, *_ = leaves(self._rows)
        drawn = torch.randint(len(self), (size,), device=first.device)
        rows: Rows = take(self._rows, drawn)
        return rows

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs; its rows share their memory with these."""
        rows = None if self._rows is None else tree_map(lambda x: x[: len(self)], self._rows)
        return {"num_added": self.num_added, "capacity": self.capacity, "rows": rows and tuple(rows)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, on the device that it is on; with another capacity, the latest rows.

        Raises:
            CheckpointError: it is not what `state_dict` returned.
        """
        if self.kind is None and saved["rows"] is not None:
            raise CheckpointError("Replay: name the NamedTuple of its rows to restore one: Replay(capacity, kind)")
        self.restore(saved, self.kind)

    def checkpoint(self) -> dict[str, Any]:
        """The same as `state_dict`."""
        return self.state_dict()

    def restore(
        self, saved: dict[str, Any], kind: Any, device: torch.device | None = None, like: Rows | None = None
    ) -> None:
        """Restores what `state_dict` returned; with another capacity, the latest rows that fit.

        Args:
            saved: what `state_dict` returned.
            kind: the NamedTuple.
            device: of the rows from now on; None leaves them where they are.
            like: rows [B, ...] as they must be; None: `add` finds those that are not like the next ones.

        Raises:
            CheckpointError: it is not what `state_dict` returned.
        """
        num_added = restored_number(saved["num_added"], "replay.num_added")
        capacity = restored_number(saved["capacity"], "replay.capacity", low=1)
        self.num_added, self._rows = 0, None
        if saved["rows"] is None:
            return
        rows = kind(*saved["rows"])
        rows = restored(rows, rows if like is None else like, "replay.rows", free=0)
        rows = tree_map(lambda x: x.to(device or x.device), rows)
        first, *_ = leaves(rows)
        if len(first) != min(num_added, capacity):
            message = f"replay.rows has {len(first):,} rows after {num_added:,}, at most {capacity:,} of which are kept"
            raise CheckpointError(f"the checkpoint does not fit: {message}")
        if capacity == self.capacity:
            self.add(rows)
            self.num_added = num_added
        else:
            oldest = num_added % capacity if num_added > capacity else 0
            self.add(tree_map(lambda x: x.roll(-oldest, 0), rows))
