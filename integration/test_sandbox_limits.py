"""Limits that a sandbox has as a whole, and what an upgrade that meets a limit does to those who serve."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from applications import ARMED_BOMB, ARMED_SPINNER, GREEDY, QUIET
from clients import SPARSE, Load
from real_host import until
from tree_service import LOGS, SLICE

if TYPE_CHECKING:
    from tree_service import TreeService

PORT, OTHER_PORT = 8001, 8002
MIB = 1 << 20


def limit(sandbox: str, file: str) -> str:
    return (SLICE / sandbox / file).read_text().strip()


def counter(group: Path, file: str, key: str) -> int:
    words = (group / file).read_text().split()
    return int(words[words.index(key) + 1])


def test_memory_of_a_sandbox_is_the_sum_over_its_instances(service: TreeService) -> None:
    service.sandbox("greedy", memory_limit="64Mi")
    service.sandbox("modest", memory_limit="64Mi")
    service.container("greedy", GREEDY, PORT)
    service.container("modest", GREEDY, OTHER_PORT)
    service.processes("greedy", web={"config": "greedy", "instances": 2})
    service.processes("modest", web={"config": "modest", "instances": 2})
    service.start()
    before = service.pids()
    assert (limit("greedy", "memory.max"), limit("greedy", "memory.swap.max")) == (f"{64 * MIB}", "0")
    # None of its own: only the sum bounds it.
    assert limit("greedy", "web.0/memory.max") == "max"
    with Load(PORT, pause=SPARSE) as theirs, Load(OTHER_PORT, pause=SPARSE) as others:
        os.kill(service.app("greedy/web.0"), signal.SIGUSR1)
        service.journal.until("greedy/web.0 was killed: the memory of its sandbox, or of the host, was used up")
        service.until_settled()
        theirs.until_answered(50)
        others.until_answered(50)
    assert (theirs.failures, others.failures) == ([], [])
    assert counter(SLICE / "greedy", "memory.events", "oom_kill") == 1
    assert counter(SLICE / "modest", "memory.events", "oom_kill") == 0
    after = service.pids()
    assert {name for name in before if before[name] != after[name]} == {"greedy/web.0"}
    assert service.ps()["greedy/web.0"]["last_exit"]["oom_killed"] is True


def test_other_limits_of_a_sandbox_and_their_change_by_a_reload(service: TreeService) -> None:
    service.sandbox("bombs", pids_limit=24, memory_limit="64Mi")
    service.container("bomb", ARMED_BOMB, readiness="alive")
    service.container("spinner", ARMED_SPINNER, readiness="alive")
    service.processes("bombs", bomb={"config": "bomb", "instances": 2}, spinner={"config": "spinner"})
    service.start()
    before = service.pids()
    group, files = SLICE / "bombs", ("pids.max", "memory.max", "memory.swap.max", "cpu.max")
    assert [limit("bombs", file) for file in files] == ["24", f"{64 * MIB}", "0", "max 100000"]
    for name in ("bomb.0", "bomb.1"):
        trigger(service, name)
    until(lambda: all(said(f"bomb.{index}").count("\n") == 2 for index in range(2)), "both bombs have gone off")
    assert limit("bombs", "pids.current") == "24"
    # The inits and applications of three instances are six of them.
    assert sum(int(said(f"bomb.{index}").split()[1]) for index in range(2)) == 24 - 6

    service.sandbox("bombs", pids_limit=30, memory_limit="80Mi", cpu_limit=0.2)
    service.reload()
    assert [limit("bombs", file) for file in files] == ["30", f"{80 * MIB}", "0", "20000 100000"]
    trigger(service, "spinner.0")
    until(lambda: counter(group, "cpu.stat", "nr_throttled") > 0, "the sandbox has to wait for its next share")

    service.sandbox("bombs")
    service.reload()
    assert [limit("bombs", file) for file in files] == ["max", "max", "max", "max 100000"]
    assert service.pids() == before


def trigger(service: TreeService, instance: str) -> None:
    until(lambda: "armed" in said(instance), f"{instance} waits for its signal")
    os.kill(service.app(f"bombs/{instance}"), signal.SIGUSR1)


def said(instance: str) -> str:
    return (LOGS / f"stderr/bombs/{instance}.stdout").read_text()


def test_bounds_for_the_memory_of_each_container(service: TreeService) -> None:
    service.sandbox("bounds", default_memory_limit="48Mi", max_memory_limit="64Mi")
    service.container("default", QUIET, readiness="alive")
    service.container("own", QUIET, readiness="alive", memory_limit="32Mi")
    service.processes("bounds", web={"config": "default"}, job={"config": "own"})
    service.start()
    assert {name: one["memory"]["max"] for name, one in service.ps().items()} == {
        "bounds/web.0": 48 * MIB,
        "bounds/job.0": 32 * MIB,
    }
    before = service.pids()

    service.container("own", QUIET, readiness="alive", memory_limit="65Mi")
    service.sandbox("bounds", default_memory_limit="40Mi", max_memory_limit="64Mi")
    service.reload()
    service.until_settled()
    (fault,) = service.status()["faults"]
    assert f"{65 * MIB} is more than max-memory-limit, which is {64 * MIB}" in fault
    # What is refused runs as before; the new default is a new version.
    assert {name: limit("bounds", f"{name}/memory.max") for name in ("job.0", "web.0")} == {
        "job.0": f"{32 * MIB}",
        "web.0": f"{40 * MIB}",
    }
    assert service.pids()["bounds/job.0"] == before["bounds/job.0"]
    assert service.pids()["bounds/web.0"] != before["bounds/web.0"]


def test_a_version_that_takes_too_much_memory_when_it_serves_is_rolled_back(
    service: TreeService, tmp_path: Path
) -> None:
    service.sandbox("leaks")
    service.container("v1", GREEDY, PORT, memory_limit="32Mi", environ={"VERSION": "v1"})
    service.processes("leaks", web={"config": "v1", "instances": 2})
    service.start()
    before = service.pids()
    service.container("leaks", GREEDY, PORT, memory_limit="32Mi", environ={"VERSION": "leaks", "LEAKS": "1"})
    # Much longer than it takes until a client meets the new instance; nobody waits for its end.
    bad = service.processes(
        "leaks", tmp_path / "bad.yaml", web={"config": "leaks", "instances": 2, "upgrade": {"soak": 600}}
    )
    with Load(PORT, pause=SPARSE) as load:
        refused = subprocess.run(
            ["lithos", "switch", "leaks", str(bad)], capture_output=True, text=True, timeout=60, check=False
        )
        assert refused.returncode == 1
        assert "leaks/web was rolled back: leaks/web.2 was killed: it used more memory than its limit" in refused.stderr
        assert "leaks" in load.versions()
        assert service.pids() == before
        load.until_answered(50)

        # Another limit is another version: the same roll-out.
        service.container("v1", GREEDY, PORT, memory_limit="40Mi", environ={"VERSION": "v1"})
        service.processes("leaks", web={"config": "v1", "instances": 2})
        service.reload()
        service.until_settled()
        load.until_answered(50)
    assert load.failures == []
    assert not {*service.pids().values()} & {*before.values()}
    assert [one["memory"]["max"] for one in service.ps().values()] == [40 * MIB] * 2
