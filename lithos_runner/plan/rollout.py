"""How a process group gets from what runs to what should run.

``steps`` looks at the instances each time something has happened and answers with what may be done *now*; it
remembers nothing, so a supervisor that takes over in the middle of a roll-out goes on where the last one stopped.

A new version begins with one instance, the canary: beside the old ones (``max-surge``), in a place where nothing
serves anyway, or else in the place of an old one (``max-unavailable``). When it has proven itself, old instances are
replaced in their places, index by index, and at last the surplus ones end. A roll-back is the same with the old
version as the goal, and without a canary.

At every moment no more than ``instances + max_surge`` instances are starting or serving, and none that serves is
stopped unless ``instances - max_unavailable`` others do; the exception is what fails by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import Enum
from typing import NamedTuple

from .instance import State


class Upgrade(NamedTuple):
    """The bounds of a roll-out, `upgrade` of a process file; times in seconds."""

    max_surge: int = 1
    max_unavailable: int = 0
    warm_up: float = 0.0
    soak: float = 0.0


class Slot(NamedTuple):
    """One instance as it is: its place in the group, the version it runs, and how far it has come."""

    index: int  # type: ignore[assignment]  # hides tuple.index(), which has no use here
    version: str
    state: State
    proven: bool = False  # it serves, and has done so for as long as ``soak`` asks


class Goal(NamedTuple):
    """What should run. ``fallback`` is the version that served before and is left alone while it starts.

    ``trusted``: the version has served before, so it needs no canary.
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


_COMING = (State.STARTING, State.WARMING, State.BACKOFF)
_GOING = (State.DRAINING, State.STOPPING, State.KILLING, State.STOPPED)


def steps(goal: Goal, slots: Collection[Slot]) -> list[Step]:
    """Return what may be done now; nothing when something has to happen first, or when all is as it should be."""
    return list(_Rollout(goal, slots).steps())


def settled(goal: Goal, slots: Collection[Slot]) -> bool:
    """Whether all is as it should be: every instance of the goal's version, proven, and no other."""
    wanted = {slot.index for slot in slots if slot.version == goal.version and slot.proven}
    return wanted == set(range(goal.instances)) and len(slots) == goal.instances


class _Rollout:
    """The counts that the steps are taken by; each step changes them."""

    def __init__(self, goal: Goal, slots: Collection[Slot]) -> None:
        self.goal = goal
        self.slots = sorted(slots)
        self.new = [slot for slot in self.slots if slot.version == goal.version]
        self.old = [slot for slot in self.slots if slot.version != goal.version and slot.state not in _GOING]
        serving = [slot for slot in self.slots if self._serves(slot)]
        coming = [slot for slot in self.slots if slot.state in _COMING or slot.state is State.READY]
        # How many may be started, and how many of those that serve may be stopped.
        self.room = goal.instances + goal.upgrade.max_surge - len(coming)
        self.spare = len(serving) - (goal.instances - goal.upgrade.max_unavailable)

    def _serves(self, slot: Slot) -> bool:
        """Whether clients are served by it and may be left to it: a new instance has to prove itself first."""
        return slot.state is State.READY and (slot.version != self.goal.version or slot.proven)

    def steps(self) -> Iterator[Step]:
        if not self.old:
            yield from self._fill(self.goal.instances)
            yield from self._remove_surplus()
        elif self._proven():
            yield from self._clear()
            yield from self._fill(self.goal.instances)
            yield from self._surge(self.goal.upgrade.max_surge)
            yield from self._replace(self.spare)
        elif not self.new:
            yield from self._begin()

    def _proven(self) -> bool:
        return self.goal.trusted or not self.goal.instances or any(slot.proven for slot in self.new)

    def _begin(self) -> Iterator[Step]:
        """Start the canary where it costs least."""
        cleared = list(self._clear())
        yield from cleared
        started = list(self._fill(1)) or list(self._surge(min(1, self.goal.upgrade.max_surge)))
        yield from started
        if not started and not cleared and not self._going():
            yield from self._replace(1)

    def _going(self) -> bool:
        """Whether an instance is on its way out, whose place the canary can take."""
        return any(slot.state in _GOING and slot.index < self.goal.instances for slot in self.slots)

    def _clear(self) -> Iterator[Step]:
        """Stop the old ones that serve nobody."""
        for slot in list(self.old):
            starting = slot.state in (State.STARTING, State.WARMING)
            if slot.state is not State.READY and not (starting and slot.version == self.goal.fallback):
                self.room += slot.state in _COMING
                self.old.remove(slot)
                yield Step(Kind.STOP, slot.index)

    def _fill(self, most: int) -> Iterator[Step]:
        """Start what is missing."""
        taken = {slot.index for slot in self.slots}
        missing = [index for index in range(self.goal.instances) if index not in taken]
        yield from self._start(missing[:most])

    def _surge(self, most: int) -> Iterator[Step]:
        """Start instances beyond the number that is wanted, while there are places in which old ones still serve."""
        surplus = sum(slot.index >= self.goal.instances for slot in self.new)
        places = sum(slot.index < self.goal.instances for slot in self.old)
        wanted = max(0, min(most, places) - surplus)
        taken = {slot.index for slot in self.slots}
        last = self.goal.instances + len(taken) + wanted
        free = [index for index in range(self.goal.instances, last) if index not in taken]
        yield from self._start(free[:wanted])

    def _start(self, indices: list[int]) -> Iterator[Step]:
        for index in indices[: max(0, self.room)]:
            self.room -= 1
            yield Step(Kind.START, index)

    def _replace(self, most: int) -> Iterator[Step]:
        """Stop old ones that serve, as many as can be spared; first those whose place nobody needs."""
        serving = [slot for slot in self.old if slot.state is State.READY]
        serving.sort(key=lambda slot: (slot.index < self.goal.instances, slot.index))
        yield from self._stop(serving[: max(0, most)])

    def _remove_surplus(self) -> Iterator[Step]:
        """Stop what is beyond the wanted number: at once what does not serve, the rest when it can be spared."""
        surplus = [slot for slot in self.new if slot.index >= self.goal.instances and slot.state not in _GOING]
        yield from (Step(Kind.STOP, slot.index) for slot in surplus if slot.state is not State.READY)
        ready = [slot for slot in surplus if slot.state is State.READY]
        # Those that have not proven themselves were not counted among the serving ones.
        yield from (Step(Kind.STOP, slot.index) for slot in ready if not self._serves(slot))
        yield from self._stop([slot for slot in reversed(ready) if self._serves(slot)])

    def _stop(self, slots: list[Slot]) -> Iterator[Step]:
        for slot in slots[: max(0, self.spare)]:
            self.spare -= 1
            yield Step(Kind.STOP, slot.index)
