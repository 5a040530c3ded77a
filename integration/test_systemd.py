"""The supervisor as systemd starts it, with and without a delegated cgroup."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from real_host import SERVER, RealHost, request, until

LITHOS = Path(sys.prefix, "bin/lithos")
MOUNT = Path("/sys/fs/cgroup")


def systemctl(*arguments: str) -> str:
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False).stdout.strip()


class Unit:
    """A transient unit that runs `lithos run`."""

    def __init__(self, host: RealHost, file: Path, *properties: str) -> None:
        self.name = f"lithos-{host.name}.service"
        environ = [f"--setenv={name}={host.environ[name]}" for name in ("LITHOS_RUNTIME_DIR", "LITHOS_LOG_DIR")]
        chosen = [f"--property={text}" for text in ("Type=notify", *properties)]
        command = ["systemd-run", "--quiet", f"--unit={self.name}", *environ, *chosen, str(LITHOS), "run", str(file)]
        subprocess.run(command, check=True)

    @property
    def main_pid(self) -> int:
        return int(systemctl("show", "--value", "--property=MainPID", self.name))

    def stop(self) -> None:
        subprocess.run(["systemctl", "stop", self.name], check=True)


def instances(host: RealHost) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(host.lithos("ps", "--json").stdout)["supervisors"][0]["instances"]
    return found


@pytest.mark.parametrize(
    ("properties", "parent"), [(("Delegate=yes",), "system.slice/{unit}/lithos.slice"), ((), "lithos.slice")]
)
def test_groups_are_where_systemd_lets_them_be(real_host: RealHost, properties: tuple[str, ...], parent: str) -> None:
    port = real_host.port()
    file = real_host.program(SERVER, port=port, instances=2, memory_limit="48Mi")
    unit = Unit(real_host, file, *properties)  # returns when READY=1 has come
    until(lambda: {one["state"] for one in instances(real_host)} == {"ready"}, "both instances are ready")

    below = MOUNT / parent.format(unit=unit.name) / "run"
    assert [one["cgroup"] for one in instances(real_host)] == [
        str((below / f"{real_host.name}.{index}").relative_to(MOUNT)) for index in range(2)
    ]
    for one in instances(real_host):
        group = MOUNT / one["cgroup"]
        assert (group / "memory.max").read_text() == f"{48 << 20}\n"
        assert str(one["pid"]) in (group / "cgroup.procs").read_text().split()
    own = Path(f"/proc/{unit.main_pid}/cgroup").read_text().strip().removeprefix("0::")
    assert own == f"/system.slice/{unit.name}" + ("/supervisor" if properties else "")
    assert request(port).startswith(f"run/{real_host.name}.")

    unit.stop()
    assert not any(Path(MOUNT, parent.format(unit=unit.name)).glob(f"run/{real_host.name}*"))
    assert systemctl("show", "--value", "--property=Result", unit.name) == "success"


def test_the_supervisors_own_variables_do_not_reach_the_application(real_host: RealHost) -> None:
    text = "import os, json; print(json.dumps(dict(os.environ)), flush=True)\nimport signal; signal.pause()"
    unit = Unit(real_host, real_host.program(text), "WatchdogSec=600")
    found = real_host.printed()
    assert set(found) == {"TERM", "LITHOS_NAME", "LITHOS_CONFIG"} | ({"LC_CTYPE"} & set(found))
    unit.stop()


def test_the_supervisor_is_small_and_sleeps_when_nothing_happens(real_host: RealHost) -> None:
    """Its budget: 14 MB PSS with four instances, no wake-up in a minute; on this host nobody shares its pages."""
    file = real_host.container(executable="/bin/sleep", arguments=["1000"], instances=4)
    unit = Unit(real_host, file)
    until(lambda: {one["state"] for one in instances(real_host)} == {"ready"}, "all instances are ready")
    pid = unit.main_pid
    before = switches(pid)
    pss = proportional_size(pid)
    # Measuring quiet takes the time that is to be quiet.
    os.waitpid(os.posix_spawn("/bin/sleep", ["sleep", "60"], {}), 0)
    assert switches(pid) == before
    print(f"PSS of the supervisor with 4 instances: {pss / 1e6:.1f} MB")
    assert pss <= 14_000_000
    unit.stop()


def switches(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def proportional_size(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
