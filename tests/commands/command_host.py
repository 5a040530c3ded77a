"""A host whose sandbox `shop` has commands: shell scripts in a real image, run from pipes or on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import select
import subprocess
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from real_host import LITHOS, PATIENCE, dashed, leaving_nothing, until
from real_tree import USER, RealTree, RunningTree, yaml_of

from benchmarks import images

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = ("/bin/sh", "/bin/cat", "/bin/sleep", "/bin/stty", "/bin/seq", "/bin/id")


class Terminal:
    """A terminal with somebody at it, and a command in its foreground."""

    def __init__(self, command: list[str], environ: dict[str, str], **redirect: int) -> None:
        self.user, self.inside = os.openpty()
        self.resize(31, 97)
        self.before = termios.tcgetattr(self.inside)
        self.seen = ""
        streams = {**dict.fromkeys(("stdin", "stdout", "stderr"), self.inside), **redirect}
        self.process = subprocess.Popen(
            command, env=environ, start_new_session=True, preexec_fn=self._take, pass_fds=(self.inside,), **streams
        )

    def _take(self) -> None:
        """Make it the controlling terminal of the new session; ioctl_tty(2)."""
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


class CommandHost(RealTree):
    """The sandbox `shop` with the image `v1`, which holds a shell."""

    def __init__(self) -> None:
        super().__init__()
        self.environ["TERM"] = "vt100"
        self.data = self.directory / "data"
        self.data.mkdir()
        self.shop()
        self._entries: dict[str, dict[str, Any]] = {}
        self._started: list[subprocess.Popen[bytes]] = []
        self._terminals: list[Terminal] = []
        images.make(self.images / "v1", images.programs(*PROGRAMS))
        (self.images / "v1" / "data").mkdir()

    # The files.

    def shop(self, **keys: Any) -> None:
        """Write the sandbox file."""
        ids = {"allow-users": [0, USER], "allow-groups": [0, USER], "writable-paths": {"/data": str(self.data)}}
        self.sandbox("shop", **ids, **keys)

    def command(self, text: str, name: str = "do", entry: str = "Command", **keys: Any) -> None:
        """Make a process of a shell script: a container file, and an entry of the process file of the kind `entry`."""
        container = {
            "kind": entry,
            "executable": "/bin/sh",
            "arguments": ["-c", text, "sh"],
            "environ": {"PATH": "/bin"},
            **dashed(keys),
        }
        plain = {key: container.pop(key) for key in ("arguments", "environ")}
        tagged = "".join(f"{key}: {yaml_of(value)}\n" for key, value in container.items())
        self.file(f"images/v1/{name}.yaml", "".join(f"{k}: {json.dumps(v)}\n" for k, v in plain.items()) + tagged)
        self._entries[name] = {"kind": entry, "image": "v1", "config": f"/{name}.yaml"}
        self.processes("shop", self._entries)

    # Running it.

    def line(self, *words: str) -> list[str]:
        return [*LITHOS, "cmd", "-C", str(self.master_file), *words]

    def run(self, *words: str, options: tuple[str, ...] = (), **popen: Any) -> subprocess.CompletedProcess[str]:
        """Run `lithos cmd shop do`, or other words behind the sandbox, to its end."""
        keys = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
        if "input" not in keys:
            keys.setdefault("stdin", subprocess.DEVNULL)
        line = self.line(*options, "shop", *(words or ("do",)))
        return subprocess.run(line, env=self.environ, text=True, timeout=PATIENCE, check=False, **keys)

    def start_command(self, wrap: tuple[str, ...] = (), **popen: Any) -> subprocess.Popen[bytes]:
        """Start `lithos cmd shop do`."""
        keys = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
        self._started.append(subprocess.Popen([*wrap, *self.line("shop", "do")], env=self.environ, **keys))
        return self._started[-1]

    def terminal(self, wrap: tuple[str, ...] = (), **redirect: int) -> Terminal:
        """Type `lithos cmd shop do` on a terminal."""
        self._terminals.append(Terminal([*wrap, *self.line("shop", "do")], self.environ, **redirect))
        return self._terminals[-1]

    def serving(self) -> RunningTree:
        """Start `lithos tree`."""
        return self.tree().until_serving()

    # What there is of it.

    def group(self, process: subprocess.Popen[bytes]) -> Path:
        """The cgroup of a command."""
        return self.slice / "shop" / f"cmd.do.{process.pid}"

    def in_sandbox(self) -> list[str]:
        """The cgroups of the sandbox."""
        return sorted(path.name for path in (self.slice / "shop").iterdir() if path.is_dir())

    def _processes(self) -> Iterator[tuple[int, str]]:
        """Those that live: who has adopted the children of a killed `lithos cmd` may not have waited for them yet."""
        return ((pid, command) for pid, command in super()._processes() if not ended(pid))

    def close(self) -> None:
        for terminal in self._terminals:
            terminal.close()
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        super().close()


def ended(pid: int) -> bool:
    """Whether a process is gone, or only waits to be waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


def until_ended(pids: list[int]) -> None:
    assert pids
    until(lambda: all(ended(pid) for pid in pids), "all its processes are gone")


@pytest.fixture
def shop() -> Iterator[CommandHost]:
    with leaving_nothing(CommandHost()) as host:
        yield host
