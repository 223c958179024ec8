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
from contextlib import suppress
from typing import Any, NamedTuple

from rlcore.errors import InputError

Message = memoryview | bytearray | bytes

HEAD = struct.Struct("!qq48s")
"""The number of an exchange, the bytes that follow, and its name."""
AT_ONCE = 2**16
"""Bytes that the system takes from each rank before any reads."""
TRIES = 300
"""How often a rank looks for what is about to come, before it sleeps until then: to wake up takes longer."""
KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds after which a machine that is silent is asked whether it is there, and again, and how often."""
TOKEN_BYTES = 16
LINGER = 1.0
"""Seconds in which others end their side of a connection that was closed."""
GREETING = 5.0
"""Seconds in which who connects must have said the token."""
PATIENCE = 300.0
"""Seconds in which all ranks must have found each other."""


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
        if rank == 0:
            store.set("rlcore/token", secrets.token_bytes(TOKEN_BYTES).hex())
        token = bytes.fromhex(store.get("rlcore/token").decode())
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.peers: dict[int, socket.socket] = {}
        self.head = Head(0, 0, b"")
        """Of the exchange that was begun."""
        self.seen: dict[int, Head] = {}
        """The latest of each other rank."""
        with socket.create_server((host, 0), family=family, backlog=size) as listener:
            listener.settimeout(PATIENCE)
            store.set(f"rlcore/mesh/{rank}", str(listener.getsockname()[1]))
            store.set(f"rlcore/host/{rank}", host)
            for peer in range(rank):
                where = store.get(f"rlcore/host/{peer}").decode(), int(store.get(f"rlcore/mesh/{peer}"))
                self.peers[peer] = socket.create_connection(where)
                self.peers[peer].sendall(token + rank.to_bytes(4, "big"))
            while len(self.peers) < size - 1:
                found, _ = listener.accept()
                hello = _greeting(found)
                if len(hello) == TOKEN_BYTES + 4 and hello.startswith(token):
                    self.peers[int.from_bytes(hello[TOKEN_BYTES:], "big")] = found
                else:
                    found.close()  # somebody else
        for one in self.peers.values():
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEP_ALIVE.items():
                if hasattr(socket, name):  # not everywhere
                    one.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def begin(self, name: str, size: int) -> None:
        """Begins an exchange, of messages of so many bytes unless each says how many; what they are compared by."""
        self.count += 1
        self.head = Head(self.count, size, name.encode()[:48].ljust(48, b"\0"))

    def send(self, peer: int, message: Message) -> None:
        """Sends a message to another rank.

        Raises:
            DistributedError: that has ended.
        """
        self._write(peer, HEAD.pack(*self.head._replace(size=len(message))), message)

    def receive(self, peer: int, place: memoryview) -> None:
        """Reads a message from another rank.

        Raises:
            DistributedError: that has ended, or is at another exchange.
        """
        if not self._receives(peer, place):
            self._raise_apart()

    def received(self, peer: int) -> bytearray:
        """A message from another rank, of any size."""
        self.seen[peer] = head = self._head(peer)
        if head._replace(size=self.head.size) != self.head:
            self._raise_apart()
        found = bytearray(head.size)
        self._read(peer, memoryview(found))
        return found

    def swap(self, peer: int, message: memoryview, place: memoryview) -> None:
        """Sends a message to another rank, and reads its."""
        if self._swaps(peer, message, place):
            self._raise_apart()

    def exchange(self, rows: Sequence[Message]) -> None:
        """Sends a message to every other rank, and reads theirs.

        Args:
            rows: K, of which this rank's is the message, and those of others are places.
        """
        own = rows[self.rank]
        if len(own) > AT_ONCE:  # pair by pair, in the same order everywhere: ranks must not wait in a circle
            apart = [self._swaps(peer, own, rows[peer]) for peer in sorted(self.peers)]
        else:
            for peer in self.peers:
                self.send(peer, own)
            apart = [not self._receives(peer, rows[peer]) for peer in sorted(self.peers)]
        if any(apart):
            self._raise_apart()

    def close(self) -> None:
        """Ends the connections, which the others notice once they have read what was sent before.

        What they have sent is read, too: a connection that is closed with something unread loses what it has sent.
        """
        for one in self.peers.values():
            with suppress(OSError):
                one.shutdown(socket.SHUT_WR)
        for one in self.peers.values():
            one.settimeout(LINGER)
            with one, suppress(OSError):
                while one.recv(AT_ONCE):
                    pass
        self.peers.clear()

    def _swaps(self, peer: int, message: Message, place: Message) -> bool:
        """Swaps messages; returns whether the two ranks have come apart."""
        if len(message) <= AT_ONCE:
            self.send(peer, message)
            return not self._receives(peer, place)
        self._write(peer, HEAD.pack(*self.head))
        self.seen[peer] = self._head(peer)
        if self.seen[peer] != self.head:
            return True
        if self.rank < peer:  # else both might write, and neither read
            self._write(peer, message)
        self._read(peer, place)
        if self.rank > peer:
            self._write(peer, message)
        return False

    def _receives(self, peer: int, place: Message) -> bool:
        """Reads a message, unless it is of another exchange; returns whether it is not."""
        self.seen[peer] = self._head(peer)
        if self.seen[peer] != self.head:
            return False
        self._read(peer, place)
        return True

    def _head(self, peer: int) -> Head:
        packed = bytearray(HEAD.size)
        self._read(peer, packed)
        return Head(*HEAD.unpack(packed))

    def _write(self, peer: int, *parts: Message) -> None:
        try:
            sent = self.peers[peer].sendmsg(parts)
            for part in parts:
                if sent < len(part):
                    self.peers[peer].sendall(memoryview(part)[sent:])
                sent = max(0, sent - len(part))
        except OSError as error:
            raise self._lost(peer) from error

    def _read(self, peer: int, place: Message) -> None:
        one, left, tries = self.peers[peer], memoryview(place), self.tries
        try:
            while len(left):
                try:
                    got = one.recv_into(left, 0, socket.MSG_DONTWAIT if tries else socket.MSG_WAITALL)
                except BlockingIOError:
                    tries -= 1
                    continue
                if not got:
                    raise self._lost(peer)
                left = left[got:]
        except OSError as error:
            raise self._lost(peer) from error

    def _raise_apart(self) -> None:
        heads = {**{peer: head for peer, head in self.seen.items() if head.number == self.count}, self.rank: self.head}
        where = "; ".join(f"rank {rank} is at {head}" for rank, head in sorted(heads.items()))
        raise DistributedError(f"the processes have come apart, as one of them alone has decided something: {where}")

    def _lost(self, peer: int) -> DistributedError:
        return DistributedError(
            f"rank {self.rank} has lost rank {peer}, which was killed or has failed; go on with "
            f"rlcore resume RUN --processes {self.size}"
        )


def _greeting(found: socket.socket) -> bytes:
    """What somebody who has connected says first; empty if nothing."""
    found.settimeout(GREETING)
    try:
        return found.recv(TOKEN_BYTES + 4, socket.MSG_WAITALL)
    except OSError:
        return b""
    finally:
        found.settimeout(None)


def own_host(master: str, port: int) -> str:
    """The address of this machine on the way to another."""
    with socket.create_connection((master, port), timeout=60) as one:
        return str(one.getsockname()[0])


def has_core_each(local_size: int) -> bool:
    """Whether this machine has a core for each of its ranks."""
    return local_size <= len(
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
