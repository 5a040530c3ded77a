from __future__ import annotations

import errno
import os
import select
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgroup
from cgroup.group import _attach_if_alive, component

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Spawn = Callable[[cgroup.Group], subprocess.Popen[bytes]]

# What may bound any wait here; none of the tests needs more than milliseconds.
SOON = 10.0


# Names and descriptors.


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "../other", "a\0b", "a\nb"])
def test_a_name_is_one_path_component(group: cgroup.Group, name: str) -> None:
    for use in (group.create, group.child, group.read, lambda name: group.write(name, "1")):
        with pytest.raises(ValueError, match="one path component"):
            use(name)
    with pytest.raises(ValueError, match="one path component"):
        group.apply({name: 1})
    assert group.children() == []


@given(st.text(min_size=1))
def test_every_accepted_name_stays_in_its_directory(name: str) -> None:
    try:
        component(name)
    except ValueError:
        return
    assert os.path.dirname(os.path.normpath(f"/g/{name}")) == "/g"


def test_a_plain_directory_is_no_group(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(cgroup.NoSuchFile, match=r"has no cgroup\.controllers"):
        cgroup.Group.open(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_missing_group_is_named(root: cgroup.Group) -> None:
    with pytest.raises(FileNotFoundError, match=f"{root.path}/nobody"):
        root.child("nobody")


def test_writing_to_a_wrong_name_creates_nothing(fake: Callable[[dict[str, str]], cgroup.Group]) -> None:
    directory = fake({})
    with pytest.raises(cgroup.NoSuchFile, match=r"cgroup\.kil:"):
        directory.write("cgroup.kil", "1")
    assert os.listdir(directory.path) == ["cgroup.controllers"]


def test_closing_gives_back_both_descriptors_and_leaves_the_group(root: cgroup.Group, group: cgroup.Group) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with root.child(os.path.basename(group.path)) as again:
        assert not os.get_inheritable(again.fileno())
        assert not os.get_inheritable(again.events_fd)
        assert len(os.listdir("/proc/self/fd")) == len(before) + 2
    again.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert group.children() == []


# The tree.


def test_creates_once_or_takes_over(group: cgroup.Group) -> None:
    with group.create("child") as child:
        assert os.path.isdir(child.path)
        with pytest.raises(FileExistsError, match=f"{child.path}: File exists"):
            group.create("child")
        with group.create("child", exist_ok=True) as again:
            assert os.path.samestat(os.fstat(again.fd), os.fstat(child.fd))
    assert group.children() == ["child"]


def test_says_which_limit_stops_a_creation(group: cgroup.Group) -> None:
    group.core.max_descendants = 0
    with pytest.raises(cgroup.Refused, match=r"raise cgroup\.max\.depth or cgroup\.max\.descendants") as caught:
        group.create("child")
    assert caught.value.errno == errno.EAGAIN


def test_removes_what_is_left_below(group: cgroup.Group) -> None:
    for name in ("a", "b"):
        with group.create(name) as child, child.create("c") as grandchild:
            grandchild.create("d").close()
    group.remove()
    assert not os.path.exists(group.path)
    assert group.fd == -1


def test_removing_twice_is_no_error(root: cgroup.Group, group: cgroup.Group) -> None:
    other = root.child(os.path.basename(group.path))
    group.remove()
    other.remove()
    assert other.fd == -1


def test_does_not_remove_a_group_in_use(group: cgroup.Group, spawn: Spawn) -> None:
    with group.create("child") as child:
        process = spawn(child)
    with pytest.raises(cgroup.Refused, match="processes are in it") as caught:
        group.remove(timeout=0)
    assert caught.value.errno == errno.EBUSY
    assert process.poll() is None
    assert group.children() == ["child"]


def test_removal_waits_for_the_last_process(group: cgroup.Group) -> None:
    with subprocess.Popen(["sleep", "0.2"]) as process:
        group.attach(process.pid)
        group.remove(SOON)
    assert not os.path.exists(group.path)


def test_a_removed_group_says_so(root: cgroup.Group, group: cgroup.Group) -> None:
    with root.child(os.path.basename(group.path)) as held, root.child(os.path.basename(group.path)) as fresh:
        assert not held.populated
        group.remove()
        for use in (held.kill, fresh.freeze, lambda: held.core.procs, lambda: fresh.memory.max, held.wait_frozen):
            with pytest.raises(cgroup.GroupRemoved, match="has been removed"):
                use()
        for each in (held, fresh):
            assert not each.populated
            assert each.wait_empty(timeout=0)


# Processes.


def test_attaches_kills_and_gets_empty(group: cgroup.Group, spawn: Spawn) -> None:
    processes = [spawn(group), spawn(group)]
    assert sorted(group.core.procs) == sorted(process.pid for process in processes)
    assert group.populated
    assert not group.wait_empty(timeout=0)
    group.kill()
    assert group.wait_empty(SOON)
    # Empty means ended, not reaped: that stays with the parent.
    assert group.core.procs == []
    assert [process.wait(SOON) for process in processes] == [-9, -9]


def test_kill_reaches_the_groups_below(group: cgroup.Group, spawn: Spawn) -> None:
    with group.create("a") as a, a.create("b") as b:
        process = spawn(b)
        group.kill()
        assert group.wait_empty()
    assert process.wait(SOON) == -9


def test_a_process_that_has_ended_cannot_be_attached(group: cgroup.Group) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(cgroup.Refused, match="the process has ended") as caught:
        group.attach(process.pid)
    assert caught.value.errno == errno.ESRCH


def test_writes_one_process_a_time(group: cgroup.Group) -> None:
    ended = [subprocess.Popen(["cat"], stdin=subprocess.PIPE) for _ in range(3)]
    group.write("cgroup.procs", "\n".join(str(process.pid) for process in ended))
    assert len(group.core.procs) == 3
    for process in ended:
        process.communicate()
    assert group.wait_empty(SOON)


def test_reads_a_list_of_processes_longer_than_a_page(group: cgroup.Group, tmp_path: Path) -> None:
    # One read(2) returns a page of it at most, which 1200 process ids of three digits exceed. All wait to open a FIFO.
    os.mkfifo(tmp_path / "fifo")
    program = 'echo $$ > "$0/cgroup.procs"; for i in $(seq 1200); do read line < "$1" & done; echo started; wait'
    command = ["sh", "-c", program, group.path, str(tmp_path / "fifo")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"started\n"
        pids = group.core.procs
        group.kill()
    assert len(set(pids)) == 1201
    assert shell.pid in pids


def test_freezes_thaws_and_kills_what_is_frozen(group: cgroup.Group, spawn: Spawn) -> None:
    process = spawn(group)
    group.freeze()
    assert group.wait_frozen(SOON)
    assert group.read("cgroup.freeze") == "1"
    group.thaw()
    assert group.read("cgroup.freeze") == "0"
    group.freeze()
    assert group.wait_frozen(SOON)
    group.kill()
    assert group.wait_empty(SOON)
    assert process.wait(SOON) == -9


def test_an_empty_timeout_asks_once(group: cgroup.Group, spawn: Spawn) -> None:
    spawn(group)
    assert not group.wait_frozen(timeout=0)
    assert not group.wait_empty(timeout=0.01)


def test_epoll_wakes_when_the_group_gets_empty_and_reading_rearms_it(group: cgroup.Group, spawn: Spawn) -> None:
    with select.epoll() as epoll:
        process = spawn(group)
        epoll.register(group.events_fd, select.EPOLLPRI)
        assert not group.wait_empty(timeout=0)
        assert epoll.poll(0) == []
        group.kill()
        ((fd, events),) = epoll.poll(SOON)
        assert fd == group.events_fd
        assert events & select.EPOLLPRI
        assert not group.populated
        assert epoll.poll(0) == []
        process.wait()


def test_vacating_makes_room_for_controllers(group: cgroup.Group, offered: frozenset[str], spawn: Spawn) -> None:
    processes = [spawn(group), spawn(group)]
    domain = offered & {"memory", "hugetlb"}  # threaded controllers may be enabled beside processes
    with pytest.raises(cgroup.Refused, match="move them into a leaf first") as caught:
        group.enable(domain)
    assert caught.value.errno == errno.EBUSY
    with group.vacate("leaf") as leaf:
        assert sorted(leaf.core.procs) == sorted(process.pid for process in processes)
        group.enable(domain)
        assert group.enabled == domain
        with pytest.raises(cgroup.Refused, match="only they may hold processes"):
            group.attach(processes[0].pid)


def test_a_process_that_ends_while_its_group_is_vacated_is_no_error(group: cgroup.Group) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    _attach_if_alive(group, process.pid)
    with pytest.raises(cgroup.Refused, match="no kernel thread"):
        _attach_if_alive(group, 2)  # kthreadd, which is alive and stays where it is


def test_processes_of_another_pid_namespace_cannot_be_vacated(group: cgroup.Group, spawn: Spawn) -> None:
    process = spawn(group)
    program = f"""
import cgroup
try: cgroup.Group.open({group.path!r}).vacate("leaf")
except cgroup.Refused as error: print(error)
"""
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", program]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SOON).stdout
    assert output.startswith(f"cannot empty {group.path}: it holds processes of another PID namespace")
    assert group.core.procs == [process.pid]


# Controllers and limits: what this host offers is set for real, of what it does not the reason is told.


def test_enables_what_is_on_offer_and_no_more(group: cgroup.Group, offered: frozenset[str]) -> None:
    assert offered
    assert offered <= group.offered
    assert group.enabled == frozenset()
    group.enable(offered)
    group.enable(offered)
    assert group.enabled == offered


def test_what_is_enabled_already_is_not_written(fake: Callable[[dict[str, str]], cgroup.Group]) -> None:
    # Below a delegated group this matters: cgroup.subtree_control of its parent cannot be written.
    directory = fake({"cgroup.controllers": "memory pids", "cgroup.subtree_control": "memory pids\n"})
    directory.enable({"memory"})
    assert directory.read("cgroup.subtree_control") == "memory pids"


def test_an_unknown_controller_enables_nothing(group: cgroup.Group, offered: frozenset[str]) -> None:
    with pytest.raises(cgroup.ControllerMissing, match="has no quantum controller because neither") as caught:
        group.enable({*offered, "quantum"})
    assert (caught.value.controller, caught.value.bound_to) == ("quantum", None)
    assert group.enabled == frozenset()


@pytest.mark.parametrize(
    ("controller", "name", "wrote", "reads"),
    [
        ("memory", "memory.max", 10_000_001, str(10_000_001 // 4096 * 4096)),
        ("memory", "memory.high", "80M", str(80 << 20)),
        ("pids", "pids.max", 100, "100"),
        ("cpu", "cpu.max", "50000", "50000 100000"),
        ("cpu", "cpu.weight", 79, "79"),
        ("hugetlb", "hugetlb.2MB.max", 5_000_000, str(4 << 20)),
        ("hugetlb", "hugetlb.2MB.rsvd.max", "1g", str(1 << 30)),
        ("hugetlb", "hugetlb.2MB.max", "max", "max"),
    ],
)
def test_a_limit_holds_or_its_controller_is_named(
    hierarchy: cgroup.Hierarchy,
    root: cgroup.Group,
    group: cgroup.Group,
    offered: frozenset[str],
    controller: str,
    name: str,
    wrote: str | int,
    reads: str,
) -> None:
    if controller in offered:
        group.apply({name: wrote})
        assert group.read(name) == reads
        return
    for use in (lambda: root.enable({controller}), lambda: group.apply({name: wrote}), lambda: group.read(name)):
        with pytest.raises(cgroup.ControllerMissing, match=f"has no {controller} controller because") as caught:
            use()
        assert caught.value.controller == controller
        assert caught.value.bound_to == hierarchy.legacy.get(controller)
        assert str(caught.value.bound_to or "") in str(caught.value)


def test_a_controller_that_is_off_is_named_with_the_switch(group: cgroup.Group, offered: frozenset[str]) -> None:
    with group.create("child") as child:
        for controller in offered:
            with pytest.raises(cgroup.ControllerMissing) as caught:
                child.read(f"{controller}.current")
            assert caught.value.bound_to == f"{group.path}/cgroup.subtree_control"
            assert f"write '+{controller}' there" in str(caught.value)


def test_a_size_that_the_kernel_wraps_is_an_error(group: cgroup.Group, offered: frozenset[str]) -> None:
    name = "memory.max" if "memory" in offered else "hugetlb.2MB.max"
    with pytest.raises(cgroup.LimitNotApplied, match=f"{name}, but it reads '{4 << 20}'"):
        group.apply({name: (1 << 64) + (4 << 20)})


def test_a_value_that_the_kernel_changes_is_an_error(fake: Callable[[dict[str, str]], cgroup.Group]) -> None:
    directory = fake({"cgroup.controllers": "memory", "memory.max": "4096\n"})
    # A file is no kernel: the shorter value leaves the tail of the longer one in place.
    with pytest.raises(cgroup.LimitNotApplied, match=r"wrote '0' to .*/memory\.max, but it reads '0\\n96'"):
        directory.apply({"memory.max": 0})


def test_a_value_out_of_range_names_file_and_value(group: cgroup.Group) -> None:
    with pytest.raises(cgroup.Refused, match=r"cannot write '-1' to .*/cgroup\.max\.depth: Numerical result") as caught:
        group.apply({"cgroup.max.depth": -1})
    assert caught.value.errno == errno.ERANGE


def test_limits_without_a_controller_hold_too(group: cgroup.Group) -> None:
    group.apply({"cgroup.max.depth": 3, "cgroup.max.descendants": "max"})
    assert (group.core.max_depth, group.core.max_descendants) == (3, None)


def test_a_limit_is_set_by_attribute_with_the_error_of_the_kernel(group: cgroup.Group) -> None:
    group.core.max_depth = 5
    assert group.core.max_depth == 5
    group.core.max_depth = None
    assert group.core.max_depth is None
    with pytest.raises(cgroup.Refused, match=r"cgroup\.max\.depth"):
        group.core.max_depth = -1


def test_a_file_that_the_kernel_does_not_have_is_named(group: cgroup.Group) -> None:
    with pytest.raises(FileNotFoundError, match=r"/cgroup\.nothing: No such file"):
        group.read("cgroup.nothing")


def test_pressure_that_the_kernel_does_not_keep_is_no_missing_controller(
    fake: Callable[[dict[str, str]], cgroup.Group],
) -> None:
    with pytest.raises(cgroup.NoSuchFile, match=r"memory\.pressure: No such file"):
        _ = fake({}).memory.pressure


def test_the_core_files_read_as_the_kernel_documents(group: cgroup.Group) -> None:
    assert group.core.type == "domain"
    assert group.core.events == {"populated": 0, "frozen": 0}
    assert group.core.stat["nr_descendants"] == 0
    assert group.cpu.stat["usage_usec"] == 0
