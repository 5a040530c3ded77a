"""The application that every contender serves: HTTP on a listening socket that it inherits.

`app.py FD` is an asyncio server; gunicorn imports the same file (`app:application`). The file `release` beside it
holds two words: which version this is and how it behaves. An answer says in its first line which version and which
life of a process gives it, and that line is sent before the work is done: a client that is cut off knows by whom.

It imports nothing of this project: it runs inside images.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

START_UP = 0.4  # seconds that an application of some size takes until it serves
SLOW_START_UP = 3.0  # seconds
GOES_WELL_FOR = 1.0  # seconds, until a version that fails late does so
WORK = 0.01  # seconds per request
LINGER = 2.0  # seconds that a connection without a request is kept after SIGTERM, for one that is under way
TRICKS = 0.2  # seconds between two attempts to do harm
FLOOD = 100 * (b"x" * 99 + b"\n")  # printed at a time: 50 KB/s
MOST_EATEN = 512 << 20  # bytes: far above the limit, but no danger to a host that has not set one


def good() -> None:
    """Take a moment, then serve."""
    time.sleep(START_UP)


def slow() -> None:
    """Take long, then serve well."""
    time.sleep(SLOW_START_UP)


def fails_at_once() -> None:
    """Never serve."""
    raise RuntimeError("this version cannot start")


def fails_later() -> None:
    """Serve, and end in the middle of it."""
    good()
    _later(lambda: os._exit(1))


def eats_memory() -> None:
    """Serve, and take ever more memory while doing so."""
    good()
    _later(_eat)


def tricky() -> None:
    """Serve well, and try meanwhile what may harm the supervisor or other instances."""
    good()
    threading.Thread(target=_play_tricks, daemon=True).start()


def _play_tricks() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notify:
        notify.connect(os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
        while True:
            os.write(2, FLOOD)
            for message in (b"MAINPID=1\nERRNO=1\nBUSERROR=x", b"\xff=\0\n=\n", b"STATUS=" + FLOOD):
                with suppress(OSError):  # its queue is full
                    notify.send(message)
            with suppress(OSError):
                socket.send_fds(notify, [b"FDSTORE=1\nFDNAME=mine"], [0, 1, 2])
            time.sleep(TRICKS)


def _later(action: Callable[[], None]) -> None:
    timer = threading.Timer(GOES_WELL_FOR, action)
    timer.daemon = True
    timer.start()


def _eat() -> None:
    # Written to, since a page that never was takes no memory.
    eaten = [b"x" * (1 << 20) for _ in range(MOST_EATEN >> 20)]
    threading.Event().wait(len(eaten))


BEHAVIOURS = {
    "good": good,
    "slow": slow,
    "tricky": tricky,
    "fails-at-once": fails_at_once,
    "fails-later": fails_later,
    "eats-memory": eats_memory,
}


class Answer:
    """What this life of the process answers."""

    def __init__(self, version: str) -> None:
        # A process id would not do: inside its namespace every instance has the same.
        self.first = f"{version} {os.urandom(8).hex()}\n".encode()
        self.last = b"done\n"
        self.length = len(self.first) + len(self.last)

    def head(self, connection: str) -> bytes:
        """The head of the answer; ``connection`` is `close` or `keep-alive`."""
        return f"HTTP/1.1 200 OK\r\nContent-Length: {self.length}\r\nConnection: {connection}\r\n\r\n".encode()


class Server:
    """Serves until SIGTERM, then finishes what it has begun: no request that has reached it is lost."""

    def __init__(self, listener: socket.socket, answer: Answer) -> None:
        self._listener = listener
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._clients: set[asyncio.Task[None]] = set()
        self._idle: set[asyncio.Task[None]] = set()
        self._draining = asyncio.Event()

    async def run(self) -> None:
        """Serve to the end."""
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)
        self._loop.add_signal_handler(signal.SIGTERM, self._draining.set)
        await self._draining.wait()
        self._loop.remove_reader(self._listener)
        self._loop.call_later(LINGER, self._close_idle)
        while self._clients:
            await asyncio.wait(self._clients)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:  # another instance was faster
            return
        task = self._loop.create_task(self._serve(client))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    def _close_idle(self) -> None:
        for task in self._idle:
            task.cancel()

    async def _serve(self, client: socket.socket) -> None:
        with client:
            client.setblocking(False)
            try:
                while request := await self._request(client):
                    closing = self._draining.is_set() or b"connection: close" in request.lower()
                    await self._respond(client, "close" if closing else "keep-alive")
                    if closing:
                        return
            except (OSError, asyncio.CancelledError):  # the client has gone, or is to go
                return

    async def _request(self, client: socket.socket) -> bytes:
        """Wait for a request; b"" when the client has no more."""
        task = asyncio.current_task()
        assert task is not None
        self._idle.add(task)
        try:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                received = await self._loop.sock_recv(client, 4096)
                if not received:
                    return b""
                request += received
            return request
        finally:
            self._idle.discard(task)

    async def _respond(self, client: socket.socket, connection: str) -> None:
        await self._loop.sock_sendall(client, self._answer.head(connection) + self._answer.first)
        await asyncio.sleep(WORK)
        await self._loop.sock_sendall(client, self._answer.last)


async def serve(descriptor: int) -> None:
    """Serve on an inherited socket."""
    with socket.socket(fileno=descriptor) as listener:
        await Server(listener, ANSWER).run()


def application(_environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    """The same for a WSGI server (PEP 3333)."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(ANSWER.length))])
    return _body()


def _body() -> Iterator[bytes]:
    yield ANSWER.first
    time.sleep(WORK)
    yield ANSWER.last


VERSION, BEHAVIOUR = Path(__file__).with_name("release").read_text().split()
BEHAVIOURS[BEHAVIOUR]()
ANSWER = Answer(VERSION)

if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
