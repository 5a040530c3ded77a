"""A process group in the real world: carries out what ``plan.rollout`` decides, and remembers what has served.

``wanted`` is what the configuration asks for. ``goal`` is what is worked towards: the same, or ``stable``, the last
version that has served on all instances, when the wanted one has failed its roll-out. A rejected version is not tried
again until its configuration changes or somebody asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, Self

from ..plan import rollout
from ..plan.instance import Event, State
from ..plan.rollout import Goal, Kind, Slot
from .adoption import Survivor, take_descriptor
from .desired import Group, Port, group_of, plain_group
from .listeners import ListenFailed
from .messages import ERROR, WARN, say
from .supervised import Means, Supervised

_RESTARTED = "~"  # in a version: what runs while new instances of the same configuration are to replace it
STARTS = 32  # of a group in one turn of the loop, 3 ms each: nobody else is served meanwhile


class Service:
    """All instances of a process group."""

    def __init__(self, group: Group, means: Means, changed: Callable[[Service], None]) -> None:
        """Nothing runs before ``advance``; ``changed`` is called when instances have ended or been given up."""
        self.wanted = self.goal = group
        self.stable: Group | None = None
        self.instances: dict[int, Supervised] = {}
        self.generation = 1
        self.rejected = 0  # the last generation that was rolled back, or not even tried
        self.reason = ""  # why it was
        self._means = means
        self._changed = changed
        self._retired = False
        self._remark = ""  # the last one that was said: one for all instances is enough

    @classmethod
    def restore(cls, record: dict[str, Any], means: Means, changed: Callable[[Service], None]) -> Self:
        """Make the service that an earlier supervisor had, without its instances; see ``_remember``."""
        service = cls(group_of(record["wanted"]), means, changed)
        service.goal = group_of(record["goal"])
        service.stable = group_of(record["stable"]) if record["stable"] else None
        service.generation, service.rejected = record["generation"], record["rejected"]
        service.reason = record["reason"]
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
        known = {group.spec: group for group in (self.wanted, self.goal, self.stable) if group is not None}
        return known.get(survivor.record["version"], self.wanted)

    def resume(self) -> None:
        """Go on where an earlier supervisor stood."""
        self._soon()

    def _remember(self) -> None:
        """Write down what a successor has to know."""
        record = {
            "wanted": plain_group(self.wanted),
            "goal": plain_group(self.goal),
            "stable": plain_group(self.stable) if self.stable else None,
            "generation": self.generation,
            "rejected": self.rejected,
            "reason": self.reason,
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
    def phase(self) -> str:
        """How far it has come: rolling, settled, rolling back, rolled back, failing (it may get there), or given up."""
        settled = rollout.settled(self._goal(), self._slots())
        if not settled and self._trouble():
            given_up = any(one.machine.state is State.FAILED for one in self._of_the_goal())
            return "given up" if given_up else "failing"
        if self.rejected == self.generation:
            return "rolled back" if settled else "rolling back"
        return "settled" if settled else "rolling"

    # What is asked for.

    def desire(self, group: Group) -> None:
        """Take in what the configuration says now."""
        before, self.wanted = self.wanted, group
        self._retired = False
        if group.instances != before.instances:
            self.rejected = 0  # the last roll-out was, this change is not
        if group.spec != before.spec:
            if self.stable is None and self._serves_everywhere():
                self.stable = self.goal  # it had no time to prove itself, but a version that fails must not replace it
            self._aim(group)
        elif self.goal.spec == group.spec:
            self.goal = group
        elif group.instances != before.instances:
            self.goal = self.goal._replace(instances=group.instances)
        for instance in self.instances.values():
            if instance.version == group.spec:
                instance.adjust(group)
        self._remember()
        self._soon()

    def _serves_everywhere(self) -> bool:
        """Whether the goal's version is ready in every place, proven or not."""
        places = [self.instances.get(index) for index in range(self.goal.instances)]
        return bool(places) and all(
            one and one.version == self.goal.spec and one.machine.state is State.READY for one in places
        )

    def reject(self, group: Group, reason: str) -> None:
        """Do not even try what the configuration says now, as it cannot end well; go on as before."""
        self.wanted, self.reason = group, reason
        self.generation += 1
        self.rejected = self.generation
        say(f"{self.name}: not rolled out: {reason}", ERROR)
        self._remember()

    def retry(self) -> None:
        """Take a version that was rolled back or rejected for a new one when the configuration is read again."""
        self.wanted = self.goal
        if self.rejected == self.generation:
            self.generation, self.reason = self.generation + 1, ""

    def restart(self, indices: Collection[int]) -> None:
        """Replace instances by new ones of the same configuration, as in a roll-out.

        While another configuration is being rolled out those of the one before are not touched: it has them replaced,
        or they are what it comes back to.
        """
        # What runs is another version from now on: should the new ones fail, it stays.
        past = self.goal._replace(spec=f"{self.goal.spec}{_RESTARTED}{self.generation}")
        rolling = self.stable is not None and not _of_one_configuration(self.stable, self.goal)
        if not rolling and (self.stable is not None or self._serves_everywhere()):
            self.stable = past
        for instance in (self.instances[index] for index in indices):
            if not rolling or instance.version == self.goal.spec:
                instance.count_as(past.spec)
        self._aim(self.goal, self.reason)
        self._soon()

    def retire(self) -> None:
        """End all instances: the configuration has no such process any more."""
        self._retired = True
        self.goal = self.goal._replace(instances=0)
        self._soon()

    def stop(self, *, again: bool) -> None:
        """End all instances; ``again``: kill those that have not ended yet."""
        self._retired = True
        self.goal = self.goal._replace(instances=0)
        for instance in list(self.instances.values()):
            if again:
                instance.hurry()
            else:
                instance.leave()

    def _aim(self, group: Group, reason: str = "") -> None:
        self.goal, self.reason = group, reason
        self.generation += 1
        self._remember()

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
        ended = self._let_go()
        self._roll_back_if_it_fails()
        slots = self._slots()
        goal = self._goal()
        steps = rollout.steps(goal, slots)
        for index in [step.index for step in steps if step.kind is Kind.STOP]:
            self.instances[index].leave()
        for index in [step.index for step in steps if step.kind is Kind.START][:STARTS]:
            self._start(index)
        if rollout.settled(goal, slots):
            self._settle()
        if ended or any(slot.state is State.FAILED for slot in slots):
            self._changed(self)
        self._wait_for_soak()

    def _goal(self) -> Goal:
        goal, stable = self.goal, self.stable
        return Goal(
            instances=goal.instances,
            version=goal.spec,
            fallback=stable.spec if stable else None,
            trusted=stable is not None and stable.spec == goal.spec,
            upgrade=goal.upgrade,
        )

    def _slots(self) -> list[Slot]:
        soak = self.goal.upgrade.soak
        return [Slot(index, one.version, one.machine.state, one.proven(soak)) for index, one in self.instances.items()]

    def _start(self, index: int) -> None:
        instance = Supervised(self.goal, index, self.generation, self._means, self._instance_changed)
        self.instances[index] = instance
        instance.on(Event.START)

    def _let_go(self) -> bool:
        """Forget the instances that have ended and are not to be started again."""
        ended = [index for index, one in self.instances.items() if one.machine.state is State.STOPPED]
        for index in ended:
            self.instances.pop(index).close()
        return bool(ended)

    def _roll_back_if_it_fails(self) -> None:
        goal, stable = self.goal, self.stable
        if stable is None or stable.spec == goal.spec or self._retired:
            return
        reason = self._failure()
        if not reason:
            return
        self.reason, self.rejected = reason, self.generation
        if _of_one_configuration(stable, goal):  # a restart: what runs is what it was
            say(f"{self.name}: not restarted: {reason}", ERROR)
            self.stable = goal
            for instance in self.instances.values():
                if instance.version == stable.spec:
                    instance.count_as(goal.spec)
        else:
            say(f"{self.name}: rolled back to the version before: {reason}", ERROR)
            self.goal = stable._replace(instances=self.wanted.instances)
        self._remember()

    def _failure(self) -> str:
        """Why an instance that this roll-out has started has failed; "" when none has."""
        # Not those that ran before it: `restart NAME.N` leaves instances of the same version as they are.
        failed = (one for one in self._of_the_goal() if one.generation == self.generation and one.failures)
        return next((one.reason for one in failed), "")

    def _trouble(self) -> str:
        """Why it does not get where it should; "" when it is on its way."""
        if self.stable is None:
            return self._failure()
        # What a roll-out has started is not stuck when it fails, but rolled back, see `advance`.
        tried = self.generation if self.stable.spec != self.goal.spec else None
        here = (one for one in self._of_the_goal() if one.generation != tried)
        return next((one.reason for one in here if one.machine.state in (State.BACKOFF, State.FAILED)), "")

    def _of_the_goal(self) -> list[Supervised]:
        return [one for one in self.instances.values() if one.version == self.goal.spec]

    def _settle(self) -> None:
        if self.stable is self.goal or not self.goal.instances:  # what runs nowhere has not shown that it serves
            return
        if self.stable is not None and self.stable.spec != self.goal.spec:
            say(f"{self.name}: the new version serves on {self.goal.instances} instance(s)")
        self.stable = self.goal
        self._remember()

    def _wait_for_soak(self) -> None:
        """Come back when the next instance has proven itself."""
        soak = self.goal.upgrade.soak
        served = [one.machine.served for one in self.instances.values() if one.machine.state is State.READY]
        ends = [at + soak for at in served if at is not None and at + soak > time.monotonic()]
        self._means.loop.deadline((self, "soak"), min(ends, default=None), self._soon)

    def groups(self) -> list[Group]:
        """Return the configurations that anything wanted or alive comes from."""
        wanted = [] if self._retired else [self.wanted, self.goal]
        return [*wanted, *(one.group for one in self.instances.values())]

    @property
    def ended(self) -> bool:
        """Whether nothing of it lives and nothing is to be started."""
        return self._retired and not any(one.machine.state.alive for one in self.instances.values())

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
        return {
            "name": self.name,
            "phase": self.phase,
            "reason": self.reason or self._trouble(),
            "generation": self.generation,
            "instances": self.goal.instances,
            "ready": sum(one.machine.state is State.READY for one in self.instances.values()),
        }


def _of_one_configuration(one: Group, other: Group) -> bool:
    return one.spec.partition(_RESTARTED)[0] == other.spec.partition(_RESTARTED)[0]
