"""What a soak does to a service: steps drawn from a seed, and what ought to come of each. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple


class Action(StrEnum):
    """What is asked of the supervisor."""

    NOTHING = "nothing"
    SCALE = "scale"
    RESTART = "restart"
    GOOD = "switch to a good version"
    SLOW = "switch to a slow version"
    FAILS_AT_ONCE = "switch to a version that fails at once"
    FAILS_LATER = "switch to a version that fails after 1 s"
    FAULTY_FILE = "switch to a file with a fault"


class Victim(StrEnum):
    """Who gets `kill -9` meanwhile."""

    NOBODY = "nobody"
    INSTANCE = "an instance"
    SUPERVISOR = "the supervisor"


class Goal(NamedTuple):
    """What ought to run: instances of one version."""

    version: str
    instances: int


class Expected(NamedTuple):
    """What a command may answer, and what ought to run then when all has settled."""

    code: int
    goal: Goal


class Step(NamedTuple):
    """One action. Times are seconds."""

    number: int
    pause: float  # before it
    action: Action
    instances: int  # for SCALE
    victim: Victim
    kill_after: float  # since the beginning of the action

    @property
    def version(self) -> str:
        """The name of a version that this step brings; no other step has it."""
        return f"v{self.number}"

    @property
    def behaviour(self) -> str:
        """How that version behaves; every other good one plays tricks while it serves."""
        return "tricky" if self.action is Action.GOOD and self.number % 2 else BEHAVIOURS[self.action]

    def expected(self, goal: Goal) -> tuple[Expected, ...]:
        """What may come of it, `goal` being what runs now; if nobody is killed, there is one thing only."""
        asked = {
            Action.SCALE: goal._replace(instances=self.instances),
            Action.GOOD: goal._replace(version=self.version),
            Action.SLOW: goal._replace(version=self.version),
        }.get(self.action, goal)
        code = {Action.FAILS_AT_ONCE: 1, Action.FAILS_LATER: 1, Action.FAULTY_FILE: 2}.get(self.action, 0)
        return Expected(code, asked), *self._exceptions(goal, asked)

    def _exceptions(self, goal: Goal, asked: Goal) -> Iterator[Expected]:
        if self.victim is Victim.INSTANCE and self.action in (Action.GOOD, Action.SLOW, Action.RESTART):
            yield Expected(1, goal)  # an instance of a new version that is killed has failed
        elif self.victim is Victim.SUPERVISOR and self.action is not Action.FAULTY_FILE:
            # Whether the command meets a supervisor, and sees the end, is a matter of the moment.
            yield Expected(0, asked)
            yield Expected(1, asked)
            if self.action is Action.SCALE:
                yield Expected(1, goal)

    def sentence(self) -> str:
        """Say it."""
        what = f"{self.action} to {self.instances}" if self.action is Action.SCALE else str(self.action)
        if self.victim is Victim.NOBODY:
            return what
        return f"{what}; kill -9 of {self.victim} after {self.kill_after:.2f} s"


BEHAVIOURS = {
    Action.GOOD: "good",
    Action.SLOW: "slow",
    Action.FAILS_AT_ONCE: "fails-at-once",
    Action.FAILS_LATER: "fails-later",
}

_MOST_INSTANCES = 6
_LONGEST_PAUSE = 1.0
_LATEST_KILL = 4.0  # later than most actions end; the slow ones are hit in their middle
_ACTIONS = {
    Action.NOTHING: 2,
    Action.SCALE: 3,
    Action.RESTART: 1,
    Action.GOOD: 3,
    Action.SLOW: 1,
    Action.FAILS_AT_ONCE: 1,
    Action.FAILS_LATER: 2,
    Action.FAULTY_FILE: 1,
}
_VICTIMS = {Victim.NOBODY: 4, Victim.INSTANCE: 3, Victim.SUPERVISOR: 3}


def history(seed: int) -> Iterator[Step]:
    """Draw steps without end; the same seed gives the same steps."""
    dice = random.Random(seed)  # noqa: S311 - repeatable is what it has to be
    number = 1  # v1 runs already
    while True:
        number += 1
        yield Step(
            number,
            dice.uniform(0, _LONGEST_PAUSE),
            dice.choices(list(_ACTIONS), list(_ACTIONS.values()))[0],
            dice.randint(1, _MOST_INSTANCES),
            dice.choices(list(_VICTIMS), list(_VICTIMS.values()))[0],
            dice.uniform(0, _LATEST_KILL),
        )
