"""What the user sees: one plain line per step, with the seconds since the start, on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

START = time.monotonic()


class Failed(Exception):
    """A sentence for the user; `status` is what `integration/vm` exits with, numbered as by timeout(1)."""

    def __init__(self, sentence: str, status: int = 125) -> None:
        super().__init__(sentence)
        self.status = status


def say(sentence: str) -> None:
    """Print one line with the seconds since the start."""
    print(f"vm: {time.monotonic() - START:5.1f} s  {sentence}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Say what begins and, when it went well, how long it took."""
    began = time.monotonic()
    say(f"{what} …")
    yield
    say(f"{what}: {time.monotonic() - began:.1f} s")
