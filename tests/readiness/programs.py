"""Programs with a slow start, on a real listening socket, and nothing of them left after a test."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_host import PATIENCE, until

from lithos_runner.supervisor.readiness import listening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STACKS = Path(__file__).with_name("stacks")
# Puts the descriptors that it is told to 3, 4, 5 … and becomes the program.
_HAND_OVER = """
import os, sys
for target, source in enumerate(map(int, sys.argv[1].split(",")), 3):
    os.dup2(source, target)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Program:
    """A program that holds still until it is let go; see `stacks/start.py`."""

    def __init__(self, command: list[str], listener: socket.socket, stack: ExitStack) -> None:
        self.listener = listener
        self.inode = os.fstat(listener.fileno()).st_ino
        self.port = listener.getsockname()[1]
        go, self._go = os.pipe()
        self._news, news = os.pipe()
        self._serves = False
        # High numbers, so that none of them is a target.
        passed = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in (listener.fileno(), go, news)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HAND_OVER, ",".join(map(str, passed)), *command],
            pass_fds=passed,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(STACKS)},
        )
        for fd in (*passed, go, news):
            os.close(fd)
        stack.callback(os.close, self._go)
        stack.callback(os.close, self._news)
        stack.callback(self._end)

    def _end(self) -> None:
        for pid in self.pids():
            os.kill(pid, 9)
        self.process.kill()
        self.process.wait()

    def pids(self) -> list[int]:
        """The process and all that it has started."""
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, task.read_text().split())
        return found

    def until_held(self) -> None:
        """Wait until it has come to its hold, and all its threads sleep."""
        assert self._heard(PATIENCE) == b"h", "it holds still before it serves"
        until(self._sleeps, "all threads sleep")

    def _sleeps(self) -> bool:
        states = [stat.read_text() for pid in self.pids() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
        return all(state.rpartition(") ")[2][0] == "S" for state in states)

    def let_go(self) -> None:
        os.write(self._go, b"g")

    def said_that_it_serves(self) -> bool:
        self._serves = self._serves or self._heard(0) == b"s"
        return self._serves

    def _heard(self, patience: float) -> bytes:
        readable, _, _ = select.select([self._news], [], [], patience)
        return os.read(self._news, 1) if readable else b""

    def look(self) -> listening.Wait:
        return listening.look(self.pids(), {self.inode}).waits[self.inode]

    def look_with_connections(self) -> listening.Wait:
        return listening.look_with_connections(self.pids(), {self.inode: self.port}).waits[self.inode]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)


@pytest.fixture
def port() -> Iterator[socket.socket]:
    """A listening socket on the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def program(port: socket.socket) -> Iterator[Callable[..., Program]]:
    """Start a command with the socket as descriptor 3."""
    with ExitStack() as stack:
        yield lambda *command: Program(list(command), port, stack)


@pytest.fixture(scope="session")
def go_http(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Go program, compiled."""
    binary = str(tmp_path_factory.mktemp("go") / "go_http")
    subprocess.run(["go", "build", "-o", binary, str(STACKS / "go_http.go")], check=True)
    return binary
