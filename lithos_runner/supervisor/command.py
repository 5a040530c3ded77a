"""A one-off command: an instance that somebody runs once and waits for, beside a supervisor or without one.

It is what an instance of the supervisor is (image, user, volumes, limits, a cgroup in that of its sandbox), but it is
nobody's to supervise: it lives and dies with its `lithos cmd`. When that is killed, the kernel kills the command; the
empty cgroup is left to whoever uses the sandbox next, see ``cgroups``, and so is what it said of itself.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import cgroup

from ..launch import init
from ..launch.launcher import Launcher
from ..launch.spawn import outcome
from ..launch.spec import LaunchSpec
from ..status import processes, store
from ..status.readings import COMMAND
from .cgroups import ENFORCE, OFF, SLICE, Tree, command_name
from .desired import Group
from .loop import READABLE, Loop, Signals
from .messages import WARN, say
from .streams import Streams

if TYPE_CHECKING:
    from ..config import Master

_BY_SIGNAL = 128  # added to the number of the signal in an exit code, as shells do
_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_PATIENCE = 5.0  # seconds in which processes that were killed are gone


class Command(NamedTuple):
    """What to run, and how; ``arguments`` come behind those of the configuration.

    ``mount_point`` is a directory to attach the root at, in a mount namespace of its own. ``interactive``: somebody
    types at it, see ``streams``.
    """

    group: Group
    arguments: tuple[str, ...]
    interactive: bool
    sandbox_limits: dict[str, str]
    mount_point: str


class Failure(Exception):
    """The command could not be started; the message is a whole sentence, nothing is left behind."""


def tree_of(master: Master, limits: str | None) -> Tree:
    """Return the tree of the supervisor of ``master`` if it lives, else one like that which it would have.

    ``limits`` is one of `--limits`; None: as that supervisor, else as the configuration says. Raises
    cgroup.CgroupError.
    """
    supervisor = store.read_supervisor(master.runtime_dir) if store.is_held(master.runtime_dir) else None
    mode, parent = (supervisor or {}).get("limits"), (supervisor or {}).get("cgroup_parent")
    return Tree(
        limits or (str(mode) if mode else ENFORCE if master.cgroup_name else OFF),
        master.cgroup_name or SLICE,
        master.cgroup_controllers,
        str(parent) if parent else None,
    )


def run(command: Command, tree: Tree) -> int:
    """Run a command to its end; return its exit code, or 128 + n when signal n has killed it.

    The process must have one thread, and root's rights. SIGTERM, SIGINT, SIGHUP and SIGQUIT end the command as its
    configuration says, a second one (but for SIGHUP) at once. Raises Failure, RootUnusable, OSError and
    cgroup.CgroupError when it cannot be started; nothing is left behind.
    """
    limits = [*command.group.limits, *command.sandbox_limits]
    tree.check(limits)
    if missing := tree.not_enforced(limits):
        say(f"limits are not enforced for: {', '.join(missing)} ({tree.restricted_by})", WARN)
    with ExitStack() as stack:
        running = _Running(command, tree, stack)
        running.start()
        return running.wait()


class _Running:
    """The command in the real world; ``stack`` takes down what it needs in the opposite order."""

    def __init__(self, command: Command, tree: Tree, stack: ExitStack) -> None:
        self._group, self._tree, self._stack = command.group, tree, stack
        leaf = command_name(self._group.process, os.getpid())
        self._name = f"{self._group.sandbox}/{leaf}"
        self._loop = Loop()
        stack.callback(self._loop.close)
        # First, and so the last to go: a signal must not end us while something of ours is there.
        signals = Signals(self._loop, [*_heeded(), signal.SIGWINCH], self._signalled)
        stack.callback(signals.close)
        self._launcher = Launcher(command.mount_point)
        stack.callback(self._launcher.close)
        stack.callback(tree.close)
        tree.join(self._group.sandbox, command.sandbox_limits)
        self._cgroup = tree.create(self._group.sandbox, leaf, self._group.limits)
        stack.callback(self._remove_cgroup)
        owner = self._group.launch.uid
        self._streams = Streams(self._loop, owner, self._stop, interactive=command.interactive)
        stack.callback(self._streams.close)
        self._launch = self._spec(command)
        self._code: int | None = None
        self._stopping = False
        self._hurried = False

    def _spec(self, command: Command) -> LaunchSpec:
        spec = self._group.launch.for_instance(self._name)
        terminal = self._streams.interactive
        # What the configuration says of TERM wins, as it stands behind.
        term = (("TERM", os.environ["TERM"]),) if terminal and "TERM" in os.environ else ()
        return spec._replace(
            arguments=(*spec.arguments, *command.arguments),
            environ=(*term, *spec.environ),
            sockets=(),  # they belong to the daemon that has the same container file
            output="" if command.interactive else spec.output,
            terminal=terminal,
            die_with_parent=True,
        )

    def start(self) -> None:
        """Start it, and return without waiting for what comes of it."""
        self._child = self._launcher.spawn(self._launch, self._cgroup.fd, self._streams.sources)
        for descriptor in (self._child.status, self._child.pidfd):
            self._stack.callback(os.close, descriptor)
        self._loop.watch(self._child.pidfd, READABLE, self._exited)
        self._stack.callback(store.forget_command, self._name)
        try:
            store.write_command(self._record())
        except OSError as error:
            say(f"{self._name}: cannot write its state file: {error}; `lithos ps` does not show it", WARN)

    def _record(self) -> dict[str, object]:
        """Return what `lithos ps` shows: the fields of an instance, see ``readings.Instance``."""
        group, spec = self._group, self._launch
        return {
            "name": self._name,
            "sandbox": group.sandbox,
            "process": group.process,
            "index": os.getpid(),
            "state": COMMAND,
            "pid": self._child.pid,
            "pid_start": processes.start_time(self._child.pid),
            "init": spec.init,
            "uid": spec.uid,
            "gid": spec.gid,
            "generation": 1,
            "started": time.time(),
            "restarts": 0,
            "last_exit": None,
            "cgroup": self._tree.path(group.sandbox, command_name(group.process, os.getpid())),
            "ports": [],
            "image": spec.file_system.path if spec.file_system.is_image else "",
            "oom_kills": 0,
            "status": "",
        }

    def wait(self) -> int:
        """Wait until it has ended and all that it printed is where it belongs; return the exit code."""
        while self._code is None:
            self._loop.turn()
        self._cgroup.kill()
        self._cgroup.wait_empty(_PATIENCE)
        self._streams.drain()
        while self._streams.pending and not self._hurried:
            self._loop.turn()
        return self._code

    # What happens.

    def _exited(self, _events: int) -> None:
        """The command's PID 1 has ended; with it the kernel ends all of its PID namespace."""
        failure = outcome(self._name, self._child)
        result = os.waitid(os.P_PIDFD, self._child.pidfd, os.WEXITED)
        self._loop.forget(self._child.pidfd)
        self._loop.deadline(self, None, self._kill)
        if failure is not None:
            raise Failure(failure.sentence)
        if self._oom_killed():
            say(f"{self._name} was killed: it used more memory than its limit allows", WARN)
        self._code = _exit_code(result)

    def _oom_killed(self) -> bool:
        if "memory" in self._tree.not_enforced(["memory.max"]):
            return False
        return self._cgroup.memory.events.get("oom_kill", 0) > 0

    def _signalled(self, number: int) -> None:
        if number == signal.SIGWINCH:
            self._streams.resize()
        elif self._code is not None:
            self._hurried = True  # there is nothing to end but the wait for a terminal
        elif self._stopping and number != signal.SIGHUP:  # of which the kernel and a shell may send one each
            self._cgroup.kill()
        else:
            self._stop()

    # The end.

    def _stop(self) -> None:
        """Ask the command to end, and see to it that it does."""
        if self._stopping:
            return
        self._stopping = True
        self._loop.deadline(self, time.monotonic() + self._group.policy.kill_timeout, self._kill)
        self._send_stop_signal()

    def _send_stop_signal(self) -> None:
        if self._code is not None:
            return
        if self._launch.init and not init.has_started(self._child.pid):
            self._loop.deadline((self, "stop signal"), time.monotonic() + init.STARTS, self._send_stop_signal)
            return
        signal.pidfd_send_signal(self._child.pidfd, signal.Signals(self._group.stop_signal))

    def _kill(self) -> None:
        say(f"{self._name} has not ended by its stop signal; killing it", WARN)
        self._cgroup.kill()

    def _remove_cgroup(self) -> None:
        try:
            self._cgroup.kill()
            self._cgroup.remove(_PATIENCE)
        except cgroup.CgroupError as error:
            say(f"{self._name}: {error}; it is tried again when somebody uses the sandbox", WARN)


def _heeded() -> list[signal.Signals]:
    """Return the signals that end a command: a shell starts what is in the background with some of them ignored."""
    return [number for number in _END if signal.getsignal(number) != signal.SIG_IGN]


def _exit_code(result: Any) -> int:
    status: int = result.si_status
    return status if result.si_code == os.CLD_EXITED else _BY_SIGNAL + status
