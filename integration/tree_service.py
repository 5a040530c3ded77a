"""`lithos tree` as the unit of the wheel runs it, with every path at its default: the whole machine is ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from real_host import PATIENCE, PYTHON, Lines, ask, children, dashed, until
from real_tree import SANDBOX

import cgroup
from benchmarks import images

if TYPE_CHECKING:
    from collections.abc import Callable

UNIT = Path(sys.prefix, "lib/systemd/system/lithos.service")
ETC = Path("/etc/lithos")
IMAGES = Path("/var/lib/lithos/containers")
IMAGE = IMAGES / "base"
LOGS = Path("/var/log/lithos")
RUNTIME = Path("/run/lithos")
SLICE = Path("/sys/fs/cgroup/lithos.slice")

# Those of files, and those of `systemctl set-property --runtime`.
_DROP_INS = [Path("/run/systemd", directory, "lithos.service.d") for directory in ("system", "system.control")]


def run(*command: str) -> str:
    """Run a program of the host that has to end well; return what it printed."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


class Journal(Lines):
    """What a unit, and systemd about it, says from now on."""

    def __init__(self, unit: str) -> None:
        cursor = run("journalctl", "--lines=0", "--show-cursor").rpartition("-- cursor: ")[2]
        command = ["journalctl", "--quiet", "--follow", "--output=cat", f"--unit={unit}", f"--after-cursor={cursor}"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        super().__init__(self._process.stdout)

    def close(self) -> None:
        with self._process:
            self._process.kill()


class TreeService:
    """The service, the files that it reads, and an image whose container files are the versions of all applications.

    Once started it goes on from test to test, since a start takes seconds on an emulated machine.
    """

    def __init__(self) -> None:
        images.make(IMAGE, images.python("select", "signal", "socket"))
        (IMAGE / "config").mkdir()
        for directory in ("sandboxes", "processes"):
            (ETC / directory).mkdir(parents=True)
        run("systemctl", "link", str(UNIT))
        self.journal = Journal("lithos")

    # The files.

    def clear(self) -> None:
        """Configure nothing."""
        for file in (*ETC.glob("*/*.yaml"), *IMAGE.glob("config/*.yaml")):
            file.unlink()
        (ETC / "master.yaml").write_text("")

    def sandbox(self, name: str, **keys: Any) -> None:
        """Write a sandbox file; underscores in `keys` are dashes."""
        _write(ETC / f"sandboxes/{name}.yaml", SANDBOX | dashed(keys))

    def container(self, version: str, program: str, port: int | None = None, **keys: Any) -> None:
        """Write the container file of a Python program that gets `port` as descriptor 3."""
        ports = {"tcp-ports": {str(port): {"fd": 3, "host": "127.0.0.1"}}} if port else {}
        command = {"executable": PYTHON, "arguments": ["-I", "-S", "-c", program]}
        _write(IMAGE / f"config/{version}.yaml", {**command, **ports, **dashed(keys)})

    def processes(self, sandbox: str, file: Path | None = None, **entries: dict[str, Any]) -> Path:
        """Write a process file; an entry has `config`, the name of a container file, and other keys."""
        whole = {
            name: {"image": IMAGE.name, **dashed(entry), "config": f"/config/{entry['config']}.yaml"}
            for name, entry in entries.items()
        }
        return _write(file or ETC / f"processes/{sandbox}.yaml", whole)

    # The service.

    def start(self) -> None:
        """Start it, or have it read its files, and wait until all that is configured serves, and only that."""
        if self.show("ActiveState") == "active":
            self.reload()
        else:
            run("systemctl", "start", "lithos")
        self.until_settled()

    def reload(self) -> None:
        """Have it read the files again, and wait until it has."""
        before = self.status()["loads"]
        run("systemctl", "reload", "lithos")
        until(lambda: self.status()["loads"] > before, "the files are read again")

    def override(self, *settings: str) -> None:
        """Change settings of the section [Service] for this test, as an administrator does: by a drop-in file."""
        _DROP_INS[0].mkdir(parents=True)
        (_DROP_INS[0] / "test.conf").write_text("\n".join(("[Service]", *settings, "")))
        run("systemctl", "daemon-reload")

    def revert(self) -> None:
        """Take back what this test has changed of the unit."""
        if any(path.exists() for path in _DROP_INS):
            run("systemctl", "revert", "lithos")

    def show(self, name: str) -> str:
        """Return a property of the unit."""
        return run("systemctl", "show", "--value", f"--property={name}", "lithos")

    @property
    def main_pid(self) -> int:
        return int(self.show("MainPID"))

    def status(self) -> dict[str, Any]:
        return ask(RUNTIME / "control", "status")

    def until_settled(self) -> None:
        self.until(lambda status: {one["phase"] for one in status["services"]} <= {"settled"}, "all is settled")

    def until(self, condition: Callable[[dict[str, Any]], bool], what: str) -> None:
        """Wait until the supervisor's status is as it should be."""
        try:
            until(lambda: condition(self.status()), what)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.status()}") from None

    def pids(self, prefix: str = "") -> dict[str, int]:
        """Return the first process of each instance whose name begins so."""
        return {one["name"]: one["pid"] for one in self.status()["instances"] if one["name"].startswith(prefix)}

    def app(self, name: str) -> int:
        """Return the application's process of an instance, which is the only child of its init."""
        pid = self.pids()[name]
        return int(until(lambda: children(pid), f"{name} has an application")[0])

    def ps(self) -> dict[str, dict[str, Any]]:
        """Return the instances as `lithos ps --json` has them, by name."""
        (supervisor,) = json.loads(run("lithos", "ps", "--json"))["supervisors"]
        return {one["name"]: one for one in supervisor["instances"]}

    def stop(self) -> None:
        """Stop it; it has to end well and to leave nothing."""
        run("systemctl", "stop", "lithos")
        assert self.show("Result") == "success"
        assert self.remains() == []

    @staticmethod
    def remains() -> list[str]:
        """What there is of instances and supervisors."""
        groups = [path for path in (SLICE, *SLICE.rglob("*")) if path.is_dir()]
        return [str(path) for path in (*groups, *RUNTIME.rglob("*"))]

    def close(self) -> None:
        """Bring the machine back to where it was, whatever has happened."""
        self.journal.close()
        if self.show("ActiveState") not in ("inactive", "failed"):
            run("systemctl", "kill", "--signal=KILL", "lithos")
            run("systemctl", "stop", "lithos")
        if SLICE.exists():
            with cgroup.Group.open(str(SLICE)) as group:
                group.kill()
                group.remove(PATIENCE)
        run("systemctl", "disable", "lithos")  # removes the link to the unit, too
        for directory in (ETC, LOGS, RUNTIME, IMAGES.parent):
            shutil.rmtree(directory, ignore_errors=True)


def _write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))  # JSON is YAML
    return path
