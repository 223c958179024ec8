"""Examples: the inputs and targets of a split, as an environment shows them, and in which order."""

import copy
import zlib
from collections.abc import Iterator

import torch
from torch import Tensor

from rlcore.seeding import restore_generator
from rlcore.spaces import Channels
from rlcore.supervised.datasets import Split
from rlcore.supervised.loading import Source, Stream, gathered, in_order, placed
from rlcore.supervised.preparation import channels_first


class Order:
    """The rows of one batch after another: one permutation after another, each example exactly once per epoch.

    A batch may straddle two epochs.

    Args:
        num: n, the examples.
        batch: rows of a batch, of all processes.
        part: of a batch that is shown here.
        shuffle: whether to permute them.
        device: of the rows.
    """

    def __init__(self, num: int, batch: int, part: slice, shuffle: bool, device: torch.device):
        self.num, self.batch, self.part, self.shuffle, self.device = num, batch, part, shuffle, device
        self.generator = torch.Generator(device)
        self.began_with: Tensor
        """The state of the generator at the beginning of the epoch."""
        self.cursor: int
        """Rows of the epoch that have been shown."""
        self.rows: Tensor
        """Of the epoch, in their order."""
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Draws the next permutation."""
        self.began_with, self.cursor = self.generator.get_state(), 0
        self.rows = self.of_epoch()

    def of_epoch(self) -> Tensor:
        """The rows of an epoch in their order, at least a batch, [n] int64."""
        if self.shuffle:
            return torch.randperm(self.num, generator=self.generator, device=self.device)
        torch.rand(1, generator=self.generator, device=self.device)  # no two epochs begin with the same state
        return torch.arange(self.num, device=self.device)

    def next(self) -> Tensor:
        """The rows of the next batch that are shown here, [B] int64."""
        start, self.cursor = self.cursor, self.cursor + self.batch
        if self.cursor <= len(self.rows):
            return self.rows[start : self.cursor][self.part]
        rest = self.rows[start:]
        self.begin_epoch()
        self.cursor = self.batch - len(rest)
        return torch.cat([rest, self.rows[: self.cursor]])[self.part]

    def restore(self, began_with: Tensor, cursor: int) -> None:
        """Goes on in the epoch that began with this state of the generator."""
        restore_generator(self.generator, began_with)
        self.begin_epoch()
        self.cursor = cursor

    def ahead(self) -> Iterator[Tensor]:
        """Requests of all batches to come, [B, 2] (see `Source.fetch`), with a seed for each epoch."""
        order = copy.copy(self)
        order.part, order.generator = slice(None), torch.Generator(self.device)
        order.restore(self.began_with, self.cursor)
        return order._requests(self.part)

    @property
    def epoch_seed(self) -> int:
        """A number of this epoch, which follows from the seed."""
        return zlib.crc32(self.began_with.numpy().tobytes())

    def _requests(self, part: slice) -> Iterator[Tensor]:
        while True:
            left, seed = len(self.rows) - self.cursor, self.epoch_seed
            rows = self.next()
            seeds = torch.full_like(rows, self.epoch_seed)
            seeds[:left] = seed
            yield torch.stack([rows, seeds], 1)[part]


class Examples:
    """Inputs and targets on a device, where they are indexed; what does not fit is fetched by rows, ahead of time.

    Args:
        split: whose they are.
        channels: where those of images are.
        device: where they are needed.
        in_memory: see the setting of the environment.
        batch: examples of a batch, of all processes.
        part: of a batch that is shown here.
        shuffle: whether to permute them.
    """

    def __init__(
        self,
        split: Split,
        channels: Channels | None,
        device: torch.device,
        in_memory: bool | None,
        batch: int,
        part: slice,
        shuffle: bool,
    ):
        self.channels, self.device = channels, device
        inputs = placed(split.inputs, device, in_memory)
        self._stream = Stream(inputs, device) if isinstance(inputs, Source) else None
        self._inputs = None if isinstance(inputs, Source) else channels_first(inputs, channels)
        self._targets = split.targets if isinstance(split.targets, Source) else split.targets.to(device)
        where = device if self._stream is None else torch.device("cpu")
        self.order = Order(len(split.targets), batch, part, shuffle, where)
        """In which they are shown."""

    def __len__(self) -> int:
        return self.order.num

    def inputs(self, rows: Tensor | slice) -> Tensor:
        """Some of them, [B, *shape]."""
        if self._inputs is None:
            assert self._stream is not None
            return self._stream.batch(rows)[0]
        inputs = self._inputs[rows]
        return inputs.movedim(1, -1) if self.channels == "last" else inputs

    def targets(self, rows: Tensor | slice) -> Tensor:
        """Those of the same examples, [B, ...]."""
        if isinstance(self._targets, Tensor):
            return self._targets[rows]
        assert self._stream is not None
        targets = self._stream.batch(rows)[1]
        assert targets is not None
        return targets

    @property
    def known_targets(self) -> Tensor | None:
        """All of them, [n, ...]; None where they come with the inputs."""
        return self._targets if isinstance(self._targets, Tensor) else None

    @property
    def all_targets(self) -> Tensor:
        """All of them, [n, ...]; where they come with the inputs, by a pass."""
        if isinstance(self._targets, Source):
            self._targets = gathered(self._targets, self.device)
        return self._targets

    def next(self) -> Tensor:
        """The rows of the next batch that is shown here, [B] int64."""
        rows = self.order.next()
        if self._stream is not None:
            self._stream.show(rows)
        return rows

    def in_order(self, batch: int) -> Iterator[Tensor]:
        """The rows of every example, [B] int64, so many at a time; what `inputs` returns of them is fetched ahead."""
        if self._stream is None:
            yield from torch.arange(len(self), device=self.device).split(batch)
            return
        self._stream.follow(in_order(len(self), batch))
        passed = []
        try:
            for rows in torch.arange(len(self)).split(batch):
                self._stream.show(rows)
                if isinstance(self._targets, Source) and self._targets.ndim == 1:
                    passed.append(self.targets(rows))
                yield rows
        finally:
            self.look_ahead()
        if passed:
            self._targets = torch.cat(passed)

    def look_ahead(self) -> None:
        """From here on the next batches are fetched ahead."""
        if self._stream is not None:
            self._stream.follow(self.order.ahead())

    def close(self) -> None:
        """Ends the processes that fetch."""
        if self._stream is not None:
            self._stream.close()
