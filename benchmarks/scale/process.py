"""A supervisor under observation: what it says to its service manager, and what it has used."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import cgroup

from ..program import LITHOS, Failed
from .site import PROGRAM, Site

PATIENCE = 120.0  # seconds for anything
_TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds
_POLL = 0.05  # seconds between two looks
_GLANCE = 0.0002  # the same for what takes milliseconds


class Cost(NamedTuple):
    """What something took, in seconds: on the clock, and of CPU."""

    wall: float
    cpu: float


class Memory(NamedTuple):
    """Bytes: the proportional set size, in which other Pythons take a part of the interpreter, and what is private."""

    pss: int
    private: int


def until(condition: Callable[[], bool], what: str, pause: float = _POLL) -> None:
    """Ask until the answer is true. Raises Failed."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {PATIENCE:g} s")
        time.sleep(pause)


def command(arguments: Sequence[str], environ: dict[str, str] | None = None) -> Cost:
    """Run `lithos` with these arguments to its end. Raises Failed."""
    began = time.perf_counter()
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
    pid = os.posix_spawn(sys.executable, [*LITHOS, *arguments], environ or os.environ, file_actions=quiet)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise Failed(f"lithos {' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    return Cost(time.perf_counter() - began, usage.ru_utime + usage.ru_stime)


class Supervisor:
    """`lithos tree` of a site."""

    def __init__(self, site: Site) -> None:
        self.site = site
        # As for the commands that have to find it: its registration is with its runtime directory.
        self.environ = {**os.environ, "LITHOS_RUNTIME_DIR": str(site.runtime.parent / "registered")}
        self._said = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._said.bind("\0" + site.slice)
        self._said.settimeout(PATIENCE)
        self._log = (site.directory / "said").open("ab")
        self._start()

    def _start(self) -> None:
        self.began = time.time()
        arguments = ("tree", "-C", str(self.site.master), "--limits", "available")
        self.process = subprocess.Popen(
            [*LITHOS, *arguments],
            env={**self.environ, "NOTIFY_SOCKET": "@" + self.site.slice},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def until_said(self, state: str) -> None:
        """Wait for a state of sd_notify(3). Raises Failed."""
        try:
            while state not in self._said.recv(4096).decode().splitlines():
                pass
        except TimeoutError:
            raise Failed(f"the supervisor has not said {state}; its last words: {self._last_words()}") from None

    def _last_words(self) -> str:
        return (self.site.directory / "said").read_text(errors="replace").rpartition("\n")[0].rpartition("\n")[2]

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            until(condition, what)
        except Failed as failed:
            raise Failed(f"{failed}; the supervisor's last words: {self._last_words()}") from None

    def states(self) -> list[dict[str, object]]:
        """What it has written of its instances; it is not disturbed by who reads that."""
        found = []
        for path in (self.site.runtime / "state").glob("*.json"):
            with suppress(FileNotFoundError):
                found.append(json.loads(path.read_text()))
        return found

    def until_ready(self, count: int) -> list[dict[str, object]]:
        """Wait until so many instances are ready, and return their states. Raises Failed."""
        directory = self.site.runtime / "state"
        self._until(lambda: directory.exists() and len(os.listdir(directory)) >= count, "all instances are started")
        self._until(lambda: [one["state"] for one in self.states()] == ["ready"] * count, "all instances are ready")
        return self.states()

    def cost_of(self, act: Callable[[], None]) -> Cost:
        """What ``act`` takes of the clock, and of the supervisor and of its children that have ended."""
        before, began = self.cpu(), time.perf_counter()
        act()
        return Cost(time.perf_counter() - began, self.cpu() - before)

    def reload(self) -> None:
        """Send SIGHUP, and wait until it has read its files."""
        self.process.send_signal(signal.SIGHUP)
        self.until_said("READY=1")

    def cpu(self) -> float:
        """The seconds of CPU time that it has used so far, with those of its children that have ended."""
        # utime, stime, cutime, cstime; see proc_pid_stat(5)
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return sum(map(int, fields[11:15])) * _TICK

    def memory(self) -> Memory:
        """What it takes now."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()[1:]
        sizes = {line.split()[0]: int(line.split()[1]) << 10 for line in lines}
        return Memory(sizes["Pss:"], sizes["Private_Clean:"] + sizes["Private_Dirty:"])

    def wake_ups(self) -> int:
        """How often it has gone to sleep, ever."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))

    def replace(self) -> float:
        """Kill it, start the next one, and return the seconds until that has taken everything over."""
        self.process.kill()
        self.process.wait()
        self._start()
        began = time.perf_counter()
        self.until_said("READY=1")
        return time.perf_counter() - began

    def stop(self) -> None:
        """End it, with its instances."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._said.close()
        self._log.close()


class Exporter:
    """`lithos metrics` that serves all instances of this host."""

    def __init__(self, environ: dict[str, str]) -> None:
        arguments = ("metrics", "--listen", "127.0.0.1:0")
        self._process = subprocess.Popen([*LITHOS, *arguments], env=environ, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        self._address = self._process.stderr.readline().rpartition("http://")[2].partition("/")[0]

    def scrape(self) -> Cost:
        """Ask it once. Raises OSError and HTTPException."""
        before, began = self._cpu(), time.perf_counter()
        connection = http.client.HTTPConnection(self._address, timeout=PATIENCE)
        connection.request("GET", "/metrics")
        connection.getresponse().read()
        connection.close()
        return Cost(time.perf_counter() - began, self._cpu() - before)

    def _cpu(self) -> float:
        """Seconds, by a clock that counts nanoseconds; /proc/PID/stat has hundredths."""
        clock = ctypes.c_int()
        if error := ctypes.CDLL(None).clock_getcpuclockid(self._process.pid, ctypes.byref(clock)):
            raise Failed(f"the CPU time of `lithos metrics` cannot be read: {os.strerror(error)}")
        return time.clock_gettime(clock.value)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.communicate()


def replacement(state: dict[str, object]) -> float:
    """Kill the program of an instance, and return the seconds until another one has been executed. Raises Failed."""
    group = Path(cgroup.find().path(str(state["cgroup"])), "cgroup.procs")
    before = {pid for pid in _pids(group) if _executes(pid)}
    if not before:
        raise Failed(f"{state['name']} has no program to kill")
    began = time.perf_counter()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(
        lambda: any(_executes(pid) for pid in _pids(group) if pid not in before),
        f"{state['name']} is replaced",
        _GLANCE,
    )
    return time.perf_counter() - began


def _pids(group: Path) -> list[int]:
    try:
        return [int(line) for line in group.read_text().split()]
    except OSError:  # it is made anew for every life
        return []


def _executes(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/exe").endswith(PROGRAM)
    except OSError:
        return False
