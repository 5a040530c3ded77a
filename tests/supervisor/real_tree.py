"""`lithos tree` as its users have it: the four kinds of file, image directories, a supervisor, clients.

The images hold a small Python: a volume with the host's would be `noexec`.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from real_host import LITHOS, PATIENCE, PYTHON, RealHost, Running, leaving_nothing, request, until

import cgroup

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = 65534
SLEEP = "/usr/bin/sleep"
_MOUNT_POINTS = ("dev", "etc", "proc", "run", "sys", "tmp", "state", "config")
_LISTED = """
import encodings.ascii, encodings.latin_1, json, resource, select, signal, socket, sys, time
print(*sorted(path for each in sys.modules.values() if (path := getattr(each, "__file__", None))))
"""
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


@functools.cache
def programs() -> tuple[str, ...]:
    """The files of sleep(1) and a small Python: the programs, the modules of `_LISTED`, the libraries of all."""
    modules = subprocess.run([PYTHON, "-I", "-S", "-c", _LISTED], capture_output=True, text=True, check=True).stdout
    linked = [PYTHON, SLEEP, *(path for path in modules.split() if path.endswith(".so"))]
    # NAME => PATH (ADDRESS), and the loader's own line without the arrow; see ldd(1)
    libraries = subprocess.run(["ldd", *linked], capture_output=True, text=True, check=True).stdout.split()
    return tuple(
        {PYTHON, SLEEP, *modules.split(), *(word for word in libraries if word.startswith("/") and word[-1] != ":")}
    )


def yaml_of(document: object) -> str:
    """Write YAML: JSON, and texts that begin with a tag ("!Readonly /usr") as the tagged value."""
    return _TAGGED.sub(r"\1 \2", json.dumps(document))


def dashed(keys: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("_", "-"): value for key, value in keys.items()}


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
        self._files = self.directory / "files"
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
        """Write a sandbox file that allows everything these tests need."""
        defaults = {
            "image-dir": str(self.images),
            "allow-users": [USER],
            "allow-groups": [USER],
            "allow-tcp-ports": ["1-65535"],
            "default-user": USER,
            "default-group": USER,
        }
        return self.file(f"sandboxes/{name}.yaml", yaml_of(defaults | dashed(keys)))

    def image(self, version: str, program: str = SERVER, port: int | None = None, **keys: Any) -> Path:
        """Make an image with a Python program, or write its container file anew; return that file."""
        root = self.images / version
        if not root.exists():
            self._make_root(root)
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

    def _make_root(self, root: Path) -> None:
        """Make the directories of an image; they share the files of the programs."""
        for name in _MOUNT_POINTS:
            (root / name).mkdir(parents=True)
        for path in programs():
            first, inside = self._files / path.lstrip("/"), root / path.lstrip("/")
            for target in (first, inside):
                target.parent.mkdir(parents=True, exist_ok=True)
            if not first.exists():
                shutil.copy2(path, first)
            os.link(first, inside)

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


class Load:
    """Clients that ask one after the other for as long as the context lasts; no answer is a failure."""

    def __init__(self, port: int, clients: int = 2) -> None:
        self.failures: list[str] = []
        self.answers: list[str] = []
        self._port = port
        self._over = threading.Event()
        self._clients = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        while not self._over.wait(0.003):
            try:
                answer = request(self._port)
            except OSError as error:
                self.failures.append(str(error))
            else:
                (self.answers if answer else self.failures).append(answer)

    def versions(self) -> Counter[str]:
        """How many answers each version has given."""
        return Counter(answer.partition(" ")[0] for answer in self.answers)

    def until_answered_by(self, version: str) -> None:
        seen = len(self.answers)
        until(lambda: any(one.startswith(f"{version} ") for one in self.answers[seen:]), f"{version} answers")

    def __enter__(self) -> Self:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for client in self._clients:
            client.join()


@pytest.fixture
def real_tree() -> Iterator[RealTree]:
    with leaving_nothing(RealTree()) as host:
        yield host
