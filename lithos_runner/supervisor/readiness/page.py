"""The page of an instance that says whether it serves: asked of the instance itself, however many share its address."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection

from ..loop import Loop
from . import http
from .approach import Approach, Way

MOST_AT_ONCE = 16  # connections; for an instance that others are faster than


class Page:
    """Asks when it is told to, for one thing at a time; ``fault`` is a clause that says what is missing so far."""

    def __init__(
        self,
        address: http.Address,
        path: str,
        timeout: float,
        loop: Loop,
        pids: Callable[[], Collection[int]],
        way: Way | None,
        answered: Callable[[bool, str], None],
    ) -> None:
        """``answered`` is told whether the answer was good, and a remark for people, mostly empty.

        ``pids`` are the instance's; ``way`` leads to its socket, where it has one of its own. An answer may take
        ``timeout`` seconds; until the instance accepts the connection there is no limit.
        """
        self._address = address
        self._path = path
        self._timeout = timeout
        self._loop = loop
        self._pids = pids
        self._way = way
        self._answered = answered
        self._step: Approach | http.Get | None = None
        self._at_once = 1
        self._elsewhere = 0
        self._remark = ""
        self._heard = False
        self._what = http.what(address, path)
        self.fault = f"{self._what}: nobody has accepted the connection"

    def ask(self) -> None:
        """Ask; ``answered`` is told later."""
        self._step = Approach(
            self._address, self._at_once, self._loop, self._pids, self._way, self._reached, self._missed
        )

    def _reached(self, connection: socket.socket, remark: str) -> None:
        self._remark = remark
        self._step = http.Get(connection, self._address, self._path, self._timeout, self._loop, self._told)

    def _told(self, fault: str | None) -> None:
        self._step = None
        self._heard = True
        self.fault = fault or ""
        self._answered(fault is None, self._remark)

    def _missed(self, elsewhere: int, why: str) -> None:
        self._step = None
        self._elsewhere += elsewhere
        if elsewhere:
            # Of those that wait in epoll_wait(2) the last one is woken first; all at once, others get some.
            self._at_once = min(2 * self._at_once, MOST_AT_ONCE)
            why = f"was not answered: other instances took {self._elsewhere} connection(s)"
        if not self._heard:  # its own answer says more
            self.fault = f"{self._what} {why}"
        self._answered(False, "")

    def close(self) -> None:
        """Ask no more; nothing is told then."""
        if self._step is not None:
            self._step.close()
            self._step = None
