"""Faults of files, of the host and of applications: what ran goes on, and the reason is to be read in `lithos ps`."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import socket
from typing import TYPE_CHECKING, Any

from real_host import request, until
from real_tree import Load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from real_tree import RealTree, RunningTree

# How to break a host of two sandboxes, and words of what is said about it; with `shop` all that concerns it is kept.
BREAKAGES: dict[str, tuple[Callable[[RealTree], object], str]] = {
    "the master file is no YAML": (lambda tree: tree.file("master.yaml", "a: [\n"), "master.yaml:2:1"),
    "the master file has a fault": (lambda tree: tree.master(log_level="loud"), "expected one of error, warn"),
    "the master file is gone": (lambda tree: tree.master_file.unlink(), "cannot be read: No such file"),
    "the sandboxes are gone": (
        lambda tree: (tree.directory / "sandboxes").rename(tree.directory / "moved"),
        "cannot list",
    ),
    "a sandbox file is no YAML": (lambda tree: tree.file("sandboxes/shop.yaml", "{"), "shop.yaml:2:1: is not YAML"),
    "a sandbox file has a fault": (lambda tree: tree.sandbox("shop", image_dir="x"), "expected an absolute path"),
    "anybody may write a sandbox file": (
        lambda tree: (tree.directory / "sandboxes/shop.yaml").chmod(0o666),
        "is writable by group or others",
    ),
    "a port is forbidden now": (lambda tree: tree.sandbox("shop", allow_tcp_ports=[1]), "is not in allow-tcp-ports"),
    "a process file is no YAML": (lambda tree: tree.file("processes/shop.yaml", "web"), "expected a mapping"),
    "an entry has a fault": (lambda tree: tree.processes("shop", {"web": {"image": "v1"}}), "missing required key"),
    "an image is gone": (lambda tree: (tree.images / "v1").rename(tree.images / "gone"), "cannot open"),
    "a container file is gone": (lambda tree: (tree.images / "v1/config/app.yaml").unlink(), "No such file"),
    "a container file has a fault": (
        lambda tree: tree.file("images/v1/config/app.yaml", "executable: 5\n"),
        "expected an absolute path",
    ),
}


def files_of(tree: RealTree) -> dict[Path, str]:
    return {path: path.read_text() for path in tree.directory.glob("**/*.yaml") if "fifo" not in path.parts}


def repair(tree: RealTree, files: dict[Path, str]) -> None:
    for moved, back in (("moved", "sandboxes"), ("images/gone", "images/v1")):
        if (tree.directory / moved).exists():
            (tree.directory / moved).rename(tree.directory / back)
    for path, text in files.items():
        tree.file(str(path.relative_to(tree.directory)), text)


def supervisors_in_ps(tree: RealTree) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(tree.lithos("ps", "--json").stdout)["supervisors"]
    return found


def faults_in_ps(tree: RealTree) -> list[str]:
    (supervisor,) = supervisors_in_ps(tree)
    found: list[str] = supervisor["faults"]
    return found


def test_with_broken_files_all_goes_on_and_repaired_they_are_taken_in(real_tree: RealTree) -> None:
    shop, blog = real_tree.port(), real_tree.port()
    real_tree.image("v1", port=shop)
    real_tree.image("blog.v1", port=blog)
    real_tree.sandbox("shop")
    real_tree.sandbox("blog")
    real_tree.processes("shop", {"web": real_tree.entry("v1", 2)})
    real_tree.processes("blog", {"web": real_tree.entry("blog.v1")})
    running = real_tree.tree().until_serving()
    before = running.pids()
    right = files_of(real_tree)
    with Load(shop) as load:
        for name, (break_, words) in BREAKAGES.items():
            break_(real_tree)
            running.reload()
            assert any(words in fault for fault in running.faults()), (name, running.faults())
            running.until_phases()
            assert running.pids() == before, name
            repair(real_tree, right)
            running.reload()
            assert running.faults() == [], name
        assert running.pids() == before
        # A broken file does not keep others from being taken in, nor does it keep an instance from being replaced.
        real_tree.file("processes/shop.yaml", "web")
        real_tree.processes("blog", {"web": real_tree.entry("blog.v1", 2)})
        running.reload()
        running.until_phases("blog/web")
        assert faults_in_ps(real_tree) == running.faults() != []
        assert "not in force: " in real_tree.lithos("ps").stdout
        os.kill(before["blog/web.0"] or 0, signal.SIGKILL)
        until(lambda: running.instance("blog/web.0")["restarts"] == 1, "it is started again")
        running.until_phases("blog/web")
        # Nor does an image that lost its name: what runs from it has it still.
        (real_tree.images / "v1").rename(real_tree.images / "gone")
        os.kill(before["shop/web.0"] or 0, signal.SIGTERM)
        until(lambda: running.instance("shop/web.0")["restarts"] == 1, "it is started again")
        running.until_phases("shop/web")
    assert load.failures == []
    running.stop()
    assert any("not taken in: " in line for line in running.said)


# 50 files with 40 different mistakes: key and value that are added to a file of this kind.
SANDBOX_MISTAKES: list[tuple[str, Any]] = [
    *(("image-dirs", "/x"), ("image-dir-levels", "two"), ("auto-clean", "maybe"), ("default-user", 7)),
    *(("readonly-paths", {"zones": "/a"}), ("max-memory-limit", "100m"), ("allow-udp-ports", ["9-1"])),
    *(("secrets-private-key", "/key"), ("additional-hosts", {"db": "db.example"}), ("allow-users", "x")),
    *(("log-level", "loud"), ("cpu-limit", -1), ("pids-limit", 0), ("image-dir", "relative")),
]
ENTRY_MISTAKES: list[tuple[str, Any]] = [
    *(("instances", "two"), ("instances", -1), ("kind", "Deamon"), ("variables", {"debug": False})),
    *(("upgrade", {"max-surge": 0}), ("memory-limit", "1Gi"), ("ip-addresses", "10.0.0.1")),
    *(("extra-secrets-namespaces", ["a"]), ("image", "/v1"), ("image", "a/b"), ("image", "none")),
    *(("config", "app.yaml"), ("config", "/none.yaml"), ("upgrade", {"soak": -1}), ("upgrade", {"surge": 1})),
    *(("image", ".."), ("kind", "Command"), ("instances", 10001), ("config", "/etc")),
    *(
        ("upgrade", 5),
        ("variables", ["a"]),
        ("imge", "v1"),
        ("image", ""),
        ("image", 5),
        ("config", 7),
        ("kind", "daemon"),
    ),
]


def test_forty_mistakes_in_fifty_files_change_nothing_that_runs(real_tree: RealTree) -> None:
    real_tree.sleeper("v1")
    count = 24
    entries = len(ENTRY_MISTAKES)
    assert len(SANDBOX_MISTAKES) + entries == 40

    def write(number: int, sandbox: dict[str, Any], changed: list[dict[str, Any]]) -> None:
        real_tree.sandbox(f"s{number}", **sandbox)
        good = real_tree.entry("v1", 1 if number < 3 else 0)
        real_tree.processes(f"s{number}", {f"p{n}": good | entry for n, entry in enumerate(changed)})

    for number in range(count):
        write(number, {}, [{}, {}, {}])
    assert len(files_of(real_tree)) == 50
    running = real_tree.tree().until_serving()
    assert running.faults() == []
    before = running.instances()
    assert len(before) == 9

    # The first ten sandboxes have wrong entries, the others are wrong themselves.
    for number in range(10):
        write(number, {}, [dict(ENTRY_MISTAKES[at : at + 1]) for at in range(number * 3, number * 3 + 3)])
    for number, mistake in enumerate(SANDBOX_MISTAKES, start=10):
        write(number, dict([mistake]), [{}, {}, {}])
    running.reload()
    assert len(running.faults()) == 40
    assert running.instances() == before
    assert len(running.services()) == count * 3
    assert faults_in_ps(real_tree) == running.faults()
    assert f"and 35 more, see lithos check -C {real_tree.master_file}" in real_tree.lithos("ps").stdout

    for number in range(count):
        write(number, {}, [{}, {}, {}])
    running.reload()
    assert running.faults() == []
    assert running.instances() == before
    running.stop()


def test_a_taken_port_delays_a_first_start_and_nothing_else(real_tree: RealTree) -> None:
    other = real_tree.port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        real_tree.sandbox("shop")
        real_tree.image("v1", port=port, restart_timeout=0.1)
        real_tree.image("other.v1", port=other)
        real_tree.processes("shop", {"web": real_tree.entry("v1"), "other": real_tree.entry("other.v1")})
        running = real_tree.tree()
        sentence = f"shop/web.0: cannot listen on 127.0.0.1:{port}: Address already in use by "
        assert f"(pid {os.getpid()})" in running.until_said(sentence)
        running.until_phases("shop/other")
        assert running.services()["shop/web"]["phase"] == "failing"
        assert running.services()["shop/web"]["reason"].startswith(sentence)
        assert request(other)
    running.until_phases("shop/web")
    assert request(port) == "v1 shop/web.0"
    running.stop()


def test_a_version_that_cannot_have_its_port_is_rolled_back(real_tree: RealTree) -> None:
    port = real_tree.port()
    real_tree.sandbox("shop")
    real_tree.image("v1", port=port)
    real_tree.processes("shop", {"web": real_tree.entry("v1", 2)})
    running = real_tree.tree().until_serving()
    before = running.pids()
    with socket.create_server(("127.0.0.1", 0)) as taken, Load(port) as load:
        real_tree.image("v2", port=taken.getsockname()[1])
        real_tree.processes("shop", {"web": real_tree.entry("v2", 2)})
        running.reload()
        running.until_phases(phase="rolled back")
        assert "Address already in use by " in running.services()["shop/web"]["reason"]
        assert running.pids() == before
    assert load.failures == []
    running.stop()


def test_what_cannot_be_written_down_stops_nobody(real_tree: RealTree) -> None:
    """As on a full disk: not one byte can be written to a file of the runtime directory."""
    port = real_tree.port()
    real_tree.sandbox("shop")
    for version in ("v1", "v2"):
        # The instances have the same limit, and would copy these into memory.
        real_tree.image(version, port=port, hosts_file={"mount": False}, resolv_conf={"mount": False})
    real_tree.processes("shop", {"web": real_tree.entry("v1", 2)})
    running = real_tree.tree().until_serving()
    with Load(port) as load:
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        real_tree.processes("shop", {"web": real_tree.entry("v2", 2)})
        real_tree.file("sandboxes/blog.yaml", "{")  # a fault is news about the supervisor
        running.reload()
        running.until_phases()
        load.until_answered_by("v2")
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert load.failures == []
    said = "\n".join(running.stop())
    assert "shop/web: cannot write down how far it is: " in said
    assert "cannot write the state of the supervisor: " in said
    assert "shop/web.0: cannot write its state file: " in said


def leave_descriptors(pid: int, count: int) -> None:
    """Let a process open so many descriptors more."""
    used = {int(number) for number in os.listdir(f"/proc/{pid}/fd")}
    free = itertools.islice((number for number in itertools.count() if number not in used), count, None)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (next(free), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def test_without_free_descriptors_what_runs_goes_on(real_tree: RealTree) -> None:
    port = real_tree.port()
    real_tree.sandbox("shop")
    real_tree.image("v1", port=port, restart_timeout=0.1)
    real_tree.processes("shop", {"web": real_tree.entry("v1", 2)})
    running = real_tree.tree().until_serving()
    pid = running.pids()["shop/web.0"] or 0
    with Load(port) as load:
        leave_descriptors(running.pid, 0)
        running.send(signal.SIGHUP)
        running.until_said(f"not taken in: cannot read {real_tree.master_file}: [Errno 24] Too many open files")
        os.kill(pid, signal.SIGTERM)
        running.until_said("shop/web.0: ")
        # Enough to be asked, too few to open what a new instance needs.
        leave_descriptors(running.pid, 3)
        running.ask("scale", name="shop/web", instances=3)
        running.until_said("shop/web.2: [Errno 24] Too many open files")
        leave_descriptors(running.pid, 100)
        running.until_phases()
        running.until_state("ready")
    assert load.failures == []
    running.stop()


def test_logs_that_cannot_be_opened_fail_a_start_and_nothing_else(real_tree: RealTree) -> None:
    port = real_tree.port()
    real_tree.sandbox("shop")
    real_tree.image("v1", port=port, restart_timeout=0.1)
    real_tree.processes("shop", {"web": real_tree.entry("v1", 1)})
    running = real_tree.tree().until_serving()
    before = running.pids()
    (real_tree.logs / "shop").rename(real_tree.logs / "moved")
    (real_tree.logs / "shop").touch()
    real_tree.processes("shop", {"web": real_tree.entry("v1", 2)})
    running.reload()
    running.until_phases(phase="failing")
    assert "shop/web.1: " in running.services()["shop/web"]["reason"]
    assert running.pids() == before | {"shop/web.1": None}
    assert request(port) == "v1 shop/web.0"
    (real_tree.logs / "shop").unlink()
    running.until_phases()
    running.stop()


def test_what_an_instance_says_of_its_time_cannot_stop_the_supervisor(real_tree: RealTree) -> None:
    """Numbers that no timer can take: sd_notify(3) sends 64 bits of microseconds."""
    says = """
import os, signal, socket
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect("\\0" + os.environ["NOTIFY_SOCKET"][1:])
for text in ("EXTEND_TIMEOUT_USEC=18446744073709551615", "WATCHDOG_USEC=18446744073709551615", "READY=1"):
    notify.send(text.encode())
signal.pause()
"""
    real_tree.sandbox("shop")
    real_tree.image("v1", says, readiness="notify")
    real_tree.processes("shop", {"web": real_tree.entry("v1", 2)})
    running = real_tree.tree().until_serving()
    running.until_state("ready")
    running.stop()


def two_of_one_group(tree: RealTree) -> tuple[RunningTree, RunningTree]:
    """Start a supervisor, and one of a master file that was copied: another directory, the same group for instances."""
    tree.sandbox("shop")
    tree.sleeper("v1", readiness="alive")
    tree.processes("shop", {"web": tree.entry("v1", 2)})
    first = tree.tree().until_serving()
    tree.master(runtime_dir=str(tree.runtime / "copy"))
    second = tree.tree(runtime="copy")
    taken = f"cannot have the cgroup {tree.slice.name}/shop: the supervisor with pid {first.pid} has it"
    second.until_said(f"not taken in: sandbox shop: {taken}")
    return first, second


def test_a_sandbox_that_another_supervisor_has_is_left_alone(real_tree: RealTree) -> None:
    first, second = two_of_one_group(real_tree)
    before = first.pids()
    until(lambda: second.ask("status")["loads"], "the second has taken in its files")
    assert second.instances() == []
    faults = {one["pid"]: one["faults"] for one in supervisors_in_ps(real_tree)}
    assert faults[first.pid] == []
    assert [f"the supervisor with pid {first.pid} has it" in fault for fault in faults[second.pid]] == [True]
    second.stop()
    assert first.pids() == before
    assert set(first.states().values()) == {"ready"}
    first.stop()


def test_a_sandbox_is_taken_over_at_a_reload_when_the_other_has_ended(real_tree: RealTree) -> None:
    first, second = two_of_one_group(real_tree)
    first.stop()
    second.reload()
    second.until_phases("shop/web")
    assert second.faults() == []
    second.stop()


def test_who_comes_back_finds_its_sandbox_taken_over(real_tree: RealTree) -> None:
    """It adopts none of the instances that are in the place of its own."""
    first, second = two_of_one_group(real_tree)
    first.kill()
    second.reload()
    second.until_said("ended what an earlier supervisor has left of it")
    second.until_phases("shop/web")
    before = second.pids()
    real_tree.master()
    back = real_tree.tree()
    back.until_said(f"cannot adopt shop/web: cannot have the cgroup {real_tree.slice.name}/shop")
    until(lambda: back.ask("status")["loads"], "it has taken in its files")
    assert back.instances() == []
    second.stop()
    assert set(before) == {"shop/web.0", "shop/web.1"}
    back.reload()
    back.until_phases("shop/web")
    back.stop()


def test_an_upgrade_lets_go_of_no_sandbox(real_tree: RealTree) -> None:
    first, second = two_of_one_group(real_tree)
    before = first.pids()
    real_tree.master()  # the new program reads it again
    first.send(signal.SIGUSR2)
    first.until_said("adopted 2 instance(s)")
    first.until_serving()
    second.reload()
    assert second.instances() == []
    assert f"the supervisor with pid {first.pid} has it" in second.faults()[0]
    assert (first.pids(), first.faults()) == (before, [])
    second.stop()
    first.stop()


def test_the_sandbox_of_lithos_run_is_not_for_a_tree(real_tree: RealTree) -> None:
    """Those of `lithos run` share it, without limits of its own."""
    real_tree.master(cgroup_name="lithos.slice")
    real_tree.sandbox("run")
    real_tree.sleeper("v1", readiness="alive")
    real_tree.processes("run", {real_tree.name: real_tree.entry("v1")})
    program = real_tree.container(executable="/bin/sleep", arguments=["1000"], readiness="alive")
    running = [real_tree.start(program, "--name", f"{real_tree.name}-{each}") for each in ("a", "b")]
    for each in running:
        each.until_started()
    tree = real_tree.tree()
    said = tree.until_said("not taken in: sandbox run: cannot have the cgroup lithos.slice/run")
    assert any(f"pid {each.pid} has it" in said for each in running)
    for each in running:
        each.stop()
    tree.reload()
    tree.until_phases(f"run/{real_tree.name}")
    refused = real_tree.start(program)
    code, sentences = refused.end()
    assert (code, f"pid {tree.pid} has it" in sentences[-1]) == (1, True)
    tree.stop()
