"""Who takes part. Everyone is started from this process and waited for until nothing of the start is left."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack

from lithos_runner.launch import seccomp
from lithos_runner.launch.launcher import Launcher
from lithos_runner.launch.spawn import Child, outcome
from lithos_runner.launch.spec import LaunchSpec
from lithos_runner.supervisor.cgroups import AVAILABLE, Tree

from ..program import Failed
from .race import Contender, Timing
from .results import BWRAP, CRUN, LITHOS, LITHOS_NO_INIT
from .stage import Stage

PROGRAM = "/bin/true"
BWRAP_SETPRIV, POSIX_SPAWN, SYSTEMD_RUN = "bwrap+setpriv", "posix_spawn", "systemd-run"
_SANDBOX = "benchmark"
_PATIENCE = 60.0  # seconds; a start that takes longer has hung
_SECCOMP = 3  # the descriptor that bwrap reads its filter from

_ISOLATED = (
    *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup"),
    *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/run"),
)
_UNPRIVILEGED = (
    *("--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"),
)


class Lithos:
    """This project's launcher with a cgroup of its own for every start, as the supervisor has it."""

    def __init__(self, name: str, launcher: Launcher, tree: Tree, output: int, *, init: bool) -> None:
        self.name = name
        self._launcher = launcher
        self._tree = tree
        self._spec = LaunchSpec(name=f"{_SANDBOX}/true", executable=PROGRAM, init=init)
        self._sources = {0: output, 1: output, 2: output}

    def launch(self, number: int) -> Timing:
        """See Contender; the cgroup is made, limited and removed within the time."""
        start = time.perf_counter()
        group = self._tree.create(_SANDBOX, f"true.{number}", _LIMITS)
        try:
            child = self._launcher.spawn(self._spec, group.fd, self._sources)
            executed = self._executed(child)
            status = _ended(self.name, child.pidfd)
        finally:
            if group.populated:  # it has hung
                group.kill()
            group.remove()
        exited = time.perf_counter()
        if status != 0:
            raise Failed(f"{self.name}: {PROGRAM} ended with {status}")
        return Timing(executed - start, exited - start)

    def _executed(self, child: Child) -> float:
        _await(self.name, child.status)
        failure = outcome(self.name, child)
        os.close(child.status)
        if failure:
            raise Failed(failure.sentence)
        return time.perf_counter()


# What `memory-limit: 64Mi` writes; left out by `Tree` where the host has no memory controller.
_LIMITS = {"memory.max": "64M", "memory.swap.max": "0"}


class Command:
    """A command line, started with posix_spawn(3), the cheapest way there is."""

    def __init__(self, name: str, command: Sequence[str], output: int, *, seccomp_filter: int | None = None) -> None:
        """``output`` is a file for stdin, stdout and stderr, shown when the command fails. Raises Failed."""
        self.name = name
        self._command = [_find(command[0]), *command[1:]]
        self._output = output
        self._filter = seccomp_filter
        self._actions = [(os.POSIX_SPAWN_DUP2, output, number) for number in range(3)]
        if seccomp_filter is not None:
            self._actions.append((os.POSIX_SPAWN_DUP2, seccomp_filter, _SECCOMP))

    def launch(self, number: int) -> Timing:
        """See Contender."""
        if self._filter is not None:
            os.lseek(self._filter, 0, os.SEEK_SET)  # bwrap reads to the end, through the same open file
        os.ftruncate(self._output, 0)
        start = time.perf_counter()
        pid = os.posix_spawn(self._command[0], self._command, _ENVIRONMENT, file_actions=self._actions)
        status = _ended(self.name, os.pidfd_open(pid))
        exited = time.perf_counter()
        if status != 0:
            words = os.pread(self._output, 2000, 0).decode(errors="replace").strip()
            raise Failed(f"{self.name}: {' '.join(self._command)} ended with {status}: {words}")
        return Timing(None, exited - start)


_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM": "dumb"}


def _await(name: str, descriptor: int) -> None:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    if not waiting.poll(_PATIENCE * 1000):
        raise Failed(f"{name}: no end within {_PATIENCE:g} s")


def _ended(name: str, pidfd: int) -> int:
    """Reap our child, by force when it hangs, close ``pidfd`` and return its exit status."""
    try:
        _await(name, pidfd)
    except BaseException:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        raise
    finally:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
    return result.si_status if result else 0


def _find(program: str) -> str:
    for directory in _ENVIRONMENT["PATH"].split(":"):
        path = os.path.join(directory, program)
        if os.access(path, os.X_OK):
            return path
    raise Failed(f"{program} is not installed: apt-get install bubblewrap crun util-linux")


def all_contenders(stage: Stage, stack: ExitStack) -> list[Contender]:
    """Return who can take part on this host; ``stack`` ends what they share. Raises Failed."""
    output = os.memfd_create("output")
    stack.callback(os.close, output)
    program = seccomp.assemble()
    filter_file = os.memfd_create("seccomp")
    stack.callback(os.close, filter_file)
    os.write(filter_file, ctypes.string_at(program.filter, program.len * 8))
    unprivileged = ("--seccomp", str(_SECCOMP), "--", "setpriv", *_UNPRIVILEGED)
    crun = ("crun", "--cgroup-manager=cgroupfs", f"--root={stage.state}")
    return [
        *_ours(stage, stack, output),
        Command(BWRAP, ("bwrap", *_ISOLATED, "--", PROGRAM), output),
        Command(BWRAP_SETPRIV, ("bwrap", *_ISOLATED, *unprivileged, PROGRAM), output, seccomp_filter=filter_file),
        Command(CRUN, (*crun, "run", f"--bundle={stage.bundle}", stage.container), output),
        Command(POSIX_SPAWN, (PROGRAM,), output),
        *([Command(SYSTEMD_RUN, _systemd_run(stage), output)] if _systemd_is_here() else []),
    ]


def _ours(stage: Stage, stack: ExitStack, output: int) -> list[Contender]:
    tree = Tree(AVAILABLE)
    stack.callback(tree.close)
    tree.prepare(_SANDBOX, {})
    launcher = Launcher(stage.roots)
    stack.callback(launcher.close)
    return [
        Lithos(LITHOS_NO_INIT, launcher, tree, output, init=False),
        Lithos(LITHOS, launcher, tree, output, init=True),
    ]


def _systemd_is_here() -> bool:
    return os.path.isdir("/run/systemd/system")  # sd_booted(3)


def _systemd_run(stage: Stage) -> list[str]:
    """Return the nearest that a transient service comes to the others; Debian 12's systemd has no PID namespaces."""
    properties = {
        "User": "65534",
        "Group": "65534",
        "CapabilityBoundingSet": "",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHostname": "yes",
        "ProtectControlGroups": "yes",
        "PrivateDevices": "yes",
        "PrivateIPC": "yes",
        "PrivateTmp": "yes",
        "TemporaryFileSystem": "/run",
        "LimitNOFILE": "1024",
        "SystemCallFilter": "~clone3 mount umount2 pivot_root unshare setns bpf keyctl add_key request_key",
        **({} if stage.memory is None else {"MemoryMax": str(stage.memory), "MemorySwapMax": "0"}),
    }
    words = [f"--property={key}={value}" for key, value in properties.items()]
    return ["systemd-run", "--wait", "--quiet", "--collect", *words, PROGRAM]
