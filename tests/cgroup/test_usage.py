from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import cgroup

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

PRESSURE = "some avg10=1.50 avg60=0.25 avg300=0.00 total=177\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=12\n"
STALL = {"some": cgroup.Stall(1.5, 0.25, 0.0, 177), "full": cgroup.Stall(0.0, 0.0, 0.0, 12)}

FILES = {
    "memory.current": "1048576\n",
    "memory.peak": "2097152\n",
    "memory.max": "83886080\n",
    "memory.events": "low 0\nhigh 5\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n",
    "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 1\nthrottled_usec 7\n",
    "pids.current": "3\n",
    "cpu.pressure": PRESSURE,
    "io.pressure": PRESSURE,
    "memory.pressure": PRESSURE,
}


def read(group: cgroup.Group) -> cgroup.Usage:
    with cgroup.UsageReader(group) as reader:
        return reader.read()


def test_reads_everything_a_group_with_all_controllers_tells(fake: Callable[[dict[str, str]], cgroup.Group]) -> None:
    events = {"low": 0, "high": 5, "max": 9, "oom": 3, "oom_kill": 2, "oom_group_kill": 0}
    usage = read(fake(FILES))
    assert usage.memory == cgroup.MemoryUsage(current=1 << 20, peak=2 << 20, max=80 << 20, events=events)
    assert usage.memory.oom_kills == 2
    assert usage.cpu == cgroup.CpuUsage(30, 20, 10, nr_throttled=1, throttled_usec=7)
    assert usage.cpu_usec == 30
    assert usage.pids == 3
    assert usage.pressure == {"cpu": STALL, "io": STALL, "memory": STALL}
    assert usage.stalled_usec == {
        (resource, kind): stall.total for resource in ("cpu", "io", "memory") for kind, stall in STALL.items()
    }
    assert {name: text.decode() for name, text in usage.texts.items()} == FILES


def test_what_is_absent_is_none(fake: Callable[[dict[str, str]], cgroup.Group]) -> None:
    usage = read(fake({}))
    assert (usage.memory, usage.cpu, usage.cpu_usec, usage.pids) == (None, None, None, None)
    assert (usage.pressure, usage.stalled_usec) == ({}, {})


def test_only_what_is_asked_is_read(fake: Callable[[dict[str, str]], cgroup.Group]) -> None:
    with cgroup.UsageReader(fake(FILES), ("memory.current", "memory.events")) as reader:
        usage = reader.read()
    assert usage.texts.keys() == {"memory.current", "memory.events"}
    assert usage.memory is not None
    assert (usage.memory.current, usage.memory.peak, usage.memory.max) == (1 << 20, None, None)
    assert usage.memory.oom_kills == 2


def test_readings_that_say_the_same_are_equal(fake: Callable[[dict[str, str]], cgroup.Group]) -> None:
    group = fake(FILES)
    with cgroup.UsageReader(group) as reader:
        first = reader.read()
        assert reader.read() == first
        with open(f"{group.path}/pids.current", "w") as file:
            file.write("4\n")
        assert reader.read() != first


def test_a_kernel_before_5_19_tells_no_peak(fake: Callable[[dict[str, str]], cgroup.Group]) -> None:
    memory = read(fake({name: text for name, text in FILES.items() if name != "memory.peak"})).memory
    assert memory is not None
    assert memory.peak is None
    assert memory.current == 1 << 20


def test_no_limit_is_none(fake: Callable[[dict[str, str]], cgroup.Group]) -> None:
    memory = read(fake({**FILES, "memory.max": "max\n"})).memory
    assert memory is not None
    assert memory.max is None


def test_reads_again_through_the_same_descriptors(fake: Callable[[dict[str, str]], cgroup.Group]) -> None:
    group = fake(FILES)
    with cgroup.UsageReader(group) as reader:
        assert reader.read().pids == 3
        with open(f"{group.path}/pids.current", "w") as file:
            file.write("4\n")
        assert reader.read().pids == 4


@pytest.mark.parametrize("by_path", [False, True])
def test_closing_gives_back_all_descriptors(group: cgroup.Group, by_path: bool) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    reader = cgroup.UsageReader(group.path if by_path else group)
    assert len(os.listdir("/proc/self/fd")) > len(before)
    assert reader.read().cpu is not None
    reader.close()
    reader.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_reads_what_this_kernel_and_its_controllers_tell(
    group: cgroup.Group, offered: frozenset[str], spawn: Callable[[cgroup.Group], subprocess.Popen[bytes]]
) -> None:
    spawn(group)
    usage = read(group)
    assert (usage.memory is not None) == ("memory" in offered)
    assert usage.pids == (1 if "pids" in offered else None)
    assert usage.cpu is not None
    assert usage.cpu.usage_usec >= usage.cpu.user_usec
    assert (usage.cpu.nr_throttled is not None) == ("cpu" in offered)
    kept = {"cpu.pressure", "io.pressure", "memory.pressure"} & {*os.listdir(group.path)}
    assert {f"{resource}.pressure" for resource in usage.pressure} == kept


def test_pressure_that_is_shown_but_not_kept_is_left_out(
    fake: Callable[[dict[str, str]], cgroup.Group], group: cgroup.Group
) -> None:
    # Before Linux 6.1 with psi=0 reading fails with EOPNOTSUPP, as cgroup.procs of a threaded group does everywhere.
    with group.create("threaded") as threaded:
        threaded.write("cgroup.type", "threaded")
        directory = fake({"pids.current": "3\n"})
        os.symlink(f"{threaded.path}/cgroup.procs", f"{directory.path}/memory.pressure")
        with cgroup.UsageReader(directory) as reader:
            for _ in range(2):
                assert reader.read().texts == {"pids.current": b"3\n"}


def test_a_file_that_cannot_be_opened_is_an_error_and_leaves_nothing_open(
    fake: Callable[[dict[str, str]], cgroup.Group],
) -> None:
    directory = fake({"cpu.stat": ""})
    os.symlink("pids.current", f"{directory.path}/pids.current")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(cgroup.Refused, match=r"cannot open .*/pids\.current: Too many levels of symbolic links"):
        cgroup.UsageReader(directory)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_cannot_be_read_is_an_error(
    fake: Callable[[dict[str, str]], cgroup.Group], group: cgroup.Group
) -> None:
    directory = fake({"cpu.stat": ""})
    os.symlink(f"{group.path}/cgroup.kill", f"{directory.path}/pids.current")
    with (
        cgroup.UsageReader(directory) as reader,
        pytest.raises(cgroup.Refused, match=f"cannot read the usage of {directory.path}: Invalid argument"),
    ):
        reader.read()


def test_the_usage_of_a_removed_group_is_an_error(group: cgroup.Group) -> None:
    with cgroup.UsageReader(group) as reader:
        group.remove()
        with pytest.raises(cgroup.GroupRemoved, match="has been removed"):
            reader.read()
