"""A process group of real instances in virtual time, through thousands of random roll-outs."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from enum import Enum, auto
from itertools import count
from typing import ClassVar, NamedTuple

import pytest
from configuration import Configuration
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from rollout_bounds import COUNTED, GOING, check

from lithos_runner.plan.course import Course, Seen, Versions
from lithos_runner.plan.instance import Action, Event, Instance, Policy, State
from lithos_runner.plan.rollout import Goal, Kind, Slot, Step, Upgrade, settled, steps

SET_UP, KILLED, STOPPED = 0.01, 0.02, 0.3  # seconds that the set-up takes, and the end after a signal
SUPPORTED = range(5)  # instances
LONGEST = 1500.0  # seconds; a dozen replacements with every timeout in full, and the longest back-off
HISTORIES = int(os.environ.get("HISTORIES", "1000"))


class Behaviour(Enum):
    """What a version does with its life."""

    GOOD = auto()
    NEVER_READY = auto()
    NOT_SPAWNED = auto()  # there is not even a process: no cgroup, no memory
    UNUSABLE = auto()  # the set-up fails: no such program
    FAILS_AT_ONCE = auto()
    FAILS_LATER = auto()
    OUT_OF_MEMORY = auto()  # killed by the kernel, soon after it has begun to serve


HOPELESS = set(Behaviour) - {Behaviour.GOOD, Behaviour.FAILS_LATER}


class Program(NamedTuple):
    """A version, times in seconds."""

    behaviour: Behaviour = Behaviour.GOOD
    start: float = 0.1  # until it is ready
    lasts: float = 70.0  # from its service to its failure, when it fails later
    drain: float = 1.0  # until its last connection ends
    obeys: bool = True  # it ends when it is told to


PROGRAMS = st.builds(
    Program,
    st.sampled_from([Behaviour.GOOD, *Behaviour]),
    start=st.sampled_from([0.1, 3.0, 0.02, 20.0]),
    lasts=st.sampled_from([70.0, 12.0, 0.5]),
    drain=st.sampled_from([1.0, 0.0, 15.0, math.inf]),
    obeys=st.sampled_from([True, True, False]),
)
UPGRADES = st.sampled_from([(1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (2, 2), (1, 5)])  # max-surge, max-unavailable


def beginning(program: Program) -> Iterator[tuple[float, Event]]:
    """What comes of a spawn."""
    if program.behaviour is Behaviour.UNUSABLE:
        yield SET_UP, Event.UNUSABLE
        return
    yield SET_UP, Event.EXECUTED
    if program.behaviour is Behaviour.FAILS_AT_ONCE:
        yield program.start, Event.EXIT
    elif program.behaviour is not Behaviour.NEVER_READY:
        yield program.start, Event.READY


def service(program: Program) -> Iterator[float]:
    """When it ends by itself once it serves."""
    if program.behaviour is Behaviour.FAILS_LATER:
        yield program.lasts
    elif program.behaviour is Behaviour.OUT_OF_MEMORY:
        yield 0.2


class Life:
    """One index of the group: an instance and what lives there."""

    def __init__(self, index: int, spec: str, generation: int, policy: Policy) -> None:
        self.index, self.generation = index, generation
        self.spec = self.version = spec  # what it runs, and what it counts as
        self.program = Program()
        self.failures = 0
        self.machine = Instance(policy)
        self.due: list[tuple[float, Event]] = []  # what will happen to its process

    def next(self) -> float:
        deadline = math.inf if self.machine.deadline is None else self.machine.deadline
        return min([deadline, *(at for at, _ in self.due)])


class World(RuleBasedStateMachine):
    """Carries out the steps of roll-outs as supervisor/service.py does, lets things happen, and looks on."""

    seen: ClassVar[Counter[str]] = Counter()

    @initialize(
        instances=st.sampled_from(SUPPORTED[1:]),
        upgrade=UPGRADES,
        soak=st.sampled_from([0.0, 10.0]),
        warm_up=st.sampled_from([0.0, 5.0]),
        program=PROGRAMS,
        ready=st.sampled_from([True, True, True, False]),
    )
    def arrive(
        self, instances: int, upgrade: tuple[int, int], soak: float, warm_up: float, program: Program, ready: bool
    ) -> None:
        self.now = 0.0
        self.policy = Policy(drain_timeout=10.0, readiness_timeout=30.0, alive_after=None, warm_up=warm_up)
        self.programs = {"v0": program._replace(behaviour=Behaviour.GOOD) if ready else program}
        self.lives: dict[int, Life] = {}
        self.served: set[str] = set()  # versions that have been everywhere and ready
        self.dies_after: int | None = None  # steps that the supervisor still carries out
        configuration = Configuration("v0", instances, Upgrade(*upgrade, warm_up, soak))
        self.course = Course(configuration, configuration)
        self.reconcile()
        if ready:
            self.pass_time(60.0)
            assert self.settled

    # The supervisor.

    @property
    def settled(self) -> bool:
        return settled(self.course.target, self.slots())

    def slots(self) -> list[Slot]:
        return [one.slot for one in self.look()]

    def look(self) -> list[Seen]:
        return [
            Seen(
                Slot(life.index, life.version, life.machine.state, self.proven(life)),
                life.generation,
                life.failures,
                f"{life.index} failed" if life.failures else "",
            )
            for life in self.lives.values()
        ]

    def take(self, course: Course[Configuration], versions: Versions) -> None:
        """Follow another course, as the supervisor does."""
        assert course.generation >= self.course.generation
        for index, version in versions.items():
            self.lives[index].version = version
        self.course = course
        self.reconcile()

    def proven(self, life: Life) -> bool:
        served, soak = life.machine.served, self.course.goal.upgrade.soak
        return life.machine.state is State.READY and served is not None and self.now >= served + soak

    def reconcile(self) -> None:
        """Do what may be done until that is nothing."""
        for _ in range(10 * (len(SUPPORTED) + 2)):
            self.roll_back()
            target, before = self.course.target, self.slots()
            answer = steps(target, before)
            if not answer:
                break
            check(target, before, answer)
            assert steps(target, before[::-1]) == answer, "it depends on the order"
            self.carry_out(target, answer)
        else:
            pytest.fail("the group does not come to rest")
        self.note_who_serves()
        if settled(target, before):
            self.course = self.course.settle()
        self.check_course()

    def roll_back(self) -> None:
        former = self.course
        self.course, versions = former.roll_back(self.look())
        for index, version in versions.items():
            self.lives[index].version = version
        if self.course is not former:
            self.seen["restart undone" if self.course.goal is former.goal else "rolled back"] += 1
            assert former.stable
            assert self.course.goal.spec == spec_of(former.stable.spec)

    def note_who_serves(self) -> None:
        places = range(self.course.target.instances)
        ready = [(life.spec, life.index) for life in self.lives.values() if life.machine.state is State.READY]
        self.served |= {spec for spec, _ in ready if places and {(spec, place) for place in places} <= {*ready}}

    def check_course(self) -> None:
        course, seen = self.course, self.look()
        if course.stable is not None:
            assert spec_of(course.stable.spec) in self.served, "what is come back to has never served"
        if (phase := course.phase(seen)) in ("failing", "rolling back", "rolled back"):
            assert course.reason or course.trouble(seen), phase

    def carry_out(self, target: Goal, answer: list[Step]) -> None:
        course = self.course
        for step in answer:
            if self.dies_after == 0:
                return self.adopt()
            if self.dies_after is not None:
                self.dies_after -= 1
            if step.kind is Kind.START:
                self.lives[step.index] = Life(step.index, course.goal.spec, course.generation, self.policy)
                self.tell(self.lives[step.index], Event.START)
            else:
                self.tell(self.lives[step.index], Event.DRAIN)
        if {step.index for step in answer} <= self.lives.keys():
            assert steps(target, self.slots()) == [], "asked again, it wants more"
        return None

    def tell(self, life: Life, event: Event) -> None:
        before = life.machine.state
        for action in life.machine.on(event, self.now):
            self.act(life, action)
        if life.machine.state is State.STOPPED:
            del self.lives[life.index]
        overdue = event is Event.TIMEOUT and life.machine.state is State.KILLING
        if before not in GOING and (overdue or event in (Event.EXIT, Event.UNUSABLE)):
            life.failures += 1

    def adopt(self) -> None:
        """Another supervisor finds the goal on disk and what lives; it knows neither failures nor for how long."""
        self.seen["adopted"] += 1
        self.dies_after = None
        for life in list(self.lives.values()):
            former, life.machine, life.failures = life.machine, Instance(self.policy), 0
            if not former.state.alive:
                del self.lives[life.index]
                continue
            life.due = [(at, Event.EXIT if event is Event.UNUSABLE else event) for at, event in life.due]
            life.machine.on(Event.RESUME if former.state is State.READY else Event.ADOPT, self.now)
            if former.state is State.WARMING:
                life.due.append((self.now + 0.1, Event.READY))
            if former.told or former.state in GOING:
                self.tell(life, Event.STOP)

    # What lives.

    def act(self, life: Life, action: Action) -> None:
        assert action is not Action.COMPLAIN
        if action is Action.SPAWN:
            life.program = self.programs[life.spec]
        program = life.program
        if action is Action.SPAWN:
            if program.behaviour is Behaviour.NOT_SPAWNED:
                return self.tell(life, Event.UNUSABLE)
            life.due = [(self.now + delay, event) for delay, event in beginning(program)]
        elif action is Action.ENTER_ROTATION:
            life.due += [(self.now + delay, Event.EXIT) for delay in service(program)]
        elif action is Action.LEAVE_ROTATION and life.machine.state is State.DRAINING:
            life.due.append((self.now + program.drain, Event.DRAINED))
        elif action is Action.SEND_STOP_SIGNAL and program.obeys:
            life.due.append((self.now + STOPPED, Event.EXIT))
        elif action is Action.KILL:
            life.due.append((self.now + KILLED, Event.EXIT))
        return None

    def happen(self, until: float) -> bool:
        """Let the next thing happen that does so by then; tell whether there was one."""
        at, life = min(
            ((life.next(), life) for life in self.lives.values()), key=lambda pair: pair[0], default=(0, None)
        )
        soaked = min(self.soaking(), default=math.inf)
        if life is None or min(at, soaked) > until or math.isinf(min(at, soaked)):
            return False
        self.now = max(self.now, min(at, soaked))
        if at <= self.now:
            self.let_happen(life)
        self.reconcile()
        return True

    def soaking(self) -> Iterator[float]:
        for life in self.lives.values():
            if life.machine.state is State.READY and life.machine.served is not None and not self.proven(life):
                yield life.machine.served + self.course.goal.upgrade.soak

    def let_happen(self, life: Life) -> None:
        deadline = life.machine.deadline
        if deadline is not None and deadline <= self.now:
            return self.tell(life, Event.TIMEOUT)
        first = min(life.due, key=lambda pair: pair[0])
        life.due.remove(first)
        return self.end(life, first[1]) if first[1] in (Event.EXIT, Event.UNUSABLE) else self.tell(life, first[1])

    def end(self, life: Life, event: Event) -> None:
        life.due = []
        self.tell(life, event)

    # What people and fate do.

    def desire(self, wanted: Configuration, *, retry: bool = False) -> None:
        """Reload, with ``retry`` as `lithos switch` does it."""
        former = self.course.retry() if retry else self.course
        course, versions = former.desire(wanted, self.look())
        if wanted.spec == former.wanted.spec:
            assert course.goal.spec == former.goal.spec, "what has failed is tried again, though nobody asked for it"
        else:
            assert course.goal is wanted
            self.seen["superseded" if course.target.fallback else "upgraded"] += 1
        self.take(course, versions)

    @rule(program=PROGRAMS)
    def upgrade(self, program: Program) -> None:
        version = f"v{len(self.programs)}"
        self.programs[version] = program
        self.desire(self.course.wanted.under(version))

    @rule(place=st.sampled_from(range(3)), retry=st.booleans())
    def go_back(self, place: int, retry: bool) -> None:
        versions = [*self.programs]
        self.desire(self.course.wanted.under(versions[place % len(versions)]), retry=retry)

    @rule(instances=st.sampled_from(SUPPORTED))
    def scale(self, instances: int) -> None:
        self.desire(self.course.wanted.with_instances(instances))

    @rule(places=st.sets(st.sampled_from(SUPPORTED)))
    def restart(self, places: set[int]) -> None:
        if places := places & self.lives.keys():
            self.seen["restarted"] += 1
            self.take(*self.course.restart(places, self.look()))

    @rule(program=PROGRAMS)
    def spoil(self, program: Program) -> None:
        """What the instances need is not what it was: those that are started from now on go another way."""
        self.programs[self.course.goal.spec] = program

    @rule(spec=st.sampled_from(["v0", "large"]))
    def reject(self, spec: str) -> None:
        """There is no memory for both versions."""
        self.programs.setdefault(spec, Program())
        if spec != self.course.wanted.spec:
            self.take(self.course.reject(self.course.wanted.under(spec), "no memory"), {})

    @rule()
    def remove_and_put_back(self) -> None:
        wanted = self.course.wanted
        self.take(self.course.retire(), {})
        self.let_things_happen(1)
        self.desire(wanted)
        assert self.course.target.instances == wanted.instances

    @rule(place=st.sampled_from(SUPPORTED))
    def kill_9(self, place: int) -> None:
        living = [life for life in self.lives.values() if life.machine.state.alive]
        if living:
            life = living[place % len(living)]
            if life.machine.state is State.STARTING:
                self.tell(life, Event.EXECUTED)
            self.end(life, Event.EXIT)
            self.reconcile()

    @rule(after=st.sampled_from([None, 0, 1, 2]))
    def kill_the_supervisor(self, after: int | None) -> None:
        """Now, or in the middle of an answer to come."""
        if after is None:
            self.adopt()
            self.reconcile()
        else:
            self.dies_after = after

    @rule(seconds=st.sampled_from([0.05, 0.5, 4.0, 12.0, 45.0]))
    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.happen(until):
            pass
        self.now = until

    @rule(times=st.sampled_from([1, 2, 5]))
    def let_things_happen(self, times: int) -> None:
        for _ in range(times):
            self.happen(math.inf)

    # How every history ends.

    def teardown(self) -> None:
        """Left alone, a bad version is rolled back; as soon as the goal's version is good, the group settles."""
        fallback = self.course.target.fallback
        if fallback and self.is_hopeless() and self.programs[spec_of(fallback)].behaviour is Behaviour.GOOD:
            self.settle(spec_of(fallback))
            self.seen["ended with the old version"] += 1
        self.mend()
        self.settle(self.course.goal.spec)
        self.seen["histories"] += 1

    def is_hopeless(self) -> bool:
        """Whether the goal's version is started and can never prove itself; without a soak every READY does."""
        goal = self.course.target
        programs = [life.program for life in self.lives.values() if life.spec == goal.version]
        behaviours = {program.behaviour for program in (*programs, self.programs[goal.version])}
        return goal.instances > 0 and goal.upgrade.soak > 0 and behaviours <= HOPELESS

    def mend(self) -> None:
        """Make everything good."""
        self.programs = {spec: program._replace(behaviour=Behaviour.GOOD) for spec, program in self.programs.items()}
        for life in self.lives.values():
            life.program = self.programs[life.spec]
            if life.machine.state in COUNTED - {State.BACKOFF, State.READY}:
                life.due = [(self.now + SET_UP, Event.EXECUTED), (self.now + 2 * SET_UP, Event.READY)]
            elif life.machine.state is State.READY:
                life.due = []

    def settle(self, version: str) -> None:
        until = self.now + LONGEST
        while not (self.course.goal.spec == version and self.settled):
            assert self.happen(until), f"{self.course} is never reached from {self.slots()}"
        assert steps(self.course.target, self.slots()) == []


def spec_of(version: str) -> str:
    """Return what an instance runs that counts as this version."""
    return version.partition("~")[0]


@pytest.mark.timeout(600)
def test_thousands_of_roll_outs() -> None:
    World.seen.clear()
    batch = settings(max_examples=250, stateful_step_count=12, deadline=None, database=None, report_multiple_bugs=False)
    seeds = count()
    while World.seen["histories"] < HISTORIES:
        run_state_machine_as_test(seed(next(seeds))(World), settings=batch)
    changes = ("upgraded", "superseded", "adopted", "restarted")
    for rare in (*changes, "rolled back", "restart undone", "ended with the old version"):
        assert World.seen[rare] > HISTORIES // 200, rare
