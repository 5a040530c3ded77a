"""Where a process group is heading: what is wanted, what is worked towards, and what it comes back to.

A course does not change; what is asked for and what happens lead to another one. It knows nothing of processes: who
asks says what is there, and instances that count as another version from now on are for the caller to mark.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

from . import rollout
from .instance import State
from .rollout import Goal, Slot, Upgrade

_RESTARTED = "~"  # in a version: what runs while new instances of the same configuration are to replace it


class Configuration(Protocol):
    """A process group as it is configured; with one ``spec`` instances are equal."""

    @property
    def spec(self) -> str:
        """The name of the version."""

    @property
    def instances(self) -> int:
        """How many there shall be."""

    @property
    def upgrade(self) -> Upgrade:
        """The bounds of a roll-out."""

    def with_instances(self, instances: int) -> Self:
        """Return the same, so many times."""

    def under(self, spec: str) -> Self:
        """Return the same by another name."""


class Seen(NamedTuple):
    """One instance as it is."""

    slot: Slot
    generation: int  # of the course that started it
    failures: int  # of this version in this place
    reason: str  # of the last failure, a whole sentence


Versions = dict[int, str]  # index → the version that an instance counts as from now on
_C = TypeVar("_C", bound=Configuration)


class Course(NamedTuple, Generic[_C]):
    """Where a group is heading.

    ``wanted`` is what the configuration asks for. ``goal`` is what is worked towards: the same, or ``stable``, the last
    version that has served on all instances, when the wanted one has failed its roll-out. A version that was rejected
    is not tried again until its configuration changes or somebody asks for it.
    """

    wanted: _C
    goal: _C
    stable: _C | None = None
    generation: int = 1  # counts what was asked for
    began: int = 1  # the generation with which the present roll-out began
    rejected: int = 0  # the last generation that was rolled back, or not even tried
    reason: str = ""  # why it was
    retired: bool = False  # the configuration has no such group any more

    # What is asked for.

    def desire(self, wanted: _C, seen: Sequence[Seen]) -> tuple[Course[_C], Versions]:
        """Take in what the configuration says now."""
        course = self._replace(wanted=wanted, retired=False)
        scaled = wanted.instances != self.wanted.instances
        if scaled:
            course = course._replace(rejected=0)  # the last roll-out was, this change is not
        if wanted.spec != self.wanted.spec:
            if self.stable is None and self._serves_everywhere(seen):
                # It had no time to prove itself, but a version that fails must not replace it.
                course = course._replace(stable=self.goal)
            elif self.stable is not None and _configured(self.stable.spec) == wanted.spec:
                return course._replace(stable=wanted)._aim(wanted), self._stable_as(wanted, seen)
            return course._aim(wanted), {}
        if wanted.spec == self.goal.spec:
            return course._replace(goal=wanted), {}
        return course._replace(goal=self.goal.with_instances(wanted.instances)) if scaled else course, {}

    def reject(self, wanted: _C, reason: str) -> Course[_C]:
        """Do not even try what the configuration says now, as it cannot end well."""
        generation = self.generation + 1
        return self._replace(wanted=wanted, reason=reason, generation=generation, rejected=generation)

    def retry(self) -> Course[_C]:
        """Take a version that was rolled back or rejected for a new one when it is desired again."""
        course = self._replace(wanted=self.goal)
        return course._aim(self.goal) if self.rejected == self.generation else course

    def restart(self, indices: Collection[int], seen: Sequence[Seen]) -> tuple[Course[_C], Versions]:
        """Replace instances by new ones of the same configuration, as in a roll-out.

        While another configuration is being rolled out those of the one before are not touched: it has them replaced,
        or they are what it comes back to.
        """
        # What runs is another version from now on: should the new ones fail, it stays.
        past = self.goal.under(f"{self.goal.spec}{_RESTARTED}{self.generation}")
        rolling = self.stable is not None and not self._restarts
        replaced = [one.slot for one in seen if one.slot.index in indices]
        versions = {slot.index: past.spec for slot in replaced if not rolling or slot.version == self.goal.spec}
        keeps = not rolling and (self.stable is not None or self._serves_everywhere(seen))
        course = self._replace(stable=past) if keeps else self
        course = course._aim(self.goal, self.reason)
        return course if rolling else course._replace(began=course.generation), versions

    def retire(self) -> Course[_C]:
        """Come to an end."""
        return self._replace(retired=True)

    # What happens.

    def roll_back(self, seen: Sequence[Seen]) -> tuple[Course[_C], Versions]:
        """Go back to the stable version if the one that is rolled out has failed."""
        stable = self.stable
        reason = "" if stable is None or stable.spec == self.goal.spec or self.retired else self._failure(seen)
        if stable is None or not reason:
            return self, {}
        former = stable.under(_configured(stable.spec)).with_instances(self.wanted.instances)
        goal = self.goal if self._restarts else former  # with what instances have taken over while they run
        course = self._replace(goal=goal, stable=goal, reason=reason, rejected=self.generation)
        return course, self._stable_as(goal, seen)

    def settle(self) -> Course[_C]:
        """Take the goal, which has been reached, for the stable version."""
        if self.stable is self.goal or not self.target.instances:  # what runs nowhere has not shown that it serves
            return self
        return self._replace(stable=self.goal)

    # How it stands.

    @property
    def target(self) -> Goal:
        """What ``rollout`` is to reach."""
        goal, stable = self.goal, self.stable
        return Goal(
            instances=0 if self.retired else goal.instances,
            version=goal.spec,
            fallback=stable.spec if stable else None,
            trusted=stable is not None and stable.spec == goal.spec,
            upgrade=goal.upgrade,
        )

    def phase(self, seen: Sequence[Seen]) -> str:
        """How far it has come: rolling, settled, rolling back, rolled back, failing (it may get there), or given up."""
        settled = rollout.settled(self.target, [one.slot for one in seen])
        if not settled and self.trouble(seen):
            given_up = any(one.slot.state is State.FAILED for one in self._of_the_goal(seen))
            return "given up" if given_up else "failing"
        if self.rejected == self.generation:
            return "rolled back" if settled else "rolling back"
        return "settled" if settled else "rolling"

    def trouble(self, seen: Sequence[Seen]) -> str:
        """Why it does not get where it should; "" when it is on its way."""
        if self.stable is None:
            return self._failure(seen)
        # What a roll-out has started is not stuck when it fails, but rolled back.
        tried = self.stable.spec != self.goal.spec
        here = (one for one in self._of_the_goal(seen) if not (tried and one.generation >= self.began))
        return next((one.reason for one in here if one.slot.state in (State.BACKOFF, State.FAILED)), "")

    def _aim(self, goal: _C, reason: str = "") -> Course[_C]:
        generation = self.generation + 1
        began = self.began if goal.spec == self.goal.spec else generation
        return self._replace(goal=goal, reason=reason, generation=generation, began=began)

    @property
    def _restarts(self) -> bool:
        """Whether what runs and what shall run are of one configuration."""
        return self.stable is not None and _configured(self.stable.spec) == _configured(self.goal.spec)

    def _stable_as(self, configuration: _C, seen: Sequence[Seen]) -> Versions:
        """Let what runs of the stable version be of this one: it is the same, whatever restart it was before."""
        stable = self.stable.spec if self.stable else ""
        return {one.slot.index: configuration.spec for one in seen if one.slot.version == stable}

    def _serves_everywhere(self, seen: Sequence[Seen]) -> bool:
        """Whether the goal's version is ready in every place, proven or not."""
        ready = {one.slot.index for one in self._of_the_goal(seen) if one.slot.state is State.READY}
        return self.goal.instances > 0 and ready.issuperset(range(self.goal.instances))

    def _failure(self, seen: Sequence[Seen]) -> str:
        """Why an instance that this roll-out has started has failed; "" when none has."""
        # Not those that ran before it: `restart NAME.N` leaves instances of the same version as they are.
        failed = (one for one in self._of_the_goal(seen) if one.generation >= self.began and one.failures)
        return next((one.reason for one in failed), "")

    def _of_the_goal(self, seen: Sequence[Seen]) -> Iterator[Seen]:
        return (one for one in seen if one.slot.version == self.goal.spec)


def _configured(version: str) -> str:
    """Return the version that is configured where this one runs."""
    return version.partition(_RESTARTED)[0]
