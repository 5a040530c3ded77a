"""Where a trial takes place: a folder, a port and a cgroup of its own, all gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import cgroup

from ..program import Failed

INSTANCES = 4
MEMORY_LIMIT = 64 << 20  # bytes per instance
BACKLOG = 2048  # the same for everyone, so that a stall fills nobody's queue
PATIENCE = 60.0  # seconds that a contender may take for what it ought to do in one or two: an emulated host is slow
COMMAND_TIME = 300.0  # seconds that a command may take which waits for a roll-out
_RESTART_SEC = 0.1  # seconds, the default of RestartSec=
_POLL = 0.05  # seconds between two looks
APPLICATION = Path(__file__).with_name("app.py")
# Whoever is started this way is in the cgroup before it starts anybody else.
_INTO_GROUP = ("/bin/sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"')


class Stage:
    """What every contender gets."""

    def __init__(self, folder: Path, group: cgroup.Group) -> None:
        self.folder = folder
        self.group = group
        self.port = _free_port()
        self._log = (folder / "log").open("ab")

    @property
    def current(self) -> Path:
        """A link to the release that is deployed."""
        return self.folder / "current"

    def deploy(self, version: str, behaviour: str) -> None:
        """Make a version the current one, at once."""
        directory = self.folder / "releases" / version
        release(directory, version, behaviour)
        link = self.folder / "next"
        link.symlink_to(directory)
        link.rename(self.current)

    def limit(self, size: int) -> None:
        """Limit the memory of all that runs here together, in bytes."""
        self.group.apply({"memory.max": size, "memory.swap.max": 0})

    def spawn(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a program in the stage's cgroup."""
        environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen(
            [*_INTO_GROUP, self.group.path, *command],
            cwd=self.folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def restart(self, *command: str) -> subprocess.Popen[bytes]:
        """Do what an init does when the service that it has started ends: kill the rest of it, and start it again.

        That is `Restart=always` of systemd with all else at its default, see systemd.service(5) and systemd.kill(5).
        """
        self.group.kill()
        if not self.group.wait_empty(PATIENCE):
            raise Failed(f"the processes in {self.group.path} did not end")
        time.sleep(_RESTART_SEC)
        return self.spawn(*command)

    def last_words(self) -> str:
        """The last line of the log."""
        lines = (self.folder / "log").read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")

    def until_served(self) -> None:
        """Wait until somebody answers on the port; raises Failed when nobody does."""
        if not until(lambda: answers(self.port)):
            raise Failed(f"nobody answered on port {self.port} within {PATIENCE:g} s: {self.last_words()}")

    def close(self) -> None:
        """End whatever is left, and remove the folder."""
        self.group.kill()
        self.group.remove(PATIENCE)
        self._log.close()
        shutil.rmtree(self.folder)


@contextmanager
def stage() -> Iterator[Stage]:
    """Make a stage and take it down again, whatever happens."""
    # Not /tmp, which an instance of ours has for itself.
    folder = Path(tempfile.mkdtemp(prefix=f"rollout-{os.getpid()}-", dir="/var/tmp"))
    folder.chmod(0o755)
    hierarchy = cgroup.find()
    with cgroup.Group.open(hierarchy.mount) as root:
        if "memory" in hierarchy.controllers:
            root.enable({"memory"})
        made = Stage(folder, root.create(folder.name))
    try:
        yield made
    finally:
        made.close()


def release(directory: Path, version: str, behaviour: str) -> None:
    """Put a version of the application into a new directory."""
    directory.mkdir(parents=True)
    shutil.copy(APPLICATION, directory)
    (directory / "release").write_text(f"{version} {behaviour}\n")


def memory_is_limited() -> bool:
    """Whether cgroup v2 has the memory controller on this host."""
    return "memory" in cgroup.find().controllers


def until(condition: Callable[[], bool], patience: float = PATIENCE) -> bool:
    """Ask again until the answer is true; False when it is not within ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def answers(port: int) -> bool:
    """Whether a request on the port gets an answer within a second."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return client.recv(12) == b"HTTP/1.1 200"
    return False


def children(pid: int) -> list[int]:
    """The processes that a process has started, none when it has ended."""
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read().split())
    return sorted(found)


def kill(pid: int) -> None:
    """Do `kill -9`."""
    os.kill(pid, signal.SIGKILL)


def run(command: Sequence[str], patience: float) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Raises Failed when that takes more than ``patience`` seconds."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=patience, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command)} did not end within {patience:g} s") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
