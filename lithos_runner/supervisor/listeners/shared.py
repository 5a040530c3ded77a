"""One socket for everybody who names its address: one queue, and the kernel wakes whom it likes."""

from __future__ import annotations

import os
import socket

from ..desired import Port
from . import sockets
from .endpoint import Endpoint, Surroundings


class Shared:
    """The socket of an address without `reuse-port`; all slots have the same one."""

    def __init__(self, port: Port, around: Surroundings, opened: socket.socket) -> None:
        self._endpoint = Endpoint(port, around, opened)

    @classmethod
    def open(cls, port: Port, around: Surroundings) -> Shared:
        """Open the socket. Raises ListenFailed."""
        return cls(port, around, sockets.open_socket(port))

    @property
    def port(self) -> Port:
        """The options that the socket has."""
        return self._endpoint.port

    def of(self, slot: str) -> socket.socket:
        """Return the socket."""
        return self._endpoint.socket

    def change(self, port: Port) -> None:
        """Change the living socket."""
        self._endpoint.change(port)

    def enter_rotation(self, slot: str) -> None:
        """Nothing to steer."""

    def leave_rotation(self, slot: str) -> None:
        """Nothing to steer."""

    def refuse(self) -> None:
        """Do nothing: a socket that stands alone stops listening only by resetting all that wait in its queue."""

    def add_exception(self, slot: str, source: tuple[str, int]) -> None:
        """Nothing to steer."""

    def remove_exception(self, source: tuple[str, int]) -> None:
        """Nothing to steer."""

    def queued(self, slot: str) -> int:
        """Return 0: what waits belongs to all slots."""
        return 0

    def release(self, slot: str) -> None:
        """Do nothing: it belongs to the others too."""

    def adopt(self, slot: str, opened: socket.socket) -> bool:
        """Whether it is the very socket that is open already; a duplicate of it is not needed."""
        ours = os.path.sameopenfile(self._endpoint.socket.fileno(), opened.fileno())
        opened.close()
        return ours

    def held(self) -> list[tuple[str, int]]:
        """Return the socket, which is no slot's."""
        return [("", self._endpoint.socket.fileno())]

    def close(self) -> None:
        """Close it."""
        self._endpoint.close()
