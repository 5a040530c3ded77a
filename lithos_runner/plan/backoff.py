"""When a program that ended may be started again."""

from __future__ import annotations

from typing import NamedTuple

LONGEST = 60.0  # seconds; no delay grows beyond it
SHORTEST = 0.1  # seconds; what a restart-timeout of 0 is taken for once a program fails, or it would spin
GOOD_RUN = 10.0  # seconds; who has served that long begins anew


class Backoff(NamedTuple):
    """Exponential back-off: ``first``, 2·``first``, 4·``first`` … at most ``LONGEST`` seconds.

    A delay counts from the moment at which the program began to serve, so one that has served longer than its delay is
    started again at once; for a program that never served it counts from its end. Either way there is no less
    than ``first``, lithos's ``restart-timeout``, between two starts. ``failures`` counts the short runs in a row.
    """

    first: float
    failures: int = 0

    @property
    def delay(self) -> float:
        """Seconds from the moment at which the last run began to serve, or else ended, to the next start."""
        if self.failures == 0:
            return self.first
        first = max(self.first, SHORTEST)
        # 2 ** 1024 would be an OverflowError; 2 ** 40 times SHORTEST is beyond every ceiling.
        return min(first * 2.0 ** min(self.failures - 1, 40), max(first, LONGEST))

    def after(self, ran: float) -> Backoff:
        """Return the back-off after a program has served for ``ran`` seconds, 0 when it never did."""
        good = ran >= max(GOOD_RUN, self.delay)
        return self._replace(failures=0 if good else self.failures + 1)
