"""Observations as Prometheus text: one table of metrics, from which the documentation is made too.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format,
the names: https://prometheus.io/docs/practices/naming/. What was not read is no sample, never a zero.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from cgroup.files import parse_flat
from lithos_runner.status import store
from lithos_runner.status.readings import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from cgroup.usage import Usage
    from lithos_runner.status.readings import Instance, Observer, Supervisor

#: The labels that tell one instance from another.
LABELS = ("sandbox", "process", "index")

Samples = dict[str, float] | dict[str, int]
"""Values by their further labels, written as they come behind the others: `,event="high"`, or "" for none."""


class Sight(NamedTuple):
    """One instance with all that the kernel says of it."""

    instance: Instance
    usage: Usage
    #: Bytes, the PSS of its processes where its cgroup does not tell its memory.
    pss: int | None = None
    #: Whether the kernel counts OOM kills here.
    counted: bool = True

    def changed(self, before: Sight) -> set[str]:
        """What is not as it was: files of the cgroup by their names, and fields."""
        texts, others = self.usage.texts, before.usage.texts
        files = {file for file in texts.keys() | others.keys() if texts.get(file) != others.get(file)}
        fields = {field for field in ("instance", "pss") if getattr(self, field) != getattr(before, field)}
        return files | fields


class Metric(NamedTuple):
    """One metric of each instance."""

    name: str
    kind: str
    help: str
    #: What they are made of, by the names of `Sight.changed`.
    sources: tuple[str, ...]
    samples: Callable[[Sight], Samples]
    #: Labels beside `LABELS`.
    labels: tuple[str, ...] = ()


def _one(value: float | None) -> Samples:
    return {} if value is None else {"": value}


def _number(file: str) -> Callable[[Sight], Samples]:
    """The number in a file; none also for "max"."""

    def samples(sight: Sight) -> Samples:
        text = sight.usage.texts.get(file, b"max\n")
        return {} if text == b"max\n" else {"": int(text)}

    return samples


def _memory(sight: Sight) -> Samples:
    return _one(sight.pss) or _number("memory.current")(sight)


def _events(sight: Sight) -> dict[str, int]:
    return parse_flat(sight.usage.texts.get("memory.events", b"").decode())


def _oom_kills(sight: Sight) -> Samples:
    return {"": sight.instance.oom_kills + _events(sight).get("oom_kill", 0)} if sight.counted else {}


def _cpu_seconds(sight: Sight) -> Samples:
    usec = sight.usage.cpu_usec
    return {} if usec is None else {"": usec / 1e6}


_STATES: dict[str, Samples] = {now: {f',state="{state}"': int(state == now) for state in STATES} for now in STATES}


def _memory_events(sight: Sight) -> Samples:
    return {f',event="{event}"': count for event, count in _events(sight).items()}


def _pressure(sight: Sight) -> Samples:
    stalled = sight.usage.stalled_usec.items()
    return {f',resource="{resource}",kind="{kind}"': usec / 1e6 for (resource, kind), usec in stalled}


METRICS = (
    Metric(
        "lithos_instance_up",
        "gauge",
        "1 when the instance is ready to serve, else 0.",
        ("instance",),
        lambda sight: {"": int(sight.instance.state == "ready")},
    ),
    Metric(
        "lithos_instance_state",
        "gauge",
        "1 for the state that the instance is in, 0 for all others.",
        ("instance",),
        lambda sight: _STATES.get(sight.instance.state, {}),
        ("state",),
    ),
    Metric(
        "lithos_instance_memory_bytes",
        "gauge",
        "Memory of the instance: its cgroup's memory.current, or the PSS of its processes on a host "
        "without the memory controller.",
        ("memory.current", "pss"),
        _memory,
    ),
    Metric(
        "lithos_instance_memory_peak_bytes",
        "gauge",
        "The most memory that the instance had since it started (memory.peak).",
        ("memory.peak",),
        _number("memory.peak"),
    ),
    Metric(
        "lithos_instance_memory_max_bytes",
        "gauge",
        "The memory limit of the instance (memory.max), absent when there is none.",
        ("memory.max",),
        _number("memory.max"),
    ),
    Metric(
        "lithos_instance_oom_kills_total",
        "counter",
        "Processes of the instance that were killed for the lack of memory, over all of its lives.",
        ("memory.events", "instance"),
        _oom_kills,
    ),
    Metric(
        "lithos_instance_memory_events_total",
        "counter",
        "How often each event of memory.events came since the instance started.",
        ("memory.events",),
        _memory_events,
        ("event",),
    ),
    Metric(
        "lithos_instance_restarts_total",
        "counter",
        "How often the instance was started again.",
        ("instance",),
        lambda sight: {"": sight.instance.restarts},
    ),
    Metric(
        "lithos_instance_cpu_seconds_total",
        "counter",
        "CPU time that the instance used since it started.",
        ("cpu.stat",),
        _cpu_seconds,
    ),
    Metric(
        "lithos_instance_pids",
        "gauge",
        "Processes and threads of the instance (pids.current).",
        ("pids.current",),
        _number("pids.current"),
    ),
    Metric(
        "lithos_instance_pressure_seconds_total",
        "counter",
        "Time for which some or all tasks of the instance waited for a resource (PSI).",
        ("cpu.pressure", "io.pressure", "memory.pressure"),
        _pressure,
        ("resource", "kind"),
    ),
    Metric(
        "lithos_instance_start_time_seconds",
        "gauge",
        "When the instance was started, in seconds since the epoch.",
        ("instance",),
        lambda sight: _one(sight.instance.started),
    ),
)


class SupervisorMetric(NamedTuple):
    """One metric of each supervisor, `lives` being None for one that died; its only label is `runtime`."""

    name: str
    kind: str
    help: str
    value: Callable[[Supervisor | None], float | None]


SUPERVISOR_METRICS = (
    SupervisorMetric(
        "lithos_supervisor_up",
        "gauge",
        "1 when the supervisor of this runtime directory lives, 0 when it died without a clean stop.",
        lambda lives: int(lives is not None),
    ),
    SupervisorMetric(
        "lithos_supervisor_start_time_seconds",
        "gauge",
        "When the supervisor was started, in seconds since the epoch.",
        lambda lives: lives and lives.started,
    ),
)


_ALL = range(len(METRICS))
_MADE_OF = {
    source: [number for number in _ALL if source in METRICS[number].sources]
    for metric in METRICS
    for source in metric.sources
}


class _Row:
    """The lines of one instance, a text for each of `METRICS`."""

    def __init__(self, instance: Instance) -> None:
        self._labels = labels(instance)
        self._sight: Sight | None = None
        self.texts = [""] * len(METRICS)

    def update(self, sight: Sight) -> Iterable[int]:
        """Write what is not as it was; returns the numbers of those metrics."""
        before, self._sight = self._sight, sight
        if sight == before:
            return ()
        numbers = {number for source in sight.changed(before) for number in _MADE_OF[source]} if before else _ALL
        for number in numbers:
            self.texts[number] = _lines(METRICS[number], self._labels, sight)
        return numbers


def _lines(metric: Metric, common: str, sight: Sight) -> str:
    name, samples = metric.name, metric.samples(sight).items()
    return "".join([f"{name}{{{common}{further}}} {value}\n" for further, value in samples])


class Page:
    """The text, again and again: what is as it was the last time is not written anew."""

    def __init__(self) -> None:
        self._rows: list[_Row] = []
        self._names: list[str] = []
        self._texts = [""] * len(METRICS)

    def render(self, supervisors: Mapping[str, Supervisor | None], sights: Sequence[Sight]) -> str:
        """The text for these supervisors, by runtime directory, and instances."""
        changed: set[int] = set()
        if self._arrange([sight.instance for sight in sights]):
            changed.update(_ALL)
        for row, sight in zip(self._rows, sights, strict=True):
            changed.update(row.update(sight))
        for number in changed:
            self._texts[number] = _header(METRICS[number]) + "".join([row.texts[number] for row in self._rows])
        return "".join([*(_of_supervisors(metric, supervisors) for metric in SUPERVISOR_METRICS), *self._texts])

    def _arrange(self, instances: Sequence[Instance]) -> bool:
        """Have a row for each instance; returns whether there are others than before."""
        names = [instance.name for instance in instances]
        if names == self._names and all(self._texts):
            return False
        known = dict(zip(self._names, self._rows, strict=True))
        self._rows = [known.pop(one.name) if one.name in known else _Row(one) for one in instances]
        self._names = names
        return True


def scrape(observer: Observer, page: Page) -> str:
    """Look at everything that runs on this host and write it down."""
    lives = observer.supervisors()
    sights = [look(observer, instance) for supervisor in lives for instance in supervisor.instances]
    runtimes = {runtime: None for runtime in store.registered() if os.path.isdir(runtime)}
    return page.render({**runtimes, **{supervisor.runtime: supervisor for supervisor in lives}}, sights)


def look(observer: Observer, instance: Instance) -> Sight:
    """Read all files of the cgroup of an instance."""
    usage = observer.usage(instance)
    pss = None if "memory.current" in usage.texts else observer.memory_of_processes(instance)
    return Sight(instance, usage, pss, observer.counts_oom_kills)


def _of_supervisors(metric: SupervisorMetric, supervisors: Mapping[str, Supervisor | None]) -> str:
    values = {runtime: metric.value(lives) for runtime, lives in supervisors.items()}
    samples = [
        f'{metric.name}{{runtime="{escape(runtime)}"}} {value}\n'
        for runtime, value in values.items()
        if value is not None
    ]
    return "".join([_header(metric), *samples])


def labels(instance: Instance) -> str:
    """The labels that each sample of an instance has."""
    values = (instance.sandbox, instance.process, str(instance.index))
    return ",".join(f'{name}="{escape(value)}"' for name, value in zip(LABELS, values, strict=True))


def escape(value: str) -> str:
    """A label value as it stands between quotes."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _header(metric: Metric | SupervisorMetric) -> str:
    return f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"


def markdown() -> Iterator[str]:
    """The lines of the table in docs/metrics.md."""
    yield "| metric | type | labels | meaning |"
    yield "|---|---|---|---|"
    for of_supervisor in SUPERVISOR_METRICS:
        yield f"| `{of_supervisor.name}` | {of_supervisor.kind} | `runtime` | {of_supervisor.help} |"
    for metric in METRICS:
        names = ", ".join(f"`{label}`" for label in (*LABELS, *metric.labels))
        yield f"| `{metric.name}` | {metric.kind} | {names} | {metric.help} |"


if __name__ == "__main__":
    print("\n".join(markdown()))
