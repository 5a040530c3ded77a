"""A host with a sandbox of commands: real images, cgroups and terminals; and nothing of them left after a test."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import termios
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from real_host import DIRECTORY, LITHOS, PATIENCE, until

import cgroup

if TYPE_CHECKING:
    from collections.abc import Iterator

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = ("sh", "cat", "sleep", "stty", "seq", "id")
NOBODY = 65534


class Terminal:
    """A terminal with somebody at it, and a command in its foreground."""

    def __init__(self, command: list[str], environ: dict[str, str], *, redirect: dict[str, int]) -> None:
        self.user, self.inside = os.openpty()
        self.resize(31, 97)
        self.before = termios.tcgetattr(self.inside)
        streams = {**dict.fromkeys(("stdin", "stdout", "stderr"), self.inside), **redirect}
        self.process = subprocess.Popen(
            command, env=environ, start_new_session=True, preexec_fn=self._take, **streams, pass_fds=(self.inside,)
        )
        self.seen = ""

    def _take(self) -> None:
        fcntl.ioctl(self.inside, termios.TIOCSCTTY, 0)

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.user, (rows, columns))

    def press(self, keys: str) -> None:
        os.write(self.user, keys.encode())

    def until(self, text: str) -> str:
        """Wait until `text` is on the screen; returns all that has been since the last time."""
        while text not in self.seen:
            assert self._more(PATIENCE), f"{text!r} was never shown, but {self.seen!r}"
        shown, self.seen = self.seen, ""
        return shown

    def _more(self, patience: float) -> bool:
        ready, _, _ = select.select([self.user], [], [], patience)
        if ready:
            self.seen += os.read(self.user, 65536).decode()
        return bool(ready)

    def end(self) -> tuple[int, str]:
        """Wait for the end of the command; return its code and what it has shown since the last time."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.seen!r}"
            self._more(0.01)
        while self._more(0):
            pass
        return self.process.returncode, self.seen

    def hang_up(self) -> None:
        """Close the window."""
        os.close(self.user)
        os.close(self.inside)
        self.user = self.inside = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.user >= 0:
            self.hang_up()


class CommandHost:
    """The four files of one host, with the sandbox `shop` and the image `v1`; JSON is YAML."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="lithos-test-", dir=DIRECTORY))
        self.directory.chmod(0o755)
        self.master = self.directory / "master.yaml"
        self.image = self.directory / "images" / "v1"
        self.data = self.directory / "data"
        self.slice = Path(cgroup.find().mount) / f"{self.directory.name}.slice"
        self.environ = {**os.environ, "LITHOS_RUNTIME_DIR": str(self.directory / "run"), "TERM": "vt100"}
        self._entries: dict[str, Any] = {}
        self._started: list[subprocess.Popen[bytes]] = []
        self._terminals: list[Terminal] = []
        for name in ("sandboxes", "processes", "data"):
            (self.directory / name).mkdir()
        self._write(
            "master.yaml",
            {
                "runtime-dir": str(self.directory / "run"),
                "default-log-dir": str(self.directory / "log"),
                "config-log-dir": None,
                "stdio-log-dir": str(self.directory / "log" / "stderr"),
                "cgroup-name": self.slice.name,
            },
        )
        self.sandbox()
        self._make_image()

    def _write(self, name: str, document: object) -> None:
        (self.directory / name).write_text(json.dumps(document))

    def _make_image(self) -> None:
        for name in ("dev", "proc", "sys", "tmp", "data"):
            (self.image / name).mkdir(parents=True)
        tools = [shutil.which(name, path=SYSTEM_PATH) or name for name in PROGRAMS]
        linked = subprocess.run(["ldd", *tools], capture_output=True, text=True, check=True).stdout.split()
        libraries = {word for word in linked if word.startswith("/") and not word.endswith(":")}
        for inside, source in [(f"/bin/{Path(tool).name}", tool) for tool in tools] + [(one, one) for one in libraries]:
            target = self.image / inside.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)

    def sandbox(self, **keys: Any) -> None:
        """Write the sandbox file."""
        base = {
            "image-dir": str(self.image.parent),
            "writable-paths": {"/data": str(self.data)},
            "allow-users": [0, NOBODY],
            "allow-groups": [0, NOBODY],
            "allow-tcp-ports": ["1024-65535"],
        }
        self._write("sandboxes/shop.yaml", {**base, **{key.replace("_", "-"): value for key, value in keys.items()}})

    def container(self, name: str, script: str, **keys: Any) -> None:
        """Write a container file for a shell script; underscores in `keys` are dashes."""
        base = {
            "kind": "Command",
            "executable": "/bin/sh",
            "arguments": ["-c", script, "sh"],
            "environ": {"PATH": "/bin"},
            "user-id": NOBODY,
            "group-id": NOBODY,
        }
        document = {**base, **{key.replace("_", "-"): value for key, value in keys.items()}}
        (self.image / f"{name}.yaml").write_text(json.dumps(document))

    def entry(self, name: str, **keys: Any) -> None:
        """Write an entry of the process file."""
        self._entries[name] = {"kind": "Command", "image": "v1", "config": f"/{name}.yaml", **keys}
        self._write("processes/shop.yaml", self._entries)

    def command(self, script: str, name: str = "do", **keys: Any) -> None:
        """Make a command of a shell script."""
        self.container(name, script, **keys)
        self.entry(name)

    def line(self, command: str, *words: str) -> list[str]:
        return [*LITHOS, command, "-C", str(self.master), *words]

    def run(self, *words: str, options: tuple[str, ...] = (), **popen: Any) -> subprocess.CompletedProcess[str]:
        """Run `lithos cmd shop` to its end; `options` come before the sandbox."""
        keys = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
        if "input" in keys:
            del keys["stdin"]
        line = self.line("cmd", *options, "shop", *(words or ("do",)))
        return subprocess.run(line, env=self.environ, text=True, timeout=PATIENCE, check=False, **keys)

    def start(self, *words: str, command: tuple[str, ...] = ("cmd",), **popen: Any) -> subprocess.Popen[bytes]:
        """Start `lithos cmd shop do`, or another command."""
        keys = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
        line = self.line(*command, *(words or ("shop", "do") if command == ("cmd",) else words))
        self._started.append(subprocess.Popen(line, env=self.environ, **keys))
        return self._started[-1]

    def terminal(self, *words: str, **redirect: int) -> Terminal:
        """Type `lithos cmd shop do` on a terminal."""
        self._terminals.append(Terminal(self.line("cmd", "shop", *(words or ("do",))), self.environ, redirect=redirect))
        return self._terminals[-1]

    def supervise(self) -> subprocess.Popen[bytes]:
        """Start `lithos tree` and wait until it has started everything."""
        tree = self.start("--limits", "available", command=("tree",))
        assert tree.stderr is not None
        until(lambda: b"instance(s)" in tree.stderr.readline(), "it has started everything")  # type: ignore[union-attr]
        return tree

    def group(self, process: subprocess.Popen[bytes], name: str = "do") -> Path:
        """The cgroup of a command."""
        return self.slice / "shop" / f"cmd.{name}.{process.pid}"

    def pids(self, group: Path) -> list[int]:
        """The processes in a cgroup; none if it is gone."""
        with suppress(FileNotFoundError):
            return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
        return []

    def groups(self) -> list[str]:
        """What is in the sandbox's cgroup."""
        return sorted(path.name for path in (self.slice / "shop").glob("*") if path.is_dir())

    def remains(self) -> list[str]:
        """What there is of us on this host, but for our files and logs."""
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found = [f"cgroup {path}" for path in [self.slice, *self.slice.rglob("*")] if path.is_dir()]
        found += [f"mount {line}" for line in mounts if self.directory.name in line]
        found += [f"file {path}" for path in (self.directory / "run").rglob("*")]
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                if self.directory.name in Path("/proc", pid, "cgroup").read_text() and not ended(int(pid)):
                    found.append(f"process {pid}")
        return found

    def close(self) -> None:
        """End what a failed test has not, by force, and remove its files."""
        for terminal in self._terminals:
            terminal.close()
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        if self.slice.exists():
            with cgroup.Group.open(str(self.slice)) as group:
                group.kill()
                group.remove()
        shutil.rmtree(self.directory)


def ended(pid: int) -> bool:
    """Whether a process is gone, or only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


def send(process: subprocess.Popen[Any], number: int) -> None:
    os.kill(process.pid, number)


SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]


@pytest.fixture
def shop() -> Iterator[CommandHost]:
    """A host for one test, which has to leave nothing."""
    made = CommandHost()
    try:
        yield made
        remains = made.remains()
        assert remains == [], remains
    finally:
        made.close()
