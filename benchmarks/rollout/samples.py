"""What one request of the load came to, and what such requests say together. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from ..launch.results import percentile


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    REFUSED = "refused"  # nobody listens
    CUT = "cut"  # connected, and closed or reset before the whole answer had come
    TIMEOUT = "timeout"
    WRONG = "wrong"  # answered, but not with 200


class Sample(NamedTuple):
    """One request. Times are seconds of CLOCK_MONOTONIC; ``seconds`` counts from ``at``, when it was due."""

    at: float
    seconds: float
    outcome: Outcome
    version: str  # empty when no answer said it
    life: str  # of the process that answered or, on a kept connection, had answered before
    kept: bool  # on a kept connection, not on one of its own

    @property
    def end(self) -> float:
        """When it was answered or failed."""
        return self.at + self.seconds


def read(rows: Iterable[Sequence[Any]]) -> tuple[Sample, ...]:
    """Take requests back from JSON."""
    return tuple(Sample(at, seconds, Outcome(outcome), *rest) for at, seconds, outcome, *rest in rows)


class Latency(NamedTuple):
    """How long answered requests took, in milliseconds."""

    p50: float
    p99: float
    worst: float


def latency(samples: Iterable[Sample]) -> Latency | None:
    """Summarize those that were answered; None when none was."""
    times = [sample.seconds * 1e3 for sample in samples if sample.outcome is Outcome.OK]
    return Latency(percentile(times, 50), percentile(times, 99), max(times)) if times else None


def between(samples: Iterable[Sample], start: float, end: float) -> list[Sample]:
    """The requests that were due from ``start`` on and before ``end``."""
    return [sample for sample in samples if start <= sample.at < end]


def failures(samples: Iterable[Sample]) -> list[Sample]:
    """The requests that did not get their answer."""
    return [sample for sample in samples if sample.outcome is not Outcome.OK]


def versions(samples: Iterable[Sample]) -> tuple[str, ...]:
    """The versions that answered, in order."""
    return tuple(sorted({sample.version for sample in samples if sample.outcome is Outcome.OK}))


# A fresh connection may be cut before the process has said who it is. Under load a process answers often enough that
# the last that was heard of it is never further from its death than this.
_LAST_WORDS = 0.25  # seconds
_REQUESTS = 30  # to all processes together, where so many take longer than that
_DYING = 1.0  # seconds that a process may take to die on a host that stands still


def inside_the_dying(
    samples: Collection[Sample], kills: Collection[float] = (), mortal: str | None = None
) -> list[Sample]:
    """The requests that were lost inside a process that died while it served them.

    Such a request was cut, and the process that it was in answers none that is due after that. No supervisor can
    save it: the connection was accepted, and the kernel closes it with its only owner. Ask this only where a process
    dies: for one cut before its process had said who it is, it is enough that one fell silent at that time, or was
    killed at one of the moments ``kills``. ``mortal`` is the version whose processes die, if it is only one: those of
    others that fall silent were ended by their supervisor.
    """
    cut = [sample for sample in sorted(samples) if sample.outcome is Outcome.CUT]
    last = {sample.life: sample for sample in sorted(samples) if sample.outcome is Outcome.OK}
    ended = {life for life, answer in last.items() if mortal not in (None, answer.version)}
    silent = [sample for sample in cut if sample.life and not _lives_after(sample.end, last.get(sample.life))]
    inside = [sample for sample in silent if sample.life not in ended]
    deaths = [sample.end for sample in (*last.values(), *inside) if sample.life not in ended]
    unknown = [sample for sample in cut if not sample.life]
    silence = _silence(samples)
    return inside + [
        one
        for one in unknown
        if any(abs(death - one.end) <= silence for death in deaths)
        or any(0 <= one.end - kill <= _DYING for kill in kills)
    ]


def _silence(samples: Collection[Sample]) -> float:
    """How many seconds may lie between the last answer of a process and its death."""
    moments = [sample.at for sample in samples]
    return max(_LAST_WORDS, _REQUESTS * (max(moments) - min(moments)) / len(moments)) if moments else _LAST_WORDS


def _lives_after(moment: float, last_answer: Sample | None) -> bool:
    # By when it was due: of two that end together, the answer may be noticed after the cut.
    return last_answer is not None and last_answer.at > moment
