from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from lithos_runner.plan.backoff import GOOD_RUN, LONGEST, SHORTEST, Backoff

FIRST = st.floats(0, 86_400)  # the range of restart-timeout
RUN = st.floats(0, 1e9)


def failing(first: float, times: int) -> Backoff:
    backoff = Backoff(first)
    for _ in range(times):
        backoff = backoff.after(0)
    return backoff


def test_delays_double_up_to_a_minute() -> None:
    assert [failing(1, times).delay for times in range(1, 10)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_before_any_failure_it_is_the_restart_timeout() -> None:
    assert Backoff(3).delay == 3


def test_no_restart_timeout_does_not_mean_to_spin() -> None:
    assert Backoff(0).delay == 0
    assert [failing(0, times).delay for times in (1, 2, 3, 4)] == [SHORTEST, 2 * SHORTEST, 4 * SHORTEST, 8 * SHORTEST]
    assert failing(0, 20).delay == LONGEST


def test_a_restart_timeout_of_more_than_a_minute_is_kept() -> None:
    assert [failing(90, times).delay for times in (0, 1, 2, 30)] == [90, 90, 90, 90]


def test_a_good_run_begins_anew() -> None:
    assert failing(1, 3).after(GOOD_RUN) == Backoff(1)


def test_a_run_just_too_short_counts() -> None:
    assert failing(1, 3).after(GOOD_RUN - 0.001) == Backoff(1, failures=4)


def test_a_good_run_has_to_be_longer_than_the_delay_before_it() -> None:
    assert failing(1, 7).after(LONGEST - 0.001).failures == 8
    assert failing(1, 7).after(LONGEST).failures == 0


def test_any_number_of_failures_can_be_counted() -> None:
    assert Backoff(1, failures=sys.maxsize).delay == LONGEST
    assert Backoff(0, failures=10**400).delay == LONGEST


@given(FIRST, st.integers(0, 2000))
def test_delays_never_shrink_while_it_fails(first: float, failures: int) -> None:
    assert Backoff(first, failures).delay <= Backoff(first, failures + 1).delay


@given(FIRST, st.lists(RUN))
def test_delays_stay_within_bounds_whatever_the_runs(first: float, runs: list[float]) -> None:
    backoff = Backoff(first)
    for ran in runs:
        backoff = backoff.after(ran)
        assert first <= backoff.delay <= max(first, LONGEST)
        assert 0 <= backoff.failures <= len(runs)
