"""Several processes that train one agent as one would: every exchange between them is here.

Each process, a rank, has a share of the environments (or of each batch, or of the games), a copy of the agent, and its
own generators; what depends on all of the data is exchanged: gradients, moments, decisions. Outside this module code
asks for means, sums and decisions by name; with one process each is what it was given, at no cost.

Every exchange begins with a packet of fixed size that says what it is, so that ranks which have come apart end in one
line, instead of waiting for each other for ever. `calls` counts exchanges by name.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from rlcore.errors import InputError

Thing = TypeVar("Thing")

NAME_BYTES = 48
HEAD = 2 + NAME_BYTES // 8
"""float64 places of a packet that say what it is: its number, the size of what follows, and its name."""
ROOM = 64 - HEAD
"""Numbers that a packet carries."""
PATIENCE = timedelta(hours=12)
"""How long a rank waits for one that is at work, as in an evaluation; one that ends is noticed at once."""
LAST_WORDS = 3.0
"""Seconds in which the others notice that a run ends."""
LOST = re.compile("connection|peer|pipe|socket|timed out|remote process", re.IGNORECASE)
"""In the messages of gloo and nccl, where another rank has ended."""
RING = 2**18
"""Numbers above which a sum goes around a ring, instead of from each rank to each."""


class DistributedError(InputError):
    """Ranks have come apart, or one has ended."""


class World(NamedTuple):
    """The processes of a run."""

    rank: int
    size: int
    local_rank: int
    """Among those of this machine."""
    local_size: int
    store: Any
    """Shared by all of them; it outlives a rank."""
    nccl: bool
    """Whether tensors on GPUs are exchanged there, which takes a GPU for each rank of a machine."""


_world: World | None = None
_rows = 1
calls: Counter[str] = Counter()
"""How often each exchange was made, by name."""


# --- who there is ---


def is_launched() -> bool:
    """Whether this process is one of several, as torchrun's environment variables say."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """The number of this process, from 0."""
    return 0 if _world is None else _world.rank


def size() -> int:
    """K, the number of processes."""
    return 1 if _world is None else _world.size


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return 0 if _world is None else _world.local_rank


def local_size() -> int:
    """How many processes share this machine."""
    return 1 if _world is None else _world.local_size


def is_main() -> bool:
    """Whether this process prints, writes and evaluates: rank 0."""
    return rank() == 0


@contextmanager
def joined() -> Iterator[None]:
    """In here the processes that torchrun has launched are one run; a single process stays one.

    Where it fails in several of them the first one raises the error, and the others end with status 2.

    Raises:
        InputError: they cannot be joined.
    """
    global _world
    if _world is not None or not is_launched():
        yield
        return
    environ = {
        name: int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    }
    nccl = dist.is_nccl_available() and torch.cuda.device_count() >= max(1, environ["LOCAL_WORLD_SIZE"])
    try:
        store, number, count = next(rendezvous("env://", timeout=timedelta(minutes=5)))
        backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        message = " ".join(str(error).split())
        raise InputError(f"process {environ['RANK']} cannot join the others: {message}") from error
    _world = World(number, count, environ["LOCAL_RANK"], environ["LOCAL_WORLD_SIZE"], store, nccl)
    calls.clear()
    try:
        yield
    except Exception:
        is_first = _tells_first()
        dist.destroy_process_group()  # so that those who wait for this rank notice
        _wait_for_others()
        if is_first:
            raise
        raise SystemExit(2) from None
    else:
        dist.destroy_process_group()
    finally:
        _world = None


def _tells_first() -> bool:
    """Whether nobody else has told why the run ends; the first to ask may."""
    assert _world is not None
    try:
        return bool(_world.store.add("rlcore/told", 1) == 1)
    except RuntimeError:  # the store has ended with rank 0, which was killed, or it would have waited
        return _world.rank == 1


def _wait_for_others() -> None:
    """Rank 0, which keeps the store, stays until the others have looked there why the run ends; one may be dead."""
    assert _world is not None
    try:
        num_ended = _world.store.add("rlcore/ended", 1)
        until = time.monotonic() + LAST_WORDS
        while _world.rank == 0 and num_ended < _world.size and time.monotonic() < until:
            time.sleep(0.02)
            num_ended = _world.store.add("rlcore/ended", 0)
    except RuntimeError:
        pass


# --- shares ---


def own_stream() -> tuple[int, ...]:
    """What tells the seeds of this rank's random streams from those of others; nothing on rank 0."""
    return (rank(),) if rank() else ()


def share(number: int, what: str) -> int:
    """A rank's part of a number that is meant for all of them.

    Args:
        number: of rows, or of environments.
        what: the setting, for the message.

    Raises:
        InputError: the ranks cannot have equal parts.
    """
    if number % size():
        raise InputError(f"{what}: {number:,} cannot be shared equally by {size()} processes; choose a multiple")
    return number // size()


# --- exchanges ---


def all_gather(name: str, x: Tensor) -> Tensor:
    """Every rank's tensor [...], stacked in the order of ranks: [K, ...].

    Raises:
        DistributedError: ranks have come apart, or one has ended.
    """
    if _world is None:
        return x[None]
    if x.device.type == "cpu" and x.dtype == torch.float64 and x.numel() <= ROOM:
        return _packets(name, x.numel(), x.flatten())[:, : x.numel()].view(size(), *x.shape)
    _packets(name, x.numel())
    return _gathered(x)


def total(number: float, name: str = "sum") -> float:
    """The sum of a number over ranks."""
    return number if _world is None else all_gather(name, torch.tensor([number], dtype=torch.float64)).sum().item()


def least(number: int, name: str = "least") -> int:
    """The smallest of the ranks' numbers, for a decision that all must take alike."""
    if _world is None:
        return number
    return int(all_gather(name, torch.tensor([number], dtype=torch.float64)).amin().item())


@contextmanager
def weighing(rows: int) -> Iterator[None]:
    """In here means and gradients are of so many rows of this rank's, and weigh as much; else they weigh the same."""
    global _rows
    before, _rows = _rows, rows
    try:
        yield
    finally:
        _rows = before


def mean(x: Tensor, name: str = "mean") -> Tensor:
    """The mean over the rows of all ranks, of this rank's; see `weighing`.

    Args:
        x: [...], of floats.
        name: of the exchange.
    """
    if _world is None:
        return x
    counted = torch.cat([x.detach().double().flatten(), x.new_full((1,), _rows, dtype=torch.float64)])
    found = all_gather(name, counted)
    weight = found[:, -1] / found[:, -1].sum()
    return (weight @ found[:, :-1]).to(x.dtype).view(x.shape)


def moments(x: Tensor, name: str = "moments") -> tuple[Tensor, Tensor, Tensor]:
    """How many rows all ranks have, 0-d, their mean and their variance [*shape] (dividing by the count), float64.

    Merged as Chan, Golub & LeVeque 1979, equation 2.1, so that nothing is lost beside a large mean.

    Args:
        x: this rank's rows, [B, *shape].
        name: of the exchange.
    """
    x = x.double()
    count, mean, var = x.new_tensor(len(x)), x.mean(0), x.var(0, correction=0)
    if _world is None:
        return count, mean, var
    return merged(name, count, mean, var)


def merged(name: str, count: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The moments of all ranks' rows, of those of each one's: count 0-d, mean and variance [*shape], float64."""
    if _world is None:
        return count, mean, var
    found = all_gather(name, torch.cat([count.view(1), mean.flatten(), var.flatten()]))
    n = found[:, :1]
    each_mean, each_var = found[:, 1:].chunk(2, 1)
    all_rows = n.sum()
    middle = (n * each_mean).sum(0) / all_rows
    spread = (n * (each_var + (each_mean - middle).square())).sum(0) / all_rows
    return all_rows, middle.view(mean.shape), spread.view(var.shape)


def broadcast(x: Tensor, name: str = "broadcast") -> Tensor:
    """The tensor of rank 0, whatever the others give."""
    return x if _world is None else all_gather(name, x)[0]


def gather_object(thing: Thing, name: str = "gathered") -> list[Thing] | None:
    """Every rank's object, on rank 0; None on the others."""
    if _world is None:
        return [thing]
    _packets(name)
    found: list[Any] | None = [None] * size() if is_main() else None
    with _others_there():
        dist.gather_object(thing, found)
    return found


def all_gather_object(thing: Thing, name: str = "shown") -> list[Thing]:
    """Every rank's object, on each."""
    if _world is None:
        return [thing]
    _packets(name)
    found: list[Any] = [None] * size()
    with _others_there():
        dist.all_gather_object(found, thing)
    return found


def broadcast_object(thing: Thing, name: str = "from main") -> Thing:
    """The object of rank 0, whatever the others give."""
    if _world is None:
        return thing
    _packets(name)
    found = [thing]
    with _others_there():
        dist.broadcast_object_list(found)
    return found[0]


@torch.no_grad()
def average_statistics(module: nn.Module) -> None:
    """Makes the running statistics of batch norms the means over ranks, each of which has normalised its own rows."""
    if _world is None:
        return
    kept = (vars(part)["_buffers"] for part in module.modules())
    names = "running_mean", "running_var"
    parts = [buffers[name] for buffers in kept for name in names if isinstance(buffers.get(name), Tensor)]
    if parts:
        flat = mean(torch.cat([x.flatten() for x in parts]), "batch norm")
        for x, averaged in zip(parts, flat.split([x.numel() for x in parts]), strict=True):
            x.copy_(averaged.view_as(x))


class GradientMean:
    """The mean of a gradient over the rows of all ranks, begun before it is known; see `weighing`.

    What ranks have to agree on, its size and their numbers of rows, is exchanged while each computes its own.

    Args:
        params: those that may have a gradient.
    """

    def __init__(self, params: Sequence[Tensor]):
        self.params, self._begun = params, None
        if _world is not None:
            numbers = sum(param.numel() for param in params) + 1
            self._begun = _begin_packets("gradient", numbers, torch.tensor([_rows], dtype=torch.float64))

    @torch.no_grad()
    def finish(self, loss: Tensor) -> Tensor:
        """Replaces each ``param.grad`` by the mean over all ranks' rows, and returns that of the loss, 0-d."""
        if self._begun is None:
            return loss.detach()
        weights = _finish_packets(*self._begun)[:, 0]
        params = [param for param in self.params if param.grad is not None]
        weight = (weights[rank()] / weights.sum()).item()
        grads = [param.grad for param in params if param.grad is not None]
        parts = [*(grad.flatten() for grad in grads), loss.detach().view(1).to(grads[0].dtype)]
        flat = torch.cat(parts).mul_(weight)
        if flat.numel() <= RING:
            flat = _gathered(flat).sum(0)  # in the order of ranks: the same bits on each
        else:
            _summed(flat)
        *means, mean_loss = flat.split([part.numel() for part in parts])
        for param, mean_grad in zip(params, means, strict=True):
            param.grad = mean_grad.view_as(param)
        return mean_loss.view(())


# --- how they are made ---


def _packets(name: str, numbers: int = 0, payload: Tensor | None = None) -> Tensor:
    """Every rank's packet, [K, ROOM]; raises a DistributedError unless they are of the same exchange."""
    return _finish_packets(*_begin_packets(name, numbers, payload))


def _begin_packets(name: str, numbers: int, payload: Tensor | None) -> tuple[Any, Tensor, Tensor]:
    calls[name] += 1
    packet = torch.zeros(HEAD + ROOM, dtype=torch.float64)
    packet[:HEAD] = _head(calls.total(), numbers, name)
    if payload is not None:
        packet[HEAD : HEAD + len(payload)] = payload
    found = torch.empty(size(), len(packet), dtype=torch.float64)
    with _others_there():
        return dist.all_gather(list(found), packet, async_op=True), found, packet


def _finish_packets(work: Any, found: Tensor, packet: Tensor) -> Tensor:
    with _others_there():
        work.wait()
    heads = found[:, :HEAD].contiguous().view(torch.int64)
    if not (heads == packet[:HEAD].view(torch.int64)).all():
        where = "; ".join(f"rank {n} is at {_read(head)}" for n, head in enumerate(found[:, :HEAD]))
        raise DistributedError(f"the processes have come apart, as something was decided by one of them alone: {where}")
    return found[:, HEAD:]


def _head(number: int, numbers: int, name: str) -> Tensor:
    text = name.encode()[:NAME_BYTES].ljust(NAME_BYTES, b" ")
    return torch.from_numpy(np.frombuffer(np.array([number, numbers], np.int64).tobytes() + text, np.float64).copy())


def _read(head: Tensor) -> str:
    raw = head.contiguous().numpy().tobytes()
    number, numbers = np.frombuffer(raw[:16], np.int64).tolist()
    return f"{raw[16:].decode(errors='replace').strip()!r} (exchange {number:,}, {numbers:,} numbers)"


def _gathered(x: Tensor) -> Tensor:
    assert _world is not None
    found = torch.empty(_world.size, *x.shape, dtype=x.dtype, device=x.device if _world.nccl else "cpu")
    with _others_there():
        dist.all_gather(list(found), x.contiguous().to(found.device))
    return found.to(x.device)


def _summed(x: Tensor) -> None:
    assert _world is not None
    here = x if x.device.type == "cpu" or _world.nccl else x.cpu()
    with _others_there():
        dist.all_reduce(here)
    if here is not x:
        x.copy_(here)


@contextmanager
def _others_there() -> Iterator[None]:
    """What fails in here for want of a connection fails because another rank has ended."""
    try:
        yield
    except RuntimeError as error:
        if not LOST.search(str(error)):
            raise
        raise DistributedError(
            f"rank {rank()} has lost another process, which was killed or has failed; go on with rlcore resume RUN"
        ) from error
