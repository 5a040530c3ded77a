"""Which descriptor goes where: the child ends with exactly {0, 1, 2} and the declared sockets.

The plan never overwrites a descriptor that is still needed, whatever the numbers (3→4 while 4→3): every source is
first duplicated above all of them. This also covers dup2(3, 3), which would leave close-on-exec set.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import NamedTuple

from . import kernel

LAST = 2**32 - 1


class Plan(NamedTuple):
    """The moves, as numbers; ``kept`` are the new numbers of what stays open only until execve(2)."""

    parked: tuple[tuple[int, int], ...]  # source → a number above all others
    placed: tuple[tuple[int, int], ...]  # that number → target
    gaps: tuple[tuple[int, int], ...]  # ranges that do not survive
    kept: tuple[int, ...]


def plan(sources: Mapping[int, int], kept: tuple[int, ...] = ()) -> Plan:
    """Plan for ``sources`` (target → source) to be the only descriptors that survive execve(2)."""
    above = max((*sources, *sources.values(), *kept), default=2) + 1
    parked = tuple((source, above + n) for n, source in enumerate((*sources.values(), *kept)))
    numbers = [number for _, number in parked]
    placed = tuple(zip(numbers, sources, strict=False))
    return Plan(parked, placed, gaps(sources), tuple(numbers[len(sources) :]))


def gaps(targets: Collection[int]) -> tuple[tuple[int, int], ...]:
    """Return the inclusive ranges of descriptor numbers that are not in ``targets``."""
    found, start = [], 0
    for target in sorted(targets):
        if target > start:
            found.append((start, target - 1))
        start = target + 1
    return (*found, (start, LAST))


def calls(moves: Plan) -> list[kernel.Call]:
    """Return the system calls that carry the plan out; everything but the targets gets close-on-exec."""
    return [
        *(kernel.dup3(source, number, os.O_CLOEXEC) for source, number in moves.parked),
        *(kernel.dup2(number, target) for number, target in moves.placed),
        *(kernel.close_range(first, last, kernel.CLOSE_RANGE_CLOEXEC) for first, last in moves.gaps),
    ]
