"""One instance in the real world: carries out what ``plan.Instance`` decides, and tells it what happens."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import cgroup

from ..launch import init
from ..launch.launcher import Launcher, RootUnusable
from ..launch.spawn import Child, mount_namespace, outcome
from ..plan.instance import Action, Event, Instance, State
from ..status import processes
from ..status.store import StateDirectory
from .adoption import Survivor
from .cgroups import Tree
from .desired import Group
from .life_signs import LifeSigns
from .listeners import Listeners, ListenFailed
from .logs import Stream
from .loop import PRIORITY, READABLE, Loop
from .messages import ERROR, WARN, say

_STREAMS = ("stdout", "stderr")
_TRY_AGAIN = 1.0  # seconds; for what fails only when the host has no descriptor or memory to spare


class Means(NamedTuple):
    """What all instances of a supervisor share."""

    loop: Loop
    launcher: Launcher
    tree: Tree
    listeners: Listeners
    state: StateDirectory
    stdin: int
    fifo_directory: str
    log_directory: str
    notify_address: str  # where instances say how they are; sd_notify(3)
    missed: bool  # what instances of an earlier supervisor said since its end, nobody has heard


class Ending(NamedTuple):
    """How a life ended; ``last_exit`` of `lithos ps --json`."""

    code: int | None
    signal: int | None
    oom_killed: bool
    at: float  # seconds since the epoch

    def sentence(self, *, own_limit: bool) -> str:
        """Say it in words; ``own_limit``: the memory that was used up is its own, not that of a group above."""
        if self.oom_killed and own_limit:
            return "was killed: it used more memory than its limit allows"
        if self.oom_killed:
            return "was killed: the memory of its sandbox, or of the host, was used up"
        if self.signal is not None:
            return f"was killed by {processes.signal_name(self.signal)}"
        if self.code is None:
            return "ended, with an exit status unknown as an earlier supervisor had started it,"
        return f"exited with code {self.code}"


class Supervised:
    """An instance with its process, cgroup, logs and state file."""

    def __init__(
        self,
        group: Group,
        index: int,
        generation: int,
        means: Means,
        changed: Callable[[Supervised], None],
        survivor: Survivor | None = None,
    ) -> None:
        """Nothing lives before ``on(START)``, unless there is a ``survivor`` to adopt.

        ``generation`` counts the versions of the group; ``changed`` is called after everything that happens.
        """
        self.group = group
        self.index = index
        self.generation = generation
        self.version = group.spec
        self.name = f"{group.name}.{index}"
        self.machine = Instance(group.policy)
        self.failures = 0  # of this version in this place
        self.reason = ""  # of the last failure, a whole sentence
        self._means = means
        self._changed = changed
        self._child: Child | None = None
        self._pid_start: int | None = None
        self._cgroup: cgroup.Group | None = None
        self._mounts: int | None = None  # the mount namespace of an earlier life
        self._status_open = False
        self._unspawned = False  # there was no process to fail
        self._unusable = False  # the set-up failed in the process
        self._overdue_sentence = ""  # it was killed as it was not ready in time
        self._told_to_stop = False  # by its stop signal
        self._has_finished = False  # a life of it ended as it should
        self._ending: Ending | None = None
        self._own_limit = False  # it reached the limit of its own group
        self._last_exit: Ending | None = None
        self._oom_kills = 0  # of ended lives
        self._started: float | None = None  # seconds since the epoch
        self._signs = LifeSigns(group, self.name, means.loop, means.listeners, self._pids, self.on, self._end_at_once)
        self._streams: list[Stream] = []  # those of stdout and stderr, from the first start on
        if survivor is not None:
            self._adopt(survivor)

    def _open_streams(self, *, keep: bool = False) -> None:
        """Open what is not open yet; ``keep`` the pipes that an earlier life speaks into. Raises OSError."""
        means, directory = self._means, os.path.join(self._means.log_directory, self.group.sandbox)
        for kind in _STREAMS[len(self._streams) :]:
            leaf = f"{self.group.process}.{self.index}.{kind}"
            fifo = os.path.join(means.fifo_directory, f"{self.group.sandbox}:{leaf}")
            path = os.path.join(directory, leaf)
            self._streams.append(Stream(fifo, path, means.loop, partial(say, level=WARN), keep=keep))

    def _adopt(self, survivor: Survivor) -> None:
        """Take over what an earlier supervisor has started."""
        record = survivor.record
        self.version, self.generation = record["version"], record["generation"]
        self._child, self._cgroup = Child(survivor.pid, survivor.pidfd, -1, []), survivor.group
        self._pid_start = processes.start_time(survivor.pid)
        self._started, self._oom_kills = record["started"], record["oom_kills"]
        with suppress(TypeError):  # a version that wrote something else there
            self._last_exit = Ending(**record["last_exit"]) if record["last_exit"] else None
        self._signs.recall(record["status"], record.get("watchdog"), missed=self._means.missed)
        self._told_to_stop = record.get("told_to_stop") is True
        self.machine.restarts = record["restarts"]
        try:
            self._open_streams(keep=True)
        except OSError as error:
            say(f"{self.name}: cannot take what it prints: {error}; it waits in the pipe until its next start", WARN)
        self._means.loop.watch(survivor.pidfd, READABLE, self._exited)
        self._keep_mounts(self._child)
        for event in _SO_FAR.get(record["state"], (Event.ADOPT,)):
            self.on(event)
        if record.get("warming") is True:
            self.on(Event.READY)

    # What happens → the machine → what is done.

    def on(self, event: Event) -> None:
        """Tell the machine and do what it answers."""
        before = self.machine.state
        for action in self.machine.on(event, time.monotonic()):
            if action is Action.COMPLAIN:
                say(f"{self.name}: internal error: {event.value} while {before.value}; nothing is done about it", ERROR)
            else:
                _DO[action](self)
        self._means.loop.deadline(self, self.machine.deadline, self._overdue)
        self._signs.follow(self.machine.state, executed=self.machine.executed)
        self._write_state()
        if self._unspawned:
            self._unspawned = False
            self.on(Event.UNUSABLE)
        self._changed(self)

    @property
    def remark(self) -> str:
        """What people should know of how it became ready; "" for nothing."""
        return self._signs.remark

    def adjust(self, group: Group) -> None:
        """Take over what an instance need not be started again for."""
        self.group = group
        self.machine.policy = group.policy

    def count_as(self, version: str) -> None:
        """Be of this version from now on, in the eyes of roll-outs; what runs stays as it is."""
        self.version = version
        self._write_state()

    def hear(self, message: dict[str, str]) -> None:
        """Take what the instance says of itself."""
        more = self._signs.hear(message)
        if more is not None:
            self.machine.extend(more, time.monotonic())
            self._means.loop.deadline(self, self.machine.deadline, self._overdue)
        self._write_state()

    def _pids(self) -> list[int]:
        try:
            return self._cgroup.core.procs if self._cgroup else []
        except OSError:  # it is being removed
            return []

    def _end_at_once(self, why: str) -> None:
        """Kill an instance that is in trouble by its own account; what follows is as if it had died."""
        self._overdue_sentence = f"{self.name} was killed: {why}"
        self._kill_all()

    def leave(self) -> None:
        """End, with all the time that its connections may have.

        Of a shared listener new connections come until the application itself stops accepting, at its stop signal.
        """
        self.on(Event.DRAIN if self._steered else Event.STOP)

    @property
    def _steered(self) -> bool:
        return any(port.reuse_port for port in self.group.ports)

    def hurry(self) -> None:
        """End now: somebody waits no longer for what it has still to do."""
        self.on(Event.STOP)
        if self.machine.state is State.STOPPING:
            self.on(Event.TIMEOUT)

    @property
    def time_to_leave(self) -> float:
        """Seconds after which it has ended, by itself or killed, when it is told to ``leave`` now."""
        policy = self.group.policy
        return policy.kill_timeout + (policy.drain_timeout if self._steered else 0.0)

    def _overdue(self) -> None:
        self.on(Event.TIMEOUT)

    def _enter_rotation(self) -> None:
        self._means.listeners.enter_rotation(self.group.ports, self.name)

    def _leave_rotation(self) -> None:
        self._means.listeners.leave_rotation(self.group.ports, self.name)

    def _spawn(self) -> None:
        self._unusable, self._ending, self._overdue_sentence, self._told_to_stop = False, None, "", False
        # A successor has to know of it, even if we are killed before the process has a number.
        self._write_state()
        try:
            self._child = self._create()
        except (OSError, RootUnusable, ListenFailed) as error:
            self._abandon(str(error))
            return
        self._started = time.time()
        self._pid_start = processes.start_time(self._child.pid)
        self._status_open = True
        self._means.loop.watch(self._child.status, READABLE, self._set_up)
        self._means.loop.watch(self._child.pidfd, READABLE, self._exited)

    def _create(self) -> Child:
        means, group = self._means, self.group
        self._cgroup = means.tree.create(group.sandbox, f"{group.process}.{self.index}", group.limits)
        launch = group.launch.for_instance(self.name)
        if group.readiness.hears():
            launch = launch._replace(notify=means.notify_address)
        means.listeners.open(group.ports)
        self._open_streams()
        opened = [stream.open(launch.uid, launch.gid) for stream in self._streams]
        try:
            sockets = means.listeners.descriptors(group.ports, self.name)
            sources = {0: means.stdin, 1: opened[0], 2: opened[1], **sockets}
            return means.launcher.spawn(launch, self._cgroup.fd, sources, self._mounts)
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _abandon(self, sentence: str) -> None:
        """Clean up after a start that did not get as far as a process; ``on`` tells the machine when it is done."""
        self._fail(sentence if sentence.startswith(self.name) else f"{self.name}: {sentence}")
        say(self.reason, ERROR)
        self._remove_cgroup()
        self._unspawned = True

    def _set_up(self, _events: int) -> None:
        """The set-up has ended one way or the other."""
        child = self._child
        if child is None or not self._status_open:
            return
        failure = outcome(self.name, child)
        self._status_open = False
        self._means.loop.forget(child.status)
        os.close(child.status)
        # They were kept to explain a failure: 2 KB an instance, which is a tenth of a supervisor with 1,000.
        self._child = child._replace(operations=[])
        if failure is None:
            self._keep_mounts(child)
            self.on(Event.EXECUTED)
        else:
            self._unusable = True
            self._fail(failure.sentence)
            say(failure.sentence, ERROR)

    def _keep_mounts(self, child: Child) -> None:
        """Hold what the instance has mounted for its next life, where only the process is to be started again."""
        if self.group.restart_process_only and self._mounts is None:
            with suppress(OSError):  # it has ended already; its next life begins with fresh mounts
                self._mounts = mount_namespace(child)

    def _fail(self, sentence: str) -> None:
        self.failures += 1
        self.reason = sentence

    def _exited(self, _events: int) -> None:
        """The instance's PID 1 has ended; with it the kernel ends all of its PID namespace."""
        child = self._child
        if child is None:
            return
        self._set_up(0)
        try:
            result = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:  # an earlier supervisor's, so the kernel has told somebody else how it ended
            result = None
        else:
            if result is None:
                return
        self._means.loop.forget(child.pidfd)
        os.close(child.pidfd)
        self._child = None
        self._ending = self._describe(result)
        self._settle()

    def _describe(self, result: Any) -> Ending:
        if result is None:
            code, number = None, None
        elif result.si_code != os.CLD_EXITED:
            code, number = None, result.si_status
        elif self.group.launch.init:
            code, number = init.exit_status(result.si_status)
        else:
            code, number = result.si_status, None
        events = self._memory_events()
        # It counts in the group whose limit was reached and in those above it, never below: cgroup-v2.rst.
        self._own_limit = events.get("oom", 0) > 0
        return Ending(code, number, events.get("oom_kill", 0) > 0, time.time())

    def _memory_events(self) -> Mapping[str, int]:
        if self._cgroup is None or "memory" in self._means.tree.not_enforced(["memory.max"]):
            return {}
        try:
            return self._cgroup.memory.events
        except OSError:
            return {}

    def _settle(self) -> None:
        """Wait until nobody is left in the cgroup, remove it, and only then tell the machine."""
        if self._cgroup is not None:
            self._persist(partial(self._empty, self._cgroup), self._settle)

    def _empty(self, group: cgroup.Group) -> None:
        if not group.populated:
            self._finish()
            return
        group.kill()
        self._means.loop.watch(group.events_fd, PRIORITY, self._thinned)

    def _thinned(self, _events: int) -> None:
        group = self._cgroup
        if group is None or group.populated:
            return
        self._means.loop.forget(group.events_fd)
        self._finish()

    def _finish(self) -> None:
        self._means.loop.deadline((self, "again"), None, self._settle)
        self._oom_kills += self._memory_events().get("oom_kill", 0)
        self._remove_cgroup()
        for stream in self._streams:
            stream.drain()
        self._means.listeners.hand_over(self.group.ports, self.name)
        if self._unusable:
            self.on(Event.UNUSABLE)
            return
        self._last_exit = self._ending
        if self.machine.told:
            self.on(Event.EXIT)
        else:
            self._exited_by_itself()

    def _exited_by_itself(self) -> None:
        now = time.time()
        ran = now - (self._started or now)  # also of an earlier supervisor's
        ending = self._ending.sentence(own_limit=self._own_limit) if self._ending else "ended"
        last_lines = self._last_lines()
        served = self.machine.state is State.READY
        if served and self._ending and self._ending.code in self.group.normal_exit_codes:
            self._has_finished = True
            self.on(Event.FINISH)
            say(f"{self.name} {ending} after {ran:.1f} s{self._what_next()}")
            return
        self._fail(f"{self._overdue_sentence or f'{self.name} {ending} after {ran:.1f} s'}{last_lines}")
        self.on(Event.EXIT)
        say(f"{self.reason}{self._what_next()}", WARN)

    def _last_lines(self) -> str:
        """Quote the last lines that it printed in this life, of stderr where there are any; "" when it printed none."""
        printed = [stream.file.last_lines() for stream in self._streams]
        named = zip(reversed(_STREAMS[: len(printed)]), reversed(printed), strict=True)
        name, lines = next(((name, lines) for name, lines in named if lines), ("", []))
        return f"; its last line{'s' * (len(lines) > 1)} on {name}: {' | '.join(lines)}" if lines else ""

    def _what_next(self) -> str:
        machine = self.machine
        if machine.state is State.BACKOFF and machine.deadline is not None:
            return f"; next start in {max(0.0, machine.deadline - time.monotonic()):.1f} s"
        return "; started again" if machine.state is State.STARTING else ""

    def _remove_cgroup(self) -> None:
        group, self._cgroup = self._cgroup, None
        if group is not None:
            try:
                group.remove()
            except OSError as error:
                say(f"{self.name}: {error}; it is tried again before the next start", WARN)

    def _send_stop_signal(self) -> None:
        child = self._child
        # To many programs a second one says that they shall not finish their requests.
        if child is None or self.machine.state is not State.STOPPING or self._told_to_stop:
            return
        if self.group.launch.init and not init.has_started(child.pid):
            again = time.monotonic() + init.STARTS
            self._means.loop.deadline((self, "stop signal"), again, self._send_stop_signal)
            return
        with suppress(ProcessLookupError):  # an adopted one that has ended: somebody else has waited for it
            signal.pidfd_send_signal(child.pidfd, signal.Signals(self.group.stop_signal))
        self._told_to_stop = True
        self._write_state()

    def _kill(self) -> None:
        if not self.machine.told:
            why = self._signs.why_not_ready
            # It may have asked for more time.
            waited = max(self.group.policy.readiness_timeout, int(time.monotonic() - (self.machine.started or 0.0)))
            late = f"{self.name} was not ready after {waited:g} s"
            self._overdue_sentence = f"{late}: {why}" if why else late
            say(f"{self._overdue_sentence}; killing it", WARN)
        elif self.machine.executed:
            say(f"{self.name} has not ended by its stop signal; killing it", WARN)
        self._kill_all()

    def _kill_all(self) -> None:
        if self._cgroup is not None:
            self._persist(self._cgroup.kill, self._kill_all)

    def _persist(self, act: Callable[[], None], again: Callable[[], None]) -> None:
        """Do what has to be done in this life; when the host cannot now, ``again`` later."""
        try:
            act()
        except OSError as error:
            say(f"{self.name}: {error}; it is tried again in {_TRY_AGAIN:g} s", WARN)
            self._means.loop.deadline((self, "again"), time.monotonic() + _TRY_AGAIN, again)

    def _give_up(self) -> None:
        # Who waits in its queue would wait in vain.
        self._means.listeners.release(self.group.ports, self.name)

    # What outsiders see.

    def snapshot(self) -> dict[str, object]:
        """Return the instance as its state file has it."""
        group = self.group
        return {
            "name": self.name,
            "sandbox": group.sandbox,
            "process": group.process,
            "index": self.index,
            "state": self.machine.state.public,
            "warming": self.machine.state is State.WARMING,
            "told_to_stop": self._told_to_stop,
            "pid": self._child.pid if self._child else None,
            "pid_start": self._pid_start if self._child else None,
            "init": group.launch.init,
            "uid": group.launch.uid,
            "gid": group.launch.gid,
            "generation": self.generation,
            "started": self._started,
            "restarts": self.machine.restarts,
            "last_exit": self._last_exit._asdict() if self._last_exit else None,
            "cgroup": self._means.tree.path(group.sandbox, f"{group.process}.{self.index}"),
            "ports": list(dict.fromkeys(port.port for port in group.ports if port.port)),
            "image": group.launch.file_system.path if group.launch.file_system.is_image else "",
            "oom_kills": self._oom_kills,
            "version": self.version,
            "status": self._signs.status,
            "watchdog": self._signs.watchdog,
            "notify": self._means.notify_address,
        }

    def _write_state(self) -> None:
        try:
            self._means.state.write_instance(self.snapshot())
        except OSError as error:
            say(f"{self.name}: cannot write its state file: {error}; `lithos ps` shows an older state", WARN)

    def proven(self, soak: float) -> bool:
        """Whether it serves, and has done so for ``soak`` seconds, or to the end of its work."""
        served = self.machine.served
        lasted = served is not None and time.monotonic() >= served + soak
        return self.machine.state is State.READY and (lasted or self._has_finished)

    def close(self) -> None:
        """Let go of the logs and forget the instance; it must have ended."""
        self._means.loop.deadline(self, None, self._overdue)
        self._signs.close()
        self._means.listeners.release(self.group.ports, self.name)
        for stream in self._streams:
            stream.close()
        if self._mounts is not None:
            os.close(self._mounts)
        self._means.state.forget(self.name)


# What an adopted instance has been through, by the state in which its last supervisor saw it.
_SO_FAR = {
    State.READY.value: (Event.RESUME,),
    State.DRAINING.value: (Event.RESUME, Event.DRAIN),
    State.STOPPING.value: (Event.ADOPT, Event.STOP),
}
_DO: dict[Action, Callable[[Supervised], None]] = {
    Action.SPAWN: Supervised._spawn,
    Action.ENTER_ROTATION: Supervised._enter_rotation,
    Action.LEAVE_ROTATION: Supervised._leave_rotation,
    Action.SEND_STOP_SIGNAL: Supervised._send_stop_signal,
    Action.KILL: Supervised._kill,
    Action.GIVE_UP: Supervised._give_up,
}
