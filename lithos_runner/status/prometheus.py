"""Observations as Prometheus text: one table of metrics, from which the documentation is made too.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format,
the names: https://prometheus.io/docs/practices/naming/. What was not read is no sample, never a zero.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from lithos_runner.status import store
from lithos_runner.status.readings import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from lithos_runner.status.readings import Instance, Observer, Supervisor
    from lithos_runner.status.usage import Memory

#: The labels that tell one instance from another.
LABELS = ("sandbox", "process", "index")

Samples = dict[str, float] | dict[str, int]
"""Values by their further labels, written as they come behind the others: `,event="high"`, or "" for none."""


class Sight(NamedTuple):
    """One instance with all that the kernel says of it."""

    instance: Instance
    memory: Memory | None
    oom_kills: int | None
    cpu_seconds: float | None
    pids: int | None
    pressure: Mapping[tuple[str, str], float]


class Metric(NamedTuple):
    """One metric of each instance."""

    name: str
    kind: str
    help: str
    samples: Callable[[Sight], Samples]
    #: Labels beside `LABELS`.
    labels: tuple[str, ...] = ()


def _one(value: float | None) -> Samples:
    return {} if value is None else {"": value}


# What thousands of samples have in common is written once: a scrape of 1,000 instances has 25,000 lines.
_STATES: dict[str, Samples] = {now: {f',state="{state}"': int(state == now) for state in STATES} for now in STATES}


@cache
def _event_label(event: str) -> str:
    return f',event="{event}"'


@cache
def _pressure_label(resource: str, kind: str) -> str:
    return f',resource="{resource}",kind="{kind}"'


def _memory_events(sight: Sight) -> Samples:
    events = sight.memory.events if sight.memory else {}
    return {_event_label(event): count for event, count in events.items()}


def _pressure(sight: Sight) -> Samples:
    return {_pressure_label(*key): seconds for key, seconds in sight.pressure.items()}


METRICS = (
    Metric(
        "lithos_instance_up",
        "gauge",
        "1 when the instance is ready to serve, else 0.",
        lambda sight: _one(int(sight.instance.state == "ready")),
    ),
    Metric(
        "lithos_instance_state",
        "gauge",
        "1 for the state that the instance is in, 0 for all others.",
        lambda sight: _STATES.get(sight.instance.state, {}),
        ("state",),
    ),
    Metric(
        "lithos_instance_memory_bytes",
        "gauge",
        "Memory of the instance: its cgroup's memory.current, or the PSS of its processes on a host "
        "without the memory controller.",
        lambda sight: _one(sight.memory and sight.memory.current),
    ),
    Metric(
        "lithos_instance_memory_peak_bytes",
        "gauge",
        "The most memory that the instance had since it started (memory.peak).",
        lambda sight: _one(sight.memory and sight.memory.peak),
    ),
    Metric(
        "lithos_instance_memory_max_bytes",
        "gauge",
        "The memory limit of the instance (memory.max), absent when there is none.",
        lambda sight: _one(sight.memory and sight.memory.max),
    ),
    Metric(
        "lithos_instance_oom_kills_total",
        "counter",
        "Processes of the instance that were killed for the lack of memory, over all of its lives.",
        lambda sight: _one(sight.oom_kills),
    ),
    Metric(
        "lithos_instance_memory_events_total",
        "counter",
        "How often each event of memory.events came since the instance started.",
        _memory_events,
        ("event",),
    ),
    Metric(
        "lithos_instance_restarts_total",
        "counter",
        "How often the instance was started again.",
        lambda sight: _one(sight.instance.restarts),
    ),
    Metric(
        "lithos_instance_cpu_seconds_total",
        "counter",
        "CPU time that the instance used since it started.",
        lambda sight: _one(sight.cpu_seconds),
    ),
    Metric(
        "lithos_instance_pids",
        "gauge",
        "Processes and threads of the instance (pids.current).",
        lambda sight: _one(sight.pids),
    ),
    Metric(
        "lithos_instance_pressure_seconds_total",
        "counter",
        "Time for which some or all tasks of the instance waited for a resource (PSI).",
        _pressure,
        ("resource", "kind"),
    ),
    Metric(
        "lithos_instance_start_time_seconds",
        "gauge",
        "When the instance was started, in seconds since the epoch.",
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


def scrape(observer: Observer) -> str:
    """Look at everything that runs on this host and write it down."""
    lives = observer.supervisors()
    sights = [look(observer, instance) for supervisor in lives for instance in supervisor.instances]
    runtimes = {runtime: None for runtime in store.registered() if os.path.isdir(runtime)}
    return render({**runtimes, **{supervisor.runtime: supervisor for supervisor in lives}}, sights)


def look(observer: Observer, instance: Instance) -> Sight:
    """Read all files of the cgroup of an instance."""
    group = observer.group(instance)
    if group is None:
        return Sight(instance, None, observer.oom_kills(instance, None), None, None, {})
    memory = group.memory()
    kills = observer.oom_kills(instance, memory)
    return Sight(instance, memory, kills, group.cpu_seconds(), group.number("pids.current"), group.pressure())


def render(supervisors: Mapping[str, Supervisor | None], sights: Iterable[Sight]) -> str:
    """The text for these supervisors, by runtime directory, and instances."""
    lines: list[str] = []
    for of_supervisor in SUPERVISOR_METRICS:
        lines += _header(of_supervisor)
        for runtime, lives in supervisors.items():
            if (value := of_supervisor.value(lives)) is not None:
                lines.append(f'{of_supervisor.name}{{runtime="{escape(runtime)}"}} {value}')
    labelled = [(labels(sight.instance), sight) for sight in sights]
    for metric in METRICS:
        lines += _header(metric)
        lines += [
            f"{metric.name}{{{common}{further}}} {value}"
            for common, sight in labelled
            for further, value in metric.samples(sight).items()
        ]
    return "\n".join(lines) + "\n"


def labels(instance: Instance) -> str:
    """The labels that each sample of an instance has."""
    values = (instance.sandbox, instance.process, str(instance.index))
    return ",".join(f'{name}="{escape(value)}"' for name, value in zip(LABELS, values, strict=True))


def escape(value: str) -> str:
    """A label value as it stands between quotes."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _header(metric: Metric | SupervisorMetric) -> tuple[str, str]:
    return f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"


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
