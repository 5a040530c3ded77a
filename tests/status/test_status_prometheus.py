from __future__ import annotations

import os
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fake_host import Host, state_of
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from cgroup import Usage
from lithos_runner.status import prometheus
from lithos_runner.status.prometheus import METRICS, SUPERVISOR_METRICS, Page, Sight, scrape
from lithos_runner.status.readings import STATES, Instance, Observer

if TYPE_CHECKING:
    from collections.abc import Mapping

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def instance(**changes: Any) -> Instance:
    value = state_of(None, **changes)
    return Instance(**{key: value[key] for key in Instance._fields})


def sight(texts: Mapping[str, str] = MappingProxyType({}), *, counted: bool = True, **of_instance: Any) -> Sight:
    usage = Usage({name: text.encode() for name, text in texts.items()})
    return Sight(instance(**of_instance), usage, counted=counted)


def render(supervisors: Mapping[str, None], *sights: Sight) -> str:
    return Page().render(supervisors, sights)


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


TEXTS = {
    "memory.current": "4096\n",
    "memory.peak": "8192\n",
    "memory.max": "65536\n",
    "memory.events": "high 3\noom_kill 1\n",
    "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n",
    "pids.current": "7\n",
    "io.pressure": "some avg10=0.10 avg60=0.00 avg300=0.00 total=2500000\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
}
FULL = sight(TEXTS, state="ready", started=1_700_000_000.25, restarts=4, oom_kills=4)


def test_every_reading_is_a_sample() -> None:
    found = samples(render({}, FULL))
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
        key("lithos_instance_pressure_seconds_total", resource="io", kind="full"): 0,
        key("lithos_instance_start_time_seconds"): 1_700_000_000.25,
    }


def test_what_was_not_read_is_no_sample() -> None:
    names = {name for name, _ in samples(render({}, sight(state="backoff", counted=False)))}
    assert names == {"lithos_instance_up", "lithos_instance_state", "lithos_instance_restarts_total"}


def test_no_limit_is_no_sample() -> None:
    found = samples(render({}, sight({**TEXTS, "memory.max": "max\n"})))
    assert key("lithos_instance_memory_max_bytes") not in found
    assert key("lithos_instance_memory_peak_bytes") in found


def test_kills_of_earlier_lives_are_counted_while_there_is_no_group() -> None:
    assert samples(render({}, sight(oom_kills=3)))[key("lithos_instance_oom_kills_total")] == 3


def test_the_pss_stands_in_for_the_memory() -> None:
    found = samples(render({}, sight()._replace(pss=12345)))
    assert found[key("lithos_instance_memory_bytes")] == 12345


def test_a_reading_of_zero_is_a_sample() -> None:
    zero = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    found = samples(
        render(
            {},
            sight(
                dict.fromkeys(TEXTS, "0\n")
                | {"cpu.stat": "usage_usec 0\n", "memory.events": "oom_kill 0\n", "io.pressure": zero}
            ),
        )
    )
    for name in (
        "memory_bytes",
        "memory_peak_bytes",
        "memory_max_bytes",
        "oom_kills_total",
        "cpu_seconds_total",
        "pids",
    ):
        assert found[key(f"lithos_instance_{name}")] == 0
    assert found[key("lithos_instance_memory_events_total", event="oom_kill")] == 0
    assert found[key("lithos_instance_pressure_seconds_total", resource="io", kind="some")] == 0


@given(sandbox=st.text(), process=st.text(), runtime=st.text())
def test_labels_come_back_as_they_were(sandbox: str, process: str, runtime: str) -> None:
    text = render({runtime: None}, sight(sandbox=sandbox, process=process))
    found = samples(text)
    assert ("lithos_supervisor_up", frozenset({("runtime", runtime)})) in found
    assert key("lithos_instance_up", sandbox=sandbox, process=process) in found


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_times_come_back_as_they_were(usec: int) -> None:
    found = samples(render({}, sight({"cpu.stat": f"usage_usec {usec}\n"})))
    assert found[key("lithos_instance_cpu_seconds_total")] == usec / 1e6


# What a file may say: nothing (it is not there), or one of two things.
SAID = {
    "memory.current": ("4096\n", "8192\n"),
    "memory.max": ("max\n", "65536\n"),
    "memory.events": ("oom_kill 0\n", "low 1\noom_kill 2\n"),
    "cpu.stat": ("usage_usec 1\n", "usage_usec 2\n"),
    "cpu.pressure": (TEXTS["io.pressure"], TEXTS["io.pressure"].replace("total=0", "total=1")),
}
MOMENTS = st.lists(
    st.builds(
        sight,
        st.fixed_dictionaries({}, optional={name: st.sampled_from(texts) for name, texts in SAID.items()}),
        index=st.integers(0, 2),
        state=st.sampled_from(["ready", "failed"]),
        oom_kills=st.integers(0, 1),
    ),
    unique_by=lambda sight: sight.instance.index,
)


@given(st.lists(MOMENTS, max_size=6))
def test_a_page_that_remembers_says_what_a_new_one_says(moments: list[list[Sight]]) -> None:
    page = Page()
    for sights in moments:
        assert page.render({}, sights) == Page().render({}, sights)


def test_names_follow_the_conventions() -> None:
    """https://prometheus.io/docs/practices/naming/ and the promtool lint rules."""
    families = {family.name: family for family in text_string_to_metric_families(render({}, FULL))}
    for metric in (*METRICS, *SUPERVISOR_METRICS):
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        assert metric.help.endswith(".")


def test_a_scrape_of_a_host_has_what_the_host_offers(host: Host) -> None:
    supervisor = host.supervisor("run-hello")
    supervisor.tell("write_instance", state_of(host.instance(), oom_kills=2))
    page = Page()
    with Observer(keep=10) as observer:
        first, second = samples(scrape(observer, page)), samples(scrape(observer, page))
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
        assert samples(scrape(observer, Page())) == {
            ("lithos_supervisor_up", frozenset({("runtime", str(supervisor.runtime))})): 0
        }


def test_the_documentation_has_the_table() -> None:
    """`python -m lithos_runner.status.prometheus` prints it."""
    assert "\n".join(prometheus.markdown()) in DOCUMENT.read_text()


def test_no_two_metrics_share_a_name() -> None:
    names = [metric.name for metric in (*METRICS, *SUPERVISOR_METRICS)]
    assert len(names) == len(set(names))
