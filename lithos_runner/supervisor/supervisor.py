"""The supervisor: opens what has to be open, starts what should run, and takes it all down again."""

from __future__ import annotations

import os
import resource
import signal
import time
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import cgroup

from ..launch.launcher import Launcher
from ..plan.instance import Event, State
from ..status import store
from . import loader
from .cgroups import Tree
from .control import NAME as CONTROL
from .control import Control
from .desired import Group, Refusal
from .listeners import Listeners, ListenFailed
from .loop import Loop, Signals
from .messages import say
from .notify import notify, take_address
from .supervised import Means, Supervised

LOG_DIRECTORY = "/var/log/lithos/stdio"


class Options(NamedTuple):
    """How a supervisor was asked to run."""

    runtime: str  # directory of its state
    config: str  # what `lithos ps` shows
    limits: str  # one of cgroups.ENFORCE, AVAILABLE, OFF
    log_directory: str = LOG_DIRECTORY


class Failure(Exception):
    """The supervisor cannot run, or ran and had to give up; the message is for people, nothing is left behind."""


def run(request: loader.Request, options: Options) -> None:
    """Supervise one container file until a signal ends it; raises Refusal (configuration) and Failure."""
    _allow_descriptors()
    try:
        groups = loader.load(request)
        with ExitStack() as stack:
            supervisor = Supervisor(groups, options, stack)
            supervisor.start()
            supervisor.serve()
    except (store.AlreadyRunning, ListenFailed, cgroup.CgroupError) as error:
        hint = "; --limits available goes on without it" if isinstance(error, cgroup.ControllerMissing) else ""
        raise Failure(f"{error}{hint}") from error
    except OSError as error:
        raise Failure(f"cannot supervise {options.config}: {error}") from error
    if supervisor.fatal:
        raise Failure(supervisor.fatal)


class Supervisor:
    """Owns everything that instances share; ``stack`` takes it down in the opposite order."""

    def __init__(self, groups: list[Group], options: Options, stack: ExitStack) -> None:
        self.fatal = ""
        self._groups = groups
        self._options = options
        self._notify = take_address()
        self._stopping = False
        self._instances: list[Supervised] = []
        self._loop = Loop()
        stack.callback(self._loop.close)
        # First, and so the last to go: a signal must not end us between two steps that belong together.
        signals = Signals(self._loop, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT], self._signalled)
        stack.callback(signals.close)
        self._tree = Tree(options.limits)
        self._check_limits()
        self._claim(stack)
        stack.callback(self._tree.close)
        self._tree.prepare({group.sandbox for group in groups})
        self._sweep()
        self._build(stack)

    def _check_limits(self) -> None:
        for group in self._groups:
            self._tree.check(group.limits)

    def _missing(self) -> list[str]:
        return sorted({name for group in self._groups for name in self._tree.not_enforced(group.limits)})

    def _claim(self, stack: ExitStack) -> None:
        lock = store.claim(self._options.runtime)
        stack.callback(os.close, lock)
        self._state = store.StateDirectory.create(self._options.runtime)
        stack.callback(self._state.remove)

    def _sweep(self) -> None:
        for group in self._groups:
            left = self._tree.sweep(group.sandbox, group.process)
            for instance in left:
                self._state.forget(f"{group.sandbox}/{instance}")
            if left:
                say(f"{group.name}: ended {len(left)} instance(s) that an earlier supervisor left behind")

    def _build(self, stack: ExitStack) -> None:
        options = self._options
        directories = {name: os.path.join(options.runtime, name) for name in ("fifo", "root")}
        for path in directories.values():
            _remove_directory(path)
            os.mkdir(path, 0o700)
            stack.callback(_remove_directory, path)
        listeners = Listeners(self._loop, say)
        stack.callback(listeners.close)
        listeners.open(port for group in self._groups for port in group.ports)
        launcher = Launcher(directories["root"])
        stack.callback(launcher.close)
        stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, stdin)
        means = Means(
            self._loop,
            launcher,
            self._tree,
            listeners,
            self._state,
            stdin,
            directories["fifo"],
            options.log_directory,
        )
        control = Control(os.path.join(options.runtime, CONTROL), self._loop, self._answer)
        stack.callback(control.close)
        for group in self._groups:
            for index in range(group.instances):
                self._instances.append(Supervised(group, index, means, self._gave_up))
                stack.callback(self._instances[-1].close)

    def start(self) -> None:
        """Start all instances and say where they are."""
        options = self._options
        missing = self._missing()
        if missing:
            say(f"limits are not enforced for: {', '.join(missing)} (--limits {options.limits})")
        self._state.write_supervisor(
            {
                "pid": os.getpid(),
                "config": options.config,
                "started": time.time(),
                "log_dir": options.log_directory,
                "limits": options.limits,
                "not_enforced": missing,
            }
        )
        for instance in self._instances:
            instance.on(Event.START)
        for group in self._groups:
            ports = ", ".join(port.address for port in group.ports)
            where = f" listening on {ports}" if ports else ""
            logs = os.path.join(options.log_directory, group.sandbox)
            say(f"{group.name}: {group.instances} instance(s){where}; logs in {logs}")
        notify(self._notify, "READY=1")

    def serve(self) -> None:
        """Handle events until everything has ended."""
        while not (self._stopping and all(not one.machine.state.alive for one in self._instances)):
            self._loop.turn()

    def stop(self) -> None:
        """End all instances as the configuration says; the second time, kill what is left."""
        notify(self._notify, "STOPPING=1")
        again, self._stopping = self._stopping, True
        for instance in self._instances:
            hurry = again and instance.machine.state is State.STOPPING
            instance.on(Event.TIMEOUT if hurry else Event.STOP)

    def _signalled(self, number: int) -> None:
        alive = sum(one.machine.state.alive for one in self._instances)
        say(f"{signal.Signals(number).name}: {'killing' if self._stopping else 'ending'} {alive} instance(s)")
        self.stop()

    def _gave_up(self, instance: Supervised) -> None:
        """End everything when a program has never worked: a person or a script waits for the answer."""
        group = [one for one in self._instances if one.group is instance.group]
        if any(one.machine.been_ready for one in group):
            say(f"{instance.name}: given up after {instance.machine.restarts + 1} starts; the others go on")
            return
        if not self.fatal:
            starts = instance.machine.restarts + 1
            self.fatal = f"{instance.group.name} has never been ready in {starts} start(s); ended, nothing is left"
        if not self._stopping:
            # The machine that gave up is still busy with this event.
            self._loop.deadline(self, time.monotonic(), self.stop)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        command = request.get("command")
        if command == "status":
            return {"pid": os.getpid(), "instances": [one.snapshot() for one in self._instances]}
        if command == "stop":
            self.stop()
            return {"stopping": True}
        return {"error": f"unknown command {command!r}: there are status and stop"}


def _remove_directory(path: str) -> None:
    """Remove a directory of ours with the FIFOs in it, those of a killed predecessor included."""
    with suppress(FileNotFoundError):
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)


def _allow_descriptors() -> None:
    """Raise our soft limit to the hard one: an instance takes seven, and the usual 1024 is there for select(2) only."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


__all__ = ["Failure", "Options", "Refusal", "Supervisor", "run"]
