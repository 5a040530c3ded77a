"""How much CPU instances use: the difference of two readings of their cgroups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lithos_runner.status.readings import life

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lithos_runner.status.readings import Instance, Life, Observer


class CpuMeter:
    """Remembers the last reading of each life of an instance."""

    def __init__(self) -> None:
        self._seconds: dict[Life, float] = {}
        self._at = 0.0

    def measure(self, observer: Observer, instances: Iterable[Instance], now: float) -> dict[Life, float]:
        """The CPUs (1.5: one and a half) that each instance used since the last call, if it was there then.

        `now` is of any clock that counts seconds steadily.
        """
        readings = {
            life(instance): seconds
            for instance in instances
            if (group := observer.group(instance)) and (seconds := group.cpu_seconds()) is not None
        }
        elapsed = now - self._at
        used = {
            key: (seconds - self._seconds[key]) / elapsed
            for key, seconds in readings.items()
            if key in self._seconds and elapsed > 0
        }
        self._seconds, self._at = readings, now
        return used
