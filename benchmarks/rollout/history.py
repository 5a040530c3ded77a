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
    """What a command ought to answer, and what ought to run when all has settled."""

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

    def expected(self, goal: Goal) -> Expected:
        """What ought to come of it, `goal` being what runs now."""
        return {
            Action.NOTHING: Expected(0, goal),
            Action.SCALE: Expected(0, goal._replace(instances=self.instances)),
            Action.RESTART: Expected(0, goal),
            Action.GOOD: Expected(0, goal._replace(version=self.version)),
            Action.SLOW: Expected(0, goal._replace(version=self.version)),
            Action.FAILS_AT_ONCE: Expected(1, goal),
            Action.FAILS_LATER: Expected(1, goal),
            Action.FAULTY_FILE: Expected(2, goal),
        }[self.action]

    def allows(self, code: int, expected: Expected) -> bool:
        """Whether a command may answer this: one whose supervisor was killed cannot know how it ended."""
        return code == expected.code or (self.victim is Victim.SUPERVISOR and code == 1)

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
