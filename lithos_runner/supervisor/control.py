"""The control socket: a unix socket in the runtime directory, for root only; one JSON line in, one out.

Clients are served by the event loop and never waited for; who sends nonsense or too much is cut off.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .loop import READABLE, WRITABLE, Loop

LONGEST = 4096  # bytes of one request
MOST_CLIENTS = 16
PATIENCE = 5.0  # seconds from a client's connection to the end of its answer
_UCRED = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class Control:
    """Accepts requests of root and of the supervisor's own user, as the peer credentials say."""

    def __init__(self, path: str, loop: Loop, answer: Answer) -> None:
        """Listen at ``path``, replacing what is there; ``answer`` gets each request. Raises OSError."""
        self._path = path
        self._loop = loop
        self._answer = answer
        self._clients: dict[int, tuple[socket.socket, bytearray]] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # Renamed into place only now: between bind(2) and listen(2) who has found it would be refused.
        unfinished = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}")
        with suppress(FileNotFoundError):
            os.unlink(unfinished)
        before = os.umask(0o177)
        try:
            self._socket.bind(unfinished)
        finally:
            os.umask(before)
        self._socket.listen(MOST_CLIENTS)
        os.rename(unfinished, path)
        self._listen()

    def _listen(self) -> None:
        self._loop.watch(self._socket.fileno(), READABLE, self._accept)

    def _accept(self, _events: int) -> None:
        try:
            client, _ = self._socket.accept()
        except OSError:
            # No descriptor is free: the client waits in the queue, which would wake us for ever.
            self._loop.forget(self._socket.fileno())
            self._loop.deadline(self, time.monotonic() + PATIENCE, self._listen)
            return
        client.setblocking(False)
        if len(self._clients) >= MOST_CLIENTS or not _trusted(client):
            client.close()
            return
        self._clients[client.fileno()] = (client, bytearray())
        self._loop.watch(client.fileno(), READABLE, lambda _events: self._read(client))
        self._loop.deadline(client, time.monotonic() + PATIENCE, lambda: self._drop(client))

    def _read(self, client: socket.socket) -> None:
        _, request = self._clients[client.fileno()]
        try:
            received = client.recv(LONGEST)
        except OSError:
            received = b""
        request += received
        if b"\n" in request:
            self._send(client, json.dumps(self._reply(bytes(request))).encode() + b"\n")
        elif not received or len(request) >= LONGEST:
            self._drop(client)

    def _reply(self, request: bytes) -> dict[str, Any]:
        try:
            document = json.loads(request)
        except (ValueError, RecursionError):
            return {"error": "expected one JSON object on one line"}
        return self._answer(document) if isinstance(document, dict) else {"error": "expected a JSON object"}

    def _send(self, client: socket.socket, answer: bytes) -> None:
        """Send what the socket's buffer takes, and the rest when there is room again."""
        self._loop.forget(client.fileno())
        try:
            rest = answer[client.send(answer) :]
        except OSError:
            rest = b""
        if rest:
            self._loop.watch(client.fileno(), WRITABLE, lambda _events: self._send(client, rest))
        else:
            self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        self._loop.deadline(client, None, self._listen)
        del self._clients[client.fileno()]
        self._loop.forget(client.fileno())
        client.close()

    def close(self) -> None:
        """Cut all clients off and remove the socket."""
        for client, _ in list(self._clients.values()):
            self._drop(client)
        self._loop.deadline(self, None, self._listen)
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        with suppress(FileNotFoundError):
            os.unlink(self._path)


def _trusted(client: socket.socket) -> bool:
    """Whether the peer is root or us; the mode 0600 says so too, this holds when somebody changed it."""
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(credentials)
    return uid in (0, os.geteuid())
