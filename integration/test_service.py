"""The unit of the wheel: what systemd's commands do to the supervisor, and what they do to those who serve."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from applications import GREEDY, QUIET, STUBBORN
from clients import SPARSE, Load
from real_host import until
from tree_service import ETC, LOGS, SLICE, UNIT, run

if TYPE_CHECKING:
    from tree_service import TreeService

PORT = 8000


def a_shop(service: TreeService, instances: int = 2) -> None:
    """A sandbox with a server, and one that nothing should happen to."""
    service.sandbox("shop")
    service.container("v1", GREEDY, PORT, environ={"VERSION": "v1"})
    service.processes("shop", web={"config": "v1", "instances": instances})
    service.sandbox("other")
    service.container("quiet", QUIET, readiness="alive")
    service.processes("other", job={"config": "quiet"})


def kill_the_supervisor() -> None:
    run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "lithos")


def oom_score_adj(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_the_unit_file_is_right() -> None:
    assert run("systemd-analyze", "verify", str(UNIT)) == ""


def test_reload_and_switch_touch_only_what_has_changed(service: TreeService, tmp_path: Path) -> None:
    a_shop(service)
    service.start()
    supervisor, before = service.main_pid, service.pids()
    with Load(PORT, pause=SPARSE) as load:
        service.container("v2", GREEDY, PORT, environ={"VERSION": "v2"})
        new = service.processes("shop", tmp_path / "shop.yaml", web={"config": "v2", "instances": 2})
        run("lithos", "switch", "shop", str(new))
        switched = service.pids()
        load.until_answered_by("v2")

        service.processes("shop", web={"config": "v2", "instances": 3})
        service.reload()
        service.until_settled()
        load.until_answered(50)
    assert load.failures == []
    assert switched["other/job.0"] == before["other/job.0"]
    assert not {*before.values()} & {pid for name, pid in switched.items() if name.startswith("shop/")}
    assert service.pids().items() > switched.items()
    assert service.pids().keys() - switched.keys() == {"shop/web.2"}
    assert (service.main_pid, service.show("ActiveState")) == (supervisor, "active")


def test_the_death_of_the_supervisor_is_not_noticed(service: TreeService) -> None:
    a_shop(service, instances=3)
    service.start()
    supervisor, before = service.main_pid, service.pids()
    assert [oom_score_adj(pid) for pid in (supervisor, service.app("shop/web.0"))] == [-900, 0]
    with Load(PORT, pause=SPARSE) as load:
        kill_the_supervisor()
        service.journal.until("adopted 4 instance(s)")
        service.journal.until("Started lithos.service")
        load.until_answered(50)
        assert service.pids() == before
        successor = service.main_pid
        assert successor not in (0, supervisor)

        run("systemctl", "kill", "--kill-whom=main", "--signal=USR2", "lithos")
        service.journal.until("going on as the program that is installed now")
        service.journal.until("adopted 4 instance(s)")
        until(lambda: service.show("ActiveState") == "active", "it is ready")
        assert (service.main_pid, service.show("NRestarts")) == (successor, "1")

        # What systemd does not try again: the instances wait until somebody has mended the file.
        (ETC / "master.yaml").write_text("what: is this\n")
        kill_the_supervisor()
        service.journal.until("/etc/lithos/master.yaml:1:1: unknown key 'what'")
        service.journal.until("Failed to start lithos.service")
        assert service.show("ActiveState") == "failed"
        load.until_answered(50)
        (ETC / "master.yaml").write_text("")
        service.start()
        assert service.pids() == before
    assert load.failures == []


def test_restart_is_an_end_and_a_new_start(service: TreeService) -> None:
    a_shop(service)
    service.start()
    before, groups = service.pids(), [*SLICE.glob("shop/web.*")]
    # It recomputes which controllers its own units need, and must not take ours.
    run("systemctl", "daemon-reload")
    assert [(group / "memory.max").exists() and (group / "pids.max").exists() for group in groups] == [True, True]
    assert service.pids() == before

    run("systemctl", "restart", "lithos")
    service.until_settled()
    after = service.pids()
    assert after.keys() == before.keys()
    assert not {*after.values()} & {*before.values()}
    service.journal.until("ending 3 instance(s)")


def test_a_helper_that_takes_too_much_memory_does_not_stop_the_service(service: TreeService) -> None:
    """By systemd's default the first process of a unit that the kernel kills for memory ends the whole unit."""
    a_shop(service)
    service.start()
    supervisor, before = service.main_pid, service.pids()
    run("systemctl", "set-property", "--runtime", "lithos", "MemoryMax=96M", "MemorySwapMax=0")
    own = Path("/sys/fs/cgroup/system.slice/lithos.service/cgroup.procs")
    greed = f"open({str(own)!r}, 'w').write('0'); hoard = [bytearray(1 << 20) for _ in range(1 << 12)]"
    helper = subprocess.run(["/usr/bin/python3", "-I", "-S", "-c", greed], check=False, timeout=60)
    assert helper.returncode == -9
    service.journal.until("killed by the OOM killer")
    assert (service.main_pid, service.show("ActiveState")) == (supervisor, "active")
    assert service.pids() == before


def test_stop_waits_for_an_instance_that_may_take_its_time(service: TreeService) -> None:
    """Not ended by TimeoutStopSec: a supervisor that is killed leaves its instances alive."""
    service.override("TimeoutStopSec=1")
    service.sandbox("deaf")
    service.container("deaf", STUBBORN, kill_timeout=3)
    service.processes("deaf", web={"config": "deaf"})
    service.start()
    until(lambda: "deaf" in (LOGS / "stderr/deaf/web.0.stdout").read_text(), "the application ignores SIGTERM")
    service.stop()
    service.journal.until("has not ended by its stop signal; killing it")
