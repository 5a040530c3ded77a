"""The measurement itself: every contender once per round, so that all meet the same noise of the machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ..program import Failed

WARM_UP = 5  # rounds whose times do not count: page cache, seccomp caches, the prepared mount namespace


class Timing(NamedTuple):
    """One start, in seconds; ``executed`` is None where nobody outside can see execve(2) happen."""

    executed: float | None
    exited: float


class Contender(Protocol):
    """A way to start a program."""

    name: str

    def launch(self, number: int) -> Timing:
        """Start /bin/true, wait until nothing of it is left, and return how long that took; raises Failed."""


class Clock(NamedTuple):
    """The time limit of a race."""

    now: Callable[[], float]  # seconds
    deadline: float


def race(
    contenders: Sequence[Contender], rounds: int, clock: Clock, progress: Callable[[int], None]
) -> dict[str, list[Timing]]:
    """Run ``rounds`` rounds after the warm-up, fewer when the deadline comes first; every contender has as many.

    Raises Failed when a contender fails or not one round was finished.
    """
    timings: dict[str, list[Timing]] = {contender.name: [] for contender in contenders}
    for number in range(-WARM_UP, rounds):
        if clock.now() > clock.deadline:
            break
        for contender in _order(contenders, number):
            timing = contender.launch(number + WARM_UP)
            if number >= 0:
                timings[contender.name].append(timing)
        progress(number + 1)
    if not all(timings.values()):
        raise Failed("the time was over before the first round that counts: give more --seconds")
    return timings


def _order(contenders: Sequence[Contender], number: int) -> list[Contender]:
    """Shuffle: what a start leaves to the kernel to clean up must not always meet the same next one.

    Without the `random` module: every copy of this process would have to carry its libraries.
    """
    return sorted(contenders, key=lambda contender: hash((number, contenders.index(contender))))
