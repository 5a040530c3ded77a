"""The life of one instance as a state machine.

Two rules. Everything that decides what happens next to an instance is in this file. This file does nothing itself:
``Instance.on(event, now)`` returns *actions* for the supervisor to carry out, and ``deadline`` is the one moment at
which the supervisor has to come back with ``TIMEOUT``.

``TABLE`` has a cell for every state and event; what a cell's function does is said in its docstring. ``diagram.py``
draws the page `docs/instance-states.md` from the table, these docstrings and the comments of the three enumerations.

A process has ended for this machine when it is reaped *and* its cgroup is empty, so a new life never meets remains of
the old one.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from .backoff import SHORTEST, Backoff


class State(Enum):
    """Where an instance is in its life."""

    STOPPED = "stopped"  # nothing lives; not wanted, or not started yet
    STARTING = "starting"  # a process that is being set up, or has not shown yet that it serves
    WARMING = "warming"  # a process that is ready, watched before it gets connections; outsiders see "starting"
    READY = "ready"  # a process that serves
    DRAINING = "draining"  # a process that gets no new connections and finishes those it has
    STOPPING = "stopping"  # a process that has been sent its stop signal
    KILLING = "killing"  # a process whose whole cgroup has been sent SIGKILL; outsiders see "stopping"
    BACKOFF = "backoff"  # nothing lives; the next start waits for its time
    FAILED = "failed"  # nothing lives; no further start is tried

    @property
    def public(self) -> str:
        """The name that `lithos ps` shows."""
        return _PUBLIC.get(self, self).value

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self not in (State.STOPPED, State.BACKOFF, State.FAILED)


_PUBLIC = {State.KILLING: State.STOPPING, State.WARMING: State.STARTING}


class Event(Enum):
    """What can happen to an instance, in the order of the table's columns."""

    START = "start"  # somebody wants it to run
    EXECUTED = "executed"  # the set-up is over, its own program runs
    READY = "ready"  # it can serve
    UNUSABLE = "unusable"  # the set-up failed before the program ran, and its process has ended
    EXIT = "exit"  # its process has ended and its cgroup is empty
    FINISH = "finish"  # the same, with an exit code that the configuration calls normal
    TIMEOUT = "timeout"  # the deadline has passed
    DRAIN = "drain"  # stop it, but let it finish its connections first
    DRAINED = "drained"  # its last connection has ended
    STOP = "stop"  # stop it now and do not start it again
    ADOPT = "adopt"  # its program, started by an earlier supervisor, lives and has not served yet
    RESUME = "resume"  # its program, started by an earlier supervisor, lives and served there


class Action(Enum):
    """What the supervisor has to do."""

    SPAWN = "spawn"  # create cgroup and process
    ENTER_ROTATION = "enter rotation"  # let new connections reach it
    LEAVE_ROTATION = "leave rotation"  # keep new connections away
    SEND_STOP_SIGNAL = "send stop signal"  # to its first process
    KILL = "kill"  # every process of its cgroup
    GIVE_UP = "give up"  # tell that no further start is tried
    COMPLAIN = "complain"  # an event that cannot happen in this state; say so, change nothing


class Policy(NamedTuple):
    """What the configuration says about an instance's life; all times in seconds.

    ``alive_after``: a program that has run so long counts as ready; None: only a READY event makes it so.
    ``max_starts`` bounds the starts in a row of an instance that never serves; None tries for ever.
    ``warm_up``: how long an instance that is ready is watched before it serves; 0 lets it serve at once.
    """

    restart_timeout: float = 1.0
    kill_timeout: float = 5.0
    drain_timeout: float = 0.0
    readiness_timeout: float = 30.0
    alive_after: float | None = 1.0
    max_starts: int | None = None
    warm_up: float = 0.0


class Instance:
    """One instance's state, counters and deadline."""

    __slots__ = (
        "backoff",
        "been_ready",
        "deadline",
        "executed",
        "policy",
        "restarts",
        "served",
        "started",
        "state",
        "told",
        "wanted",
    )

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.state = State.STOPPED
        self.deadline: float | None = None
        self.backoff = Backoff(policy.restart_timeout)
        self.started: float | None = None  # of the present or last life
        self.served: float | None = None  # when that life began to serve
        self.restarts = 0  # starts after the first one
        self.been_ready = False  # it served in any life since somebody asked for a start
        self.executed = False  # its own program runs, the set-up is over
        self.wanted = False  # start it again when it ends
        self.told = False  # it ends because it was told to

    def on(self, event: Event, now: float) -> list[Action]:
        """Take in ``event`` at ``now`` (seconds of a monotonic clock) and return what is to be done about it."""
        return TABLE[self.state][event](self, now)

    def extend(self, seconds: float, now: float) -> None:
        """Give a start, or an end, that much time from ``now`` on: the instance has asked for it."""
        if self.state in (State.STARTING, State.STOPPING) and self.deadline is not None:
            self.deadline = max(self.deadline, now + seconds)

    def _enter(self, state: State, deadline: float | None, *actions: Action) -> list[Action]:
        self.state = state
        self.deadline = deadline
        return list(actions)

    def _live(self, now: float, *actions: Action) -> list[Action]:
        self.wanted, self.told, self.executed = True, False, False
        self.started, self.served = now, None
        return self._enter(State.STARTING, now + self.policy.readiness_timeout, *actions)

    # The cells of the table.

    def start(self, now: float) -> list[Action]:
        """Start the next life; the readiness-timeout runs."""
        if self.started is not None:
            self.restarts += 1
        return self._live(now, Action.SPAWN)

    def begin(self, now: float) -> list[Action]:
        """Start it now, as if it had never failed."""
        self.backoff = Backoff(self.policy.restart_timeout)
        self.been_ready = False
        return self.start(now)

    def adopt(self, now: float) -> list[Action]:
        """Take over a program that runs; it has to show that it is ready, with all the time that a start has."""
        self._live(now)
        return self.execute(now)

    def resume(self, now: float) -> list[Action]:
        """Take over a program that serves; it was watched by an earlier supervisor, so it needs no warm-up."""
        self._live(now)
        self.executed = True
        return self.serve(now)

    def want(self, now: float) -> list[Action]:
        """Start it again as soon as the process that is being ended has ended."""
        self.wanted = True
        return []

    def execute(self, now: float) -> list[Action]:
        """Its program runs; where being alive is all that is asked, it has to stay so for a while."""
        self.executed = True
        if self.policy.alive_after is not None:
            self.deadline = now + self.policy.alive_after
        return []

    def decide(self, now: float) -> list[Action]:
        """Call it ready when being alive is enough, else kill it: it has not become ready in time."""
        if self.executed and self.policy.alive_after is not None:
            return self.warm(now)
        return self.kill(now)

    def warm(self, now: float) -> list[Action]:
        """It is ready; it serves at once, or when it has lived through the warm-up."""
        # Both come through different descriptors, so READY may be read before EXECUTED.
        self.executed = True
        if self.policy.warm_up:
            return self._enter(State.WARMING, now + self.policy.warm_up)
        return self.serve(now)

    def serve(self, now: float) -> list[Action]:
        """It serves: let connections reach it."""
        self.been_ready = True
        self.served = now
        return self._enter(State.READY, None, Action.ENTER_ROTATION)

    def fail(self, now: float) -> list[Action]:
        """It could not even be started: no use to try again when starts are counted and it has never served."""
        if self.policy.max_starts is not None and not self.been_ready:
            return self._enter(State.FAILED, None, Action.GIVE_UP)
        return self.wait(now)

    def wait(self, now: float) -> list[Action]:
        """Wait for the next start, or give up when it has never served in as many starts as it is allowed."""
        # A life that never served, ended by the warm-up or before, counts from its end: a readiness-timeout, or a
        # warm-up, exceeds most delays.
        since = now if self.served is None else self.served
        self.backoff = self.backoff.after(now - since)
        if self._hopeless():
            return self._enter(State.FAILED, None, Action.GIVE_UP)
        at = since + self.backoff.delay
        return self.start(now) if at <= now else self._enter(State.BACKOFF, at)

    def finish(self, now: float) -> list[Action]:
        """It has done what it should: start it again, as soon as restart-timeout after its last start allows."""
        self.backoff = Backoff(self.policy.restart_timeout)
        at = (now if self.started is None else self.started) + max(self.backoff.delay, SHORTEST)
        return self.start(now) if at <= now else self._enter(State.BACKOFF, at)

    def done(self, now: float) -> list[Action]:
        """Keep connections away from where nothing lives; then as `finish`."""
        return [Action.LEAVE_ROTATION, *self.finish(now)]

    def _hopeless(self) -> bool:
        limit = self.policy.max_starts
        return limit is not None and not self.been_ready and self.backoff.failures >= limit

    def lost(self, now: float) -> list[Action]:
        """Keep connections away from where nothing lives; then as `wait`."""
        return [Action.LEAVE_ROTATION, *self.wait(now)]

    def ended(self, now: float) -> list[Action]:
        """It has ended: for its own fault, then as `wait`; or as told, then `begin` if somebody wants it."""
        if not self.wanted:
            return self._enter(State.STOPPED, None)
        return self.begin(now) if self.told else self.wait(now)

    def drain(self, now: float) -> list[Action]:
        """Take it out of rotation and wait for its connections, at most drain-timeout."""
        self.wanted, self.told = False, True
        return self._enter(State.DRAINING, now + self.policy.drain_timeout, Action.LEAVE_ROTATION)

    def signal(self, now: float) -> list[Action]:
        """Send the stop signal; the kill-timeout runs."""
        return self._enter(State.STOPPING, now + self.policy.kill_timeout, Action.SEND_STOP_SIGNAL)

    def stop(self, now: float) -> list[Action]:
        """Do not start it again, and send the stop signal."""
        self.wanted, self.told = False, True
        return self.signal(now)

    def retire(self, now: float) -> list[Action]:
        """Take it out of rotation; then as `stop`."""
        return [Action.LEAVE_ROTATION, *self.stop(now)]

    def abort(self, now: float) -> list[Action]:
        """Stop its program; kill a set-up that is not over, it has nothing to finish."""
        if self.executed:
            return self.stop(now)
        # PID 1 of a namespace never sees a signal it has no handler for: pid_namespaces(7).
        self.wanted, self.told = False, True
        return self.kill(now)

    def forgo(self, now: float) -> list[Action]:
        """Do not start it again."""
        self.wanted, self.told = False, True
        return [] if self.state.alive else self._enter(State.STOPPED, None)

    def kill(self, now: float) -> list[Action]:
        """Kill what has not ended, or not become ready, in time."""
        return self._enter(State.KILLING, None, Action.KILL)

    def ignore(self, now: float) -> list[Action]:
        """Nothing to do."""
        return []

    def never(self, now: float) -> list[Action]:
        """Cannot happen; the supervisor says so and goes on."""
        return [Action.COMPLAIN]


_I = Instance
_Cell = Callable[[Instance, float], list[Action]]
# An application may say READY whenever it likes, and be heard after its end: no cell of that column is `never`.
# fmt: off
_ROWS: dict[State, tuple[_Cell, ...]] = {
    #                START      EXECUTED    READY      UNUSABLE   EXIT       FINISH     TIMEOUT    DRAIN      DRAINED    STOP       ADOPT      RESUME
    State.STOPPED:  (_I.begin,  _I.never,   _I.ignore, _I.never,  _I.never,  _I.never,  _I.never,  _I.ignore, _I.never,  _I.ignore, _I.adopt,  _I.resume),
    State.STARTING: (_I.ignore, _I.execute, _I.warm,   _I.fail,   _I.wait,   _I.finish, _I.decide, _I.abort,  _I.never,  _I.abort,  _I.never,  _I.never),
    State.WARMING:  (_I.ignore, _I.ignore,  _I.ignore, _I.never,  _I.wait,   _I.finish, _I.serve,  _I.stop,   _I.never,  _I.stop,   _I.never,  _I.never),
    State.READY:    (_I.ignore, _I.ignore,  _I.ignore, _I.never,  _I.lost,   _I.done,   _I.never,  _I.drain,  _I.never,  _I.retire, _I.never,  _I.never),
    State.DRAINING: (_I.want,   _I.ignore,  _I.ignore, _I.never,  _I.ended,  _I.ended,  _I.signal, _I.forgo,  _I.signal, _I.stop,   _I.never,  _I.never),
    State.STOPPING: (_I.want,   _I.ignore,  _I.ignore, _I.never,  _I.ended,  _I.ended,  _I.kill,   _I.forgo,  _I.ignore, _I.forgo,  _I.never,  _I.never),
    State.KILLING:  (_I.want,   _I.ignore,  _I.ignore, _I.ended,  _I.ended,  _I.ended,  _I.never,  _I.forgo,  _I.ignore, _I.forgo,  _I.never,  _I.never),
    State.BACKOFF:  (_I.begin,  _I.never,   _I.ignore, _I.never,  _I.never,  _I.never,  _I.start,  _I.forgo,  _I.never,  _I.forgo,  _I.never,  _I.never),
    State.FAILED:   (_I.begin,  _I.never,   _I.ignore, _I.never,  _I.never,  _I.never,  _I.never,  _I.forgo,  _I.never,  _I.forgo,  _I.never,  _I.never),
}
# fmt: on
TABLE: dict[State, dict[Event, _Cell]] = {state: dict(zip(Event, cells, strict=True)) for state, cells in _ROWS.items()}
