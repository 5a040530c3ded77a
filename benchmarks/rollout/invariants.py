"""What must be true whatever happens, asked of what was seen from outside. Pure.

a. an application has the descriptors that it was promised, and no others; b. no request is lost but those inside a
process that dies; c. a roll-out keeps within its bounds; d. a version that fails never serves alone; e. the next
supervisor adopts what the killed one had; f. nothing outlives its instance; g. a refused configuration changes nothing;
h. nothing that an application does ends the supervisor.

Every function returns complaints, none when all is well; complaints begin with the letter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from .samples import Outcome, Sample, failures, inside_the_dying

SERVING = ("ready",)
COMING = ("starting", "ready")


class Instance(NamedTuple):
    """One instance, as its state file and /proc have it."""

    name: str
    version: str  # that of its image
    state: str
    pid: int | None  # of the application
    generation: int
    restarts: int
    cgroup: str


class Bounds(NamedTuple):
    """How many instances there may be at a time."""

    serving: int  # at least so many are ready
    coming: int  # at most so many start or are ready


# What an application of ours opens for itself; files, pipes and other listening sockets came from elsewhere.
_OWN = ("socket:", "anon_inode:[eventpoll]")
_DECLARED = 3


def descriptors(name: str, links: Mapping[int, str], listening: Collection[str]) -> Iterator[str]:
    """Invariant a: the application has 0, 1, 2 and the declared socket, and beyond that only what it has opened itself.

    ``links`` are those of /proc/PID/fd, ``listening`` such links of all listening sockets of the host.
    """
    if missing := {0, 1, 2, _DECLARED} - links.keys():
        yield f"a: {name} lacks the descriptors {sorted(missing)}"
    for number, link in links.items():
        if (link in listening) != (number == _DECLARED):
            yield f"a: descriptor {number} of {name} is {link}: only {_DECLARED} ought to be a listening socket"
        elif number > _DECLARED and not link.startswith(_OWN):
            yield f"a: descriptor {number} of {name} is {link}, which it did not open"


def requests(samples: Iterable[Sample], kills: Collection[float] = ()) -> Iterator[str]:
    """Invariant b: no request is lost but those inside a process that died; ``kills`` are when some were killed."""
    every = list(samples)
    lost = set(inside_the_dying(every, kills))
    for sample in failures(every):
        if sample not in lost:
            kind = "kept" if sample.kept else "fresh"
            whom = f" by {sample.life}" if sample.life else ""
            yield f"b: a request at {sample.at:.3f} on a {kind} connection: {sample.outcome} at {sample.end:.3f}{whom}"


def crowd(instances: Collection[Instance], bounds: Bounds) -> Iterator[str]:
    """Invariants c and d: no roll-out, and none that fails, takes serving instances away or makes more than it may."""
    serving = sum(one.state in SERVING for one in instances)
    coming = sum(one.state in COMING for one in instances)
    if serving < bounds.serving:
        yield f"c, d: {serving} instances are ready, at least {bounds.serving} ought to be: {_states(instances)}"
    if coming > bounds.coming:
        yield f"c: {coming} instances start or are ready, at most {bounds.coming} may: {_states(instances)}"


def kept(before: Collection[Instance], after: Collection[Instance]) -> Iterator[str]:
    """Invariants d and e: who had the same version before is the same process, whatever was tried meanwhile."""
    then = {(one.name, one.version): one.pid for one in before}
    for one in after:
        if then.get((one.name, one.version), one.pid) != one.pid:
            yield f"d, e: {one.name} of {one.version} is {one.pid} instead of {then[one.name, one.version]}"


def unharmed(code: int | None) -> Iterator[str]:
    """Invariant h: the supervisor that was started last lives; ``code`` is the exit code of one that does not."""
    if code is not None:
        yield f"h: the supervisor has ended with code {code}"


def single(groups: Mapping[str, Collection[int]]) -> Iterator[str]:
    """Invariant e: no instance was started twice: one application in each cgroup, given by the process ids in it."""
    for name, pids in groups.items():
        if len(pids) != 1:
            yield f"e: {len(pids)} applications are in the cgroup {name}: {sorted(pids)}"


def remains(kind: str, found: Collection[str], wanted: Collection[str]) -> Iterator[str]:
    """Invariant f: no cgroup and no mount outlives its instance."""
    for one in sorted(set(found) - set(wanted)):
        yield f"f: the {kind} {one} is left of an instance that has ended"
    for one in sorted(set(wanted) - set(found)):
        yield f"f: the {kind} {one} of a living instance is not there"


def unchanged(before: Collection[Instance], after: Collection[Instance]) -> Iterator[str]:
    """Invariant g: a configuration that was refused changes nothing."""
    if {(one.name, one.pid, one.generation) for one in before} != {
        (one.name, one.pid, one.generation) for one in after
    }:
        yield f"g: a refused configuration changed {_pids(before)} to {_pids(after)}"


def served(samples: Iterable[Sample], version: str) -> Iterator[str]:
    """Invariant d: when all has settled, one version serves; ``samples`` are those of a settled moment."""
    found = {sample.version for sample in samples if sample.outcome is Outcome.OK}
    if found - {version}:
        yield f"d: {', '.join(sorted(found))} answered when only {version} ought to serve"


def _states(instances: Iterable[Instance]) -> str:
    return ", ".join(f"{one.name} {one.state}" for one in instances)


def _pids(instances: Iterable[Instance]) -> str:
    return ", ".join(f"{one.name} {one.pid}" for one in sorted(instances))
