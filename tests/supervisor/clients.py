"""Load: clients that ask for as long as a test lasts, and notice every request that is not answered."""

from __future__ import annotations

import http.client
import re
import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from real_host import PATIENCE, request, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAUSE = 0.003  # seconds between two requests of a client
SPARSE = 0.1  # more requests would leave nothing of an emulated processor for who answers
_PAGE = re.compile(r"Hello from (.+), version (\S+)\n")


class Answer(NamedTuple):
    """Who has answered; the version is empty where the program does not say it."""

    name: str
    version: str


class Client(Protocol):
    """Makes one request after the other."""

    def ask(self) -> Answer:
        """Make a request. Raises OSError, HTTPException and AssertionError for all but the right answer."""

    def close(self) -> None:
        """Close the connection; the next request makes another."""


class Line:
    """Asks the programs of tests, which answer each connection with a line: their version, if they say it, and name."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self) -> Answer:
        version, _, name = request(self._port).rpartition(" ")
        assert name, "closed without an answer"
        return Answer(name, version)

    def close(self) -> None:
        """It has none between two requests."""


class Page:
    """Asks `GET /` of a web server of examples/: a connection for each request, or one for as long as that wants."""

    def __init__(self, port: int, *, kept: bool = False) -> None:
        self._kept = kept
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def ask(self) -> Answer:
        """See Client.

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


class Load:
    """Clients that ask one after the other for as long as the context lasts; no answer is a failure."""

    def __init__(
        self, port: int, clients: Sequence[Callable[[int], Client]] = (Line, Line), pause: float = PAUSE
    ) -> None:
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self.clients = [kind(port) for kind in clients]
        self._pause = pause
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=[client]) for client in self.clients]

    def _ask(self, client: Client) -> None:
        while not self._over.wait(self._pause):
            try:
                self.answers.append(client.ask())
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failures.append(repr(error))
                client.close()
        client.close()

    def names(self) -> set[str]:
        """The instances that have answered."""
        return {answer.name for answer in self.answers}

    def versions(self) -> set[str]:
        """The versions that have answered."""
        return {answer.version for answer in self.answers}

    def until_answered(self, number: int) -> None:
        """Wait for more answers."""
        aim = len(self.answers) + number
        until(lambda: len(self.answers) >= aim, f"{number} more answers")

    def until_answered_by(self, *wanted: str) -> None:
        """Wait for an answer of each of these instances or versions, from now on."""
        seen = len(self.answers)
        until(lambda: {*wanted} <= {word for one in self.answers[seen:] for word in one}, f"answers of {wanted}")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
