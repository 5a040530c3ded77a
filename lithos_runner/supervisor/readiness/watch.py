"""Watching one start until the instance is ready, by whatever the configuration chooses."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import NamedTuple

from ..loop import Loop
from . import http, listening
from .approach import Way
from .page import Page

SOON, SELDOM = 0.005, 0.5  # seconds between two looks: a tenth of the start's age so far, within these
OFTEN = 0.05  # seconds at most between two rounds of questions that others are faster to take
THOROUGH = 4  # every so many looks one for connections too, which is dearer
UNCLEAR = 1.0  # seconds without a break after which what cannot be seen counts as ready

AUTO, NOTIFY, LISTENING, ALIVE, HTTP = "auto", "notify", "listening", "alive", "http"


class Readiness(NamedTuple):
    """The key `readiness`; the last three are for ``kind`` "http", ``address`` is one host and port."""

    kind: str = AUTO
    path: str = "/"
    address: tuple[str, int] | None = None
    timeout: float = 1.0

    def looks(self, sockets: Collection[object]) -> bool:
        """Whether it is ready when it waits on its sockets."""
        return self.kind == LISTENING or (self.kind == AUTO and bool(sockets))

    def hears(self) -> bool:
        """Whether it is ready when it says so."""
        return self.kind in (AUTO, NOTIFY)


class Watch:
    """Looks again and again, less and less often, until the instance is ready or ``close`` is called.

    ``why_not`` is a clause that says what is missing, for the sentence about a start that took too long.
    """

    def __init__(
        self,
        readiness: Readiness,
        loop: Loop,
        pids: Callable[[], Collection[int]],
        sockets: Mapping[int, int | None],
        ready: Callable[[str], None],
        way: Way | None = None,
    ) -> None:
        """``ready`` gets a remark for people, mostly empty. ``sockets``: inode → TCP port; ``pids`` of the instance.

        ``way`` leads to the socket that is asked, where it is the instance's own.
        """
        self._loop = loop
        self._pids = pids
        self._sockets = sockets
        self._ready = ready
        self._began = time.monotonic()
        self._looks = 0
        self._unclear_since: float | None = None
        self._page: Page | None = None
        self.why_not = "it has not said READY=1"
        if readiness.address is not None:
            request = http.Request(readiness.address, readiness.path, readiness.timeout)
            accepting = partial(self._accepting, readiness.address[1])
            self._page = Page(request, loop, pids, way, accepting, self._answered)
            self.why_not = self._page.fault
        if self._page is not None or readiness.looks(sockets):
            self._again()

    def _again(self) -> None:
        now = time.monotonic()
        most = OFTEN if self._page and self._page.outrun else SELDOM
        pause = min(max(SOON, (now - self._began) / 10), most)
        self._loop.deadline(self, now + pause, self._page.ask if self._page else self._look)

    def _look(self) -> None:
        self._looks += 1
        if self._looks % THOROUGH:
            seen = listening.look(self._pids(), self._sockets)
        else:
            seen = listening.look_with_connections(self._pids(), self._sockets)
        if seen.serving:
            self._ready("")
        elif self._is_unclear_for_long(seen):
            self._ready(f"it cannot be seen whether it waits for connections ({seen.why}); it is taken as ready")
        else:
            missing = [inode for inode, wait in seen.waits.items() if wait is listening.Wait.NOT_YET]
            self.why_not = seen.why or f"no thread waits on {', '.join(self._name(inode) for inode in missing)}"
            self._again()

    def _name(self, inode: int) -> str:
        port = self._sockets[inode]
        return "its socket" if port is None else f"port {port}"

    def _is_unclear_for_long(self, seen: listening.Look) -> bool:
        now = time.monotonic()
        if not seen.unclear:
            self._unclear_since = None
            return False
        if self._unclear_since is None:
            self._unclear_since = now
        return now >= self._unclear_since + UNCLEAR

    def _accepting(self, port: int) -> bool:
        """Whether it is seen to wait for connections to ``port``, or may do so."""
        seen = listening.look(self._pids(), [inode for inode, its in self._sockets.items() if its == port])
        return seen.serving or seen.unclear

    def _answered(self, good: bool, remark: str) -> None:
        if good:
            self._ready(remark)
        elif self._page is not None:
            self.why_not = self._page.fault
            self._again()

    def close(self) -> None:
        """Stop looking."""
        self._loop.deadline(self, None, self.close)
        if self._page is not None:
            self._page.close()
