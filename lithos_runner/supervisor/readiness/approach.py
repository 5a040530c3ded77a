"""A connection that the instance itself has accepted, at an address where others may accept, too.

Of a shared socket nobody can tell beforehand who will accept a connection. But afterwards the kernel shows who has, and
before anything is sent: so connections that others have accepted are closed again, and made anew.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from ..loop import Loop
from . import connections, proc
from .http import Address

# Seconds between two looks who has accepted: a tenth of the time since the connection was made, within these. Who
# serves one client after the other serves nobody until the next look.
_AT_FIRST, _SELDOM = 0.001, 0.5


class Way(NamedTuple):
    """How to reach the socket of one instance, when it gets no connections yet: an exception for one client."""

    open: Callable[[Address], None]  # for connections from this source
    close: Callable[[Address], None]


class Approach:
    """Some connections to an address, made at once, until the instance has accepted one or others all of them."""

    def __init__(
        self,
        address: Address,
        number: int,
        loop: Loop,
        pids: Callable[[], Collection[int]],
        way: Way | None,
        reached: Callable[[socket.socket, str], None],
        missed: Callable[[int, str], None],
    ) -> None:
        """Make ``number`` connections to ``address``; ``pids`` are the instance's, ``way`` leads to it alone.

        In the end either ``reached`` is called, with a connection and a remark for people, mostly empty; or ``missed``,
        with the number of connections that others have accepted, and a clause. Both never before this returns.
        """
        self._address = address
        self._number = number
        self._loop = loop
        self._pids = pids
        self._way = way
        self._reached = reached
        self._missed = missed
        self._waiting: list[socket.socket] = []
        self._sources: list[Address] = []  # those with an exception
        self._elsewhere = 0
        self._began = time.monotonic()
        loop.deadline(self, self._began, self._begin)

    def _begin(self) -> None:
        try:
            for _ in range(self._number):
                self._connect()
        except OSError as error:
            self._miss(f"failed: {error.strerror}")
        else:
            self._look()

    def _connect(self) -> None:
        host = self._address[0]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._waiting.append(connection)
        if self._way is not None:
            # From itself, at a port that nobody else has as long as we do: the exception is for nobody else.
            connection.bind((host, 0))
            source = connection.getsockname()[:2]
            self._way.open(source)
            self._sources.append(source)
        number = connection.connect_ex(self._address)
        if number not in (0, errno.EINPROGRESS):
            raise OSError(number, os.strerror(number))

    def _look(self) -> None:
        for connection in self._waiting:
            number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                self._miss(f"failed: {os.strerror(number)}")
                return
        try:
            ours = self._accepted()
        except proc.TooMuch:
            self._reach(self._waiting[0], _unseen("it has too many descriptors to look at"))
        except OSError as error:
            why = f"cannot read {error.filename}: {error.strerror}" if error.filename else error.strerror
            self._reach(self._waiting[0], _unseen(why))
        else:
            self._go_on(ours)

    def _accepted(self) -> socket.socket | None:
        """Return the connection that the instance has accepted, and let go of those that others have."""
        ends = {connection: connections.accepted_as(connection) for connection in self._waiting}
        ours = connections.held(self._pids(), {inode for inode in ends.values() if inode})
        for connection, inode in ends.items():
            if inode in ours:
                return connection
            if inode != 0:
                self._waiting.remove(connection)
                connection.close()
                self._elsewhere += inode is not None
        return None

    def _go_on(self, ours: socket.socket | None) -> None:
        if ours is not None:
            self._reach(ours, "")
        elif not self._waiting:
            self._miss("failed: the connection was closed before the request")
        else:
            now = time.monotonic()
            pause = min(max(_AT_FIRST, (now - self._began) / 10), _SELDOM)
            self._loop.deadline(self, now + pause, self._look)

    def _reach(self, connection: socket.socket, remark: str) -> None:
        self._waiting.remove(connection)
        self.close()
        self._reached(connection, remark)

    def _miss(self, why: str) -> None:
        self.close()
        self._missed(self._elsewhere, why)

    def close(self) -> None:
        """Close the connections; nothing is told then."""
        self._loop.deadline(self, None, self._look)
        for connection in self._waiting:
            connection.close()
        self._waiting.clear()
        while self._way is not None and self._sources:
            self._way.close(self._sources.pop())


def _unseen(why: str | None) -> str:
    return f"it cannot be seen who accepts a connection ({why}), so whoever answers is taken to be it"
