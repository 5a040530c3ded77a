"""A GET request on the event loop: it never waits, and reads no more than the beginning of the answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from ..loop import READABLE, WRITABLE, Loop

LONGEST = 1024  # bytes of a status line; most have 15
GOOD = range(200, 400)

Address = tuple[str, int]  # numeric host and port


class Request(NamedTuple):
    """What is asked where; ``timeout`` are the seconds that the answer may take."""

    address: Address
    path: str
    timeout: float

    @property
    def what(self) -> str:
        """The request, for sentences."""
        return f"GET {self.path} from {_shown(self.address)}"

    def text(self) -> bytes:
        """Return the request as it is sent."""
        # RFC 9112: no space and no control character in the target.
        target = "".join(chr(byte) if 0x20 < byte < 0x7F else f"%{byte:02X}" for byte in self.path.encode())
        host = _shown(self.address)
        return f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: lithos\r\nConnection: close\r\n\r\n".encode()


def _shown(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Get:
    """A request being made; ``result`` is called once, with None when the answer was good, else with the reason."""

    def __init__(
        self, connection: socket.socket, request: Request, loop: Loop, result: Callable[[str | None], None]
    ) -> None:
        """Send ``request`` on a non-blocking ``connection``, which is closed in the end.

        A status from 200 to 399 has to come in time. The reason is a clause; it is never told before this returns.
        """
        self._connection = connection
        self._request = request
        self._loop = loop
        self._result = result
        self._answer = b""
        loop.deadline(self, time.monotonic() + request.timeout, self._overdue)
        loop.watch(connection.fileno(), WRITABLE, self._send)

    def _send(self, _events: int) -> None:
        self._loop.forget(self._connection.fileno())
        try:
            self._connection.send(self._request.text())  # a fresh socket's buffer takes some kilobytes at once
        except OSError as error:
            self._end(self._failed(error))
            return
        self._loop.watch(self._connection.fileno(), READABLE, self._arrived)

    def _arrived(self, _events: int) -> None:
        try:
            more = self._connection.recv(LONGEST - len(self._answer))
        except OSError as error:
            self._end(self._failed(error))
            return
        self._answer += more
        if not more or b"\n" in self._answer or len(self._answer) == LONGEST:
            wrong = fault(self._answer)
            self._end(f"{self._request.what} {wrong}" if wrong else None)

    def _overdue(self) -> None:
        self._end(f"{self._request.what} was not answered in {self._request.timeout:g} s")

    def _failed(self, error: OSError) -> str:
        return f"{self._request.what} failed: {error.strerror}"

    def _end(self, reason: str | None) -> None:
        self.close()
        self._result(reason)

    def close(self) -> None:
        """Ask no more; the result is not told then."""
        self._loop.deadline(self, None, self._overdue)
        self._loop.forget(self._connection.fileno())
        self._connection.close()


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
