"""Several processes that train one agent as one would: every exchange between them is here.

Each process, a rank, has a share of the environments (or of each batch, or of the games), a copy of the agent, and its
own generators; what depends on all of the data is exchanged: gradients, moments, decisions. Outside this module code
asks for means, sums and decisions by name; with one process each is what it was given, at no cost.

torchrun's variables say who there is, and torch's store lets them find each other. Tensors on GPUs go by NCCL, all else
by a `Mesh`. Every exchange says what it is, so that ranks which have come apart end in one line, instead of waiting for
each other for ever. `calls` counts exchanges by name.
"""

import os
import pickle
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from rlcore.errors import InputError
from rlcore.mesh import DistributedError, Mesh, has_core_each, own_host

Thing = TypeVar("Thing")

PATIENCE = timedelta(hours=12)
"""How long NCCL waits for a rank that is at work."""
FIRST_TURN = 0.5
"""Seconds in which rank 0 alone may tell why a run ends: what all notice, it has kept in the run's folder."""
LAST_WORDS = 3.0
"""Seconds in which the others notice that a run ends."""


class World(NamedTuple):
    """The processes of a run."""

    rank: int
    size: int
    local_rank: int
    """Among those of this machine."""
    store: Any
    """Shared by all of them; it outlives a rank."""
    mesh: Mesh
    nccl: bool
    """Whether tensors on GPUs are exchanged there, which takes a GPU for each rank of a machine."""


_world: World | None = None
_rows = 1
calls: Counter[str] = Counter()
"""How often each exchange was made, by name."""


# Where the ranks' data may differ, so may what a condition on them says: no exchange may be under one that is not of
# what all ranks know alike.


# --- who there is ---


def is_launched() -> bool:
    """Whether this process is one of several, as torchrun's environment variables say."""
    count = os.environ.get("WORLD_SIZE", "")
    return count.isdecimal() and int(count) > 1


def rank() -> int:
    """The number of this process, from 0."""
    return 0 if _world is None else _world.rank


def size() -> int:
    """K, the number of processes."""
    return 1 if _world is None else _world.size


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return 0 if _world is None else _world.local_rank


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
    here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    nccl = dist.is_nccl_available() and torch.cuda.device_count() >= here[1]
    try:
        store, number, count = next(rendezvous("env://", timeout=timedelta(minutes=5)))
        if nccl:
            dist.init_process_group("nccl", store=store, rank=number, world_size=count, timeout=PATIENCE)
        host = own_host(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        mesh = Mesh(number, count, store, host, has_core_each(here[1]))
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        message = " ".join(str(error).split())
        raise InputError(f"process {os.environ.get('RANK')} cannot join the others: {message}") from error
    _world = World(number, count, here[0], store, mesh, nccl)
    calls.clear()
    try:
        yield
    except Exception:
        is_first = _tells_first()
        mesh.close()  # so that those who wait for this rank notice
        _wait_for_others()
        if is_first:
            raise
        raise SystemExit(2) from None
    finally:
        _world = None
        mesh.close()
        if nccl:
            dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """In here nothing is exchanged: for what all ranks do alike, with the same data."""
    global _world
    before, _world = _world, None
    try:
        yield
    finally:
        _world = before


def _tells_first() -> bool:
    """Whether nobody else has told why the run ends; the first to ask may."""
    assert _world is not None
    until = time.monotonic() + (0.0 if is_main() else FIRST_TURN)
    try:
        while time.monotonic() < until and not _world.store.add("rlcore/told", 0):
            time.sleep(0.02)
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
    if x.device.type != "cpu" and _world.nccl:
        _announce(name)
        found = torch.empty(_world.size, *x.shape, dtype=x.dtype, device=x.device)
        dist.all_gather(list(found), x.contiguous())
        return found
    calls[name] += 1
    found = torch.empty(_world.size, *x.shape, dtype=x.dtype)
    found[_world.rank] = x.detach()
    rows = [_bytes(row) for row in found]
    _world.mesh.begin(name, len(rows[0]))
    _world.mesh.exchange(rows)
    return found.to(x.device)


def all_reduce(name: str, x: Tensor) -> None:
    """Replaces a tensor by the sum over ranks, the same bits on each.

    On the CPU by recursive doubling (Thakur, Rabenseifner & Gropp 2005, section 4.1): log2 K rounds, in each of which
    two ranks swap their sums; if K is no power of 2, the ranks beyond leave theirs with others first.
    """
    if _world is None:
        return
    if x.device.type != "cpu" and _world.nccl:
        _announce(name)
        dist.all_reduce(x)
        return
    calls[name] += 1
    own, other = x.detach().cpu().contiguous(), torch.empty(x.shape, dtype=x.dtype)
    mesh, here, there = _world.mesh, _bytes(own), _bytes(other)
    in_pairs = 1 << (_world.size.bit_length() - 1)
    beyond = _world.size - in_pairs
    mesh.begin(name, len(here))
    if _world.rank >= in_pairs:
        mesh.send(_world.rank - in_pairs, here)
        mesh.receive(_world.rank - in_pairs, here)
    else:
        if _world.rank < beyond:
            mesh.receive(_world.rank + in_pairs, there)
            own += other
        for step in (1 << n for n in range(in_pairs.bit_length() - 1)):
            mesh.swap(_world.rank ^ step, here, there)
            own += other
        if _world.rank < beyond:
            mesh.send(_world.rank + in_pairs, here)
    x.copy_(own)


def total(number: float, name: str = "sum") -> float:
    """The sum of a number over ranks."""
    return number if _world is None else all_gather(name, torch.tensor([number], dtype=torch.float64)).sum().item()


def least(number: int, name: str = "least") -> int:
    """The smallest of the ranks' numbers, for a decision that all must take alike."""
    if _world is None:
        return number
    return int(all_gather(name, torch.tensor([number], dtype=torch.float64)).amin().item())


def largest(x: Tensor, name: str = "largest") -> Tensor:
    """The largest of the ranks' numbers, 0-d each."""
    return x if _world is None else all_gather(name, x).amax()


def weigh(rows: int) -> None:
    """From now on means and gradients are of so many rows of this rank's, and weigh as much."""
    global _rows
    _rows = rows


def mean(x: Tensor, name: str = "mean") -> Tensor:
    """The mean over the rows of all ranks, of this rank's; see `weigh`.

    Args:
        x: [...], of floats.
        name: of the exchange.
    """
    if _world is None:
        return x
    weighted = torch.cat([x.detach().double().flatten(), x.new_ones(1, dtype=torch.float64)]).mul_(_rows)
    all_reduce(name, weighted)
    return (weighted[:-1] / weighted[-1]).to(x.dtype).view(x.shape)


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
    _announce(name)
    if not is_main():
        _world.mesh.send(0, pickle.dumps(thing))
        return None
    return [thing, *(pickle.loads(_world.mesh.received(peer)) for peer in range(1, _world.size))]


def broadcast_object(thing: Thing, name: str = "from main") -> Thing:
    """The object of rank 0, whatever the others give."""
    if _world is None:
        return thing
    _announce(name)
    if not is_main():
        return pickle.loads(_world.mesh.received(0))
    packed = pickle.dumps(thing)
    for peer in range(1, _world.size):
        _world.mesh.send(peer, packed)
    return thing


def all_gather_object(thing: Thing, name: str = "of all") -> list[Thing]:
    """Every rank's object, on each."""
    found = gather_object(thing, name)
    return broadcast_object(found, name) or []


def begin_alike(params: Sequence[Tensor]) -> None:
    """Gives all ranks the parameters of rank 0."""
    if _world is not None:
        for param in params:
            param.data.copy_(broadcast(param.detach(), "parameters"))


def require_alike(params: Sequence[Tensor]) -> None:
    """Raises a DistributedError unless all ranks have the same parameters."""
    if _world is None:
        return
    sums = torch.stack([x.detach().double().sum() for x in params]) if params else torch.zeros(1)
    found = all_gather("parameters", sums).cpu()
    if not (found == found[0]).all() and bool(found.isfinite().all()):
        raise DistributedError("the processes have other parameters: something changed them in one of them alone")


def average_statistics(module: nn.Module) -> None:
    """Makes the running statistics of batch norms the means over ranks, each of which has normalised its own rows."""
    if _world is None:
        return
    kept = (vars(part)["_buffers"] for part in module.modules())
    names = "running_mean", "running_var"
    parts = [[buffers[name] for name in names] for buffers in kept if isinstance(buffers.get(names[0]), Tensor)]
    if parts:
        means, variances = (torch.cat([x.flatten() for x in column]) for column in zip(*parts, strict=True))
        all_means, squares = mean(torch.stack([means, variances + means.square()]).double(), "batch norm")
        sizes = [x.numel() for x, _ in parts]
        found = zip(all_means.split(sizes), (squares - all_means.square()).split(sizes), strict=True)
        for (mean_here, var_here), (mean_of_all, var_of_all) in zip(parts, found, strict=True):
            mean_here.copy_(mean_of_all.view_as(mean_here))
            var_here.copy_(var_of_all.view_as(var_here))


def average_gradients(params: Sequence[Tensor], loss: Tensor) -> Tensor:
    """Makes each ``param.grad`` the mean over the rows of all ranks, and returns that of the loss; see `weigh`.

    Args:
        params: those without a gradient have none on any rank.
        loss: 0-d, without a graph.
    """
    if _world is None:
        return loss
    with_grad = [param for param in params if param.grad is not None]
    grads = [param.grad.flatten() for param in with_grad if param.grad is not None]
    parts = [*grads, loss.view(1), grads[0].new_ones(1, dtype=torch.float32)]
    flat = torch.cat(parts).mul_(_rows)  # in float32 or better
    all_reduce("gradient", flat)
    flat /= flat[-1].clone()
    *means, mean_loss, _ = flat.split([len(part) for part in parts])
    for param, grad in zip(with_grad, means, strict=True):
        param.grad = grad.view_as(param).to(param.dtype)
    return mean_loss.view(())


# --- how they are made ---


def _announce(name: str) -> None:
    """Makes sure that all ranks are here."""
    assert _world is not None
    calls[name] += 1
    _world.mesh.begin(name, 0)
    _world.mesh.exchange([b""] * _world.size)


def _bytes(x: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return memoryview(x.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
