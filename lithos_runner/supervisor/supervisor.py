"""The supervisor: opens what has to be open, runs what should run, and takes it all down again."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NamedTuple

import cgroup

from ..launch.launcher import Launcher
from ..plan.instance import State
from ..plan.room import Demand, shortage
from ..status import names, store
from . import loader, upgrade
from .cgroups import ENFORCE, OFF, SLICE, Tree
from .claims import Claims
from .control import Control
from .desired import EVERYTHING, Desired, Group, Host, Refusal, plain_group
from .listeners import Listeners, ListenFailed
from .loop import READABLE, Loop, Signals
from .messages import ERROR, WARN, log_to, say
from .notify import notify, take_address
from .readiness.notifications import Notifications
from .service import Service
from .succession import Succession, end_leftovers
from .supervised import Means

LOG_DIRECTORY = "/var/log/lithos/stdio"


class Options(NamedTuple):
    """How a supervisor was asked to run; ``host`` is None when the configuration says where everything is.

    ``once``: a person or a script waits for one program. What is wrong at the start, or never gets ready, ends the
    supervisor; SIGHUP and SIGQUIT do, too, and do not mean "reload".
    """

    config: str  # what `lithos ps` shows
    limits: str | None  # one of cgroups.ENFORCE, AVAILABLE, OFF; None: as the configuration says
    once: bool
    host: Host | None = None


class Failure(Exception):
    """The supervisor cannot run, or ran and had to give up; the message is for people.

    Nothing is left behind but instances that live, with what the next supervisor needs to adopt them.
    """


def run(request: loader.Request, options: Options) -> None:
    """Supervise what ``request`` leads to until a signal ends it; raises Refusal (configuration) and Failure."""
    _allow_descriptors()
    try:
        if not options.once:
            request = request._replace(notes=loader.take_notes())
        handover = upgrade.take()
        desired = _first(request, options, handover)
        host = handover.host or options.host or desired.host
        if host is None:
            raise Refusal("\n".join(desired.faults))
        with ExitStack() as stack:
            try:
                supervisor = Supervisor(request, host, options, handover, stack)
                supervisor.start(desired)
                supervisor.serve()
            except BaseException:
                if _may_leave_instances(host.runtime):
                    stack.pop_all()  # as if we had been killed: what lives goes on, and the next one adopts it
                raise
    except (store.AlreadyRunning, ListenFailed, cgroup.CgroupError) as error:
        hint = "; --limits available goes on without it" if isinstance(error, cgroup.ControllerMissing) else ""
        raise Failure(f"{error}{hint}") from error
    except OSError as error:
        raise Failure(f"cannot supervise {options.config}: {error}") from error
    if supervisor.fatal:
        raise Failure(supervisor.fatal)


def _first(request: loader.Request, options: Options, handover: upgrade.Handover) -> Desired:
    """Read the configuration to begin with. Raises Refusal and OSError, but not where somebody runs already."""
    try:
        desired = loader.load(request)
        if options.once and desired.faults:
            raise Refusal("\n".join(desired.faults))
    except (Refusal, OSError) as error:
        if handover.host is None:
            raise
        return _unreadable(str(error))
    return desired


def _unreadable(why: str) -> Desired:
    return Desired([], {}, why.splitlines(), frozenset({EVERYTHING}))


def _may_leave_instances(runtime: str) -> bool:
    try:
        return next(store.instance_files(runtime), None) is not None
    except OSError:  # whatever it is that ends us
        return True


class Supervisor:
    """Owns everything that instances share; ``stack`` takes it down in the opposite order."""

    def __init__(
        self, request: loader.Request, host: Host, options: Options, handover: upgrade.Handover, stack: ExitStack
    ) -> None:
        self.fatal = ""
        self._request = request
        self._host = host
        self._options = options
        self._notify = take_address()
        self._handover = handover
        self._started = time.time()
        self._stopping = False
        self._services: dict[str, Service] = {}
        self._faults: list[str] = []
        self._broken: frozenset[str] = frozenset()  # what they concern
        self._said: set[str] = set()  # what of the present configuration cannot be had on living sockets
        self._given_up: set[str] = set()  # instances, with ``once``
        self._reader: loader.Reader | None = None
        self._trial: int | None = None  # pidfd of the child that tries out a newer program
        self._loads = 0  # configurations taken in so far
        self._asked = 0  # those that somebody has asked for
        self._loop = Loop()
        stack.callback(self._loop.close)
        # First, and so the last to go: a signal must not end us between two steps that belong together.
        signals = Signals(self._loop, [*_END, *_RELOAD, signal.SIGUSR2], self._signalled)
        stack.callback(signals.close)
        limits = options.limits or (ENFORCE if host.cgroup_name else OFF)
        self._claims = Claims(shared=options.once, held=self._handover.claims)
        self._tree = Tree(limits, host.cgroup_name or SLICE, host.controllers, claims=self._claims)
        self._claim(stack)
        stack.callback(self._tree.close)
        self._build(stack)

    def _claim(self, stack: ExitStack) -> None:
        self._lock = store.claim(self._host.runtime, self._handover.lock)
        stack.callback(os.close, self._lock)
        self._state = store.StateDirectory.create(self._host.runtime)
        stack.callback(self._state.remove)

    def _build(self, stack: ExitStack) -> None:
        host = self._host
        fifos = os.path.join(host.runtime, "fifo")
        for path in (fifos, host.mounts):
            os.makedirs(path, 0o700, exist_ok=True)
            stack.callback(_remove_directory, path)
        self._listeners = Listeners(self._loop, partial(say, level=WARN))
        stack.callback(self._listeners.close)
        launcher = Launcher(host.mounts)
        stack.callback(launcher.close)
        stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, stdin)
        self._means = Means(
            self._loop,
            launcher,
            self._tree,
            self._listeners,
            self._state,
            stdin,
            fifos,
            host.log_directory,
            self._hear(stack),
            missed=self._handover.notify_socket is None,
        )
        control = Control(store.control_socket(host.runtime), self._loop, self._answer)
        stack.callback(control.close)
        stack.callback(self._close_services)

    def _hear(self, stack: ExitStack) -> str:
        """Listen to what instances say, where those of an earlier supervisor speak; return the address."""
        for address, handed in self._places_to_hear():
            with suppress(OSError):  # somebody else took the name while there was no supervisor
                self._notifications = Notifications(address, self._loop, self._heard, handed)
                stack.callback(self._notifications.close)
                return address
        raise OSError(errno.EADDRINUSE, "cannot listen for what instances say")

    def _places_to_hear(self) -> Iterator[tuple[str, int | None]]:
        """Yield addresses, the best first, with a socket that listens there already, if there is one."""
        if self._handover.notify_socket is not None:
            yield self._handover.notify_socket
        for record in store.read_instances(self._host.runtime):
            address = record.get("notify")
            if isinstance(address, str) and address.startswith("@"):
                yield address, None
        yield f"@lithos-{os.urandom(8).hex()}", None

    def _heard(self, path: str, message: dict[str, str]) -> None:
        sandbox, leaf = self._tree.owner(path) or ("", "")
        process, _, index = leaf.rpartition(".")
        service = self._services.get(f"{sandbox}/{process}")
        instance = service.instances.get(int(index)) if service and index.isdecimal() else None
        if instance is not None:
            instance.hear(message)

    def _close_services(self) -> None:
        for service in self._services.values():
            service.close()

    # From start to end.

    def start(self, desired: Desired) -> None:
        """Start everything and say where it is. Raises ListenFailed and cgroup.CgroupError with ``once``."""
        self._adopt()
        if self._options.once:
            for group in desired.groups:
                self._tree.check(group.limits)
            self._listeners.open(port for group in desired.groups for port in group.ports)
        self._take_in(desired)
        missing = sorted({name for group in desired.groups for name in self._tree.not_enforced(group.limits)})
        if missing:
            say(f"limits are not enforced for: {', '.join(missing)} ({self._tree.restricted_by})", WARN)
        for group in desired.groups:
            ports = ", ".join(port.address for port in group.ports)
            where = f" listening on {ports}" if ports else ""
            logs = os.path.join(self._host.log_directory, group.sandbox)
            say(f"{group.name}: {group.instances} instance(s){where}; logs in {logs}")
        notify(self._notify, "READY=1")

    def _adopt(self) -> None:
        """Take over what an earlier supervisor has left alive, with its sockets and where its roll-outs stood."""
        for held in self._handover.sockets:
            self._listeners.adopt(held.port, held.slot, held.descriptor)
        self._services = Succession(self._host.runtime, self._means).take_over(self._service_changed)

    def serve(self) -> None:
        """Handle events until everything has ended."""
        while not (self._stopping and all(service.ended for service in self._services.values())):
            self._loop.turn()

    def stop(self) -> None:
        """End all instances as if they were not wanted any more; the second time, kill what is left."""
        # systemd would kill us after TimeoutStopSec, and what has not ended by then would live on.
        notify(self._notify, f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(self._time_to_stop() * 1e6)}")
        again, self._stopping = self._stopping, True
        if self._reader is not None:
            self._stop_reading(self._reader)
            self._reader.close()
            self._reader = None
        self._listeners.refuse()
        for service in self._services.values():
            service.stop(again=again)

    def _time_to_stop(self) -> float:
        """Return after how many seconds all instances will have ended, by themselves or killed."""
        living = (one for service in self._services.values() for one in service.instances.values())
        return max((one.time_to_leave for one in living), default=0.0) + _CLEARING

    def upgrade(self) -> None:
        """Go on as the program that is installed now, if that can be loaded."""
        if self._stopping or self._trial is not None:
            return
        try:
            self._trial = os.pidfd_open(upgrade.try_out())
        except OSError as error:
            say(f"cannot try out the installed program: {error.strerror}; going on as before", ERROR)
            return
        self._loop.watch(self._trial, READABLE, self._tried_out)

    def _tried_out(self, _events: int) -> None:
        trial = self._trial
        if trial is None:
            return
        result = os.waitid(os.P_PIDFD, trial, os.WEXITED)
        self._loop.forget(trial)
        os.close(trial)
        self._trial = None
        if result is None or result.si_status != 0:
            say("the installed program cannot be loaded, see above; going on as before", ERROR)
        elif not self._stopping:
            self._replace()

    def _replace(self) -> None:
        """Hand everything over; instances stay children of this process, so their exits are not missed."""
        if self._reader is not None:
            self._stop_reading(self._reader)
            self._reader.close()
            self._reader = None
        say("going on as the program that is installed now")
        notify(self._notify, f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        sockets = tuple(upgrade.Held(*held) for held in self._listeners.held())
        try:
            said = upgrade.NotifySocket(self._means.notify_address, self._notifications.descriptor)
            upgrade.replace(upgrade.Handover(self._lock, sockets, self._claims.held, said, self._host), self._notify)
        except OSError as error:
            say(f"cannot execute {sys.executable}: {error.strerror}; going on as before", ERROR)
            notify(self._notify, "READY=1")

    def _signalled(self, number: int) -> None:
        if number == signal.SIGUSR2:
            self.upgrade()
            return
        if number in _RELOAD and not self._options.once:
            self.reload()
            return
        alive = sum(one.machine.state.alive for each in self._services.values() for one in each.instances.values())
        say(f"{signal.Signals(number).name}: {'killing' if self._stopping else 'ending'} {alive} instance(s)")
        self.stop()

    # The configuration.

    def reload(self) -> int:
        """Read the configuration again; return how many have been taken in when that is done."""
        if self._stopping:
            return self._loads
        if self._reader is None:
            self._asked = self._loads + 1
            self._read()
        else:
            # What is being read may be older than the request.
            self._asked = self._loads + 2
        return self._asked

    def _read(self) -> None:
        notify(self._notify, f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            self._reader = loader.Reader(self._request)
        except OSError as error:
            self._read_all(_unreadable(f"cannot read {self._request.file}: {error}"))
            return
        self._loop.watch(self._reader.descriptor, READABLE, self._readable)

    def _readable(self, _events: int) -> None:
        reader = self._reader
        if reader is None or not reader.read():
            return
        self._stop_reading(reader)
        self._reader = None
        desired: Desired | None = None
        try:
            desired = reader.desired()
        except loader.Unchanged:
            pass
        except Refusal as refusal:
            desired = _unreadable(str(refusal))
        self._read_all(desired)

    def _stop_reading(self, reader: loader.Reader) -> None:
        self._loop.forget(reader.descriptor)

    def _read_all(self, desired: Desired | None) -> None:
        """Take in what was read; None: it is in force already."""
        if desired is None:
            self._loads += 1
        else:
            self._take_in(desired)
        notify(self._notify, "READY=1")
        if self._loads < self._asked:
            self._read()

    def _take_in(self, desired: Desired) -> None:
        """Go from what runs to what is configured now."""
        self._loads += 1
        self._said.clear()
        if desired.host is not None:
            log_to(desired.host.logs)
            self._say_what_has_to_wait(desired.host)
        desired = self._with_sandboxes(desired)
        self._faults, self._broken = desired.faults, desired.broken
        for fault in desired.faults:
            say(f"not taken in: {fault}", ERROR)
        for remark in desired.remarks:
            say(remark, WARN)
        self._retire({group.name for group in desired.groups}, desired)
        for group in desired.groups:
            service = self._services.get(group.name)
            if service is None:
                self._add(group)
            elif reason := self._shortage(service, group, desired):
                service.reject(group, reason)
            else:
                service.desire(group)
        self._tidy()
        self._write_supervisor()
        if desired.faults or desired.remarks or self._said:  # the next reload looks at them again, and says so
            loader.forget(self._request)

    def _say_what_has_to_wait(self, host: Host) -> None:
        """Say which keys of the master file hold from the start of a supervisor to its end."""
        for key, field in _FIXED.items():
            if getattr(host, field) != getattr(self._host, field):
                self._said.add(key)
                say(f"{key} stays as it is until this supervisor has been stopped with its instances", WARN)

    def _with_sandboxes(self, desired: Desired) -> Desired:
        """Prepare the sandboxes; without those whose limits cannot be had."""
        faults, broken = list(desired.faults), set(desired.broken)
        for name, limits in desired.sandboxes.items():
            try:
                self._tree.prepare(name, limits)
            except cgroup.CgroupError as error:
                if self._options.once:
                    raise
                faults.append(f"sandbox {name}: {error}")
                broken.add(name)
        groups = [group for group in desired.groups if group.sandbox not in broken]
        return desired._replace(groups=groups, faults=faults, broken=frozenset(broken))

    def _retire(self, wanted: set[str], desired: Desired) -> None:
        for name, service in self._services.items():
            if name not in wanted and not desired.is_broken(service.wanted):
                service.retire()

    def _shortage(self, service: Service, group: Group, desired: Desired) -> str:
        """Say why there is too little memory to go from what the service runs to ``group``; "" if there is not."""
        if group.spec == service.wanted.spec:
            return ""
        limit = desired.sandboxes[group.sandbox].get("memory.max")
        others = [each for each in desired.groups if each.sandbox == group.sandbox and each.name != group.name]
        beside = [self._beside(each) for each in others]
        return shortage(int(limit) if limit else None, _demand(service.goal), _demand(group), beside)

    def _beside(self, group: Group) -> Demand:
        """Return what a group may use while another one is rolled out: with its surge if it is rolled out, too."""
        service, demand = self._services.get(group.name), _demand(group)
        return demand if service is not None and service.replaces_for(group) else demand._replace(surge=0)

    def _add(self, group: Group) -> None:
        end_leftovers(self._means, group.sandbox, group.process)
        service = self._services[group.name] = Service(group, self._means, self._service_changed)
        service.begin()

    def _service_changed(self, service: Service) -> None:
        self._tidy()
        if self._options.once:
            self._give_up(service)

    def _tidy(self) -> None:
        """Let go of what nobody needs any more; sockets live as long as somebody is configured for them or alive."""
        for name, service in list(self._services.items()):
            if service.ended and not service.instances and not self._stopping:
                self._services.pop(name).close()
        groups = [group for service in self._services.values() for group in service.groups()]
        for sentence in self._listeners.keep(port for group in groups for port in group.ports):
            if sentence not in self._said:
                self._said.add(sentence)
                say(sentence, WARN)
        self._means.launcher.keep(group.launch for group in groups)
        if not self._stopping:
            self._tree.keep({group.sandbox for group in groups})

    def _give_up(self, service: Service) -> None:
        """End everything when a program has never worked: a person or a script waits for the answer."""
        instances = list(service.instances.values())
        failed = [one for one in instances if one.machine.state is State.FAILED and one.name not in self._given_up]
        self._given_up.update(one.name for one in failed)
        if failed and not self.fatal and not any(one.machine.been_ready for one in instances):
            starts = failed[0].machine.restarts + 1
            self.fatal = f"{service.name} has never been ready in {starts} start(s); ended, nothing is left"
            self.stop()
        elif not self.fatal:
            for one in failed:
                say(f"{one.name}: given up after {one.machine.restarts + 1} starts; the others go on")

    # What outsiders see.

    def _write_supervisor(self) -> None:
        groups = [group for service in self._services.values() for group in service.groups()]
        record = {
            "pid": os.getpid(),
            "config": self._options.config,
            "started": self._started,
            "log_dir": self._host.log_directory,
            "limits": self._tree.mode,
            "cgroup_parent": self._tree.parent,
            "not_enforced": sorted({name for group in groups for name in self._tree.not_enforced(group.limits)}),
            "faults": self._faults,
        }
        try:
            self._state.write_supervisor(record)
        except OSError as error:
            say(f"cannot write the state of the supervisor: {error}; `lithos ps` shows an older one", WARN)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        command = request.get("command")
        if not isinstance(command, str) or command not in _ANSWERS:
            return {"error": f"unknown command {command!r}: there are {', '.join(_ANSWERS)}"}
        try:
            return _ANSWERS[command](self, request)
        except _Wrong as wrong:
            return {"error": str(wrong)}

    def _status(self, _request: dict[str, Any]) -> dict[str, Any]:
        services = self._services.values()
        return {
            "pid": os.getpid(),
            "started": self._started,
            "reloads": not self._options.once,
            "loads": self._loads,
            "faults": self._faults,
            "broken": sorted(self._broken),
            "services": [service.snapshot() for service in services],
            "instances": [one.snapshot() for service in services for _, one in sorted(service.instances.items())],
        }

    def _groups(self, _request: dict[str, Any]) -> dict[str, Any]:
        return {"groups": [plain_group(service.goal) for service in self._services.values()]}

    def _stop(self, _request: dict[str, Any]) -> dict[str, Any]:
        self.stop()
        return {"stopping": True}

    def _reload(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer how many configurations will have been taken in; ``retry`` names a sandbox to try again."""
        if "retry" in request:
            for service in self._services.values():
                if service.wanted.sandbox == request["retry"]:
                    service.retry()
            loader.forget(self._request)
        return {"loads": self.reload()}

    def _upgrade(self, _request: dict[str, Any]) -> dict[str, Any]:
        self.upgrade()
        return {"pid": os.getpid(), "started": self._started}

    def _restart(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request.get("name")
        for service in self._services.values():
            indices = [index for index, one in service.instances.items() if names.matches(str(name), one.name)]
            if indices:
                service.restart(indices)
                return {"service": service.name, "restarting": len(indices)}
        raise _Wrong(f"there is no instance {name}")

    def _scale(self, request: dict[str, Any]) -> dict[str, Any]:
        name, count = request.get("name"), request.get("instances")
        service = self._services.get(str(name))
        if service is None or not isinstance(count, int) or count < 0:
            raise _Wrong(f"cannot scale {name} to {count!r}: expected a process and a number")
        self._request = self._request._replace(instances=count)
        service.desire(service.wanted._replace(instances=count))
        return {"instances": count}


class _Wrong(Exception):
    """A request that cannot be carried out; the message is the answer."""


_CLEARING = 30.0  # seconds for killing what has not ended in time, and for removing all of it
_END = (signal.SIGTERM, signal.SIGINT)
# Key of the master file → field of Host.
_FIXED = {
    "runtime-dir": "runtime",
    "mount-dir": "mounts",
    "stdio-log-dir": "log_directory",
    "cgroup-name": "cgroup_name",
    "cgroup-controllers": "controllers",
}
# Any of these makes lithos read its files again; so does SIGUSR2, where we do more.
_RELOAD = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
_ANSWERS: dict[str, Callable[[Supervisor, dict[str, Any]], dict[str, Any]]] = {
    "status": Supervisor._status,
    "groups": Supervisor._groups,
    "reload": Supervisor._reload,
    "restart": Supervisor._restart,
    "upgrade": Supervisor._upgrade,
    "scale": Supervisor._scale,
    "stop": Supervisor._stop,
}


def _demand(group: Group) -> Demand:
    memory = group.limits.get("memory.max", "max")
    return Demand(group.instances, group.upgrade.max_surge, None if memory == "max" else int(memory))


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
