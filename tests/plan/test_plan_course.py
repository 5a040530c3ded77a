"""What a process group comes back to, whatever was asked for in between."""

from __future__ import annotations

from configuration import Configuration

from lithos_runner.plan.course import Course, Seen
from lithos_runner.plan.instance import State
from lithos_runner.plan.rollout import Slot

V1, V2, V3 = (Configuration(spec) for spec in ("v1", "v2", "v3"))
SERVES = [Seen(Slot(index, "v1", State.READY, proven=True), 1, 0, "") for index in range(V1.instances)]
STABLE = Course(V1, V1, V1)


def canary(course: Course[Configuration], *, failed: bool = False) -> Seen:
    """The first instance that the course has led to, beside those of `v1`."""
    slot = Slot(2, course.goal.spec, State.BACKOFF if failed else State.STARTING)
    return Seen(slot, course.generation, int(failed), "it failed" if failed else "")


def test_a_version_that_fails_is_left_and_not_tried_again() -> None:
    rolling, _ = STABLE.desire(V2, SERVES)
    back, versions = rolling.roll_back([*SERVES, canary(rolling, failed=True)])
    assert (back.goal, back.reason, versions) == (V1, "it failed", {0: "v1", 1: "v1"})
    assert back.phase(SERVES) == "rolled back"
    again, _ = back.desire(V2, SERVES)
    assert again == back
    tried, _ = back.retry().desire(V2, SERVES)
    assert tried.goal == V2


def test_what_is_refused_in_the_middle_does_not_hide_that_the_version_before_it_fails() -> None:
    rolling, _ = STABLE.desire(V2, SERVES)
    failed = canary(rolling, failed=True)
    refused = rolling.reject(V3, "no memory for it")
    assert refused.roll_back([*SERVES, failed])[0].goal == V1
    asked_again, _ = refused.desire(V2, SERVES)
    assert asked_again.roll_back([*SERVES, failed])[0].goal == V1


def test_who_comes_back_while_it_ends_has_its_instances() -> None:
    rolling, _ = STABLE.desire(V2, SERVES)
    back, _ = rolling.roll_back([*SERVES, canary(rolling, failed=True)])
    gone = back.retire()
    assert gone.target.instances == 0
    returned, _ = gone.desire(V2, SERVES)
    assert (returned.goal, returned.target.instances) == (V1, 2)


def test_an_instance_is_not_started_again_for_a_restart_that_a_new_version_has_interrupted() -> None:
    restarting, versions = STABLE.restart([0, 1], SERVES)
    assert versions == {0: "v1~1", 1: "v1~1"}
    seen = [one._replace(slot=one.slot._replace(version="v1~1")) for one in SERVES]
    rolling, _ = restarting.desire(V2, seen)
    assert rolling.target.fallback == "v1~1"
    for back, counted in (
        rolling.desire(V1, seen),
        rolling.roll_back([*seen, canary(rolling, failed=True)]),
    ):
        assert (back.target.version, back.target.trusted) == ("v1", True)
        assert counted == {0: "v1", 1: "v1"}


def test_a_restart_that_fails_leaves_what_runs() -> None:
    restarting, _ = STABLE.restart([0, 1], SERVES)
    seen = [one._replace(slot=one.slot._replace(version="v1~1")) for one in SERVES]
    back, versions = restarting.roll_back([*seen, canary(restarting, failed=True)])
    assert (back.goal, back.stable, versions) == (V1, V1, {0: "v1", 1: "v1"})


def test_a_restart_in_the_middle_of_a_roll_out_replaces_only_what_is_new() -> None:
    rolling, _ = STABLE.desire(V2, SERVES)
    new = canary(rolling)
    restarting, versions = rolling.restart([0, 1, 2], [*SERVES, new])
    assert versions == {2: "v2~2"}
    assert restarting.stable == V1
    left_alone, versions = rolling.restart([0], [*SERVES, new])
    assert versions == {}
    assert left_alone.roll_back([*SERVES, canary(rolling, failed=True)])[0].goal == V1


def test_a_version_that_serves_everywhere_is_kept_before_it_has_proven_itself() -> None:
    first = Course(V1, V1)
    assert first.desire(V2, SERVES)[0].stable == V1
    assert first.desire(V2, SERVES[:1])[0].stable is None
