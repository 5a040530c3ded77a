"""What the benchmark of roll-outs makes of requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rollout import samples
from benchmarks.rollout.samples import Outcome, Sample


def request(
    at: float, outcome: Outcome = Outcome.OK, life: str = "a", *, seconds: float = 0.01, version: str = "v1"
) -> Sample:
    return Sample(at, seconds, outcome, version if outcome is Outcome.OK else "", life, kept=False)


HISTORIES = st.lists(
    st.builds(
        request,
        st.floats(0, 100),
        st.sampled_from(Outcome),
        st.sampled_from(["", "a", "b", "c"]),
        seconds=st.floats(0, 5),
    ),
    max_size=60,
)


def test_latency_is_of_those_that_were_answered() -> None:
    some = [request(number, seconds=number / 1e3) for number in range(1, 101)]
    failed = [request(1, outcome, seconds=5) for outcome in Outcome if outcome is not Outcome.OK]
    assert samples.latency(some + failed) == pytest.approx((50, 99, 100))
    assert samples.latency(failed) is None
    assert samples.failures(some + failed) == failed


def test_a_request_belongs_to_the_moment_it_was_due() -> None:
    some = [request(1, seconds=5), request(2), request(3)]
    assert samples.between(some, 1, 3) == some[:2]


def test_versions_that_answer() -> None:
    some = [request(1, version="v2"), request(2, version="v1"), request(3, version="v2"), request(4, Outcome.CUT)]
    assert samples.versions(some) == ("v1", "v2")
    assert samples.versions([request(1, Outcome.TIMEOUT)]) == ()


def test_a_request_was_inside_a_process_that_never_answers_again() -> None:
    lost = request(2.00, Outcome.CUT, "a")
    assert samples.inside_the_dying([request(1.99, life="a"), lost, request(2.5, life="b")]) == [lost]


def test_a_last_answer_may_be_noticed_after_the_cut() -> None:
    lost = request(2.000, Outcome.CUT, seconds=0.010)
    assert samples.inside_the_dying([request(2.005, seconds=0.006), lost]) == [lost]


def test_a_process_that_goes_on_has_lost_a_request_for_another_reason() -> None:
    assert samples.inside_the_dying([request(1), request(2, Outcome.CUT), request(2.1)]) == []


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.TIMEOUT, Outcome.WRONG])
def test_only_what_is_cut_can_have_been_inside(outcome: Outcome) -> None:
    assert samples.inside_the_dying([request(1), request(2, outcome)]) == []


def test_one_cut_before_it_knew_by_whom_was_inside_when_somebody_fell_silent_then() -> None:
    unknown = request(2, Outcome.CUT, "")
    lives_on = [request(at / 200, life="b") for at in range(1000)]
    assert samples.inside_the_dying([request(1.95, life="a"), unknown, *lives_on]) == [unknown]
    assert samples.inside_the_dying([request(1.70, life="a"), unknown, *lives_on]) == []


def test_under_little_load_a_process_falls_silent_earlier() -> None:
    unknown = request(4, Outcome.CUT, "")
    lives_on = [request(at / 20, life="b") for at in range(200)]
    assert samples.inside_the_dying([request(2.7, life="a"), unknown, *lives_on]) == [unknown]
    assert samples.inside_the_dying([request(2.3, life="a"), unknown, *lives_on]) == []


def test_one_cut_before_it_knew_by_whom_was_inside_when_one_was_killed_then() -> None:
    unknown = request(2, Outcome.CUT, "")
    assert samples.inside_the_dying([unknown], [1.5]) == [unknown]
    assert samples.inside_the_dying([unknown], [0.5, 2.5]) == []
    known = request(2, Outcome.CUT, "a")
    assert samples.inside_the_dying([known, request(3)], [1.5]) == []


def test_only_versions_that_die_by_themselves_lose_what_is_inside() -> None:
    unknown, known = request(2, Outcome.CUT, ""), request(2, Outcome.CUT, "a")
    for lost in (unknown, known):
        assert samples.inside_the_dying([request(1.95, version="v1"), lost], mortal="v1") == [lost]
        assert samples.inside_the_dying([request(1.95, version="v1"), lost], mortal="v2") == []
    # Who never answered may have been anybody.
    assert samples.inside_the_dying([known], mortal="v2") == [known]


@given(HISTORIES)
def test_nobody_is_dead_who_answers_later(history: list[Sample]) -> None:
    inside = samples.inside_the_dying(history)
    assert {one.outcome for one in inside} <= {Outcome.CUT}
    for one in inside:
        later = [other for other in history if other.outcome is Outcome.OK and other.at > one.end]
        assert not one.life or one.life not in {other.life for other in later}
