"""A host to look at: real processes in real cgroups, and processes that act as supervisors do."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cgroup.hierarchy import find
from lithos_runner.status import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

# Acts as told on its standard input, one JSON list a line, and answers each with a line of JSON.
SUPERVISOR = """
import json, os, sys
from lithos_runner.status.store import StateDirectory, claim
lock = claim(sys.argv[1])
state = StateDirectory.create(sys.argv[1])
state.write_supervisor({"pid": os.getpid(), **json.loads(sys.argv[2])})
print("started", flush=True)
for line in sys.stdin:
    method, *arguments = json.loads(line)
    getattr(state, method)(*arguments)
    print("done", flush=True)
"""

# The shape of an instance: a first process with the application as its child.
INIT = 'echo $$ > "$1/cgroup.procs"; sleep 1000 & echo $!; wait'
BUSY = 'echo $$ > "$1/cgroup.procs"; echo $$; while :; do :; done'


class FakeSupervisor:
    """A process that holds the lock of a runtime directory."""

    def __init__(self, runtime: Path, **description: Any) -> None:
        self.runtime = runtime
        self.started = time.time() - 3700
        facts = {
            "config": "/etc/lithos/hello.yaml",
            "started": self.started,
            "log_dir": str(runtime / "log"),
            "limits": "enforce",
            "not_enforced": [],
            "faults": [],
            **description,
        }
        arguments = [sys.executable, "-c", SUPERVISOR, str(runtime), json.dumps(facts)]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == "started"

    def tell(self, method: str, *arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self.process.stdin.flush()
        assert self._answer() == "done"

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


class RealInstance:
    """A process in a cgroup of its own, below one of ours; `pid` is its first, `app` the one that does the work."""

    def __init__(self, group: Path, script: str = INIT) -> None:
        self.group = group
        group.mkdir()
        self.process = subprocess.Popen(["sh", "-c", script, "sh", str(group)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.app = int(self.process.stdout.readline())
        self.pid = self.process.pid

    @property
    def cgroup(self) -> str:
        """The path below the mount."""
        return str(self.group.relative_to(find().mount))

    def kill(self) -> None:
        (self.group / "cgroup.kill").write_text("1")
        self.process.wait()

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        remove_group(self.group)


def remove_group(path: Path) -> None:
    """Remove an empty group; its last processes may still be on their way out."""
    events = os.open(path / "cgroup.events", os.O_RDONLY)
    changed = select.poll()
    changed.register(events, select.POLLPRI)
    try:
        while b"populated 1" in os.pread(events, 100, 0):
            changed.poll()
    finally:
        os.close(events)
    path.rmdir()


class Host:
    """Makes supervisors and instances, and takes them all away."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.groups = Path(find().mount) / f"lithos-test-status-{os.getpid()}"
        self.groups.mkdir()
        (self.groups / "cgroup.subtree_control").write_text(
            " ".join(f"+{name}" for name in self.controllers if name in ("memory", "pids"))
        )
        self._made: list[FakeSupervisor | RealInstance] = []

    @property
    def controllers(self) -> list[str]:
        """What this host offers to our groups."""
        return (self.groups / "cgroup.controllers").read_text().split()

    def supervisor(self, name: str = "run-hello", **description: Any) -> FakeSupervisor:
        made = FakeSupervisor(self.root / name, **description)
        self._made.append(made)
        return made

    def instance(self, name: str = "hello.0", script: str = INIT) -> RealInstance:
        made = RealInstance(self.groups / name, script)
        self._made.append(made)
        return made

    def close(self) -> None:
        for made in reversed(self._made):
            with suppress(FileNotFoundError):
                made.close()
        self.groups.rmdir()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("LITHOS_RUNTIME_DIR", str(tmp_path))
    made = Host(tmp_path)
    yield made
    made.close()


def state_of(real: RealInstance | None = None, **changes: Any) -> dict[str, Any]:
    """What a supervisor writes about an instance; without `real` it has no process."""
    sandbox, process, index = changes.get("sandbox", "run"), changes.get("process", "hello"), changes.get("index", 0)
    return {
        "name": f"{sandbox}/{process}.{index}",
        "sandbox": sandbox,
        "process": process,
        "index": index,
        "state": "ready" if real else "stopped",
        "pid": real.pid if real else None,
        "pid_start": processes.start_time(real.pid) if real else None,
        "init": True,
        "uid": 1000,
        "gid": 1000,
        "generation": 1,
        "started": time.time() - 65 if real else None,
        "restarts": 0,
        "last_exit": None,
        "cgroup": real.cgroup if real else "lithos.slice/none",
        "ports": [8080],
        "image": "",
        "oom_kills": 0,
        "status": "",
        "spec": "abc",
        "sockets": [],
        **changes,
    }


LITHOS = (sys.executable, "-m", "lithos_runner.commands.main")


def lithos(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a pipe."""
    return subprocess.run([*LITHOS, *arguments], capture_output=True, text=True, timeout=60, check=False)
