"""Listening sockets: opened by root on behalf of applications, owned by the configuration.

A socket stays open as long as the supervisor runs, whatever its instances do: while they crash, clients wait in its
queue and none is refused.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterable

from .desired import Group, Port
from .loop import HANG_UP, Loop
from .port_owner import port_owner

_UNDO_EVERY = 1.0  # seconds; an application that shuts its socket down in a loop must not keep us busy


class ListenFailed(Exception):
    """A port could not be opened; the message is a whole sentence."""


class Listeners:
    """The open listening sockets by address; instances that name the same address share one."""

    def __init__(self, loop: Loop, say: Callable[[str], None]) -> None:
        self._loop = loop
        self._say = say
        self._sockets: dict[tuple[str, int], socket.socket] = {}

    def open(self, groups: Iterable[Group]) -> None:
        """Open every socket that ``groups`` want and that is not open yet. Raises ListenFailed."""
        for group in groups:
            for port in group.ports:
                if (port.host, port.port) not in self._sockets:
                    self._add(port)

    def _add(self, port: Port) -> None:
        self._sockets[port.host, port.port] = listen(port)
        self._watch(port)

    def adopt(self, port: Port, descriptor: int) -> bool:
        """Take over the socket of ``port`` from a duplicate that somebody else had; refuse any other file.

        The descriptor is ours from here on, also when it is refused.
        """
        listener = socket.socket(fileno=descriptor)
        right = (
            listener.family in (socket.AF_INET, socket.AF_INET6)
            and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            and listener.getsockname()[:2] == (port.host, port.port)
        )
        if not right or (port.host, port.port) in self._sockets:
            listener.close()
            return bool(right)
        self._sockets[port.host, port.port] = listener
        self._watch(port)
        return True

    def _watch(self, port: Port) -> None:
        # With no other event asked for, epoll reports only the hang-up: an application has shut the socket down.
        descriptor = self._sockets[port.host, port.port].fileno()
        self._loop.watch(descriptor, 0, lambda events: self._shut_down(port, events))

    def descriptors(self, ports: Iterable[Port]) -> dict[int, int]:
        """Return the open sockets as the application shall see them: its descriptor → ours."""
        return {port.fd: self._sockets[port.host, port.port].fileno() for port in ports}

    def _shut_down(self, port: Port, events: int) -> None:
        """Undo shutdown(2), by which one instance can stop the socket for all that share it."""
        if not events & HANG_UP:
            return
        listener = self._sockets[port.host, port.port]
        self._loop.forget(listener.fileno())
        try:
            listener.listen(port.backlog)
        except OSError as error:
            self._say(f"{address(port)}: an instance shut the listening socket down; cannot listen again: {error}")
            return
        self._say(f"{address(port)}: an instance shut the listening socket down; listening again")
        self._loop.deadline(listener, time.monotonic() + _UNDO_EVERY, lambda: self._watch(port))

    def keep(self, groups: Iterable[Group]) -> None:
        """Close every socket that none of ``groups`` wants."""
        wanted = {(port.host, port.port) for group in groups for port in group.ports}
        for key in self._sockets.keys() - wanted:
            listener = self._sockets.pop(key)
            self._loop.deadline(listener, None, self.close)
            self._loop.forget(listener.fileno())
            listener.close()

    def close(self) -> None:
        """Close all."""
        self.keep(())


def address(port: Port) -> str:
    """Return the address as people write it."""
    return f"[{port.host}]:{port.port}" if ":" in port.host else f"{port.host}:{port.port}"


def listen(port: Port) -> socket.socket:
    """Open one listening socket, close-on-exec as Python makes it. Raises ListenFailed with who has the port."""
    family = socket.AF_INET6 if ":" in port.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, port.reuse_addr)
        listener.bind((port.host, port.port))
        listener.listen(port.backlog)
        listener.setblocking(not port.non_block)
    except OSError as error:
        listener.close()
        raise ListenFailed(_sentence(port, error)) from error
    return listener


def _sentence(port: Port, error: OSError) -> str:
    reason = os.strerror(error.errno or 0)
    if error.errno == errno.EADDRINUSE:
        owner = port_owner(port.port)
        by = f" by {owner}" if owner else ""
        return f"cannot listen on {address(port)}: {reason}{by}; stop it or take another port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {address(port)}: {reason}; give `host` an address of this host, or 0.0.0.0 for all"
    return f"cannot listen on {address(port)}: {reason}"
