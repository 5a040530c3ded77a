from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fake_host import Host, state_of
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from lithos_runner.status import prometheus
from lithos_runner.status.prometheus import METRICS, SUPERVISOR_METRICS, Sight, render
from lithos_runner.status.readings import STATES, Instance, Observer
from lithos_runner.status.usage import Memory

if TYPE_CHECKING:
    from collections.abc import Mapping

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def instance(**changes: Any) -> Instance:
    value = state_of(None, **changes)
    return Instance(**{key: value[key] for key in Instance._fields})


def sight(
    memory: Memory | None = None,
    oom_kills: int | None = None,
    cpu_seconds: float | None = None,
    pids: int | None = None,
    pressure: Mapping[tuple[str, str], float] | None = None,
    **of_instance: Any,
) -> Sight:
    return Sight(instance(**of_instance), memory, oom_kills, cpu_seconds, pids, pressure or {})


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All samples of a text as Prometheus's own library reads them; the same one twice is an error."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset({"sandbox": "run", "process": "hello", "index": "0", **labels}.items())


FULL = sight(
    state="ready",
    started=1_700_000_000.25,
    restarts=4,
    memory=Memory(4096, 8192, 65536, {"high": 3, "oom_kill": 1}),
    oom_kills=5,
    cpu_seconds=1.5,
    pids=7,
    pressure={("io", "some"): 2.5},
)


def test_every_reading_is_a_sample() -> None:
    found = samples(render({}, [FULL]))
    states = {key("lithos_instance_state", state=state): float(state == "ready") for state in STATES}
    assert found == {
        key("lithos_instance_up"): 1,
        **states,
        key("lithos_instance_memory_bytes"): 4096,
        key("lithos_instance_memory_peak_bytes"): 8192,
        key("lithos_instance_memory_max_bytes"): 65536,
        key("lithos_instance_oom_kills_total"): 5,
        key("lithos_instance_memory_events_total", event="high"): 3,
        key("lithos_instance_memory_events_total", event="oom_kill"): 1,
        key("lithos_instance_restarts_total"): 4,
        key("lithos_instance_cpu_seconds_total"): 1.5,
        key("lithos_instance_pids"): 7,
        key("lithos_instance_pressure_seconds_total", resource="io", kind="some"): 2.5,
        key("lithos_instance_start_time_seconds"): 1_700_000_000.25,
    }


def test_what_was_not_read_is_no_sample() -> None:
    names = {name for name, _ in samples(render({}, [sight(state="backoff")]))}
    assert names == {"lithos_instance_up", "lithos_instance_state", "lithos_instance_restarts_total"}


def test_a_reading_of_zero_is_a_sample() -> None:
    found = samples(render({}, [sight(memory=Memory(0, 0, 0), oom_kills=0, cpu_seconds=0.0, pids=0)]))
    for name in (
        "memory_bytes",
        "memory_peak_bytes",
        "memory_max_bytes",
        "oom_kills_total",
        "cpu_seconds_total",
        "pids",
    ):
        assert found[key(f"lithos_instance_{name}")] == 0


@given(sandbox=st.text(), process=st.text(), runtime=st.text())
def test_labels_come_back_as_they_were(sandbox: str, process: str, runtime: str) -> None:
    text = render({runtime: None}, [sight(sandbox=sandbox, process=process)])
    found = samples(text)
    assert ("lithos_supervisor_up", frozenset({("runtime", runtime)})) in found
    assert key("lithos_instance_up", sandbox=sandbox, process=process) in found


@given(st.floats(min_value=0, allow_infinity=False))
def test_numbers_come_back_as_they_were(value: float) -> None:
    found = samples(render({}, [sight(cpu_seconds=value)]))
    assert math.isclose(found[key("lithos_instance_cpu_seconds_total")], value, rel_tol=0, abs_tol=0)


def test_names_follow_the_conventions() -> None:
    """https://prometheus.io/docs/practices/naming/ and the promtool lint rules."""
    families = {family.name: family for family in text_string_to_metric_families(render({}, [FULL]))}
    for metric in (*METRICS, *SUPERVISOR_METRICS):
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        assert metric.help.endswith(".")


def test_a_scrape_of_a_host_has_what_the_host_offers(host: Host) -> None:
    supervisor = host.supervisor("run-hello")
    supervisor.tell("write_instance", state_of(host.instance(), oom_kills=2))
    with Observer(keep=10) as observer:
        first, second = samples(prometheus.scrape(observer)), samples(prometheus.scrape(observer))
    assert first.keys() == second.keys()
    names = {name for name, _ in first}
    offered = set(os.listdir(host.groups / "hello.0"))
    assert ("lithos_instance_memory_peak_bytes" in names) == ("memory.peak" in offered)
    assert ("lithos_instance_memory_events_total" in names) == ("memory.events" in offered)
    assert ("lithos_instance_oom_kills_total" in names) == ("memory.current" in offered)
    assert ("lithos_instance_pids" in names) == ("pids.current" in offered)
    assert ("lithos_instance_pressure_seconds_total" in names) == ("memory.pressure" in offered)
    assert first[key("lithos_instance_memory_bytes")] > 0
    assert second[key("lithos_instance_cpu_seconds_total")] >= first[key("lithos_instance_cpu_seconds_total")] > 0
    assert first["lithos_supervisor_up", frozenset({("runtime", str(supervisor.runtime))})] == 1


def test_a_supervisor_that_was_killed_is_down_until_its_remains_are_removed(host: Host) -> None:
    supervisor = host.supervisor()
    supervisor.tell("write_instance", state_of(None))
    supervisor.kill()
    with Observer() as observer:
        assert samples(prometheus.scrape(observer)) == {
            ("lithos_supervisor_up", frozenset({("runtime", str(supervisor.runtime))})): 0
        }


def test_the_documentation_has_the_table() -> None:
    """`python -m lithos_runner.status.prometheus` prints it."""
    assert "\n".join(prometheus.markdown()) in DOCUMENT.read_text()


def test_no_two_metrics_share_a_name() -> None:
    names = [metric.name for metric in (*METRICS, *SUPERVISOR_METRICS)]
    assert len(names) == len(set(names))
