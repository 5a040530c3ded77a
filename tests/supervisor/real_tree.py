"""`lithos tree` as its users have it: the four kinds of file, image directories, a supervisor."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from real_host import LITHOS, PATIENCE, PYTHON, RealHost, Running, dashed, leaving_nothing, until

import cgroup
from benchmarks import images

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = 65534
# What a sandbox has to allow for the programs of tests.
SANDBOX = {
    "allow-users": [USER],
    "allow-groups": [USER],
    "allow-tcp-ports": ["1-65535"],
    "default-user": USER,
    "default-group": USER,
}
SLEEP = "/usr/bin/sleep"
_MODULES = ("encodings.ascii", "encodings.latin_1", "json", "resource", "select", "signal", "socket", "time")
_TAGGED = re.compile(r'"(!\w+) ?([^"]*)"')

# Accepts one connection after the other, and ends between two of them: none is lost by it. What follows is for each.
ACCEPTING = """
import os, select, signal, socket
listener = socket.socket(fileno=3)
listener.setblocking(False)
wake, woken = os.pipe()
os.set_blocking(woken, False)
signal.signal(signal.SIGTERM, lambda *_: None)
signal.set_wakeup_fd(woken)
while wake not in select.select([listener, wake], [], [])[0]:
    try:
        client, _ = listener.accept()
    except BlockingIOError:
        continue
    client.settimeout(60)
"""
# Answers with its version and name.
SERVER = f"""{ACCEPTING}
    if client.recv(100) == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    client.sendall(f"{{os.environ['VERSION']}} {{os.environ['LITHOS_NAME']}}".encode())
    client.close()
"""
# Versions that fail, each in its own way.
EXITS = "raise SystemExit('no luck')"
HANGS = "import signal; print('waiting for the database', file=__import__('sys').stderr, flush=True); signal.pause()"


def yaml_of(document: object) -> str:
    """Write YAML: JSON, and texts that begin with a tag ("!Readonly /usr") as the tagged value."""
    return _TAGGED.sub(r"\1 \2", json.dumps(document))


class RunningTree(Running):
    """A supervisor that was started with `lithos tree`."""

    def services(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.ask("status")["services"]}

    def pids(self, prefix: str = "") -> dict[str, int | None]:
        """The first process of each instance whose name begins so."""
        return {one["name"]: one["pid"] for one in self.instances() if one["name"].startswith(prefix)}

    def states(self) -> dict[str, str]:
        return {one["name"]: one["state"] for one in self.instances()}

    def instance(self, name: str) -> dict[str, Any]:
        (found,) = [one for one in self.instances() if one["name"] == name]
        return found

    def until_phases(self, *names: str, phase: str = "settled") -> None:
        """Wait until these services, without names all, have come to a phase."""

        seen: dict[str, Any] = {}

        def arrived() -> bool:
            seen.update(self.ask("status"))
            phases = {one["name"]: one["phase"] for one in seen["services"]}
            return all(phases.get(name) == phase for name in names or phases)

        try:
            until(arrived, f"{', '.join(names) or 'all'} {phase}")
        except AssertionError:
            raise AssertionError(f"not {phase}: {seen['services']}, {seen['faults']}") from None

    def until_serving(self) -> Self:
        """Wait until all that is configured serves."""
        until(self._has_started, "it has taken its configuration in")
        self.until_phases()
        return self

    def _has_started(self) -> bool:
        assert self.process.poll() is None, self.end()
        with suppress(OSError):  # not yet, or it is its predecessor's socket
            return bool(self.ask("status")["loads"])
        return False

    def reload(self, number: int = signal.SIGHUP) -> None:
        """Send a signal, and wait until the files have been read again."""
        before = self.ask("status")["loads"]
        self.send(number)
        until(lambda: self.ask("status")["loads"] > before, "the files are read again")

    def descriptors(self) -> list[str]:
        """What its open descriptors are."""
        directory = f"/proc/{self.pid}/fd"
        return [os.readlink(f"{directory}/{number}") for number in os.listdir(directory)]

    def faults(self) -> list[str]:
        found: list[str] = self.ask("status")["faults"]
        return found

    def kill(self) -> None:
        """End it as nothing can be prepared for."""
        self.process.kill()
        self.process.wait()


class RealTree(RealHost):
    """A directory with the four files, and a slice of its own for its cgroups."""

    def __init__(self) -> None:
        super().__init__()
        self.slice = Path(cgroup.find().mount) / f"{self.name}.slice"
        self.images = self.directory / "images"
        self._base = self.directory / "base"
        for name in ("sandboxes", "processes", "images"):
            (self.directory / name).mkdir()
        self.master_file = self.directory / "master.yaml"
        self.master()

    # The files.

    def master(self, **keys: Any) -> Path:
        defaults = {
            "runtime-dir": str(self.runtime / "tree"),
            "default-log-dir": str(self.logs),
            "config-log-dir": str(self.logs / "config"),
            "stdio-log-dir": str(self.logs),
            "cgroup-name": self.slice.name,
        }
        return self.file("master.yaml", yaml_of(defaults | dashed(keys)))

    def sandbox(self, name: str, **keys: Any) -> Path:
        """Write a sandbox file."""
        defaults = {"image-dir": str(self.images), **SANDBOX}
        return self.file(f"sandboxes/{name}.yaml", yaml_of(defaults | dashed(keys)))

    def image(self, version: str, program: str = SERVER, port: int | None = None, **keys: Any) -> Path:
        """Make an image with a Python program, or write its container file anew; return that file."""
        root = self.images / version
        if not root.exists():
            if not self._base.exists():
                images.make(self._base, images.programs(SLEEP) | images.python(*_MODULES))
            images.copy(self._base, root)
            for name in ("state", "config"):
                (root / name).mkdir()
        container = {
            "executable": PYTHON,
            "arguments": ["-I", "-S", "-c", program],
            "environ": {"VERSION": version},
            **({"tcp-ports": {str(port): {"fd": 3, "host": "127.0.0.1"} | keys.pop("socket", {})}} if port else {}),
            **dashed(keys),
        }
        # Text, not YAML: a program may begin with anything.
        return self.file(f"images/{version}/config/app.yaml", self._container(container))

    def sleeper(self, version: str, **keys: Any) -> Path:
        """Make an image that sleeps, or write its container file anew."""
        return self.image(version, executable=SLEEP, arguments=["1000"], **keys)

    @staticmethod
    def _container(keys: dict[str, Any]) -> str:
        plain = {key: keys.pop(key) for key in ("arguments", "environ")}
        lines = [f"{key}: {json.dumps(value)}" for key, value in plain.items()]
        return "\n".join([*lines, *(f"{key}: {yaml_of(value)}" for key, value in keys.items())]) + "\n"

    def entry(self, image: str, instances: int = 1, **keys: Any) -> dict[str, Any]:
        """An entry of a process file."""
        return {"image": image, "config": "/config/app.yaml", "instances": instances} | dashed(keys)

    def processes(self, sandbox: str, entries: dict[str, dict[str, Any]], file: str | None = None) -> Path:
        """Write a process file, in its place or elsewhere; an entry a line, as people do."""
        lines = [f"{name}: {json.dumps(entry)}\n" for name, entry in entries.items()]
        return self.file(file or f"processes/{sandbox}.yaml", "".join(lines) or "{}\n")

    # The supervisor.

    def tree(
        self, *options: str, runtime: str = "tree", command: tuple[str, ...] = LITHOS, **popen: Any
    ) -> RunningTree:
        """Start `lithos tree`; ``runtime`` is the name of the directory that the master file says."""
        arguments = ("tree", "-C", str(self.master_file), "--limits", "available", *options)
        process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, env=self.environ, **popen)
        running = RunningTree("tree", self.runtime / runtime, process)
        self._running.append(running)
        return running

    def start_shop(self, instances: int = 2, **keys: Any) -> tuple[int, RunningTree]:
        """Start `shop/web` of version `v1`, with these keys; returns its port and the supervisor when all serve."""
        port = self.port()
        self.sandbox("shop")
        self.image("v1", port=port, **keys)
        self.processes("shop", {"web": self.entry("v1", instances)})
        return port, self.tree().until_serving()

    def command(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command that takes -C to its end."""
        return self.lithos(name, "-C", str(self.master_file), *arguments)

    def log_of(self, instance: str, kind: str = "stdout") -> str:
        with suppress(FileNotFoundError):
            return (self.logs / f"{instance}.{kind}").read_text(errors="replace")
        return ""

    def groups(self) -> list[Path]:
        return sorted(path for path in self.slice.glob("*/*/"))

    def instance_groups(self) -> list[str]:
        """`sandbox/process.N` of each instance's cgroup."""
        return [str(path.relative_to(self.slice)) for path in self.groups()]

    def remains(self) -> list[str]:
        return [*super().remains(), *([f"cgroup {self.slice}"] if self.slice.exists() else [])]

    def close(self) -> None:
        for running in self._running:
            if running.process.poll() is None:
                running.kill()
        with suppress(FileNotFoundError), cgroup.Group.open(str(self.slice)) as group:
            group.kill()
            group.remove(PATIENCE)
        super().close()


@pytest.fixture
def real_tree() -> Iterator[RealTree]:
    with leaving_nothing(RealTree()) as host:
        yield host
