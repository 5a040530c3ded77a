"""The page of an instance that says whether it serves: asked of the instance itself, however many share its address."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection

from ..loop import Loop
from . import http
from .approach import Approach, Way

# An instance that waits for connections may be slower than all others, always: they are woken in one order. Of four in
# epoll_wait(2) on one CPU, one got none of 300 connections that were made one by one. When the number at once was
# doubled each time that others got all, each got one in at most 6 rounds, and with both CPUs busy in at most 23.
MOST_AT_ONCE = 16


class Page:
    """Asks when it is told to, for one thing at a time; ``fault`` is a clause that says what is missing so far."""

    def __init__(
        self,
        request: http.Request,
        loop: Loop,
        pids: Callable[[], Collection[int]],
        way: Way | None,
        accepting: Callable[[], bool],
        answered: Callable[[bool, str], None],
    ) -> None:
        """``answered`` is told whether the answer was good, and a remark for people, mostly empty.

        ``pids`` are the instance's; ``way`` leads to its socket, where it has one of its own; ``accepting`` says
        whether it seems to wait for connections.
        """
        self._request = request
        self._loop = loop
        self._pids = pids
        self._way = way
        self._accepting = accepting
        self._answered = answered
        self._step: Approach | http.Get | None = None
        self._at_once = 1  # connections
        self._missed_it = False  # others got all of the last ones
        self._elsewhere = 0
        self._remark = ""
        self._heard = False
        self.fault = f"{request.what}: nobody has accepted the connection"

    @property
    def outrun(self) -> bool:
        """Whether it waits for connections, and others get them."""
        return self._at_once > 1

    def ask(self) -> None:
        """Ask; ``answered`` is told later."""
        # Not in `_missed`: all have been woken just then, and for a moment none is seen to wait.
        if self._missed_it and self._accepting():
            self._at_once = min(2 * self._at_once, MOST_AT_ONCE)
        self._step = Approach(
            self._request.address, self._at_once, self._loop, self._pids, self._way, self._reached, self._missed
        )

    def _reached(self, connection: socket.socket, remark: str) -> None:
        self._remark = remark
        self._step = http.Get(connection, self._request, self._loop, self._told)

    def _told(self, fault: str | None) -> None:
        self._step = None
        self._heard, self._missed_it, self._at_once = True, False, 1
        self.fault = fault or ""
        self._answered(fault is None, self._remark)

    def _missed(self, elsewhere: int, why: str) -> None:
        self._step = None
        self._elsewhere += elsewhere
        self._missed_it = elsewhere > 0
        if elsewhere:
            why = f"was not answered: other instances took {self._elsewhere} connection(s)"
        if not self._heard:  # its own answer says more
            self.fault = f"{self._request.what} {why}"
        self._answered(False, "")

    def close(self) -> None:
        """Ask no more; nothing is told then."""
        if self._step is not None:
            self._step.close()
            self._step = None
