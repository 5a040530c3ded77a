"""Whether a roll-out has the memory that old and new instances need side by side."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

MEBIBYTE = 1 << 20


class Demand(NamedTuple):
    """What a process group may use: ``memory`` is the limit of one instance in bytes, None without a limit."""

    instances: int
    surge: int
    memory: int | None


def shortage(limit: int | None, old: Demand, new: Demand, others: Collection[Demand]) -> str:
    """Say why a sandbox with ``limit`` bytes cannot hold a roll-out from ``old`` to ``new``; "" when it can.

    ``others`` have a surge if they are rolled out at the same time. Where an instance has no limit nothing can be
    said beforehand; the sandbox's own limit holds all the same.
    """
    memory = [demand.memory for demand in (old, new, *others)]
    known = [each for each in memory if each is not None]
    if limit is None or len(known) < len(memory):
        return ""
    count = new.instances + new.surge
    needed = count * max(known[:2])
    taken = sum((other.instances + other.surge) * each for other, each in zip(others, known[2:], strict=True))
    if needed + taken <= limit:
        return ""
    elsewhere = f" and {_size(taken)} of it are other processes'" if taken else ""
    return (
        f"a roll-out has up to {count} instances of {_size(max(known[:2]))} at a time, but the sandbox's memory-limit "
        f"is {_size(limit)}{elsewhere}: raise that, or replace in place with "
        "upgrade: {max-surge: 0, max-unavailable: 1}"
    )


def _size(number: int) -> str:
    return f"{number / MEBIBYTE:.0f}Mi"
