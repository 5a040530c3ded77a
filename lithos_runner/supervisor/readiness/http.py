"""A GET request on the event loop: it never waits, and reads no more than the beginning of the answer."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable

from ..loop import READABLE, WRITABLE, Loop

LONGEST = 1024  # bytes of a status line; most have 15
GOOD = range(200, 400)

Address = tuple[str, int] | str  # numeric host and port, or the path of a unix socket


class Get:
    """One request; ``result`` is called once, with None when the answer was good, else with the reason, a clause."""

    def __init__(
        self, address: Address, path: str, timeout: float, loop: Loop, result: Callable[[str | None], None]
    ) -> None:
        """Ask for ``path`` at ``address``; a status from 200 to 399 has to come within ``timeout`` seconds.

        The result is never told before this returns.
        """
        self._what = f"GET {path} from {_shown(address)}"
        self._request = _request(address, path)
        self._timeout = timeout
        self._loop = loop
        self._result = result
        self._answer = b""
        self._socket: socket.socket | None = None
        loop.deadline(self, time.monotonic() + timeout, self._overdue)
        try:
            self._socket = _connecting(address)
        except OSError as error:
            reason = self._failed(error)
            loop.deadline(self, time.monotonic(), lambda: self._end(reason))
            return
        loop.watch(self._socket.fileno(), WRITABLE, self._connected)

    def _connected(self, _events: int) -> None:
        connection = self._connection()
        self._loop.forget(connection.fileno())
        try:
            number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, os.strerror(number))
            connection.send(self._request)  # a fresh socket's buffer takes some kilobytes at once
        except OSError as error:
            self._end(self._failed(error))
            return
        self._loop.watch(connection.fileno(), READABLE, self._arrived)

    def _arrived(self, _events: int) -> None:
        try:
            more = self._connection().recv(LONGEST - len(self._answer))
        except OSError as error:
            self._end(self._failed(error))
            return
        self._answer += more
        if not more or b"\n" in self._answer or len(self._answer) == LONGEST:
            wrong = fault(self._answer)
            self._end(f"{self._what} {wrong}" if wrong else None)

    def _overdue(self) -> None:
        self._end(f"{self._what} was not answered in {self._timeout:g} s")

    def _failed(self, error: OSError) -> str:
        return f"{self._what} failed: {error.strerror}"

    def _end(self, reason: str | None) -> None:
        self.close()
        self._result(reason)

    def _connection(self) -> socket.socket:
        if self._socket is None:
            raise ValueError("the request has ended")
        return self._socket

    def close(self) -> None:
        """Ask no more; the result is not told then."""
        self._loop.deadline(self, None, self._overdue)
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None


def _connecting(address: Address) -> socket.socket:
    connection = socket.socket(_family(address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    number = connection.connect_ex(address)
    if number not in (0, errno.EINPROGRESS):  # a unix socket whose queue is full says EAGAIN, see connect(2)
        connection.close()
        raise OSError(number, os.strerror(number))
    return connection


def _family(address: Address) -> socket.AddressFamily:
    if isinstance(address, str):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _request(address: Address, path: str) -> bytes:
    # RFC 9112: no space and no control character in the target.
    target = "".join(chr(byte) if 0x20 < byte < 0x7F else f"%{byte:02X}" for byte in path.encode())
    host = "localhost" if isinstance(address, str) else _shown(address)
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: lithos\r\nConnection: close\r\n\r\n".encode()


def _shown(address: Address) -> str:
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def fault(answer: bytes) -> str | None:
    """Return what is wrong with the beginning of an answer, a clause; None when its status is good."""
    if not answer:
        return "was not answered: the connection was closed"
    protocol, _, rest = answer.split(b"\n")[0].partition(b" ")
    digits = rest[:3]
    if not protocol.startswith(b"HTTP/1.") or not digits.isdigit() or rest[3:4].strip():
        return "was not answered in HTTP"
    status = int(digits)
    return None if status in GOOD else f"was answered with status {status}"
