"""What only a host with every controller on cgroup v2 can show: limits hold, and hit only those they are for."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from applications import BOMB, GREEDY, STUBBORN
from clients import SPARSE, Line, Load
from prometheus_client.parser import text_string_to_metric_families
from real_host import RealHost, Running, until

MOUNT = Path("/sys/fs/cgroup")
MIB = 1 << 20


def enforced(host: RealHost, file: Path, *options: str) -> Running:
    return host.start(file, "--limits", "enforce", *options).until_serving()


def test_an_instance_that_takes_too_much_memory_is_killed_alone_and_started_again(real_host: RealHost) -> None:
    port = real_host.port()
    file = real_host.program(GREEDY, port=port, instances=3, memory_limit="32Mi")
    running = enforced(real_host, file)
    others = [one["pid"] for one in running.instances()[1:]]
    with Load(port, 3 * [Line], SPARSE) as load:
        load.until_answered_by(*(one["name"] for one in running.instances()))
        os.kill(running.app(0), signal.SIGUSR1)
        assert "used more memory than its limit allows" in running.until_said(".0 was killed")
        running.until_state("ready")
        load.until_answered(50)

    assert load.failures == []
    first, *rest = real_host.ps()
    assert first["last_exit"]["oom_killed"] is True
    assert first["last_exit"]["signal"] == signal.SIGKILL
    assert first["restarts"] == 1
    assert first["memory"]["oom_kills"] > 0
    assert [(one["restarts"], one["last_exit"], one["memory"]["oom_kills"]) for one in rest] == [(0, None, 0)] * 2
    assert [one["pid"] for one in running.instances()[1:]] == others
    running.stop()


def test_every_limit_is_in_force_for_every_instance_and_can_be_read(real_host: RealHost) -> None:
    file = real_host.container(
        executable="/bin/sleep",
        arguments=["1000"],
        instances=2,
        memory_limit="48Mi",
        cpu_limit=0.5,
        cpu_shares=2048,
        pids_limit=20,
        cgroup={"memory.high": "40Mi", "io.weight": "default 200"},
    )
    running = enforced(real_host, file)
    expected = {
        "memory.max": f"{48 * MIB}",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "memory.high": f"{40 * MIB}",
        "cpu.max": "50000 100000",
        "cpu.weight": "200",
        "pids.max": "20",
        "io.weight": "default 200",
    }
    for instance in real_host.ps():
        group = MOUNT / instance["cgroup"]
        assert {name: (group / name).read_text().strip() for name in expected} == expected
        memory = instance["memory"]
        assert (memory["source"], memory["max"], memory["oom_kills"]) == ("cgroup", 48 * MIB, 0)
        assert 0 < memory["current"] <= memory["peak"] < 48 * MIB
        assert str(instance["pid"]) in (group / "cgroup.procs").read_text().split()
    running.stop()


def test_a_group_without_limits_is_measured_all_the_same(real_host: RealHost) -> None:
    running = enforced(real_host, real_host.container(executable="/bin/sleep", arguments=["1000"]))
    (instance,) = real_host.ps()
    assert instance["memory"]["max"] is None
    assert instance["memory"]["current"] > 0
    families = {family.name: family for family in text_string_to_metric_families(real_host.lithos("metrics").stdout)}
    (sample,) = families["lithos_instance_memory_bytes"].samples
    assert sample.value > 0
    assert (
        "lithos_instance_memory_max_bytes" not in families or not families["lithos_instance_memory_max_bytes"].samples
    )
    running.stop()


def test_a_fork_bomb_stops_at_its_limit(real_host: RealHost) -> None:
    running = enforced(real_host, real_host.program(BOMB, pids_limit=20))
    said = until(lambda: real_host.log("stdout").strip(), "the bomb has gone off")
    # The init and the application are two of the twenty.
    assert int(said) == 18
    (instance,) = real_host.ps()
    assert (MOUNT / instance["cgroup"] / "pids.current").read_text().strip() == "20"
    running.stop()


def test_who_ignores_the_stop_signal_is_gone_after_kill_timeout(real_host: RealHost) -> None:
    running = enforced(real_host, real_host.program(STUBBORN, kill_timeout=1))
    until(lambda: "deaf" in real_host.log("stdout"), "the application ignores SIGTERM")
    assert any("has not ended by its stop signal" in line for line in running.stop())


def test_a_memory_limit_that_the_setup_itself_can_hardly_live_in(real_host: RealHost) -> None:
    """A child of the supervisor is charged only for the pages that it writes, so little is enough for the set-up."""
    file = real_host.container(executable="/bin/sleep", arguments=["1000"], memory_limit="2Mi", init=False)
    running = enforced(real_host, file)
    (instance,) = real_host.ps()
    assert instance["memory"]["max"] == 2 * MIB
    running.stop()
