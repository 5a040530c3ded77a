"""When a program that ended may be started again."""

from __future__ import annotations

from typing import NamedTuple

LONGEST = 60.0  # seconds between two starts of a program that keeps failing
SHORTEST = 0.1  # seconds; what a restart-timeout of 0 is taken for once a program fails, or it would spin
GOOD_RUN = 10.0  # seconds; who has lived that long begins anew


class Backoff(NamedTuple):
    """Exponential back-off between *starts*: ``first``, 2·``first``, 4·``first`` … at most ``LONGEST`` seconds.

    lithos's ``restart-timeout`` (``first``) is the least time between two starts, so a program that has lived longer
    than its delay is started again at once. ``failures`` counts the short runs in a row.
    """

    first: float
    failures: int = 0

    @property
    def delay(self) -> float:
        """Seconds that have to lie between the last start and the next one."""
        if self.failures == 0:
            return self.first
        first = max(self.first, SHORTEST)
        # 2 ** 1024 would be an OverflowError; 2 ** 40 times SHORTEST is beyond every ceiling.
        return min(first * 2.0 ** min(self.failures - 1, 40), max(first, LONGEST))

    def after(self, ran: float) -> Backoff:
        """Return the state after a run of ``ran`` seconds (0 when the program could not be started)."""
        good = ran >= max(GOOD_RUN, self.delay)
        return self._replace(failures=0 if good else self.failures + 1)
