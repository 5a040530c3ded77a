"""Starts real instances, waits for their end with poll(2) and a pidfd, keeps what they wrote."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import cgroup
from lithos_runner.launch import spawn
from lithos_runner.launch.launcher import Launcher
from lithos_runner.launch.spec import LaunchSpec

PATIENCE = 60_000  # milliseconds after which a test has failed
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHELL = LaunchSpec("test/app.0", "/bin/sh", environ=(("PATH", SYSTEM_PATH),))


class Ended(NamedTuple):
    """How an instance ended; ``failure`` when the application was never executed."""

    failure: spawn.SetupFailure | None
    code: int | None
    signal: int | None
    stdout: str
    stderr: str


class Running:
    """A process that is becoming an instance, or is one."""

    def __init__(self, child: spawn.Child, streams: tuple[int, int], name: str) -> None:
        self.child = child
        self._streams = streams
        self._name = name

    def executed(self) -> spawn.SetupFailure | None:
        """Wait until the set-up has ended."""
        assert _readable(self.child.status, PATIENCE), "the set-up does not end"
        return spawn.outcome(self._name, self.child)

    def ends_within(self, milliseconds: int) -> bool:
        return _readable(self.child.pidfd, milliseconds)

    def kill(self, number: int) -> None:
        signal.pidfd_send_signal(self.child.pidfd, number)

    def end(self) -> Ended:
        """Wait until the process has ended and let go of everything."""
        failure = self.executed()
        in_time = self.ends_within(PATIENCE)
        if not in_time:
            self.kill(signal.SIGKILL)
        status = os.waitid(os.P_PIDFD, self.child.pidfd, os.WEXITED)
        assert status is not None
        exited = status.si_code == os.CLD_EXITED
        code, number = (status.si_status, None) if exited else (None, status.si_status)
        stdout, stderr = (_content(stream) for stream in self._streams)
        for descriptor in (self.child.status, self.child.pidfd, *self._streams):
            os.close(descriptor)
        assert in_time, "it does not end"
        return Ended(failure, code, number, stdout, stderr)


def _readable(descriptor: int, milliseconds: int) -> bool:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(milliseconds))


def _content(stream: int) -> str:
    return os.pread(stream, os.fstat(stream).st_size, 0).decode(errors="replace")


class Stage:
    """Starts instances in one cgroup."""

    def __init__(self, launcher: Launcher, group: cgroup.Group) -> None:
        self.launcher = launcher
        self.group = group

    def start(self, spec: LaunchSpec, sockets: Mapping[int, int] | None = None, earlier: int | None = None) -> Running:
        """Start an instance with /dev/null, two memory files and the given sockets (target → source)."""
        with contextlib.ExitStack() as stack:
            null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, null)
            streams = (os.memfd_create("stdout"), os.memfd_create("stderr"))
            sources = {0: null, 1: streams[0], 2: streams[1], **(sockets or {})}
            try:
                child = self.launcher.spawn(spec, self.group.fd, sources, earlier)
            except BaseException:
                for stream in streams:
                    os.close(stream)
                raise
        return Running(child, streams, spec.name)

    def run(self, spec: LaunchSpec, sockets: Mapping[int, int] | None = None, earlier: int | None = None) -> Ended:
        return self.start(spec, sockets, earlier).end()

    def shell(self, script: str, **changes: object) -> Ended:
        """Run a shell script in an instance."""
        return self.run(SHELL._replace(arguments=("-c", script), **changes))  # type: ignore[arg-type]

    @contextlib.contextmanager
    def living(self, script: str, **changes: object) -> Iterator[Running]:
        """An instance that has executed its shell, runs the script and waits for the end of the block to end, too."""
        gate, end = os.pipe2(os.O_CLOEXEC)
        spec = SHELL._replace(arguments=("-c", f"{script}\nread line"), **changes)  # type: ignore[arg-type]
        running = self.start(spec, {0: gate})
        os.close(gate)
        try:
            assert running.executed() is None
            yield running
        finally:
            os.close(end)


Privately = Callable[[Callable[[Stage], object]], None]


class Mounted(NamedTuple):
    """What is mounted at a mount point: the type, its options, and how many mounts are on top of each other."""

    kind: str
    options: frozenset[str]
    count: int


def mounts(mountinfo: str) -> dict[str, Mounted]:
    """Read the text of /proc/self/mountinfo; see proc_pid_mountinfo(5)."""
    found: dict[str, Mounted] = {}
    for left, right in (line.split(" - ") for line in mountinfo.splitlines()):
        point, options = left.split()[4:6]
        before = found[point].count if point in found else 0
        found[point] = Mounted(right.split()[0], frozenset(options.split(",")) - {"relatime"}, before + 1)
    return found
