"""A GET request on the event loop: it never waits, and reads no more than the beginning of the answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from ..loop import READABLE, WRITABLE, Loop

LONGEST = 1024  # bytes of a status line; most have 15
GOOD = range(200, 400)

Address = tuple[str, int]  # numeric host and port


class Get:
    """One request; ``result`` is called once, with None when the answer was good, else with the reason, a clause."""

    def __init__(
        self,
        connection: socket.socket,
        address: Address,
        path: str,
        timeout: float,
        loop: Loop,
        result: Callable[[str | None], None],
    ) -> None:
        """Ask for ``path`` on a ``connection`` to ``address``, which is closed at the end.

        A status from 200 to 399 has to come within ``timeout`` seconds. The result is never told before this returns.
        """
        self._what = what(address, path)
        self._request = _request(address, path)
        self._timeout = timeout
        self._loop = loop
        self._result = result
        self._answer = b""
        self._connection = connection
        loop.deadline(self, time.monotonic() + timeout, self._overdue)
        loop.watch(connection.fileno(), WRITABLE, self._send)

    def _send(self, _events: int) -> None:
        self._loop.forget(self._connection.fileno())
        try:
            self._connection.send(self._request)  # a fresh socket's buffer takes some kilobytes at once
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
            self._end(f"{self._what} {wrong}" if wrong else None)

    def _overdue(self) -> None:
        self._end(f"{self._what} was not answered in {self._timeout:g} s")

    def _failed(self, error: OSError) -> str:
        return f"{self._what} failed: {error.strerror}"

    def _end(self, reason: str | None) -> None:
        self.close()
        self._result(reason)

    def close(self) -> None:
        """Ask no more; the result is not told then."""
        self._loop.deadline(self, None, self._overdue)
        self._loop.forget(self._connection.fileno())
        self._connection.close()


def what(address: Address, path: str) -> str:
    """Return what is asked, for sentences."""
    return f"GET {path} from {_shown(address)}"


def _request(address: Address, path: str) -> bytes:
    # RFC 9112: no space and no control character in the target.
    target = "".join(chr(byte) if 0x20 < byte < 0x7F else f"%{byte:02X}" for byte in path.encode())
    return (
        f"GET {target} HTTP/1.1\r\nHost: {_shown(address)}\r\nUser-Agent: lithos\r\nConnection: close\r\n\r\n".encode()
    )


def _shown(address: Address) -> str:
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
