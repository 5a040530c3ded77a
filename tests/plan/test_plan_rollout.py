"""Every rule of a roll-out by itself, then whole roll-outs, roll-backs from every point of them, and the page."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
from rollout_bounds import check

from lithos_runner.plan import rollout
from lithos_runner.plan.instance import State
from lithos_runner.plan.rollout import Goal, Kind, Slot, Step, Upgrade, settled, steps

PAGE = Path(__file__).parents[2] / "docs/roll-outs.md"
SURGE = Upgrade(max_surge=1, max_unavailable=0)
IN_PLACE = Upgrade(max_surge=0, max_unavailable=1)
NEW = Goal(3, "new", fallback="old", upgrade=SURGE)
NEW_IN_PLACE = NEW._replace(upgrade=IN_PLACE)
BACK = Goal(3, "old", trusted=True, upgrade=SURGE)


def group(text: str) -> list[Slot]:
    """Read `old:ready - new:starting`: one word for each index, `-` where nothing is, `proven` for ready and proven."""
    return [slot(index, *word.split(":")) for index, word in enumerate(text.split()) if word != "-"]


def slot(index: int, version: str, state: str) -> Slot:
    return Slot(index, version, State.READY, proven=True) if state == "proven" else Slot(index, version, State(state))


def said(answer: list[Step]) -> str:
    return ", ".join(f"{step.kind.value} {step.index}" for step in answer)


class Case(NamedTuple):
    """What has to be done about a group."""

    why: str
    goal: Goal
    group: str
    answer: str


OLD = "old:ready old:ready old:ready"
CASES = [
    # The first start.
    Case("nobody is there to lose", NEW, "", "start 0, start 1, start 2"),
    Case("one is there already", NEW, "- new:starting -", "start 0, start 2"),
    Case("one waits for its next start", NEW, "new:backoff new:ready new:starting", ""),
    Case("one was given up: that is not for a roll-out to change", NEW, "new:failed new:ready -", "start 2"),
    Case("one that is being ended is in the place", NEW, "new:ready new:draining new:ready", ""),
    Case("old ones that end are no reason for a canary", NEW, "old:draining old:stopping -", "start 2"),
    Case("old ones that can never serve neither", NEW, "old:failed old:failed -", "stop 0, stop 1, start 2"),
    # The canary.
    Case("beside the old ones", NEW, OLD, "start 3"),
    Case("in a free place", NEW, "old:ready - old:ready", "start 1"),
    Case("in one free place only", NEW, "old:ready - -", "start 1"),
    Case("in a place where nothing will ever live again", NEW, "old:ready old:failed old:ready", "stop 1, start 3"),
    Case("in place, as none is allowed beside", NEW_IN_PLACE, OLD, "stop 0"),
    Case("in place, the old one ends", NEW_IN_PLACE, "old:draining old:ready old:ready", ""),
    Case("in place, the old one has ended", NEW_IN_PLACE, "- old:ready old:ready", "start 0"),
    Case("in place of one that does not serve", NEW_IN_PLACE, "old:ready old:backoff old:ready", "stop 1"),
    Case("in place of one that only starts", NEW_IN_PLACE, "old:ready old:ready old:warming", "stop 2"),
    Case("one that waits rather than one that starts", NEW_IN_PLACE, "old:ready old:starting old:backoff", "stop 1"),
    Case("one only, however many may be missing", NEW._replace(upgrade=Upgrade(0, 3)), OLD, "stop 0"),
    Case("one only, however many may be too many", NEW._replace(upgrade=Upgrade(3, 0)), OLD, "start 3"),
    Case("what starts of the last good version is left alone", NEW, "old:warming old:starting old:backoff", "start 3"),
    Case("what serves is, of whatever version", NEW._replace(fallback=None, upgrade=Upgrade(1, 1)), OLD, "start 3"),
    Case("one that is not started is not stopped", NEW, "old:stopped old:ready old:ready", "start 3"),
    Case("one that ends elsewhere is not waited for", NEW_IN_PLACE, f"{OLD} old:draining", "stop 0"),
    Case("one that is stopped elsewhere is not waited for", NEW_IN_PLACE, f"{OLD} old:starting", "stop 3, stop 0"),
    Case(
        "of another version it is not",
        NEW._replace(fallback=None),
        "old:ready old:starting old:backoff",
        "stop 1, stop 2, start 3",
    ),
    Case("no room, for one that is not wanted anyway", NEW, f"{OLD} old:starting", "stop 3"),
    # The soak.
    Case("it starts", NEW, f"{OLD} new:starting", ""),
    Case("it is watched", NEW, f"{OLD} new:warming", ""),
    Case("it soaks", NEW, f"{OLD} new:ready", ""),
    Case("it comes back, and there is nothing to fall back to", NEW._replace(fallback=None), f"{OLD} new:backoff", ""),
    Case("an old one fails meanwhile: it comes back by itself", NEW, "old:ready old:backoff old:ready new:ready", ""),
    Case("an old one is gone meanwhile: no second canary", NEW, "old:ready - old:ready new:ready", ""),
    # Replacing, one after the other.
    Case("the first one goes", NEW, f"{OLD} new:proven", "stop 0"),
    Case("its place is not free yet", NEW, "old:draining old:ready old:ready new:proven", ""),
    Case("its place is free", NEW, "- old:ready old:ready new:proven", "start 0"),
    Case("the next one waits until the last one is proven", NEW, "new:ready old:ready old:ready new:proven", ""),
    Case("the next one goes", NEW, "new:proven old:ready old:ready new:proven", "stop 1"),
    Case("what does not serve goes at once", NEW, "old:starting old:failed old:ready new:proven", "stop 0, stop 1"),
    Case("the canary has done its work", NEW, "new:proven new:proven new:proven new:proven", "stop 3"),
    Case("it has not, while one is not proven", NEW, "new:proven new:proven new:ready new:proven", ""),
    Case("it has not, while one fails", NEW, "new:proven new:proven new:backoff new:proven", ""),
    Case("one beside that does not serve is of no use", NEW, "new:proven new:proven new:ready new:starting", "stop 3"),
    Case("one beside that serves is, while too few do", NEW, "new:proven new:proven new:backoff new:ready", ""),
    Case(
        "one beside that soaks is not, when enough serve", NEW, "new:proven new:proven new:proven new:ready", "stop 3"
    ),
    Case("in place", NEW_IN_PLACE, "new:proven old:ready old:ready", "stop 1"),
    Case("in place, one at a time", NEW_IN_PLACE, "new:proven old:draining old:ready", ""),
    Case("in place, the next one when the last one is proven", NEW_IN_PLACE, "new:proven new:ready old:ready", ""),
    Case("two beside", NEW._replace(upgrade=Upgrade(2, 0)), f"{OLD} new:proven", "stop 0, start 4"),
    Case(
        "two beside, and no more",
        NEW._replace(upgrade=Upgrade(2, 0)),
        "old:draining old:ready old:ready new:proven new:starting",
        "",
    ),
    Case(
        "none beside whose work one in its place can do",
        NEW._replace(upgrade=Upgrade(2, 0)),
        "new:proven new:proven old:ready - -",
        "start 3",
    ),
    Case("two missing", NEW._replace(upgrade=Upgrade(0, 2)), "new:proven old:ready old:ready", "stop 1, stop 2"),
    Case(
        "two missing, one is by itself",
        NEW._replace(upgrade=Upgrade(0, 2)),
        "new:proven old:ready new:starting",
        "stop 1",
    ),
    Case("no room, until those ahead serve", NEW._replace(instances=2), "- - old:ready new:proven new:warming", ""),
    Case("less than no room", NEW._replace(instances=2), "- - old:ready new:proven new:starting new:backoff", ""),
    Case(
        "none beside, as all places are taken",
        NEW._replace(instances=2, upgrade=Upgrade(2, 0)),
        "new:proven new:ready - - old:ready",
        "",
    ),
    Case(
        "what cannot be spared does not keep what can",
        NEW._replace(instances=2),
        "new:backoff new:proven new:proven new:starting",
        "stop 3",
    ),
    Case("all but one missing", NEW._replace(upgrade=Upgrade(1, 2)), f"{OLD} new:proven", "stop 0, stop 1, stop 2"),
    Case(
        "the last one that serves is never stopped", NEW._replace(upgrade=Upgrade(1, 2)), "old:ready new:starting -", ""
    ),
    Case("more missing than there are", NEW._replace(upgrade=Upgrade(1, 9)), "old:ready - -", "start 1"),
    # Roll-back: no canary, no soak.
    Case("the canary goes", BACK, f"{OLD} new:backoff", "stop 3"),
    Case("a canary that serves goes too", BACK, f"{OLD} new:ready", "stop 3"),
    Case("what is missing comes back at once", BACK, "- new:backoff old:ready -", "stop 1, start 0"),
    Case("nobody who serves goes before another one came", BACK, "new:ready new:ready - new:ready", "start 2"),
    Case("ready is enough", BACK, "new:ready new:ready old:ready new:ready", "stop 3"),
    Case("all that is missing", BACK, "- - new:ready", "start 0, start 1, start 3"),
    Case("beside", BACK, "new:ready new:ready old:ready -", "start 3"),
    Case("in place", BACK._replace(upgrade=IN_PLACE), "new:ready new:ready old:ready", "stop 0"),
    # A third version.
    Case("the canary of the second one goes first", NEW, f"{OLD} mid:ready", "stop 3"),
    Case("and at once when it does not serve", NEW, f"{OLD} mid:starting", "stop 3"),
    Case("its place is needed", NEW, f"{OLD} mid:stopping", ""),
    Case(
        "in place, the second one goes, not the last good one", NEW_IN_PLACE, "old:ready mid:ready old:ready", "stop 1"
    ),
    Case("so do those in the places", NEW, "old:ready mid:ready old:ready new:proven", "stop 1"),
    Case(
        "what comes back of the second one is not waited for", NEW, "old:ready mid:backoff old:ready", "stop 1, start 3"
    ),
    Case(
        "what fails for ever does not stand in the way",
        NEW._replace(instances=2),
        "old:ready old:backoff mid:ready",
        "stop 1",
    ),
    Case(
        "one that starts makes room for a place that is free",
        NEW._replace(instances=1),
        "old:starting - old:ready",
        "stop 0, start 1",
    ),
    Case(
        "what was given up gives no room",
        NEW._replace(instances=1),
        "old:starting - old:ready old:failed",
        "stop 3, stop 0, start 1",
    ),
    # More, fewer.
    Case(
        "fewer: first those that no version needs",
        NEW._replace(instances=2),
        "mid:ready old:ready old:ready new:proven",
        "stop 2, stop 0",
    ),
    Case("more", NEW._replace(instances=5), "new:ready new:ready new:ready", "start 3, start 4"),
    Case("fewer", NEW._replace(instances=1), "new:proven new:proven new:proven", "stop 1, stop 2"),
    Case(
        "fewer, one of those that stay fails", NEW._replace(instances=1), "new:backoff new:proven new:proven", "stop 1"
    ),
    Case("more, while the canary soaks", NEW._replace(instances=5), f"{OLD} new:ready -", ""),
    Case("more, when it is proven", NEW._replace(instances=5), f"{OLD} new:proven -", "start 4, start 5"),
    Case("fewer, while the canary soaks", NEW._replace(instances=2), f"{OLD} new:ready", "stop 2"),
    Case("fewer, and a new version", NEW._replace(instances=1), OLD, "stop 1, stop 2"),
    Case("fewer, when it is proven", NEW._replace(instances=1), f"{OLD} new:proven", "stop 1, stop 2, stop 0"),
    Case("fewer, the place beside is far", NEW._replace(instances=2), "new:proven new:ready - - - new:proven", ""),
    Case("none", NEW._replace(instances=0), "new:ready new:starting new:proven", "stop 0, stop 1, stop 2"),
    Case(
        "none, of either version",
        NEW._replace(instances=0),
        "old:ready new:ready old:backoff new:proven",
        "stop 2, stop 0, stop 1, stop 3",
    ),
    Case("none, there are none", NEW._replace(instances=0), "", ""),
    # A single one.
    Case("one, the canary beside", NEW._replace(instances=1), "old:ready", "start 1"),
    Case("one, replaced", NEW._replace(instances=1), "old:ready new:proven", "stop 0"),
    Case("one, it ends", NEW._replace(instances=1), "old:draining new:proven", ""),
    Case("one, back in its place", NEW._replace(instances=1), "- new:proven", "start 0"),
    Case("one, both serve", NEW._replace(instances=1), "new:proven new:proven", "stop 1"),
    Case("one, in place", NEW_IN_PLACE._replace(instances=1), "old:ready", "stop 0"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.why}: {case.group}")
def test_what_is_done(case: Case) -> None:
    assert said(steps(case.goal, group(case.group))) == case.answer


def test_where_nothing_can_be_replaced_nothing_is_stopped() -> None:
    assert steps(NEW._replace(upgrade=Upgrade(0, 0)), group(OLD)) == []


SETTLED = [
    (NEW, "new:proven new:proven new:proven", True),
    (NEW, "new:proven new:ready new:proven", False),
    (NEW._replace(trusted=True), "new:proven new:ready new:proven", True),
    (NEW, "new:proven new:proven", False),
    (NEW, "new:proven new:proven - new:proven", False),
    (NEW, "new:proven new:proven new:proven new:proven", False),
    (NEW, "new:proven new:proven new:proven old:draining", False),
    (NEW, "new:proven new:proven old:ready", False),
    (NEW._replace(instances=0), "", True),
    (NEW._replace(instances=0), "old:draining", False),
]


@pytest.mark.parametrize(("goal", "text", "whether"), SETTLED)
def test_when_all_is_as_it_should_be(goal: Goal, text: str, whether: bool) -> None:
    assert settled(goal, group(text)) is whether
    assert not (whether and steps(goal, group(text)))


# All situations of small groups: whatever can happen to each instance, in every order.

Situation = tuple[Goal, frozenset[Slot]]


def at_rest(goal: Goal, slots: frozenset[Slot]) -> frozenset[Slot]:
    """Carry out steps until there are none; ending where nothing lives takes no time."""
    for _ in range(2 * len(slots) + 3):
        answer = steps(goal, slots)
        if not answer:
            return slots
        check(goal, slots, answer)
        stopped = {step.index for step in answer if step.kind is Kind.STOP}
        started = {Slot(step.index, goal.version, State.STARTING) for step in answer if step.kind is Kind.START}
        ending = {Slot(one.index, one.version, State.DRAINING) for one in slots if one.index in stopped and lives(one)}
        slots = frozenset({one for one in slots if one.index not in stopped} | started | ending)
    pytest.fail(f"{goal} does not come to rest with {sorted(slots, key=lambda one: one.index)}")


def lives(one: Slot) -> bool:
    return one.state.alive


def futures(one: Slot) -> Iterator[Slot | None]:
    """What may become of an instance."""
    if one.state is State.DRAINING:
        yield None
    elif one.state is State.STARTING:
        yield one._replace(state=State.READY)
        yield one._replace(state=State.BACKOFF)
    elif one.state is State.BACKOFF:
        yield one._replace(state=State.STARTING)
    elif one.state is State.READY:
        yield one._replace(proven=True)
        yield one._replace(state=State.BACKOFF, proven=False)


def adopted(slots: frozenset[Slot]) -> frozenset[Slot]:
    """What another supervisor finds after the death of this one: it knows only what lives."""
    return frozenset(one._replace(proven=False) for one in slots if lives(one))


def successors(here: Situation, goals: list[Goal]) -> Iterator[Situation]:
    goal, slots = here
    yield from ((other, slots) for other in goals)
    yield goal, adopted(slots)
    for one in slots:
        for later in futures(one):
            yield goal, slots - {one} | ({later} if later else set())


def reachable(goals: list[Goal]) -> set[Situation]:
    """Every situation that the first start of the first goal can lead to."""
    seen: set[Situation] = set()
    unseen: list[Situation] = [(goals[0], at_rest(goals[0], frozenset()))]
    while unseen:
        here = unseen.pop()
        if here not in seen:
            seen.add(here)
            unseen += {(goal, at_rest(goal, slots)) for goal, slots in successors(here, goals)} - seen
    return seen


def lucky(goal: Goal, one: Slot) -> Slot | None:
    """What becomes of an instance when the goal's version is good, and every other one as bad as can be."""
    if one.state is State.DRAINING:
        return None
    if one.version != goal.version:
        return one._replace(state=State.BACKOFF) if one.state is State.STARTING else one
    later = {State.STARTING: State.READY, State.BACKOFF: State.STARTING}.get(one.state, one.state)
    return one._replace(state=later, proven=one.state is State.READY)


def rounds_to_settle(here: Situation) -> int:
    goal, slots = here
    for rounds in range(3 * (goal.instances + goal.upgrade.max_surge) + 5):
        if settled(goal, slots):
            return rounds
        slots = at_rest(goal, frozenset(later for one in slots if (later := lucky(goal, one))))
    pytest.fail(f"{goal} is never reached from {sorted(here[1], key=lambda one: one.index)}")


def goals(instances: int, upgrade: Upgrade) -> list[Goal]:
    """A first version, an upgrade, and the way back."""
    first = Goal(instances, "old", upgrade=upgrade)
    return [first, first._replace(version="new", fallback="old"), first._replace(trusted=True)]


def worlds() -> Iterator[object]:
    bounds = [Upgrade(surge, unavailable) for surge, unavailable in product(range(3), range(3)) if surge + unavailable]
    for instances, upgrade in product([1, 2], bounds):
        yield pytest.param(goals(instances, upgrade), id=f"{instances}, up to {upgrade[0]} more, {upgrade[1]} fewer")
    for upgrade in (SURGE, IN_PLACE):
        third = Goal(2, "third", fallback="old", upgrade=upgrade)
        kind = "beside" if upgrade.max_surge else "in place"
        yield pytest.param(goals(3, upgrade), id=f"3, {kind}")
        yield pytest.param([*goals(2, upgrade), third], id=f"a third version, {kind}")
        yield pytest.param([*goals(1, upgrade), *goals(2, upgrade), *goals(0, upgrade)], id=f"more and fewer, {kind}")


@pytest.mark.parametrize("goals", [*worlds()])
def test_all_that_can_happen_in_a_small_group(goals: list[Goal]) -> None:
    for here in reachable(goals):
        rounds_to_settle(here)


# The page.


def rows() -> Iterator[tuple[Goal, str, str]]:
    """Each row of the tables on the page: the goal, the group and what is done."""
    for keys, table in re.findall(r"<!-- steps: (.+) -->\n\|.+\n\|[-|]+\n((?:\|.+\n)+)", PAGE.read_text()):
        values = dict(word.split("=") for word in keys.split())
        upgrade = Upgrade(int(values["max_surge"]), int(values["max_unavailable"]))
        trusted = "trusted" in values
        goal = Goal(int(values["instances"]), values["version"], values.get("fallback"), trusted, upgrade)
        for row in table.splitlines():
            _, _, *places, done, _ = (cell.strip() for cell in row.split("|"))
            yield goal, " ".join(place.replace(" ", ":") for place in places), done


@pytest.mark.parametrize(("goal", "text", "done"), [*rows()])
def test_the_page_tells_what_is_done(goal: Goal, text: str, done: str) -> None:
    assert said(steps(goal, group(text))) == done


def test_the_page_has_a_table_of_every_kind() -> None:
    assert len({goal for goal, _, _ in rows()}) == PAGE.read_text().count("<!-- steps:") == 3


def test_deciding_needs_nothing_of_the_system() -> None:
    nodes = list(ast.walk(ast.parse(inspect.getsource(rollout))))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert names <= {"__future__", "collections.abc", "enum", "typing", "instance"}
    assert not [node for node in nodes if isinstance(node, ast.Import)]
