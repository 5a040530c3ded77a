"""Run `lithos ARGUMENTS` where each decision about a roll-out takes as long as on a host that is short of CPU."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection

from lithos_runner.commands.main import main
from lithos_runner.plan import rollout

DECISION = 0.3  # seconds; longer than it takes all instances of a test to get ready one after the other


def _slow_down() -> None:
    steps = rollout.steps

    def slowly(goal: rollout.Goal, slots: Collection[rollout.Slot]) -> list[rollout.Step]:
        time.sleep(DECISION)
        return steps(goal, slots)

    rollout.steps = slowly


if __name__ == "__main__":
    _slow_down()
    sys.exit(main(sys.argv[1:]))
