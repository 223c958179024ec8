"""Mesh: sockets between every two processes of a run, for messages that many small updates wait for.

An exchange of a few kilobytes between two processes takes some 20 microseconds. By gloo, which hands it from thread to
thread, it takes 500 to 1,000 on the same machine, as long as the update of a small network itself
(``benchmarks/distributed.py``).
"""

import os
import secrets
import socket
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from rlcore.errors import InputError

Payload = memoryview | bytes

HEAD = struct.Struct("!qq48s")
"""The number of an exchange, the bytes that follow, and its name."""
AT_ONCE = 2**16
"""Bytes that the system takes from each rank before any reads."""
TRIES = 300
"""How often a rank looks for what is about to come, before it sleeps until then: to wake up takes longer."""
KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds after which a machine that is silent is asked whether it is there, and again, and how often."""
TOKEN_BYTES = 16


class DistributedError(InputError):
    """Processes have come apart, or one has ended."""


class Head(NamedTuple):
    """What a message says of itself."""

    number: int
    size: int
    name: bytes

    def __str__(self) -> str:
        name = self.name.rstrip(b"\0").decode(errors="replace")
        return f"{name!r} (exchange {self.number:,}, {self.size:,} bytes)"


class Mesh:
    """Connects every two of K ranks.

    Args:
        rank: the number of this one.
        size: K.
        store: of torch, which all ranks share; there they find each other.
        host: by which this machine is reached.
        spins: whether each rank has a core of its own, on which it may wait without sleeping.
    """

    def __init__(self, rank: int, size: int, store: Any, host: str, spins: bool = True):
        self.rank, self.size, self.count = rank, size, 0
        self.tries = TRIES if spins else 0
        store.set("rlcore/token", secrets.token_bytes(TOKEN_BYTES).hex()) if rank == 0 else None
        token = bytes.fromhex(store.get("rlcore/token").decode())
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.peers: dict[int, socket.socket] = {}
        with socket.create_server((host, 0), family=family, backlog=size) as listener:
            store.set(f"rlcore/mesh/{rank}", str(listener.getsockname()[1]))
            store.set(f"rlcore/host/{rank}", host)
            for peer in range(rank):
                where = store.get(f"rlcore/host/{peer}").decode(), int(store.get(f"rlcore/mesh/{peer}"))
                self.peers[peer] = socket.create_connection(where)
                self.peers[peer].sendall(token + rank.to_bytes(4, "big"))
            while len(self.peers) < size - 1:
                found, _ = listener.accept()
                hello = bytearray(TOKEN_BYTES + 4)
                found.settimeout(30.0)
                if found.recv_into(hello, flags=socket.MSG_WAITALL) == len(hello) and hello[:TOKEN_BYTES] == token:
                    found.settimeout(None)
                    self.peers[int.from_bytes(hello[TOKEN_BYTES:], "big")] = found
                else:
                    found.close()  # somebody else
        for one in self.peers.values():
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEP_ALIVE.items():
                if hasattr(socket, name):  # not everywhere
                    one.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def exchange(self, name: str, payload: Payload, rows: Sequence[memoryview]) -> None:
        """Gives every other rank a message, and reads theirs, which are of the same size.

        Args:
            name: of the exchange.
            payload: the message.
            rows: K places for those of all ranks; that of this one is left alone.

        Raises:
            DistributedError: another rank does something else, or has ended.
        """
        head = self._next(name, len(payload))
        heads, at_once = {self.rank: head}, len(payload) <= AT_ONCE
        for peer in self.peers if at_once else ():
            self._send(peer, head, payload)
        for peer in sorted(self.peers):  # in the same order everywhere, or ranks might wait for each other in a circle
            if not at_once and self.rank < peer:  # of a pair the second waits: else neither might read while both write
                self._send(peer, head, payload)
            heads[peer] = self._head(peer)
            fits = heads[peer] == head
            if fits:
                self._receive(peer, rows[peer])
            if not at_once and self.rank > peer:
                self._send(peer, head, payload if fits else b"")
        if any(one != head for one in heads.values()):
            _raise_apart(heads)

    def give(self, peer: int, name: str, payload: Payload) -> None:
        """Sends a message to another rank, which takes it by `take`."""
        self._send(peer, self._next(name, len(payload), counts=False), payload)

    def take(self, peer: int, name: str) -> bytes:
        """The message that another rank gives."""
        head = self._head(peer)
        own = self._next(name, head.size, counts=False)
        if head != own:
            _raise_apart({self.rank: own, peer: head})
        found = bytearray(head.size)
        self._receive(peer, memoryview(found))
        return bytes(found)

    def close(self) -> None:
        """Ends the connections, which the others notice."""
        for one in self.peers.values():
            one.close()

    def _next(self, name: str, size: int, counts: bool = True) -> Head:
        self.count += counts
        return Head(self.count, size, name.encode()[:48].ljust(48, b"\0"))

    def _send(self, peer: int, head: Head, payload: Payload) -> None:
        try:
            packed = HEAD.pack(*head)
            sent = self.peers[peer].sendmsg([packed, payload])
            if sent < len(packed) + len(payload):
                rest = memoryview(payload)[max(0, sent - len(packed)) :]
                self.peers[peer].sendall(packed[sent:] if sent < len(packed) else b"")
                self.peers[peer].sendall(rest)
        except OSError as error:
            raise self._lost(peer) from error

    def _head(self, peer: int) -> Head:
        packed = bytearray(HEAD.size)
        self._receive(peer, memoryview(packed))
        return Head(*HEAD.unpack(packed))

    def _receive(self, peer: int, place: memoryview) -> None:
        one, done, tries = self.peers[peer], 0, self.tries
        try:
            while done < len(place):
                try:
                    got = one.recv_into(place[done:], 0, socket.MSG_DONTWAIT if tries else socket.MSG_WAITALL)
                except BlockingIOError:
                    tries -= 1
                    continue
                if not got:
                    raise self._lost(peer)
                done += got
        except OSError as error:
            raise self._lost(peer) from error

    def _lost(self, peer: int) -> DistributedError:
        return DistributedError(
            f"rank {self.rank} has lost rank {peer}, which was killed or has failed; go on with rlcore resume RUN"
        )


def _raise_apart(heads: dict[int, Head]) -> None:
    where = "; ".join(f"rank {rank} is at {head}" for rank, head in sorted(heads.items()))
    raise DistributedError(f"the processes have come apart, as one of them alone has decided something: {where}")


def own_host(master: str, port: int) -> str:
    """The address of this machine on the way to another."""
    with socket.create_connection((master, port), timeout=60) as one:
        return str(one.getsockname()[0])


def has_core_each(local_size: int) -> bool:
    """Whether this machine has a core for each of its ranks."""
    return local_size <= len(
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
