"""The page of an instance that says whether it serves: asked of the instance itself, however many share its address."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection

from ..loop import Loop
from . import http
from .approach import Approach, Way

# Connections, for an instance that others are faster than. Who waits in epoll_wait(2) is woken in one order always: of
# four instances on one CPU, one got none of 300 connections one by one, and one of the first 31 when more and more were
# made at once.
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
        self._at_once = 1
        self._elsewhere = 0
        self._remark = ""
        self._heard = False
        self.fault = f"{request.what}: nobody has accepted the connection"

    def ask(self) -> None:
        """Ask; ``answered`` is told later."""
        self._step = Approach(
            self._request.address, self._at_once, self._loop, self._pids, self._way, self._reached, self._missed
        )

    def _reached(self, connection: socket.socket, remark: str) -> None:
        self._remark = remark
        self._step = http.Get(connection, self._request, self._loop, self._told)

    def _told(self, fault: str | None) -> None:
        self._step = None
        self._heard = True
        self.fault = fault or ""
        self._answered(fault is None, self._remark)

    def _missed(self, elsewhere: int, why: str) -> None:
        self._step = None
        self._elsewhere += elsewhere
        if elsewhere:
            if self._accepting():
                self._at_once = min(2 * self._at_once, MOST_AT_ONCE)
            why = f"was not answered: other instances took {self._elsewhere} connection(s)"
        if not self._heard:  # its own answer says more
            self.fault = f"{self._request.what} {why}"
        self._answered(False, "")

    def close(self) -> None:
        """Ask no more; nothing is told then."""
        if self._step is not None:
            self._step.close()
            self._step = None
