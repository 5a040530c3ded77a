"""What is measured, one function a site."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from .process import Cost, Exporter, Supervisor, command, replacement
from .results import Measurement
from .site import Shape, Site, Sites

MB = 1e6
_OLD = 3.0  # seconds after which a reader trusts the times of files, see supervisor/notes.py


class Extent(NamedTuple):
    """How much to do."""

    configured: int = 500
    running: int = 1000
    rounds: int = 9
    quiet: float = 10.0  # seconds of doing nothing


Trial = Callable[[Sites, Extent], Iterator[Measurement]]


def configuration(sites: Sites, extent: Extent) -> Iterator[Measurement]:
    """Check files without anything that runs: entries that have much in common, and such as have nothing."""
    total = extent.configured
    many = sites.make("alike", Shape(total // 10, 10, sandboxes=3, images=20))
    yield from _costs(f"check, {total} instances of {total // 10} processes", _checks(many, extent), 2000)
    single = sites.make("unlike", Shape(total, 1, sandboxes=3, images=20, alike=False))
    yield from _costs(f"check, {total} processes that are all different", _checks(single, extent), 2000)


def _checks(site: Site, extent: Extent) -> list[Cost]:
    return [command(("check", "-C", str(site.master))) for _ in range(extent.rounds)]


def reloads(sites: Sites, extent: Extent) -> Iterator[Measurement]:
    """Reload what has not changed, and what somebody has written anew with the same text."""
    total = extent.configured
    site = sites.make("reload", Shape(total, 1, sandboxes=3, images=20, alike=False))
    with _running(site) as supervisor:
        supervisor.until_ready(total)
        time.sleep(_OLD)
        supervisor.reload()  # takes notes
        unchanged = [supervisor.cost_of(supervisor.reload) for _ in range(extent.rounds)]
        yield from _costs(f"reload, {total} processes, no file changed", unchanged, 300)
        yield from _costs("… the master file written anew", list(_rewritten(site, supervisor, extent)))


def _rewritten(site: Site, supervisor: Supervisor, extent: Extent) -> Iterator[Cost]:
    for _ in range(extent.rounds):
        site.write_master()
        yield supervisor.cost_of(supervisor.reload)


def few(sites: Sites, extent: Extent) -> Iterator[Measurement]:
    """Measure a supervisor with four instances."""
    with _running(sites.make("few", Shape(1, 4))) as supervisor:
        supervisor.until_ready(4)
        yield from _memory(supervisor, "4 instances", 14)
        yield _wake_ups(supervisor, extent)
        yield from _costs("lithos ps, 4 instances", _ps(supervisor, extent), 60)
        yield _adoption(supervisor, "4 instances", extent, 150)


def restarts(sites: Sites, extent: Extent) -> Iterator[Measurement]:
    """Kill instances, each for the first time: later it would have to wait."""
    for init in (False, True):
        count = 10 * extent.rounds
        with _running(sites.make(f"restarts-{init}".lower(), Shape(1, count, init=init))) as supervisor:
            states = supervisor.until_ready(count)
            times = tuple(replacement(state) * 1e3 for state in states)
            yield Measurement(f"crash → exec, init: {init}".lower(), times, "ms", 5 if not init else None)


def many(sites: Sites, extent: Extent) -> Iterator[Measurement]:
    """Start a thousand, and measure the supervisor that has them."""
    count = extent.running
    with _running(sites.make("many", Shape(1, count))) as supervisor:
        states = supervisor.until_ready(count)
        used = supervisor.cpu()
        last = max(float(str(state["started"])) for state in states)
        yield Measurement(f"{count} times sleep, until the last is started", (last - supervisor.began,), "s", 3)
        yield Measurement("… CPU time of the supervisor until all are ready", (used,), "s")
        yield from _memory(supervisor, f"{count} instances", 20)
        yield _wake_ups(supervisor, extent)
        yield from _costs(f"lithos ps, {count} instances", _ps(supervisor, extent))
        yield _scrapes(supervisor, extent)
        yield _adoption(supervisor, f"{count} instances", extent)


TRIALS: tuple[Trial, ...] = (many, few, restarts, configuration, reloads)


def _costs(what: str, costs: list[Cost], most: float | None = None) -> Iterator[Measurement]:
    yield Measurement(what, tuple(cost.wall * 1e3 for cost in costs), "ms", most)
    yield Measurement("… its CPU time", tuple(cost.cpu * 1e3 for cost in costs), "ms")


def _memory(supervisor: Supervisor, what: str, most: float) -> Iterator[Measurement]:
    memory = supervisor.memory()
    yield Measurement(f"memory with {what}, PSS", (memory.pss / MB,), "MB", most)
    yield Measurement("… shared with nobody", (memory.private / MB,), "MB")


def _ps(supervisor: Supervisor, extent: Extent) -> list[Cost]:
    return [command(("ps",), supervisor.environ) for _ in range(extent.rounds)]


def _scrapes(supervisor: Supervisor, extent: Extent) -> Measurement:
    exporter = Exporter(supervisor.environ)
    try:
        exporter.scrape()  # opens the files, which stay open
        times = tuple(exporter.scrape().cpu * 1e3 for _ in range(extent.rounds))
    finally:
        exporter.stop()
    return Measurement(f"metrics of {extent.running} instances, CPU time of a scrape", times, "ms", 25)


def _wake_ups(supervisor: Supervisor, extent: Extent) -> Measurement:
    time.sleep(1)  # it has just been asked something
    before = supervisor.wake_ups()
    time.sleep(extent.quiet)
    return Measurement(f"wake-ups in {extent.quiet:g} idle seconds", (supervisor.wake_ups() - before,), "", 0)


def _adoption(supervisor: Supervisor, what: str, extent: Extent, most: float | None = None) -> Measurement:
    times = tuple(supervisor.replace() * 1e3 for _ in range(extent.rounds))
    return Measurement(f"SIGKILL → adopted, {what}", times, "ms", most)


@contextmanager
def _running(site: Site) -> Iterator[Supervisor]:
    supervisor = Supervisor(site)
    try:
        supervisor.until_said("READY=1")
        yield supervisor
    finally:
        supervisor.stop()
