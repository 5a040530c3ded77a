from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cgroupspy.interfaces import BaseFileInterface
from hypothesis import given
from hypothesis import strategies as st

import cgroup
from cgroup import controllers, files

if TYPE_CHECKING:
    from collections.abc import Callable

PRESSURE = "some avg10=1.50 avg60=0.25 avg300=0.00 total=177\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=12\n"

keys = st.text("ab0_.:", min_size=1, max_size=4)
numbers = st.integers(0, (1 << 64) - 1)


@given(st.none() | numbers)
def test_a_limit_reads_as_it_was_written(limit: int | None) -> None:
    assert files.parse_limit(files.format_limit(limit)) == limit


@given(st.dictionaries(keys, numbers))
def test_flat_keys_read_as_they_were_written(values: dict[str, int]) -> None:
    assert files.parse_flat(files.format_flat(values)) == values


@given(st.dictionaries(keys, st.dictionaries(keys, keys, max_size=3), max_size=3))
def test_nested_keys_read_as_they_were_written(values: dict[str, dict[str, str]]) -> None:
    assert files.parse_nested(files.format_nested(values)) == values


@given(st.none() | numbers, st.integers(1000, 1_000_000))
def test_cpu_time_reads_as_it_was_written(quota: int | None, period: int) -> None:
    bandwidth = files.CpuMax(quota, period)
    assert files.CpuMax.from_string(str(bandwidth)) == bandwidth


def test_the_period_of_cpu_time_defaults_to_that_of_the_kernel() -> None:
    assert files.CpuMax.from_string("max") == files.CpuMax(None, 100_000)
    assert str(files.CpuMax(50_000)) == "50000 100000"


def test_pressure_is_numbers() -> None:
    assert files.parse_pressure(PRESSURE) == {
        "some": files.Stall(1.5, 0.25, 0.0, 177),
        "full": files.Stall(0.0, 0.0, 0.0, 12),
    }


@pytest.mark.parametrize(
    ("view", "name", "file", "text", "value"),
    [
        ("memory", "current", "memory.current", "4096", 4096),
        ("memory", "max", "memory.max", "max", None),
        ("memory", "max", "memory.max", "83886080", 83886080),
        ("memory", "swap_max", "memory.swap.max", "0", 0),
        ("memory", "oom_group", "memory.oom.group", "1", True),
        ("memory", "events", "memory.events", "low 0\noom_kill 3", {"low": 0, "oom_kill": 3}),
        ("memory", "stat", "memory.stat", "", {}),
        ("memory", "pressure", "memory.pressure", PRESSURE, files.parse_pressure(PRESSURE)),
        ("cpu", "weight", "cpu.weight", "100", 100),
        ("cpu", "max", "cpu.max", "max 100000", files.CpuMax(None)),
        ("pids", "max", "pids.max", "7", 7),
        (
            "io",
            "stat",
            "io.stat",
            "8:0 rbytes=1 wbytes=2\n8:16",
            {"8:0": {"rbytes": "1", "wbytes": "2"}, "8:16": {}},
        ),
        ("io", "weight", "io.weight", "default 100", {"default": 100}),
        ("cpuset", "cpus", "cpuset.cpus", "0-2,5", {0, 1, 2, 5}),
        ("cpuset", "mems", "cpuset.mems", "", set()),
        ("core", "controllers", "cgroup.controllers", "cpu memory", ["cpu", "memory"]),
        ("core", "procs", "cgroup.procs", "1\n20\n", [1, 20]),
        ("core", "procs", "cgroup.procs", "", []),
        ("core", "type", "cgroup.type", "domain threaded", "domain threaded"),
        ("core", "max_depth", "cgroup.max.depth", "max", None),
    ],
)
def test_reads_each_form(
    fake: Callable[[dict[str, str]], cgroup.Group], view: str, name: str, file: str, text: str, value: object
) -> None:
    group = fake({file: f"{text}\n"})
    assert getattr(getattr(group, view), name) == value


@pytest.mark.parametrize(
    ("view", "name", "file", "value", "text"),
    [
        ("memory", "max", "memory.max", None, "max\n"),
        ("memory", "max", "memory.max", 4096, "4096\n"),
        ("memory", "oom_group", "memory.oom.group", True, "1\n"),
        ("memory", "min", "memory.min", 0, "0\n"),
        ("cpu", "weight", "cpu.weight", 50, "50\n"),
        ("cpu", "max", "cpu.max", files.CpuMax(5000, 10000), "5000 10000\n"),
        ("io", "weight", "io.weight", {"default": 50, "8:0": 60}, "default 50\n8:0 60\n"),
        ("io", "max", "io.max", {"8:0": {"rbps": 1, "wbps": "max"}}, "8:0 rbps=1 wbps=max\n"),
        ("cpuset", "cpus", "cpuset.cpus", {0, 1, 2, 7}, "0-2,7\n"),
        ("core", "kill", "cgroup.kill", True, "1\n"),
        ("core", "max_descendants", "cgroup.max.descendants", 3, "3\n"),
    ],
)
def test_writes_each_form(
    fake: Callable[[dict[str, str]], cgroup.Group], view: str, name: str, file: str, value: object, text: str
) -> None:
    group = fake({file: ""})
    setattr(getattr(group, view), name, value)
    with open(f"{group.path}/{file}") as written:
        assert written.read() == text


def views() -> list[type[controllers.Controller]]:
    return controllers.Controller.__subclasses__()


def test_every_file_is_one_of_cgroupspys_interfaces_and_none_is_a_leftover_of_v1() -> None:
    found = {
        file.filename.decode()
        for view in views()
        for file in vars(view).values()
        if isinstance(file, BaseFileInterface)
    }
    assert {"memory.max", "cgroup.procs", "cpu.max", "pids.max", "io.max", "cpuset.cpus"} <= found
    assert not found & {"tasks", "notify_on_release", "cgroup.clone_children", "memory.limit_in_bytes"}


@pytest.mark.parametrize("view", views())
def test_the_class_shows_its_descriptors_so_that_help_works(view: type[controllers.Controller]) -> None:
    for name, file in vars(view).items():
        if isinstance(file, BaseFileInterface):
            assert getattr(view, name) is file


@pytest.mark.parametrize("view", ["core", "memory", "cpu", "pids", "io", "cpuset"])
def test_a_misspelt_file_cannot_be_set(fake: Callable[[dict[str, str]], cgroup.Group], view: str) -> None:
    with pytest.raises(AttributeError, match="maxx"):
        getattr(fake({}), view).maxx = 5


def test_a_view_cannot_be_replaced(fake: Callable[[dict[str, str]], cgroup.Group]) -> None:
    with pytest.raises(AttributeError, match="memory"):
        fake({}).memory = 5  # type: ignore[misc, assignment]


def test_a_read_only_file_says_so(fake: Callable[[dict[str, str]], cgroup.Group]) -> None:
    with pytest.raises(AttributeError, match=r"memory\.current can only be read"):
        fake({"memory.current": ""}).memory.current = 5


def test_a_write_only_file_says_so(fake: Callable[[dict[str, str]], cgroup.Group]) -> None:
    with pytest.raises(AttributeError, match=r"cgroup\.kill can only be written"):
        _ = fake({"cgroup.kill": ""}).core.kill
