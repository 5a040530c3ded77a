"""What shows from outside how an instance is: that it serves, that its connections have ended, what it says itself.

It reports to the instance's machine by events; the machine owns the time that each may take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial

from ..plan.instance import Event, State
from .desired import Group
from .listeners import Listeners
from .loop import Loop
from .readiness import connections, notifications
from .readiness.approach import Way
from .readiness.watch import AUTO, NOTIFY, Readiness, Watch

_DRAIN_LOOK = 0.05  # seconds between two looks at the connections of an instance that drains
# Before it is ready, and after it was told to stop, it has a timeout of its own and may be busy with that alone.
_FEEDS = frozenset((State.WARMING, State.READY, State.DRAINING))


class LifeSigns:
    """Follows one instance through its states, and hears what it says."""

    def __init__(
        self,
        group: Group,
        slot: str,
        loop: Loop,
        listeners: Listeners,
        pids: Callable[[], Collection[int]],
        tell: Callable[[Event], None],
        kill: Callable[[str], None],
    ) -> None:
        """``tell`` takes events, ``kill`` a sentence why the instance has to end at once; ``pids`` are its own."""
        self.status = ""  # its own words
        # Seconds that it may be silent, if it was told so, or asks for that itself.
        self._told = notifications.seconds(dict(group.launch.environ), "WATCHDOG_USEC") or None
        self.watchdog = self._told
        self.remark = ""  # how it was found to be ready, if that is worth a sentence
        self._group = group
        self._slot = slot
        self._loop = loop
        self._listeners = listeners
        self._pids = pids
        self._tell = tell
        self._kill = kill
        self._watch: Watch | None = None
        self._feeds = False  # its silence means something
        self._missed = False  # it may have said in this life what nobody has heard

    def recall(self, status: str, watchdog: float | None, *, missed: bool) -> None:
        """Take over what the instance has told an earlier supervisor; ``missed``: it may have said more since."""
        self.status, self.watchdog, self._missed = status, watchdog, missed

    @property
    def why_not_ready(self) -> str:
        """A clause that says what is missing; "" when nobody looks."""
        return self._watch.why_not if self._watch else ""

    def follow(self, state: State, *, executed: bool) -> None:
        """Look for what comes next in this state, and for nothing else."""
        looking = state is State.STARTING and executed
        if looking and self._watch is None:
            self._watch = Watch(self._readiness(), self._loop, self._pids, self._sockets(), self._ready, self._way())
        elif not looking:
            self._look_no_more()
        if state is State.DRAINING:
            self._loop.deadline((self, "drain"), time.monotonic() + _DRAIN_LOOK, self._drain)
        else:
            self._loop.deadline((self, "drain"), None, self._drain)
        if not state.alive:
            self.watchdog, self.status, self._missed = self._told, "", False
        self._feeds = state in _FEEDS
        self._wind_up()

    def close(self) -> None:
        """Look for nothing any more."""
        self.follow(State.STOPPED, executed=False)

    def _readiness(self) -> Readiness:
        """Return what has to show: where READY=1 may have been missed, to be seen to wait is enough."""
        wanted = self._group.readiness
        return wanted._replace(kind=AUTO) if self._missed and wanted.kind == NOTIFY else wanted

    def _look_no_more(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _sockets(self) -> dict[int, int | None]:
        """Return the inode of each socket of the instance, with its TCP port."""
        found: dict[int, int | None] = {}
        for port in self._group.ports:
            for inode in self._listeners.inodes([port], self._slot):
                found[inode] = port.port if port.kind == "tcp" else None
        return found

    def _way(self) -> Way | None:
        """Return how to reach the instance where it is asked, if it has a socket of its own there."""
        asked, listeners = self._group.readiness.address, self._listeners
        if asked is None:
            return None
        # Of TCP a number stands for one port: it is the key in `tcp-ports`.
        port = next(port for port in self._group.ports if (port.kind, port.port) == ("tcp", asked[1]))
        if not port.reuse_port:
            return None
        return Way(partial(listeners.add_exception, port, self._slot), partial(listeners.remove_exception, port))

    def _ready(self, remark: str) -> None:
        self.remark = remark
        self._tell(Event.READY)

    def _drain(self) -> None:
        ports = [port.port for port in self._group.ports if port.kind == "tcp"]
        left: int | None = None
        with suppress(OSError):  # a kernel that does not tell: the drain-timeout ends it
            left = connections.count(self._pids(), ports)
        if left == 0 and not self._listeners.queued(self._group.ports, self._slot):
            self._tell(Event.DRAINED)
        else:
            self._loop.deadline((self, "drain"), time.monotonic() + _DRAIN_LOOK, self._drain)

    # What it says; sd_notify(3).

    def hear(self, message: dict[str, str]) -> float | None:
        """Take a message of the instance; return the seconds by which it asks for more time, if it does."""
        self.status = message.get("STATUS", self.status)
        if message.get("READY") == "1" and self._group.readiness.hears():
            self._tell(Event.READY)
        if message.get("STOPPING") == "1":
            self._listeners.leave_rotation(self._group.ports, self._slot)
        if message.get("WATCHDOG") == "trigger":
            self._kill("its watchdog was triggered by itself")
        if (period := notifications.seconds(message, "WATCHDOG_USEC")) is not None:
            self.watchdog = period or None
        if "WATCHDOG" in message or "WATCHDOG_USEC" in message:
            self._wind_up()
        return notifications.seconds(message, "EXTEND_TIMEOUT_USEC")

    def _wind_up(self) -> None:
        """Give the watchdog its whole time again, if the instance has asked for one."""
        at = time.monotonic() + self.watchdog if self.watchdog is not None and self._feeds else None
        self._loop.deadline((self, "watchdog"), at, self._silent)

    def _silent(self) -> None:
        self._kill(f"it has not said WATCHDOG=1 for {self.watchdog or 0:g} s")
