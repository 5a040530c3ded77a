"""`lithos run` as its users have it: real processes, cgroups, sockets; and nothing of them left after a test."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar

import pytest

import cgroup
from benchmarks.program import LITHOS as LITHOS
from benchmarks.program import PYTHON as PYTHON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 60.0  # seconds; how long a busy machine, or the emulated one of integration/, may take for anything
DIRECTORY = "/var/tmp"  # not /tmp: an instance has one of its own
_LISTEN = "0A"  # TCP_LISTEN of linux/tcp_states.h

T = TypeVar("T")

# Answers one connection after the other with its name; one that says "die" kills it.
SERVER = """
import os, signal, socket
listener = socket.socket(fileno=3)
while True:
    client, _ = listener.accept()
    if client.recv(100) == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    client.sendall(os.environ["LITHOS_NAME"].encode())
    client.close()
"""

# Prints what it finds itself with, and stays.
PROBE = """
import json, os, resource, signal
def status(key):
    with open("/proc/self/status") as file:
        return next(line.split()[1] for line in file if line.startswith(key))
print(json.dumps({
    "descriptors": [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd)],
    "environ": dict(os.environ),
    "ignored": int(status("SigIgn:"), 16),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
}), flush=True)
signal.pause()
"""


def until(condition: Callable[[], T], what: str) -> T:
    """Ask again until the answer is true; fails with `what` when it never is."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not in {PATIENCE:g} s: {what}"
        time.sleep(0.01)
    return answer


def request(port: int, text: bytes = b"?") -> str:
    """Ask `SERVER`, and wait for the answer as long as it takes."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(text)
        return b"".join(iter(lambda: client.recv(4096), b"")).decode()


def dashed(keys: dict[str, Any]) -> dict[str, Any]:
    """The keys of a configuration file, of which Python has names with underscores."""
    return {key.replace("_", "-"): value for key, value in keys.items()}


class Lines:
    """What a process writes to a pipe; ``said`` are the lines so far."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.said: list[str] = []
        self._stream = stream
        self._rest = b""

    def until(self, text: str) -> str:
        """Wait for a line that holds `text`, of those not waited for yet, and return it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            line = self.next(deadline)
            assert line is not None, f"{text!r} was never said, but: {self.said}"
            if text in line:
                return line

    def next(self, deadline: float) -> str | None:
        """Wait for the next line; None at the end of all, or when the time is over."""
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._stream], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(self._stream.fileno(), 65536) if ready else b""
            if not more:
                return None
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        self.said.append(line.decode())
        return self.said[-1]

    def close(self) -> None:
        self._stream.close()


def ask(control: Path, command: str, **arguments: Any) -> dict[str, Any]:
    """Send one request to a supervisor's control socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(control))
        client.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(b"".join(iter(lambda: client.recv(65536), b"")))
    return answer


class Running:
    """A supervisor that was started; ``said`` are its sentences so far, ``runtime`` is its directory."""

    def __init__(self, name: str, runtime: Path, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        self.name = name
        self.process = process
        self.lines = Lines(process.stderr)
        self.runtime = runtime
        self.control = runtime / "control"
        self.state = runtime / "state"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> list[str]:
        return self.lines.said

    def until_said(self, text: str) -> str:
        """Wait for a sentence that holds `text`, of those not waited for yet, and return it."""
        return self.lines.until(text)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send one request to the control socket."""
        return ask(self.control, command, **arguments)

    def instances(self) -> list[dict[str, Any]]:
        """What the supervisor says of its instances; each `pid` is that of the first process."""
        found: list[dict[str, Any]] = self.ask("status")["instances"]
        return found

    def until_state(self, *wanted: str) -> list[dict[str, Any]]:
        """Wait until the instances' states are `wanted`; one word stands for all of them."""

        def arrived() -> list[dict[str, Any]] | None:
            found = self.instances()
            states = [one["state"] for one in found]
            return found if states == list(wanted) or states == len(found) * list(wanted) else None

        return until(arrived, f"{self.name} is {' '.join(wanted)}")

    def until_started(self) -> None:
        """Wait until the supervisor has said that it has started its instances."""
        self.until_said("; logs in ")

    def until_serving(self) -> Self:
        """Wait until it has started all instances, and they are ready."""
        self.until_started()
        self.until_state("ready")
        return self

    def app(self, index: int = 0) -> int:
        """The application's process of an instance with the tiny init, which is its only child."""
        pid = self.instances()[index]["pid"]
        return int(until(lambda: children(pid), f"{self.name}.{index} has an application")[0])

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, list[str]]:
        """Wait for the end; return the exit code and all that was said."""
        deadline = time.monotonic() + PATIENCE
        while self.lines.next(deadline) is not None:
            pass
        code = self.process.wait(PATIENCE)
        self.lines.close()
        return code, self.said

    def stop(self, number: int = signal.SIGTERM) -> list[str]:
        """End it with a signal; it has to end well."""
        self.send(number)
        code, said = self.end()
        assert code == 0, said
        return said


class RealHost:
    """A directory, free ports and names for one test; ``remains`` says what it has left behind."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="lithos-test-", dir=DIRECTORY))
        self.directory.chmod(0o755)
        self.runtime, self.logs = self.directory / "run", self.directory / "log"
        self.environ = {**os.environ, "LITHOS_RUNTIME_DIR": str(self.runtime), "LITHOS_LOG_DIR": str(self.logs)}
        self.slice = Path(cgroup.find().mount) / "lithos.slice"
        self.name = f"t{os.getpid()}-{self.directory.name[-8:].replace('_', '-')}"
        self._ports: list[int] = []
        self._running: list[Running] = []

    def port(self) -> int:
        """A port that nobody has."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        self._ports.append(port)
        return port

    def file(self, name: str, text: str, mode: int = 0o644) -> Path:
        path = self.directory / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def container(self, suffix: str = "", **keys: Any) -> Path:
        """Write a container file; JSON is YAML. Underscores in `keys` are dashes."""
        return self.file(f"{self.name}{suffix}.yaml", json.dumps(dashed(keys)))

    def program(self, text: str, suffix: str = "", **keys: Any) -> Path:
        """Write a container file for a Python program that gets as descriptor 3 the port in `keys`, if any."""
        if "port" in keys:
            keys["tcp_ports"] = {str(keys.pop("port")): {"fd": 3, "host": "127.0.0.1"}}
        # -I -S: nothing that an interpreter's start could bring in.
        return self.container(suffix, executable=PYTHON, arguments=["-I", "-S", "-c", text], **keys)

    def start(self, file: Path, *options: str, wrap: tuple[str, ...] = (), **popen: Any) -> Running:
        """Start `lithos run`; ``wrap`` is a command that executes it."""
        environ = {**self.environ, **popen.pop("environ", {})}
        name = options[options.index("--name") + 1] if "--name" in options else file.stem
        command = [
            *wrap,
            *LITHOS,
            "run",
            str(file),
            *(() if "--limits" in options else ("--limits", "available")),
            *options,
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environ, **popen)
        running = Running(name, self.runtime / f"run-{name}", process)
        self._running.append(running)
        return running

    def lithos(self, *arguments: str, wrap: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*wrap, *LITHOS, *arguments],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def ps(self) -> list[dict[str, Any]]:
        """The instances as `lithos ps --json` has them."""
        supervisors = json.loads(self.lithos("ps", "--json").stdout)["supervisors"]
        return [instance for supervisor in supervisors for instance in supervisor["instances"]]

    def log(self, kind: str, index: int = 0) -> str:
        return (self.logs / "run" / f"{self.name}.{index}.{kind}").read_text(errors="replace")

    def printed(self, index: int = 0) -> dict[str, Any]:
        """What `PROBE` has found."""
        found: dict[str, Any] = json.loads(until(lambda: self.log("stdout", index), "the probe has printed"))
        return found

    def groups(self) -> list[Path]:
        """The cgroups of our instances."""
        return sorted(self.slice.glob(f"run/{self.name}*"))

    def remains(self) -> list[str]:
        """What there is of us on this host, but for the logs."""
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found = [f"cgroup {path}" for path in self.groups()]
        found += [f"process {pid}: {command}" for pid, command in self._processes()]
        found += [f"mount {line}" for line in mounts if str(self.directory) in line or self.name in line]
        found += [f"file {path}" for path in self.runtime.rglob("*")]
        found += [f"port {port}" for port in self._ports if listening(port)]
        return found

    def _processes(self) -> Iterator[tuple[int, str]]:
        """Whoever has our environment or is in a cgroup of ours."""
        ours = os.fsencode(f"LITHOS_RUNTIME_DIR={self.runtime}")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                process = Path("/proc", pid)
                if ours in (process / "environ").read_bytes() or self.name in (process / "cgroup").read_text():
                    yield int(pid), (process / "cmdline").read_bytes().decode(errors="replace")

    def close(self) -> None:
        """End what a failed test has not, by force, and remove its files."""
        for running in self._running:
            if running.process.poll() is None:
                running.process.kill()
                running.process.wait()
            running.lines.close()
        for path in self.groups():
            with cgroup.Group.open(str(path)) as group:
                group.kill()
                group.remove()
        shutil.rmtree(self.directory)


def processes_in(group: Path) -> list[int]:
    """The processes in a cgroup; none if it is gone."""
    with suppress(OSError):  # also ENODEV, when it goes while we read
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    return []


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def listening(port: int) -> bool:
    """Whether anybody listens on the port; asking by a connection would disturb who does."""
    return any(True for table in ("tcp", "tcp6") for _ in listeners(port, table))


def queued(port: int) -> int:
    """How many connections wait for somebody to accept them; `rx_queue` of a listening socket."""
    return sum(int(row[4].partition(":")[2], 16) for row in listeners(port))


def listeners(port: int, table: str = "tcp") -> Iterator[list[str]]:
    """The rows of the sockets that listen on a port; see proc_pid_net(5)."""
    for line in Path(f"/proc/net/{table}").read_text().splitlines():
        row = line.split()
        if row[1].endswith(f":{port:04X}") and row[3] == _LISTEN:
            yield row


H = TypeVar("H", bound=RealHost)


@contextmanager
def leaving_nothing(host: H) -> Iterator[H]:
    """Give a host to tests, which have to leave nothing."""
    try:
        yield host
        remains = host.remains()
        assert not remains, remains
    finally:
        host.close()


@pytest.fixture
def real_host() -> Iterator[RealHost]:
    with leaving_nothing(RealHost()) as host:
        yield host
