"""An instance in a small model of the world, through thousands of random histories in virtual time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count, product
from typing import ClassVar

import pytest
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lithos_runner.plan.backoff import LONGEST, SHORTEST
from lithos_runner.plan.instance import TABLE, Action, Event, Instance, Policy, State

CONTRACT = {"starting", "ready", "draining", "stopping", "backoff", "failed", "stopped"}
WITHOUT_DEADLINE = {State.STOPPED, State.READY, State.KILLING, State.FAILED}
IMPOSSIBLE = {(state, event) for state in State for event in Event if TABLE[state][event] is Instance.never}
LATE = 0.003  # seconds; a timer is never early and mostly a little late
DAY = 86_400.0

POLICIES = st.builds(
    Policy,
    restart_timeout=st.sampled_from([0.0, 1.0, 7.0, 90.0]),
    kill_timeout=st.sampled_from([5.0, 60.0, 0.0]),
    drain_timeout=st.sampled_from([20.0, 300.0, 0.0]),
    readiness_timeout=st.sampled_from([30.0, 0.5]),
    alive_after=st.sampled_from([None, 1.0, 0.0]),
    max_starts=st.sampled_from([None, 1, 3]),
    warm_up=st.sampled_from([0.0, 3.0, 60.0]),
)


class Process:
    """What lives, as the kernel and the supervisor know it."""

    def __init__(self, born: float) -> None:
        self.born = born  # or found
        self.runs = False  # its own program; else it is being set up
        self.heard = False  # the supervisor knows that it runs
        self.resumed = False  # it served under an earlier supervisor
        self.in_rotation = False
        self.draining = False
        self.signalled: float | None = None
        self.killed = False


class World(RuleBasedStateMachine):
    """Carries out the actions of an instance, lets things happen that can happen, and looks on."""

    cells: ClassVar[Counter[tuple[State, Event]]] = Counter()

    # The supervisor.

    @initialize(policy=POLICIES)
    def arrive(self, policy: Policy) -> None:
        self.now = 0.0
        self.policy = policy
        self.process: Process | None = None
        self.desired = False  # the operator's last word
        self.ended = -math.inf  # when the last process ended
        self.boot()
        self.command(Event.START)

    def boot(self) -> None:
        self.machine = Instance(self.policy)
        self.starts: list[float] = []
        self.adopted = self.process is not None
        self.asked = False  # for the next start
        self.tries = 0  # starts since one was asked for
        self.proved = False  # ready in one of these

    def tell(self, event: Event) -> None:
        """Tell the machine what has happened and do what it asks for, as supervisor/supervised.py does."""
        self.cells[self.machine.state, event] += 1
        restarts = self.machine.restarts
        for action in self.machine.on(event, self.now):
            self.act(action)
        assert self.machine.restarts >= restarts
        self.fire(self.now)

    def fire(self, until: float) -> None:
        """Tell of each deadline up to ``until``."""
        while self.machine.deadline is not None and self.machine.deadline <= until:
            self.now = max(self.now, self.machine.deadline)
            self.tell(Event.TIMEOUT)

    def act(self, action: Action) -> None:
        assert action is not Action.COMPLAIN
        if action is Action.SPAWN:
            self.spawn()
        elif action is Action.GIVE_UP:
            assert self.process is None
            assert not self.proved
            assert self.policy.max_starts is not None
        elif action is Action.LEAVE_ROTATION and self.process is None:
            assert self.leaves_rotation
            self.leaves_rotation = False
        else:
            self.handle(action)

    def spawn(self) -> None:
        assert self.process is None, "two processes at a time"
        assert self.desired
        if self.asked:
            self.asked, self.proved, self.tries = False, False, 0
        elif self.starts:
            assert self.now >= self.starts[-1] + self.policy.restart_timeout
        self.tries += 1
        self.starts.append(self.now)
        self.process = Process(self.now)

    def handle(self, action: Action) -> None:
        process = self.process
        assert process is not None, f"{action} of nothing"
        assert not process.killed
        if action is Action.ENTER_ROTATION:
            assert not process.in_rotation
            assert process.resumed or self.now >= process.born + self.policy.warm_up
            process.in_rotation = self.proved = True
        elif action is Action.LEAVE_ROTATION:
            assert process.in_rotation
            process.in_rotation, process.draining = False, True
        elif action is Action.SEND_STOP_SIGNAL:
            assert process.runs, "PID 1 of a namespace would not see it"
            assert process.signalled is None
            assert not process.in_rotation
            process.signalled = self.now
        else:
            assert self.has_had_its_time(process)
            process.killed = True

    def has_had_its_time(self, process: Process) -> bool:
        if process.signalled is not None:
            return self.now >= process.signalled + self.policy.kill_timeout
        return not process.heard or self.now >= process.born + self.policy.readiness_timeout

    # The operator.

    @rule(event=st.sampled_from([Event.START, Event.START, Event.STOP, Event.DRAIN]))
    def command(self, event: Event) -> None:
        if event is Event.START:
            self.asked = self.asked or not (self.desired and self.process)
        else:
            self.asked = False
        self.desired = event is Event.START
        self.tell(event)

    @precondition(lambda self: self.process and (self.process.in_rotation or self.process.draining))
    @rule()
    def drain(self) -> None:
        """Do what every roll-out does, so that it is not left to chance."""
        self.command(Event.DRAIN)

    @rule()
    def replace_the_supervisor(self) -> None:
        """It is killed; another one finds what is left, told as supervisors are to tell it."""
        process, told = self.process, self.machine.told
        served = process is not None and process.in_rotation
        self.boot()
        if process is not None:
            self.process = Process(self.now)
            self.process.runs = self.process.heard = True
            self.process.resumed = served
            self.tell(Event.RESUME if served else Event.ADOPT)
            if told:
                self.tell(Event.STOP)
        if self.desired:
            self.command(Event.START)

    # The process.

    def alive(self) -> Process:
        assert self.process is not None
        return self.process

    @precondition(lambda self: self.process and not self.process.runs and not self.process.killed)
    @rule()
    def execute(self) -> None:
        self.alive().runs = True

    @precondition(lambda self: self.process and self.process.runs and not self.process.heard)
    @rule()
    def hear_at_last(self) -> None:
        if not self.alive().heard:
            self.alive().heard = True
            self.tell(Event.EXECUTED)

    @precondition(lambda self: self.process and self.process.runs)
    @rule()
    def say_ready(self) -> None:
        self.tell(Event.READY)

    @precondition(lambda self: self.process and not self.process.killed)
    @rule(heard=st.booleans())
    def come_up(self, heard: bool) -> None:
        """Do what most programs do most of the time; both things may be heard in any order."""
        self.alive().runs = True
        if heard:
            self.hear_at_last()
        self.tell(Event.READY)

    @precondition(lambda self: not self.process)
    @rule()
    def be_heard_after_the_end(self) -> None:
        self.tell(Event.READY)

    @precondition(lambda self: self.process and self.process.draining)
    @rule()
    def finish_the_last_connection(self) -> None:
        self.alive().draining = False
        self.tell(Event.DRAINED)

    @precondition(lambda self: self.process and not self.process.runs)
    @rule()
    def fail_to_be_set_up(self) -> None:
        self.end(Event.UNUSABLE)

    @precondition(lambda self: self.process)
    @rule(event=st.sampled_from([Event.EXIT, Event.FINISH]))
    def exit(self, event: Event) -> None:
        self.alive().runs = True  # or is taken for it: whatever ends a set-up but its own failure just closes its pipe
        self.hear_at_last()
        if event is Event.FINISH:
            self.tries = 0
        self.end(event)

    def end(self, event: Event) -> None:
        self.leaves_rotation = self.alive().in_rotation
        self.process, self.ended = None, self.now
        at_once = self.asked
        self.tell(event)
        assert not self.leaves_rotation
        assert self.process or not at_once

    # Time, and what cannot happen.

    @rule(seconds=st.sampled_from([0.001, 0.5, 1.0, 4.0, 12.0, 61.0]))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        self.fire(until)
        self.now = max(self.now, until)

    @precondition(lambda self: self.machine.deadline is not None)
    @rule()
    def wait_for_the_deadline(self) -> None:
        assert self.machine.deadline is not None
        self.now = max(self.now, self.machine.deadline + LATE)
        self.fire(self.now)

    @rule(event=st.sampled_from(Event))
    def provoke(self, event: Event) -> None:
        if (self.machine.state, event) in IMPOSSIBLE:
            before = self.contents()
            assert self.machine.on(event, self.now) == [Action.COMPLAIN]
            assert self.contents() == before

    def contents(self) -> list[object]:
        return [getattr(self.machine, name) for name in Instance.__slots__]

    # What always holds.

    @invariant()
    def the_machine_knows_whether_something_lives(self) -> None:
        assert self.machine.state.alive == (self.process is not None)

    @invariant()
    def who_serves_is_in_rotation_and_nobody_else(self) -> None:
        assert (self.machine.state is State.READY) == bool(self.process and self.process.in_rotation)

    @invariant()
    def there_is_a_deadline_where_something_is_waited_for(self) -> None:
        assert (self.machine.deadline is None) == (self.machine.state in WITHOUT_DEADLINE)
        assert self.machine.deadline is None or self.machine.deadline > self.now

    @invariant()
    def who_ignores_its_stop_signal_is_killed_in_time(self) -> None:
        process = self.process
        if process and process.signalled is not None and not process.killed:
            assert self.now < process.signalled + self.policy.kill_timeout

    @invariant()
    def what_is_wanted_lives_or_will_soon(self) -> None:
        state, deadline = self.machine.state, self.machine.deadline
        if self.desired and self.process is None and state is not State.FAILED:
            assert state is State.BACKOFF
            assert deadline is not None
            assert deadline <= self.ended + max(self.machine.backoff.delay, SHORTEST)
            assert deadline <= self.ended + max(self.policy.restart_timeout, LONGEST)
            assert deadline >= self.starts_at_least_at()

    def starts_at_least_at(self) -> float:
        last = self.starts[-1] if self.starts else -math.inf
        return last + max(self.policy.restart_timeout, SHORTEST)

    @invariant()
    def what_is_not_wanted_is_going_or_gone(self) -> None:
        if not self.desired:
            assert self.machine.state in {State.DRAINING, State.STOPPING, State.KILLING, State.STOPPED}

    @invariant()
    def starts_without_success_are_bounded(self) -> None:
        assert self.proved or self.policy.max_starts is None or self.tries <= self.policy.max_starts

    @invariant()
    def restarts_are_starts_after_the_first(self) -> None:
        assert self.machine.restarts == max(0, len(self.starts) + self.adopted - 1)

    @invariant()
    def outsiders_see_the_states_of_the_contract(self) -> None:
        assert self.machine.state.public in CONTRACT

    def teardown(self) -> None:
        """However it got here, a stop ends it, even when nothing of it ever obeys, and it stays ended."""
        self.command(Event.STOP)
        self.wait(self.policy.drain_timeout + self.policy.kill_timeout)
        if self.process is not None:
            assert self.process.killed
            self.exit(event=Event.EXIT)
        self.wait(DAY)
        self.be_heard_after_the_end()
        assert (self.machine.state, self.machine.deadline) == (State.STOPPED, None)


ON_THE_WAY_OUT: tuple[Callable[[World], None], ...] = (
    World.hear_at_last,
    World.say_ready,
    World.finish_the_last_connection,
    partial(World.exit, event=Event.EXIT),
    partial(World.exit, event=Event.FINISH),
)
COMMANDS = (Event.START, Event.STOP, Event.DRAIN)


def systematic_histories() -> None:
    """Meet the short moments of a life with everything that can happen in them; chance may miss one."""
    for steps, first, second, happen in product(range(3), COMMANDS, COMMANDS, ON_THE_WAY_OUT):
        world = World()
        world.arrive(policy=Policy(drain_timeout=20.0, alive_after=None))
        world.come_up(heard=False)
        world.drain()
        if steps:
            world.command(Event.STOP)
        if steps == 2:
            world.wait_for_the_deadline()
        world.command(first)
        world.command(second)
        happen(world)
        world.teardown()
    for command in COMMANDS:
        world = World()
        world.arrive(policy=Policy(max_starts=1))
        world.fail_to_be_set_up()
        world.be_heard_after_the_end()
        world.command(command)
        world.teardown()


@pytest.mark.timeout(300)
def test_thousands_of_histories() -> None:
    World.cells.clear()
    systematic_histories()
    batch = settings(max_examples=25, stateful_step_count=60, deadline=None, database=None)
    enough, seeds = World.cells.total() + 10_000, count()
    while World.cells.total() < enough:
        run_state_machine_as_test(seed(next(seeds))(World), settings=batch)
    possible = {(state, event) for state in State for event in Event} - IMPOSSIBLE
    assert set(World.cells) == possible, "a cell is filled that no history needs"
