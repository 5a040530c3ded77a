"""The supervisor stays small: every instance begins as a copy of it, and it runs for years as root."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from real_host import until

if TYPE_CHECKING:
    from real_host import RealHost

# Beside what the interpreter itself has loaded when it is ready. What is not here may not come: no yaml, attrs,
# asyncio, ssl, logging, subprocess, pathlib, dataclasses, inspect, pyroute2, …
ALLOWED = {
    "lithos_runner": "the supervisor",
    "cgroup": "limits, kill, events",
    "cgroupspy": "the typed files that cgroup builds on: two small modules of it",
    **dict.fromkeys(("ctypes", "_ctypes"), "system calls that os does not have: clone3, mount_setattr, seccomp …"),
    "struct": "structures for those and for SO_PEERCRED",
    "_struct": "its C part",
    **dict.fromkeys(
        ("socket", "_socket", "selectors", "array"), "listeners, the control socket; socket brings the others"
    ),
    **dict.fromkeys(("select", "math"), "epoll; selectors takes math"),
    **dict.fromkeys(("fcntl", "resource", "errno", "time", "stat", "types"), "thin modules over the C library"),
    **dict.fromkeys(("signal", "enum"), "names of signals and states"),
    **dict.fromkeys(("json", "_json"), "configuration, state and control are JSON"),
    **dict.fromkeys(("re", "_sre", "copyreg"), "json needs it"),
    **dict.fromkeys(("typing", "_typing"), "NamedTuple"),
    **dict.fromkeys(("contextlib", "functools", "_functools"), "suppress and ExitStack; typing and re need functools"),
    **dict.fromkeys(
        ("collections", "_collections", "itertools", "keyword", "operator", "_operator", "reprlib"), "typing"
    ),
    **dict.fromkeys(("__future__", "_weakref", "warnings"), "language"),
    **dict.fromkeys(("importlib", "_locale", "locale"), "one command is loaded at a time; gettext of argparse"),
    **dict.fromkeys(("argparse", "gettext"), "the command line"),
}

_SHOW = """
import sys
before = set(sys.modules)
from lithos_runner.commands import main, run
import lithos_runner.supervisor.supervisor
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_it_imports_nothing_but_what_has_a_reason() -> None:
    done = subprocess.run([sys.executable, "-c", _SHOW], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - ALLOWED.keys() == set()


def test_of_our_own_it_imports_neither_the_configuration_nor_what_prints() -> None:
    script = "import sys, lithos_runner.supervisor.supervisor; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    ours = {name.split(".")[1] for name in done.stdout.split() if name.startswith("lithos_runner.")}
    assert ours == {"supervisor", "launch", "plan", "status"}
    status = {name for name in done.stdout.split() if name.startswith("lithos_runner.status.")}
    assert status == {f"lithos_runner.status.{name}" for name in ("names", "processes", "store")}


QUIET = 10.0  # seconds of observation
MOST_MEMORY = 14 << 10  # KiB, the budget in docs/design.md


def test_four_idle_instances_cost_little_memory_and_no_wake_up(real_host: RealHost) -> None:
    file = real_host.container(executable="/bin/sleep", arguments=["1000"], instances=4)
    running = real_host.start(file).until_serving()
    process = Path("/proc", str(running.pid))
    rollup = {line.split()[0]: int(line.split()[1]) for line in (process / "smaps_rollup").read_text().splitlines()[1:]}
    print({key: rollup[key] for key in ("Rss:", "Pss:", "Private_Dirty:", "Shared_Clean:")})
    assert rollup["Pss:"] <= MOST_MEMORY

    def switches() -> str:
        """Voluntary ones, each a wake-up that had nothing left to do and slept again; see proc_pid_status(5)."""
        return next(line for line in (process / "status").read_text().splitlines() if line.startswith("voluntary"))

    until(lambda: "State:\tS" in (process / "status").read_text(), "it sleeps after our last question")
    before = switches()
    time.sleep(QUIET)  # quiet can only be seen by watching
    assert switches() == before
    running.stop(signal.SIGTERM)
