"""What the benchmark of starts makes of its times."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.launch import plot, results
from benchmarks.launch.race import WARM_UP, Clock, Timing, race
from benchmarks.program import Failed

SECONDS = st.lists(st.floats(min_value=1e-4, max_value=10), min_size=1, max_size=200)


def series(*milliseconds: float, executed: bool = False) -> list[Timing]:
    return [Timing(time / 2e3 if executed else None, time / 1e3) for time in milliseconds]


# Ours take half of bwrap and a quarter of crun with init: false; with the init 1.2 of bwrap, which is too much.
TIMINGS = {
    "lithos init:false": series(2, 2, 2, executed=True),
    "lithos": series(4.8, 4.8, 90, executed=True),
    "bwrap": series(4, 4, 4),
    "crun": series(8, 8, 8),
}


class Recorder:
    """A contender whose starts take no time and are written down."""

    def __init__(self, name: str, log: list[tuple[str, int]]) -> None:
        self.name = name
        self._log = log

    def launch(self, number: int) -> Timing:
        self._log.append((self.name, number))
        return Timing(None, float(len(self._log)))


def run(rounds: int, *, deadline: float = 1e9) -> tuple[dict[str, list[Timing]], list[tuple[str, int]]]:
    log: list[tuple[str, int]] = []
    contenders = [Recorder(name, log) for name in "abcd"]
    # One second passes with every start.
    timings = race(contenders, rounds, Clock(lambda: float(len(log)), deadline), lambda _: None)
    return timings, log


def test_every_round_has_every_contender_once() -> None:
    _, log = run(30)
    rounds = [log[start : start + 4] for start in range(0, len(log), 4)]
    assert [sorted(one) for one in rounds] == [[(name, number) for name in "abcd"] for number in range(30 + WARM_UP)]


def test_everyone_follows_everyone() -> None:
    _, log = run(30)
    followed = {(before[0], after[0]) for before, after in itertools.pairwise(log)}
    assert {(a, b) for a in "abcd" for b in "abcd" if a != b} <= followed


def test_the_warm_up_does_not_count() -> None:
    timings, _ = run(2)
    assert {len(one) for one in timings.values()} == {2}
    assert min(timing.exited for one in timings.values() for timing in one) > WARM_UP * 4


def test_no_round_begins_after_the_deadline() -> None:
    timings, log = run(1000, deadline=(WARM_UP + 3) * 4)
    assert {len(one) for one in timings.values()} == {4}
    assert len(log) == (WARM_UP + 4) * 4


def test_a_deadline_within_the_warm_up_is_an_error() -> None:
    with pytest.raises(Failed, match="give more --seconds"):
        run(10, deadline=3)


@given(SECONDS, st.integers(1, 100))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values: list[float], percent: int) -> None:
    found = results.percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert sum(value < found for value in values) * 100 < percent * len(values)


def test_verdicts_say_by_how_much() -> None:
    judged = results.verdicts(results.exited(TIMINGS))
    assert [verdict.met for verdict in judged] == [True, True, False, True]
    assert judged[0].sentence() == "lithos init:false: 0.50 x bwrap, at most 0.70: met"
    assert judged[2].sentence() == "lithos: 1.20 x bwrap, at most 1.10: missed by 9 %"


def test_a_budget_needs_both_sides() -> None:
    without = {name: one for name, one in TIMINGS.items() if name != "bwrap"}
    assert {verdict.budget.peer for verdict in results.verdicts(results.exited(without))} == {"crun"}


def test_the_table() -> None:
    assert results.table(TIMINGS).splitlines() == [
        "ms                 exec p50    p99   min  exited p50    p99   min  x bwrap  x crun",
        "lithos init:false      1.00   1.00  1.00        2.00   2.00  2.00     0.50    0.25",
        "bwrap                                           4.00   4.00  4.00     1.00    0.50",
        "lithos                 2.40  45.00  2.40        4.80  90.00  4.80     1.20    0.60",
        "crun                                            8.00   8.00  8.00     2.00    1.00",
    ]


def test_the_document_has_every_start() -> None:
    document = json.loads(json.dumps(results.document(TIMINGS, {"cpus": 2})))
    assert document["host"] == {"cpus": 2}
    assert document["rounds"] == 3
    assert document["contenders"]["lithos"]["samples"] == [4.8, 4.8, 90]
    assert document["contenders"]["lithos"]["ratios"] == {"bwrap": pytest.approx(1.2), "crun": pytest.approx(0.6)}
    assert document["contenders"]["bwrap"]["exec"] is None


@given(st.dictionaries(st.sampled_from(["lithos", "bwrap", "a<b>&c"]), SECONDS, min_size=1))
def test_the_plot_shows_99_percent_of_the_starts_within_its_frame(times: dict[str, list[float]]) -> None:
    timings = {name: [Timing(None, time) for time in values] for name, values in times.items()}
    svg = ElementTree.fromstring(plot.svg(timings, "times & <more>"))  # noqa: S314 - it is our own
    space = {"svg": "http://www.w3.org/2000/svg"}
    circles = svg.findall("svg:circle", space)
    assert len(circles) >= sum(len(values) * 99 // 100 for values in times.values())
    width = float(svg.attrib["width"])
    assert all(0 <= float(circle.attrib["cx"]) <= width for circle in circles)
    medians = [line for line in svg.findall("svg:line", space) if line.attrib["class"] == "median"]
    assert len(medians) == len(times)
