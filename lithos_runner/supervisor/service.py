"""A process group in the real world: carries out what ``plan`` decides, and remembers what a successor has to know."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, Self

from ..plan import rollout
from ..plan.course import Course, Seen, Versions
from ..plan.instance import Event, State
from ..plan.rollout import Kind, Slot
from .adoption import Survivor, take_descriptor
from .desired import Group, Port, group_of, plain_group
from .listeners import ListenFailed
from .messages import ERROR, WARN, say
from .supervised import Means, Supervised

STARTS = 32  # of a group in one turn of the loop, 3 ms each: nobody else is served meanwhile


class Service:
    """All instances of a process group."""

    def __init__(self, group: Group, means: Means, changed: Callable[[Service], None]) -> None:
        """Nothing runs before ``advance``; ``changed`` is called when instances have ended or been given up."""
        self.instances: dict[int, Supervised] = {}
        self._course = Course(group, group)
        self._means = means
        self._changed = changed
        self._remark = ""  # the last one that was said: one for all instances is enough

    @classmethod
    def restore(cls, record: dict[str, Any], means: Means, changed: Callable[[Service], None]) -> Self:
        """Make the service that an earlier supervisor had, without its instances; see ``_remember``."""
        service = cls(group_of(record["wanted"]), means, changed)
        service._course = Course(
            wanted=service.wanted,
            goal=group_of(record["goal"]),
            stable=group_of(record["stable"]) if record["stable"] else None,
            generation=record["generation"],
            began=record["began"],
            rejected=record["rejected"],
            reason=record["reason"],
        )
        return service

    def begin(self) -> None:
        """Start what has to run."""
        self._remember()
        self.advance()

    def take_sockets(self, survivor: Survivor) -> None:
        """Take back the sockets of an instance that lives, for all who shall have them."""
        for port in self._group_of(survivor).ports:
            descriptor = take_descriptor(survivor, port.fd)
            if descriptor is None or not self._take_back(port, survivor.name, descriptor):
                say(f"{survivor.name}: its socket at {port.address} cannot be taken over; it keeps it for itself", WARN)

    def _take_back(self, port: Port, slot: str, descriptor: int) -> bool:
        try:
            return self._means.listeners.adopt(port, slot, descriptor)
        except ListenFailed as error:
            say(f"{slot}: {error}", WARN)
            return False

    def adopt(self, survivor: Survivor) -> None:
        """Take over an instance that lives; before, the sockets of all have to be taken."""
        group, index, generation = self._group_of(survivor), survivor.record["index"], survivor.record["generation"]
        self.instances[index] = Supervised(group, index, generation, self._means, self._instance_changed, survivor)

    def _group_of(self, survivor: Survivor) -> Group:
        course = self._course
        known = {group.spec: group for group in (course.wanted, course.goal, course.stable) if group is not None}
        return known.get(survivor.record["version"], course.wanted)

    def resume(self) -> None:
        """Go on where an earlier supervisor stood."""
        self._soon()

    def _remember(self) -> None:
        """Write down what a successor has to know."""
        course = self._course
        record = {
            "wanted": plain_group(course.wanted),
            "goal": plain_group(course.goal),
            "stable": plain_group(course.stable) if course.stable else None,
            "generation": course.generation,
            "began": course.began,
            "rejected": course.rejected,
            "reason": course.reason,
        }
        try:
            self._means.state.write_service(self.name, record)
        except OSError as error:
            say(f"{self.name}: cannot write down how far it is: {error}; a successor would not know", WARN)

    @property
    def name(self) -> str:
        """`sandbox/process`."""
        return self.wanted.name

    @property
    def wanted(self) -> Group:
        """What the configuration asks for."""
        return self._course.wanted

    @property
    def goal(self) -> Group:
        """What is worked towards."""
        goal = self._course.goal
        return goal.with_instances(0) if self._course.retired else goal

    def replaces_for(self, group: Group) -> bool:
        """Whether instances that serve are replaced if this is what the configuration asks for."""
        stable = self._course.stable
        return stable is not None and stable.spec != group.spec

    # What is asked for.

    def desire(self, group: Group) -> None:
        """Take in what the configuration says now."""
        self._take(*self._course.desire(group, self._seen()))
        for instance in self.instances.values():
            if instance.version == group.spec:
                instance.adjust(group)

    def reject(self, group: Group, reason: str) -> None:
        """Do not even try what the configuration says now, as it cannot end well; go on as before."""
        self._take(self._course.reject(group, reason))
        say(f"{self.name}: not rolled out: {reason}", ERROR)

    def retry(self) -> None:
        """Take a version that was rolled back or rejected for a new one when the configuration is read again."""
        self._take(self._course.retry())

    def restart(self, indices: Collection[int]) -> None:
        """Replace instances by new ones of the same configuration, as in a roll-out."""
        self._take(*self._course.restart(indices, self._seen()))

    def retire(self) -> None:
        """End all instances: the configuration has no such process any more."""
        self._take(self._course.retire())

    def stop(self, *, again: bool) -> None:
        """End all instances; ``again``: kill those that have not ended yet."""
        self._course = self._course.retire()
        for instance in list(self.instances.values()):
            if again:
                instance.hurry()
            else:
                instance.leave()

    def _take(self, course: Course[Group], versions: Versions | None = None) -> None:
        """Follow another course from now on."""
        for index, version in (versions or {}).items():
            self.instances[index].count_as(version)
        if course != self._course:
            self._course = course
            self._remember()
            self._soon()

    # What happens.

    def _soon(self) -> None:
        """Look at everything at the end of this turn of the loop: an instance may be in the middle of an event."""
        self._means.loop.deadline(self, time.monotonic(), self.advance)

    def _instance_changed(self, instance: Supervised) -> None:
        if instance.remark and instance.remark != self._remark:
            self._remark = instance.remark
            say(f"{self.name}: {instance.remark}")
        self._soon()

    def advance(self) -> None:
        """Do what may be done now."""
        now = time.monotonic()
        ended = self._let_go()
        seen = self._seen()
        if self._roll_back_if_it_fails(seen):
            seen = self._seen()
        slots = [one.slot for one in seen]
        target = self._course.target
        steps = rollout.steps(target, slots)
        for index in [step.index for step in steps if step.kind is Kind.STOP]:
            self.instances[index].leave()
        for index in [step.index for step in steps if step.kind is Kind.START][:STARTS]:
            self._start(index)
        if rollout.settled(target, slots):
            self._settle()
        if ended or any(slot.state is State.FAILED for slot in slots):
            self._changed(self)
        self._wait_for_soak(now)

    def _seen(self) -> list[Seen]:
        return [
            Seen(self._slot(index, one), one.generation, one.failures, one.reason)
            for index, one in self.instances.items()
        ]

    def _slot(self, index: int, instance: Supervised) -> Slot:
        return Slot(index, instance.version, instance.machine.state, instance.proven(self.goal.upgrade.soak))

    def _start(self, index: int) -> None:
        instance = Supervised(self.goal, index, self._course.generation, self._means, self._instance_changed)
        self.instances[index] = instance
        instance.on(Event.START)

    def _let_go(self) -> bool:
        """Forget the instances that have ended and are not to be started again."""
        ended = [index for index, one in self.instances.items() if one.machine.state is State.STOPPED]
        for index in ended:
            self.instances.pop(index).close()
        return bool(ended)

    def _roll_back_if_it_fails(self, seen: list[Seen]) -> bool:
        """Tell whether it has, and instances may count as another version."""
        before = self._course
        course, versions = before.roll_back(seen)
        if course is before:
            return False
        how = "not restarted" if course.goal is before.goal else "rolled back to the version before"
        say(f"{self.name}: {how}: {course.reason}", ERROR)
        self._take(course, versions)
        return True

    def _settle(self) -> None:
        before, course = self._course.stable, self._course.settle()
        if before is not None and before.spec != course.goal.spec and course is not self._course:
            say(f"{self.name}: the new version serves on {course.goal.instances} instance(s)")
        self._take(course)

    def _wait_for_soak(self, since: float) -> None:
        """Come back when the next instance has proven itself, be it that it has since it was looked at."""
        soak = self.goal.upgrade.soak
        served = [one.machine.served for one in self.instances.values() if one.machine.state is State.READY]
        ends = [at + soak for at in served if at is not None and at + soak > since]
        self._means.loop.deadline((self, "soak"), min(ends, default=None), self._soon)

    def groups(self) -> list[Group]:
        """Return the configurations that anything wanted or alive comes from."""
        wanted = [] if self._course.retired else [self._course.wanted, self._course.goal]
        return [*wanted, *(one.group for one in self.instances.values())]

    @property
    def ended(self) -> bool:
        """Whether nothing of it lives and nothing is to be started."""
        return self._course.retired and not any(one.machine.state.alive for one in self.instances.values())

    def close(self) -> None:
        """Let go of everything; the instances must have ended."""
        self._means.loop.deadline(self, None, self.advance)
        self._means.loop.deadline((self, "soak"), None, self._soon)
        for instance in self.instances.values():
            instance.close()
        self.instances.clear()
        self._means.state.forget_service(self.name)

    # What outsiders see.

    def snapshot(self) -> dict[str, Any]:
        """Return how far it is, for those who wait for it."""
        seen = self._seen()
        return {
            "name": self.name,
            "phase": self._course.phase(seen),
            "reason": self._course.reason or self._course.trouble(seen),
            "generation": self._course.generation,
            "instances": self.goal.instances,
            "ready": sum(one.slot.state is State.READY for one in seen),
        }
