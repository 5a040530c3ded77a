"""An open socket of ours, and what is done when an application shuts it down.

shutdown(2) acts on the socket, not on one's own descriptor of it: one instance could stop all that share it, and spoil
it for every later one. The supervisor never accepts; the hang-up is all that it watches a socket for.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from ..desired import Port
from ..loop import HANG_UP, PEER_HANG_UP, Loop
from . import sockets, unix
from .sockets import ListenFailed

_UNDO_EVERY = 1.0  # seconds; an application that shuts its socket down in a loop must not keep us busy


class Surroundings(NamedTuple):
    """What every endpoint needs of its supervisor."""

    loop: Loop
    say: Callable[[str], None]


class Endpoint:
    """A socket that is open as configured."""

    def __init__(self, port: Port, around: Surroundings, opened: socket.socket) -> None:
        self.port = port
        self.socket = opened
        self._around = around
        self._inode = unix.inode(port.path) if port.kind == "unix" else None
        self._watch()

    def change(self, port: Port) -> None:
        """Change the living socket to what ``port`` says; what cannot be changed is said."""
        try:
            sockets.change(self.socket, self.port, port)
        except OSError as error:
            self._around.say(f"{port.address}: cannot change the open socket: {error.strerror}; it stays as it was")
            return
        self.port = port

    def _watch(self) -> None:
        self._around.loop.watch(self.socket.fileno(), PEER_HANG_UP, self._shut_down)

    def _shut_down(self, events: int) -> None:
        if not events & (HANG_UP | PEER_HANG_UP):
            return
        self._around.loop.forget(self.socket.fileno())
        what = f"{self.port.address}: an instance shut the listening socket down"
        try:
            done = self._undo()
            self.renewed()
        except (OSError, ListenFailed) as error:
            self._around.say(f"{what}; cannot listen again: {error}")
            return
        self._around.say(f"{what}; {done}")
        self._around.loop.deadline(self, time.monotonic() + _UNDO_EVERY, self._watch)

    def renewed(self) -> None:
        """What else there is to do after a shutdown(2) was undone. Raises OSError."""

    def _undo(self) -> str:
        """Make the address answer again; returns what was done. Raises OSError and ListenFailed."""
        if self.port.kind == "tcp":
            sockets.listen_again(self.socket, self.port)
            return "listening again"
        if self.port.kind == "udp" and not self.port.reuse_port:
            raise ListenFailed("the kernel has no way back for UDP; restart the supervisor, or use reuse-port")
        fresh = sockets.open_socket(self.port)
        self.socket.close()
        self.socket = fresh
        self._inode = unix.inode(self.port.path) if self.port.kind == "unix" else None
        return "instances that start from now on have a new one; restart the others"

    def close(self) -> None:
        """Close our descriptor of the socket, and remove its file."""
        self._around.loop.deadline(self, None, self.close)
        self._around.loop.forget(self.socket.fileno())
        self.socket.close()
        if self.port.kind == "unix":
            with suppress(OSError):  # its directory is gone
                unix.remove(self.port.path, self._inode)
