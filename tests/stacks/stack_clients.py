"""Clients of a stack: they ask `GET /` as browsers do, count what was answered by whom, and what was not."""

from __future__ import annotations

import http.client
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Self

from real_host import PATIENCE, listeners, until

PORT = 80
PAUSE = 0.01  # seconds between two requests of a client, for the servers to have the processors
_PAGE = re.compile(r"Hello from (.+), version (\S+)\n")


class Answer(NamedTuple):
    """Who has answered."""

    name: str
    version: str


class Client:
    """A connection for each request, or one that is kept as long as the server wants."""

    def __init__(self, port: int = PORT, *, kept: bool = False) -> None:
        self._kept = kept
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def ask(self) -> Answer:
        """Make a request. Raises OSError, HTTPException and AssertionError for all but the right answer.

        A server may close a kept connection at any time between two requests, also when the next is on its way. So
        every client asks again on a new connection if nothing of an answer has come (RFC 9112, section 9.3.1).
        """
        was_kept = self._connection.sock is not None
        try:
            response = self._send()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            if not was_kept:
                raise
            self.close()
            response = self._send()
        return self._read(response)

    def _send(self) -> http.client.HTTPResponse:
        self._connection.request("GET", "/")
        return self._connection.getresponse()

    def _read(self, response: http.client.HTTPResponse) -> Answer:
        page = response.read().decode()
        found = _PAGE.match(page)
        assert response.status == 200, (response.status, page)
        assert found, page
        assert response.headers["Content-Length"], "an answer has a length"
        if not self._kept:
            self.close()
        return Answer(found[1], found[2])

    def close(self) -> None:
        self._connection.close()


def ask(port: int = PORT) -> Answer:
    """Make a request on a connection of its own."""
    return Client(port).ask()


def ask_often(requests: int, at_once: int = 24) -> Counter[Answer]:
    """Make many requests, so many at the same time, each on a connection of its own."""
    with ThreadPoolExecutor(at_once) as pool:
        return Counter(pool.map(lambda _: ask(), range(requests)))


class Load:
    """Clients that ask one after the other for as long as the context lasts; no answer is a failure."""

    def __init__(self, fresh: int = 4, kept: int = 0) -> None:
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self.clients = [Client() for _ in range(fresh)] + [Client(kept=True) for _ in range(kept)]
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=[client]) for client in self.clients]

    def _ask(self, client: Client) -> None:
        while not self._over.wait(PAUSE):
            try:
                self.answers.append(client.ask())
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failures.append(repr(error))
                client.close()
        client.close()

    def until_answered_by(self, names: set[str]) -> None:
        """Wait for an answer of each instance, from now on."""
        seen = len(self.answers)
        until(lambda: names <= {one.name for one in self.answers[seen:]}, f"answers of {', '.join(sorted(names))}")

    def until_answered(self, version: str) -> None:
        """Wait for an answer of a version, from now on."""
        seen = len(self.answers)
        until(lambda: version in {one.version for one in self.answers[seen:]}, f"an answer of version {version}")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def listener_inodes() -> set[int]:
    """The numbers of the sockets that listen on the port."""
    return {int(row[9]) for row in listeners(PORT)}
