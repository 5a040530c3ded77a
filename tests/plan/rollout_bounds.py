"""What every answer of a roll-out has to keep to, whatever led to it."""

from __future__ import annotations

from collections.abc import Collection

from lithos_runner.plan.instance import State
from lithos_runner.plan.rollout import Goal, Kind, Slot, Step

COUNTED = {State.STARTING, State.WARMING, State.BACKOFF, State.READY}  # starting or serving
GOING = {State.DRAINING, State.STOPPING, State.KILLING}


def check(goal: Goal, before: Collection[Slot], answer: list[Step]) -> None:
    """Carry the answer out on paper, step by step, and look at each."""
    assert len({step.index for step in answer}) == len(answer), "two steps for one index"
    slots = {slot.index: slot for slot in before}
    for step in answer:
        if step.kind is Kind.START:
            assert step.index not in {slot.index for slot in before}, "something lives there"
            assert step.index < goal.instances + goal.upgrade.max_surge, "what lives, be it draining, is bounded, too"
            slots[step.index] = Slot(step.index, goal.version, State.STARTING)
        else:
            stopped = slots.pop(step.index)
            assert stopped.state not in GOING, "stopped twice"
            assert stopped.version != goal.version or step.index >= goal.instances, "what is wanted is never stopped"
            if stopped.state is State.READY:
                assert relied_on(goal, slots.values()) >= goal.instances - goal.upgrade.max_unavailable
    if any(step.kind is Kind.START for step in answer):
        coming = sum(slot.state in COUNTED for slot in slots.values())
        assert coming <= goal.instances + goal.upgrade.max_surge


def relied_on(goal: Goal, slots: Collection[Slot]) -> int:
    """How many serve that may be relied on: of a new version only those that have proven themselves."""
    ready = [slot for slot in slots if slot.state is State.READY]
    return sum(slot.version != goal.version or slot.proven or goal.trusted for slot in ready)
