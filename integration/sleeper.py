"""A supervisor whose four instances do nothing, beside all other tests: what does one cost that has nothing to do?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from run_unit import Unit

if TYPE_CHECKING:
    from real_host import RealHost

QUIET = 60.0  # seconds that have to pass without a wake-up


class Sleeper:
    """A `lithos run` in a unit; ``size`` is its PSS in bytes when it was the only supervisor on this host."""

    def __init__(self, host: RealHost) -> None:
        file = host.container(executable="/bin/sleep", arguments=["1000000"], instances=4)
        # Delegated: nothing of it is where other tests look for what is left.
        self._unit = Unit(host, file, "Delegate=yes")
        self._unit.until_ready()
        self._process = Path("/proc", str(self._unit.main_pid))
        self.size = self._number("smaps_rollup", "Pss:") * 1024
        self._before, self._since = self._switches(), time.monotonic()

    def wake_ups(self) -> int:
        """Return how often it has woken up since it was ready, which is a minute ago at least."""
        # Measuring quiet takes the time that is to be quiet.
        time.sleep(max(0.0, self._since + QUIET - time.monotonic()))
        return self._switches() - self._before

    def _switches(self) -> int:
        return self._number("status", "voluntary_ctxt_switches:")

    def _number(self, file: str, key: str) -> int:
        words = (self._process / file).read_text().split()
        return int(words[words.index(key) + 1])

    def stop(self) -> None:
        self._unit.stop()
