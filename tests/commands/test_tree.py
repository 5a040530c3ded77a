"""`lithos tree` from the command line: where its cgroups are, what it says, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_host import until
from real_tree import EXITS, HANGS, real_tree

import cgroup

if TYPE_CHECKING:
    from real_tree import RealTree

__all__ = ["real_tree"]


def test_each_sandbox_has_a_cgroup_with_its_limits_and_instances(real_tree: RealTree) -> None:
    controllers = cgroup.find().controllers
    name = "hugetlb" if "hugetlb" in controllers else "pids"
    for sandbox in ("shop", "blog"):
        real_tree.sandbox(sandbox)
    real_tree.sleeper("v1", **({"cgroup": {"hugetlb.2MB.max": "2Mi"}} if name == "hugetlb" else {"pids_limit": 50}))
    real_tree.processes("shop", {"web": real_tree.entry("v1", 2)})
    real_tree.processes("blog", {"web": real_tree.entry("v1", 1)})
    running = real_tree.tree().until_serving()
    assert [path.name for path in sorted(real_tree.slice.glob("*/"))] == ["blog", "shop"]
    assert real_tree.instance_groups() == ["blog/web.0", "shop/web.0", "shop/web.1"]
    file, text = ("hugetlb.2MB.max", str(2 << 20)) if name == "hugetlb" else ("pids.max", "50")
    assert {(path / file).read_text().strip() for path in real_tree.groups()} == {text}
    (supervisor,) = json.loads(real_tree.lithos("ps", "--json").stdout)["supervisors"]
    assert (supervisor["pid"], supervisor["config"], supervisor["faults"]) == (
        running.pid,
        str(real_tree.master_file),
        [],
    )
    assert {one["cgroup"] for one in supervisor["instances"]} == {
        f"{real_tree.slice.name}/{instance}" for instance in real_tree.instance_groups()
    }
    assert {Path(one["image"]).name for one in supervisor["instances"]} == {"v1"}
    running.stop()


def test_what_cgroup_controllers_leave_out_is_said(real_tree: RealTree) -> None:
    real_tree.master(cgroup_controllers=["name"])
    real_tree.sandbox("shop")
    real_tree.sleeper("v1", pids_limit=50)
    real_tree.processes("shop", {"web": real_tree.entry("v1")})
    running = real_tree.tree("--limits", "enforce").until_serving()
    assert running.until_said("limits are not enforced for:").endswith("pids (cgroup-controllers)")
    running.stop()


def test_the_usual_slice_is_shared_with_others(real_tree: RealTree) -> None:
    """Two supervisors have sandboxes in lithos.slice; each removes its own."""
    shared = Path(cgroup.find().mount) / "lithos.slice"
    sandbox = real_tree.name
    real_tree.master(cgroup_name="lithos.slice")
    real_tree.sandbox(sandbox)
    real_tree.sleeper("v1")
    real_tree.processes(sandbox, {"web": real_tree.entry("v1")})
    running = real_tree.tree().until_serving()
    assert (shared / sandbox / "web.0").is_dir()
    neighbour = shared / f"{sandbox}-neighbour"
    neighbour.mkdir()
    running.stop()
    assert not (shared / sandbox).exists()
    neighbour.rmdir()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_it_ends_in_whatever_state_its_instances_are(real_tree: RealTree, number: signal.Signals) -> None:
    port = real_tree.port()
    real_tree.sandbox("shop")
    real_tree.image("good", port=port)
    real_tree.image("starting", HANGS, port=port)
    real_tree.image("failing", EXITS, restart_timeout=600)
    real_tree.processes("shop", {name: real_tree.entry(name, 2) for name in ("good", "starting", "failing")})
    running = real_tree.tree()
    until(running.control.exists, "it listens")
    states = [*["backoff"] * 2, *["ready"] * 2, *["starting"] * 2]
    until(lambda: sorted(running.states().values()) == states, "all kinds")
    assert f"lithos: {number.name}: ending 4 instance(s)" in running.stop(number)


def test_a_wrong_configuration_starts_what_is_right(real_tree: RealTree) -> None:
    port = real_tree.port()
    real_tree.sandbox("shop")
    real_tree.sandbox("mail")
    real_tree.file("sandboxes/blog.yaml", "{")
    real_tree.image("v1", port=port)
    real_tree.processes("shop", {"web": real_tree.entry("v1"), "bad": real_tree.entry("none")})
    real_tree.processes("mail", {"job": {**real_tree.entry("v1"), "x": 1}})
    running = real_tree.tree().until_serving()
    assert sorted(running.services()) == ["shop/web"]
    assert len(running.faults()) == 3
    for name in ("shop", "mail"):
        real_tree.processes(name, {"web": real_tree.entry("v1")} if name == "shop" else {})
    real_tree.sandbox("blog")
    running.reload()
    assert running.faults() == []
    running.stop()


def test_without_a_master_file_nothing_is_started(real_tree: RealTree) -> None:
    real_tree.file("master.yaml", "log-level: loud\nsandboxs-dir: /x\n")
    done = real_tree.command("tree")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 3
    assert done.stderr.endswith("lithos: 2 errors, nothing was started\n")
    real_tree.master_file.unlink()
    done = real_tree.command("tree")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "lithos: 1 error, nothing was started")
    assert not real_tree.runtime.exists()


def test_a_second_supervisor_of_the_same_files_is_refused(real_tree: RealTree) -> None:
    real_tree.sandbox("shop")
    running = real_tree.tree().until_serving()
    done = real_tree.command("tree")
    assert done.returncode == 1
    assert f"the supervisor with pid {running.pid} holds it" in done.stderr
    running.stop()


def test_systemd_is_told(real_tree: RealTree) -> None:
    real_tree.sandbox("shop")
    path = real_tree.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(60)
        real_tree.environ["NOTIFY_SOCKET"] = str(path)
        running = real_tree.tree()
        assert manager.recv(1000) == b"READY=1"
        running.send(signal.SIGHUP)
        said = manager.recv(1000).split(b"\n")
        assert said[0] == b"RELOADING=1"
        assert said[1].startswith(b"MONOTONIC_USEC=")
        assert manager.recv(1000) == b"READY=1"
        running.send(signal.SIGTERM)
        assert manager.recv(1000).startswith(b"STOPPING=1\n")
        assert running.end()[0] == 0
    path.unlink()
    del real_tree.environ["NOTIFY_SOCKET"]
