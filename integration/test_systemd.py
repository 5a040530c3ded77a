"""The supervisor as systemd starts it, with and without a delegated cgroup."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_host import SERVER, request
from run_unit import Unit

if TYPE_CHECKING:
    from real_host import RealHost
    from sleeper import Sleeper

MOUNT = Path("/sys/fs/cgroup")


@pytest.mark.parametrize(
    ("properties", "parent"), [(("Delegate=yes",), "system.slice/{unit}/lithos.slice"), ((), "lithos.slice")]
)
def test_groups_are_where_systemd_lets_them_be(real_host: RealHost, properties: tuple[str, ...], parent: str) -> None:
    port = real_host.port()
    file = real_host.program(SERVER, port=port, instances=2, memory_limit="48Mi")
    unit = Unit(real_host, file, *properties)
    unit.until_ready()

    below = MOUNT / parent.format(unit=unit.name) / "run"
    assert [one["cgroup"] for one in unit.instances()] == [
        str((below / f"{real_host.name}.{index}").relative_to(MOUNT)) for index in range(2)
    ]
    for one in unit.instances():
        group = MOUNT / one["cgroup"]
        assert (group / "memory.max").read_text() == f"{48 << 20}\n"
        assert str(one["pid"]) in (group / "cgroup.procs").read_text().split()
    own = Path(f"/proc/{unit.main_pid}/cgroup").read_text().strip().removeprefix("0::")
    assert own == f"/system.slice/{unit.name}" + ("/supervisor" if properties else "")
    assert request(port).startswith(f"run/{real_host.name}.")

    unit.stop()
    assert not any(Path(MOUNT, parent.format(unit=unit.name)).glob(f"run/{real_host.name}*"))
    assert unit.show("Result") == "success"


def test_the_supervisors_own_variables_do_not_reach_the_application(real_host: RealHost) -> None:
    text = "import os, json; print(json.dumps(dict(os.environ)), flush=True)\nimport signal; signal.pause()"
    unit = Unit(real_host, real_host.program(text), "WatchdogSec=600")
    found = real_host.printed()
    # Ours, and neither systemd's nor any other of what it sets for services.
    assert found.pop("NOTIFY_SOCKET").startswith("@lithos-")
    assert set(found) == {"TERM", "LITHOS_NAME", "LITHOS_CONFIG"} | ({"LC_CTYPE"} & set(found))
    unit.stop()


def test_the_supervisor_sleeps_when_nothing_happens(sleeper: Sleeper) -> None:
    """Its budget: no wake-up in a minute, whatever else happens on the host."""
    assert sleeper.wake_ups() == 0
