"""Load: clients who notice every request that is not answered."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Self

from real_host import request, until

# Seconds between two requests of a client: more of them leave nothing of an emulated processor for who answers.
PAUSE = 0.1


class Clients:
    """Ask again and again from several threads, for as long as the context lasts; every failure is kept."""

    def __init__(self, port: int, threads: int = 3) -> None:
        self._port = port
        self._done = threading.Event()
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._done.wait(PAUSE):
            try:
                answer = request(self._port)
            except OSError as error:
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
