"""Load: clients who notice every request that is not answered."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from typing import TYPE_CHECKING, Self

from real_host import PATIENCE, request, until

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds between two requests of a client: more of them leave nothing of an emulated processor for who answers.
PAUSE = 0.1


def page(port: int) -> str:
    """Ask for a page of a web server."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        client.request("GET", "/", headers={"Connection": "close"})
        response = client.getresponse()
        if response.status != http.client.OK:
            raise http.client.HTTPException(f"status {response.status}")
        return response.read().decode()
    finally:
        client.close()


class Clients:
    """Ask again and again from several threads, for as long as the context lasts; every failure is kept."""

    def __init__(self, port: int, threads: int = 3, ask: Callable[[int], str] = request) -> None:
        self.threads = threads
        self._port = port
        self._request = ask
        self._done = threading.Event()
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._done.wait(PAUSE):
            try:
                answer = self._request(self._port)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            else:
                if answer:
                    self.answers[answer] += 1
                else:
                    self.failures.append("closed without an answer")

    def until_answered(self, number: int = 50) -> None:
        """Wait for more answers."""
        before = self.answers.total()
        until(lambda: self.answers.total() >= before + number, f"{number} more answers")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
