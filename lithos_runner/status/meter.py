"""How much CPU instances use: the difference of two readings of their cgroups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lithos_runner.status.readings import life

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lithos_runner.status.readings import Life, Observation


class CpuMeter:
    """Remembers the last reading of each life of an instance."""

    def __init__(self) -> None:
        self._usec: dict[Life, int] = {}
        self._at = 0.0

    def measure(self, observations: Iterable[Observation], now: float) -> dict[Life, float]:
        """The CPUs (1.5: one and a half) that each instance used since the last call, if it was there then.

        `now` is of any clock that counts seconds steadily.
        """
        readings = {life(seen.instance): seen.cpu_usec for seen in observations if seen.cpu_usec is not None}
        elapsed = (now - self._at) * 1e6
        used = {
            key: (usec - self._usec[key]) / elapsed
            for key, usec in readings.items()
            if key in self._usec and elapsed > 0
        }
        self._usec, self._at = readings, now
        return used
