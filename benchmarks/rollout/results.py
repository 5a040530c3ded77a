"""From trials to cells and verdicts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .contenders import Report
from .samples import Latency, Sample, between, failures, inside_the_dying, latency, read, versions
from .trial import NEW, OLD, SCENARIOS, WARM_UP, Scenario, Trial

_AT_THE_END = 1.0  # seconds of load that say who serves in the end
CIRCUS = "circus"
MOST_OF_STEADY = 2.0  # times the steady p99 may be the p99 of a roll-out
MOST_OF_CIRCUS = 0.1  # of circus's worst request


class Cell(NamedTuple):
    """What one trial came to. Failures inside a dying process are counted apart, where the scenario has one."""

    steady: Latency | None  # before it happened
    after: Latency | None  # from then on
    failed_fresh: int
    failed_kept: int
    inside: int
    requests: int  # from then on
    serves: tuple[str, ...]  # the versions that answer in the end
    report: Report
    virtual: bool

    @property
    def failed(self) -> int:
        """The failed requests that a supervisor could have saved."""
        return self.failed_fresh + self.failed_kept


Cells = Mapping[tuple[str, str], Cell]  # by contender and scenario


def cell(trial: Trial) -> Cell:
    """Judge a trial."""
    samples = trial.samples
    start, end = samples[0].at, samples[-1].at
    scenario = next(one for one in SCENARIOS if one.key == trial.scenario)
    after = between(samples, trial.event, end + 1)
    # One that was due a moment before may have been hit by it.
    failed = failures(sample for sample in samples if sample.end >= trial.event)
    lost = set(failed) & set(_inside(scenario, trial))
    avoidable = [sample for sample in failed if sample not in lost]
    return Cell(
        latency(between(samples, start + WARM_UP, trial.event)),
        latency(after),
        sum(not sample.kept for sample in avoidable),
        sum(sample.kept for sample in avoidable),
        len(lost),
        len(after),
        versions(between(samples, end - _AT_THE_END, end + 1)),
        trial.report,
        trial.virtual,
    )


def _inside(scenario: Scenario, trial: Trial) -> list[Sample]:
    """The requests that were lost with a process that the scenario has killed or that was too bad to live."""
    if scenario.key == "kill-instance":
        return inside_the_dying(trial.samples, kills=[trial.event])
    return inside_the_dying(trial.samples, mortal=NEW) if scenario.deadly else []


class Verdict(NamedTuple):
    """A promise of this project, and whether it was kept."""

    contender: str
    scenario: str
    promise: str
    found: str
    kept: bool

    def sentence(self) -> str:
        """Say it."""
        return f"{self.contender}, {self.scenario}: {self.promise}: {'yes' if self.kept else 'NO'} ({self.found})"


def verdicts(cells: Cells) -> list[Verdict]:
    """Judge our own rows."""
    titles = {scenario.key: scenario for scenario in SCENARIOS}
    return [
        Verdict(contender, key, *judged)
        for (contender, key), one in cells.items()
        if contender.startswith("lithos")
        for judged in _judge(titles[key], one, cells.get((CIRCUS, key)))
    ]


def _judge(scenario: Scenario, one: Cell, circus: Cell | None) -> list[tuple[str, str, bool]]:
    judged = [("no failed request", f"{one.failed} of {one.requests}", one.failed == 0)]
    judged.append((f"{scenario.serves} serves in the end", " and ".join(one.serves), one.serves == (scenario.serves,)))
    if scenario.serves == NEW:
        judged.append(("the command succeeds", f"exit {one.report.code}", one.report.code == 0))
    elif scenario.key not in ("kill-instance", "kill-supervisor"):
        judged.append(("the command says why not", f"exit {one.report.code}: {one.report.said}", _says_why(one.report)))
    # Where a processor is emulated, the start of an instance is ten times as dear, and a request takes 10 ms as before.
    if one.steady and one.after and not (scenario.key.startswith("kill-") or one.virtual):
        ratio = one.after.p99 / one.steady.p99
        judged.append((f"p99 at most {MOST_OF_STEADY:g} x steady", f"{ratio:.2f}", ratio <= MOST_OF_STEADY))
    if scenario.key == "slow" and one.after and circus and circus.after:
        ratio = one.after.worst / circus.after.worst
        judged.append((f"worst at most {MOST_OF_CIRCUS:g} x circus", f"{ratio:.3f}", ratio <= MOST_OF_CIRCUS))
    return judged


def _says_why(report: Report) -> bool:
    return report.code == 1 and bool(report.said)


def document(trials: Sequence[Trial], cells: Cells, host: Mapping[str, object]) -> dict[str, object]:
    """Return everything as JSON takes it, every request included; times are seconds since the event."""
    return {
        "host": dict(host),
        "versions": {"old": OLD, "new": NEW},
        "trials": [
            {
                "contender": trial.contender,
                "scenario": trial.scenario,
                "virtual": trial.virtual,
                "command_seconds": round(trial.ended - trial.event, 3),
                "cell": _plain(cells[trial.contender, trial.scenario]),
                "samples": [
                    [
                        round(one.at - trial.event, 4),
                        round(one.seconds, 5),
                        one.outcome,
                        one.version,
                        one.life,
                        one.kept,
                    ]
                    for one in trial.samples
                ],
            }
            for trial in trials
        ],
        "verdicts": [verdict._asdict() for verdict in verdicts(cells)],
    }


def trials_of(document: Mapping[str, Any]) -> list[Trial]:
    """Return the trials in a document that the virtual machine has sent."""
    return [
        Trial(
            contender=one["contender"],
            scenario=one["scenario"],
            event=0.0,
            ended=one["command_seconds"],
            report=Report(**one["cell"]["report"]),
            samples=read(one["samples"]),
            virtual=True,
        )
        for one in document["trials"]
    ]


def _plain(one: Cell) -> dict[str, object]:
    return {
        **one._asdict(),
        "steady": one.steady and one.steady._asdict(),
        "after": one.after and one.after._asdict(),
        "report": one.report._asdict(),
    }
