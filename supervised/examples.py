"""Examples: the inputs and targets of a split, as an environment shows them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from rlcore.spaces import Channels
from rlcore.supervised.datasets import Split
from rlcore.supervised.loading import Order, Source, Stream, gathered, in_order, placed
from rlcore.supervised.preparation import channels_first


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
