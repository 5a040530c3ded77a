"""How a process group gets from what runs to what should run.

``steps`` looks at the instances each time something has happened and answers with what may be done *now*; it
remembers nothing, so a supervisor that takes over in the middle of a roll-out goes on where the last one stopped.

A new version begins with one instance, the canary: in a place where nothing lives, else beside the old ones
(``max_surge``), else in the place of an old one (``max_unavailable``). When it has proven itself, old instances are
replaced in their places, index by index, and at last the surplus ones end. A roll-back is the same with the old
version as the goal, and without a canary.

Three rules bound every answer; what fails by itself is the only exception:

- What serves is stopped only while ``instances - max_unavailable`` others serve. An instance of a version that has
  still to show what it is worth is not relied on before it has proven itself, so it never costs an old one.
- No more than ``instances + max_surge`` instances are starting or serving.
- Nothing is started at an index from ``instances + max_surge`` on, nor where something still lives. So what drains for
  a long time takes no more memory than the roll-out was given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum
from typing import NamedTuple

from .instance import State


class Upgrade(NamedTuple):
    """The bounds of a roll-out, `upgrade` of a process file; times in seconds.

    With both ``max_surge`` and ``max_unavailable`` 0 nothing could be replaced; the configuration refuses that.
    """

    max_surge: int = 1
    max_unavailable: int = 0
    warm_up: float = 0.0
    soak: float = 0.0


class Slot(NamedTuple):
    """One instance as it is: its place in the group, the version it runs, and how far it has come."""

    index: int  # type: ignore[assignment]  # hides tuple.index(), which has no use here
    version: str
    state: State
    proven: bool = False  # it has been READY for as long as ``soak`` asks; counts only while it is READY


class Goal(NamedTuple):
    """What should run. ``fallback`` is the version that served before: what starts of it is left alone for now.

    ``trusted``: the version has served before, so it needs neither canary nor soak.
    """

    instances: int
    version: str
    fallback: str | None = None
    trusted: bool = False
    upgrade: Upgrade = Upgrade()


class Kind(Enum):
    """What is to be done with an instance."""

    START = "start"
    STOP = "stop"


class Step(NamedTuple):
    """One thing to do now."""

    kind: Kind
    index: int  # type: ignore[assignment]


_GOING = (State.DRAINING, State.STOPPING, State.KILLING, State.STOPPED)
_COUNTED = (State.STARTING, State.WARMING, State.BACKOFF, State.READY)  # starting, about to start again, or serving


def steps(goal: Goal, slots: Collection[Slot]) -> list[Step]:
    """Return what may be done now; nothing when something has to happen first, or when all is as it should be.

    Indices of ``slots`` are unique. Asked again with its answer carried out, it has nothing to add.
    """
    return _Rollout(goal, slots).steps()


def settled(goal: Goal, slots: Collection[Slot]) -> bool:
    """Whether all is as it should be: the wanted number of instances, of the goal's version, proven, and no other."""
    good = {slot.index for slot in slots if slot.version == goal.version and _serves(goal, slot)}
    return len(slots) == len(good) and good == set(range(goal.instances))


def _serves(goal: Goal, slot: Slot) -> bool:
    """Whether clients may be left to it."""
    return slot.state is State.READY and (slot.proven or goal.trusted or slot.version != goal.version)


class _Rollout:
    """The answer as it grows, and the counts that bound it."""

    def __init__(self, goal: Goal, slots: Collection[Slot]) -> None:
        self.goal = goal
        self.answer: list[Step] = []
        self.taken = {slot.index for slot in slots}
        self.going = {slot.index for slot in slots if slot.state in _GOING}
        here = sorted((slot for slot in slots if slot.state not in _GOING), key=lambda slot: slot.index)
        self.old = sorted((slot for slot in here if slot.version != goal.version), key=self._worth)
        self.new = [slot for slot in here if slot.version == goal.version]
        self.proven = goal.trusted or any(_serves(goal, slot) for slot in self.new)
        # How many more may be starting or serving, and how many of those that serve may be stopped.
        self.room = goal.instances + goal.upgrade.max_surge - sum(slot.state in _COUNTED for slot in here)
        self.spare = sum(_serves(goal, slot) for slot in here) - (goal.instances - goal.upgrade.max_unavailable)

    def _worth(self, slot: Slot) -> tuple[bool, bool, bool, int]:
        """Sort by what is lost when it ends: least where nothing serves, most with the version that served before."""
        ready, fallback = slot.state is State.READY, slot.version == self.goal.fallback
        return ready, slot.index < self.goal.instances, fallback, slot.index

    def steps(self) -> list[Step]:
        if not self.proven:
            self._stop(slot for slot in self.old if not self._is_kept(slot))
        if self.proven or not self._left(self.old):
            self._replace()
        elif not self.new:
            self._try()
        return self.answer

    def _is_kept(self, slot: Slot) -> bool:
        """Whether an old instance stays until the new version has proven itself."""
        comes_back = slot.version == self.goal.fallback and slot.state in _COUNTED
        return slot.index < self.goal.instances and (slot.state is State.READY or comes_back)

    def _try(self) -> None:
        """Start the canary where it costs least, or make place for it."""
        places = range(self.goal.instances + self.goal.upgrade.max_surge)
        if not self._start(places, min(1, self.room)) and self.going.isdisjoint(places):
            self._stop(self._left(self.old)[:1])
            self._start(places, min(1, self.room))  # when there was a place but no room

    def _replace(self) -> None:
        """Stop what is not wanted, as far as it can be spared, and start what is missing."""
        self._stop(self.old)
        left = self._left(self.old)
        if not left:
            self._stop(slot for slot in self.new if slot.index >= self.goal.instances)
        surge = min(self.goal.upgrade.max_surge, sum(slot.index < self.goal.instances for slot in left))
        self._start(range(self.goal.instances + surge), self.room)

    def _left(self, slots: Iterable[Slot]) -> list[Slot]:
        return [slot for slot in slots if slot.index not in self.going]

    def _stop(self, slots: Iterable[Slot]) -> None:
        """Stop at once what does not serve, and what serves while it can be spared."""
        for slot in self._left(slots):
            cost = _serves(self.goal, slot)
            # Who is ready but not proven has clients all the same; so it is not stopped while too few serve.
            if slot.state is State.READY and self.spare < cost:
                continue
            self.spare -= cost
            self.room += slot.state in _COUNTED
            self.going.add(slot.index)
            self.answer.append(Step(Kind.STOP, slot.index))

    def _start(self, places: Iterable[int], most: int) -> bool:
        """Start instances in free places, and tell whether there was one."""
        free = [index for index in places if index not in self.taken][: max(0, most)]
        self.answer += [Step(Kind.START, index) for index in free]
        return bool(free)
