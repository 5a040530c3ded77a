"""Which descriptor goes where: the child ends with exactly {0, 1, 2} and the declared sockets.

The plan never overwrites a descriptor that is still needed, whatever the numbers (3→4 while 4→3): every source is
first duplicated above all targets. This also covers dup2(3, 3), which would leave close-on-exec set.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping

from . import kernel

LAST = 2**32 - 1


def gaps(targets: list[int]) -> list[tuple[int, int]]:
    """Return the inclusive ranges of descriptor numbers that are not in ``targets``."""
    found, start = [], 0
    for target in sorted(targets):
        if target > start:
            found.append((start, target - 1))
        start = target + 1
    return [*found, (start, LAST)]


def place(sources: Mapping[int, int], kept: tuple[int, ...] = ()) -> list[int]:
    """Make ``sources`` (target → source) the only descriptors that survive execve(2).

    Targets lose close-on-exec, everything else gets it. Returns the new, higher numbers of the descriptors in
    ``kept``, which stay usable until then. Raises OSError (EMFILE when RLIMIT_NOFILE is too low).
    """
    above = max(sources, default=2) + 1
    parked = {target: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, above) for target, source in sources.items()}
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, above) for descriptor in kept]
    for target, source in parked.items():
        os.dup2(source, target, inheritable=True)
    for first, last in gaps(list(sources)):
        kernel.close_range(first, last, kernel.CLOSE_RANGE_CLOEXEC)
    return moved
