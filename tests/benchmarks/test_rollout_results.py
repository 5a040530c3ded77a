"""What the benchmark of roll-outs makes of trials: cells, verdicts, the table, the document, the picture."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rollout import plot, results, table
from benchmarks.rollout.contenders import Report
from benchmarks.rollout.results import Cell, Cells
from benchmarks.rollout.samples import Outcome, Sample
from benchmarks.rollout.trial import NEW, OLD, SCENARIOS, Scenario, Trial

SPACE = {"svg": "http://www.w3.org/2000/svg"}
KEYS = [scenario.key for scenario in SCENARIOS]
BY_KEY = {scenario.key: scenario for scenario in SCENARIOS}


@dataclass
class Course:
    """A trial from second 0 to 10, a request each 0.1 s; it happens at second 4."""

    scenario: str
    contender: str = "lithos-shared"
    report: Report = Report(0, "done")  # noqa: RUF009 - a value
    serves: str = OLD
    before: float = 0.010  # seconds per request
    after: float = 0.015
    changed: dict[int, Sample] = field(default_factory=dict)

    def trial(self) -> Trial:
        some = [self.changed.get(number) or self.request(number) for number in range(101)]
        return Trial(self.contender, self.scenario, 4.0, 5.0, self.report, tuple(some))

    def request(self, number: int) -> Sample:
        at, kept = number / 10, bool(number % 2)
        if at < 4:
            return Sample(at, self.before, Outcome.OK, OLD, "old", kept)
        return Sample(at, self.after, Outcome.OK, self.serves, f"{self.serves} life", kept)

    def fails(self, number: int, outcome: Outcome, life: str = "") -> Course:
        self.changed[number] = Sample(number / 10, 0.02, outcome, "", life, kept=bool(number % 2))
        return self

    def cell(self) -> Cell:
        return results.cell(self.trial())

    def verdicts(self, circus: Course | None = None) -> dict[str, bool]:
        cells = {(self.contender, self.scenario): self.cell()}
        if circus:
            cells[circus.contender, circus.scenario] = circus.cell()
        return {verdict.promise: verdict.kept for verdict in results.verdicts(cells)}


def as_it_should_be(key: str) -> Course:
    scenario = BY_KEY[key]
    fails = scenario.serves == OLD and not key.startswith("kill-")
    return Course(key, report=Report(1, "it failed") if fails else Report(0, ""), serves=scenario.serves)


def test_a_cell() -> None:
    one = as_it_should_be("good").fails(50, Outcome.REFUSED).fails(51, Outcome.CUT, "old").cell()
    assert (one.failed, one.failed_fresh, one.failed_kept, one.inside, one.requests) == (2, 1, 1, 0, 61)
    assert one.steady == pytest.approx((10, 10, 10))
    assert one.after == pytest.approx((15, 15, 15))
    assert (one.serves, one.report.code) == ((NEW,), 0)


def test_what_starts_does_not_count_and_what_failed_before_is_not_its_fault() -> None:
    course = as_it_should_be("good").fails(30, Outcome.TIMEOUT)
    course.changed[5] = course.request(5)._replace(seconds=3.0)
    one = course.cell()
    assert one.failed == 0
    assert one.steady == pytest.approx((10, 10, 10))


def test_a_request_that_was_under_way_when_it_happened_counts() -> None:
    course = as_it_should_be("good").fails(39, Outcome.CUT)
    course.changed[39] = course.changed[39]._replace(seconds=0.2)
    assert course.cell().failed == 1


@pytest.mark.parametrize("scenario", SCENARIOS, ids=KEYS)
def test_only_where_a_process_dies_of_it_may_requests_be_lost_with_it(scenario: Scenario) -> None:
    one = as_it_should_be(scenario.key).fails(41, Outcome.CUT, "a short life").cell()
    assert (one.failed, one.inside) == ((0, 1) if scenario.deadly else (1, 0))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=KEYS)
def test_a_version_that_is_good_loses_requests_only_to_a_kill(scenario: Scenario) -> None:
    one = as_it_should_be(scenario.key).fails(41, Outcome.CUT, "old").cell()
    assert (one.failed, one.inside) == ((0, 1) if scenario.key == "kill-instance" else (1, 0))


@pytest.mark.parametrize("key", KEYS)
def test_every_promise_can_be_kept(key: str) -> None:
    slow_circus = Course(key, contender="circus", after=3.0)
    judged = as_it_should_be(key).verdicts(slow_circus)
    assert judged
    assert all(judged.values()), judged


def broken(key: str, **changes: object) -> Course:
    course = as_it_should_be(key)
    for name, value in changes.items():
        setattr(course, name, value)
    return course


@pytest.mark.parametrize(
    ("course", "promise"),
    [
        (broken("good").fails(60, Outcome.REFUSED), "no failed request"),
        (broken("kill-instance").fails(60, Outcome.TIMEOUT), "no failed request"),
        (broken("kill-supervisor").fails(60, Outcome.CUT, "old"), "no failed request"),
        (broken("good", report=Report(1, "no")), "the command succeeds"),
        (broken("good", serves=OLD), "v2 serves in the end"),
        (broken("fails-later", serves=NEW), "v1 serves in the end"),
        (broken("fails-at-once", report=Report(0, "ok")), "the command says why not"),
        (broken("fails-at-once", report=Report(1, "")), "the command says why not"),
        (broken("slow", after=0.021), "p99 at most 2 x steady"),
    ],
)
def test_every_promise_can_be_broken(course: Course, promise: str) -> None:
    judged = course.verdicts()
    assert [said for said, kept in judged.items() if not kept] == [promise]


@pytest.mark.parametrize("key", ["good", "eats-memory"])
def test_times_of_the_virtual_machine_are_not_judged(key: str) -> None:
    trial = as_it_should_be(key).trial()
    here, there = (
        {verdict.promise for verdict in results.verdicts({("lithos-shared", key): results.cell(one)})}
        for one in (trial, trial._replace(virtual=True))
    )
    assert here - there == {"p99 at most 2 x steady"}


def test_the_slow_version_is_compared_with_circus() -> None:
    promise = "worst at most 0.1 x circus"
    assert as_it_should_be("slow").verdicts(Course("slow", contender="circus", after=0.149))[promise] is False
    assert as_it_should_be("slow").verdicts(Course("slow", contender="circus", after=0.151))[promise] is True
    assert promise not in as_it_should_be("slow").verdicts()


def test_peers_are_not_judged() -> None:
    assert Course("good", contender="circus", serves=OLD).verdicts() == {}


def both() -> tuple[list[Trial], Cells]:
    courses = [as_it_should_be("good"), Course("good", contender="circus", report=Report(0, "ok"), serves=NEW)]
    courses[1].fails(45, Outcome.REFUSED).fails(48, Outcome.REFUSED)
    courses.append(as_it_should_be("kill-instance").fails(41, Outcome.CUT, "old"))
    trials = [course.trial() for course in courses]
    return trials, {(trial.contender, trial.scenario): results.cell(trial) for trial in trials}


def test_the_table() -> None:
    _, cells = both()
    assert table.table(cells).splitlines() == [
        "a good version",
        "                 failed  (kept)  inside   p50   p99  worst  steady p99  exit  serves",
        "  lithos-shared       0     (0)       0  15.0  15.0   15.0        10.0     0  v2",
        "  circus              2     (1)       0  15.0  15.0   15.0        10.0     0  v2",
        "",
        "kill -9 of an instance",
        "                 failed  (kept)  inside   p50   p99  worst  steady p99  exit  serves",
        "  lithos-shared       0     (0)       1  15.0  15.0   15.0        10.0     0  v1",
    ]


def test_a_service_that_is_gone_has_a_row() -> None:
    course = Course("fails-at-once", contender="circus")
    for number in range(40, 101):
        course.fails(number, Outcome.TIMEOUT)
    cells = {("circus", "fails-at-once"): course.cell()}
    assert table.table(cells).splitlines()[-1].split() == ["circus", "61", "(30)", "0", "10.0", "0", "nothing"]


def test_the_document_has_every_request() -> None:
    trials, cells = both()
    document = json.loads(json.dumps(results.document(trials, cells, {"cpus": 2})))
    assert document["host"] == {"cpus": 2}
    first = document["trials"][0]
    assert (first["contender"], first["scenario"], first["command_seconds"]) == ("lithos-shared", "good", 1)
    assert first["samples"][40] == [0, 0.015, "ok", "v2", "v2 life", False]
    assert [len(trial["samples"]) for trial in document["trials"]] == [101] * 3
    assert first["cell"]["after"]["p99"] == pytest.approx(15)
    assert document["trials"][1]["cell"]["failed_kept"] == 1
    assert all(verdict["kept"] for verdict in document["verdicts"])


def test_trials_come_back_from_a_document() -> None:
    trials, cells = both()
    found = results.trials_of(json.loads(json.dumps(results.document(trials, cells, {}))))
    assert [(one.contender, one.scenario, one.report, one.virtual) for one in found] == [
        (one.contender, one.scenario, one.report, True) for one in trials
    ]
    for before, after in zip(trials, found, strict=True):
        assert after.ended - after.event == before.ended - before.event
        expected, one = results.cell(before), results.cell(after)
        assert (one.failed_fresh, one.failed_kept, one.inside) == (
            expected.failed_fresh,
            expected.failed_kept,
            expected.inside,
        )
        assert (one.serves, one.requests) == (expected.serves, expected.requests)
        assert (one.after, one.steady) == (pytest.approx(expected.after), pytest.approx(expected.steady))


def test_what_comes_from_the_virtual_machine_is_marked() -> None:
    trials, _ = both()
    trials[1] = trials[1]._replace(virtual=True)
    cells = {(trial.contender, trial.scenario): results.cell(trial) for trial in trials}
    names = [line[:19].strip() for line in table.table(cells).splitlines() if line.startswith("  ") and line[2] != " "]
    assert names == ["lithos-shared", "circus *", "lithos-shared"]
    words = plot.svg(trials, cells, "any", [])
    assert words.count(" failed *<") == 1
    assert "2 failed *<" in words


def test_the_picture_has_every_trial_and_says_what_failed() -> None:
    trials, cells = both()
    picture = ElementTree.fromstring(plot.svg(trials, cells, "times & <more>", ["a < b"]))  # noqa: S314 - it is our own
    assert len(picture.findall("svg:g", SPACE)) == 3
    words = [text.text for text in picture.iter(f"{{{SPACE['svg']}}}text")]
    assert {"0 failed", "2 failed", "0 failed + 1 inside", "lithos-shared", "circus", "a good version", "a < b"} <= set(
        words
    )
    bars = [one for one in picture.iter(f"{{{SPACE['svg']}}}rect") if one.get("class") == "failed"]
    assert len(bars) == 3


REQUESTS = st.builds(
    Sample,
    st.floats(0, 60),
    st.floats(0, 10),
    st.sampled_from(Outcome),
    st.sampled_from([OLD, NEW]),
    st.sampled_from(["", "a", "b"]),
    st.booleans(),
)


@given(st.lists(REQUESTS, min_size=1, max_size=100), st.sampled_from(KEYS), st.floats(1, 60))
def test_any_trial_can_be_judged_and_drawn_within_its_frame(some: list[Sample], key: str, event: float) -> None:
    trial = Trial("circus", key, event, event + 1, Report(0, ""), tuple(sorted(some)))
    cells = {("circus", key): results.cell(trial)}
    assert table.table(cells)
    picture = ElementTree.fromstring(plot.svg([trial], cells, "any", []))  # noqa: S314 - it is our own
    frame = picture.find("svg:g/svg:rect[@class='frame']", SPACE)
    assert frame is not None
    width, height = float(frame.attrib["width"]), float(frame.attrib["height"])
    for bar in picture.findall("svg:g/svg:rect[@class='failed']", SPACE):
        assert 0 <= float(bar.attrib["x"]) <= width
        assert 0 < float(bar.attrib["height"]) <= height
    path = picture.find("svg:g/svg:path", SPACE)
    assert path is not None
    for stroke in filter(None, path.attrib["d"].split("M")):
        place, top = stroke.split("V")
        x, bottom = map(float, place.split())
        assert 0 <= x <= width
        assert -1 <= float(top) <= bottom <= height
