"""The event loop: one epoll set and one next deadline; nothing wakes it when nothing happens."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable

Handler = Callable[[int], None]

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
PRIORITY = select.EPOLLPRI
HANG_UP = select.EPOLLHUP
PEER_HANG_UP = select.EPOLLRDHUP
_LONGEST = 86400.0  # seconds; epoll_wait(2) takes an int of milliseconds, and an instance may ask for any time


class Loop:
    """Calls the handler of each descriptor that has something to say, and of each deadline that has passed."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._deadlines: dict[object, tuple[float, Callable[[], None]]] = {}

    def watch(self, descriptor: int, mask: int, handler: Handler) -> None:
        """Call ``handler(events)`` whenever ``descriptor`` is ready for ``mask`` (level-triggered; epoll_ctl(2))."""
        self._epoll.register(descriptor, mask)
        self._handlers[descriptor] = handler

    def forget(self, descriptor: int) -> None:
        """Watch ``descriptor`` no more; call it before the descriptor is closed."""
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def deadline(self, owner: object, at: float | None, handler: Callable[[], None]) -> None:
        """Call ``handler`` once at the monotonic time ``at``; each ``owner`` has one deadline, None takes it back."""
        if at is None:
            self._deadlines.pop(owner, None)
        else:
            self._deadlines[owner] = (at, handler)

    def turn(self) -> None:
        """Wait for events or the next deadline, and handle what has come."""
        arrived = self._epoll.poll(self._timeout())
        for descriptor, events, handler in [(fd, events, self._handlers[fd]) for fd, events in arrived]:
            # An earlier handler of this round may have closed it, and its number may be another's by now.
            if self._handlers.get(descriptor) is handler:
                handler(events)
        now = time.monotonic()
        for owner, (at, due) in list(self._deadlines.items()):
            if at <= now and self._deadlines.get(owner) == (at, due):
                del self._deadlines[owner]
                due()

    def _timeout(self) -> float | None:
        if not self._deadlines:
            return None
        first = min(at for at, _ in self._deadlines.values())
        return min(max(0.0, first - time.monotonic()), _LONGEST)

    def close(self) -> None:
        """Let go of the epoll set."""
        self._epoll.close()


class Signals:
    """Turns signals into events of the loop; see signal.set_wakeup_fd."""

    def __init__(self, loop: Loop, numbers: list[int], handler: Callable[[int], None]) -> None:
        """Call ``handler(number)`` for each of ``numbers``; nohup(1) holds: an ignored SIGHUP stays ignored.

        SIGINT and SIGQUIT do not: a shell without job control starts every background command with them ignored,
        and `kill -INT` has to work on a supervisor that a script started so.
        """
        self._loop = loop
        self._handler = handler
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        hup = signal.SIGHUP if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else None
        self._before = {number: signal.signal(number, _noted) for number in numbers if number != hup}
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        loop.watch(self._reader, READABLE, self._arrived)
        # A supervisor that has replaced itself by a newer program comes with all of them blocked.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _arrived(self, _events: int) -> None:
        for number in os.read(self._reader, 256):
            self._handler(number)

    def close(self) -> None:
        """Give the signals back what they did before."""
        signal.set_wakeup_fd(-1)
        for number, action in self._before.items():
            signal.signal(number, action)
        self._loop.forget(self._reader)
        os.close(self._reader)
        os.close(self._writer)


def _noted(_number: int, _frame: object) -> None:
    """Leave it to the wake-up descriptor: the number is in its pipe already."""
