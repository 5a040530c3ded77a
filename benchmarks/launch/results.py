"""From times to what is shown: percentiles, ratios, verdicts, the table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .race import Timing

LITHOS, LITHOS_NO_INIT, BWRAP, CRUN = "lithos", "lithos init:false", "bwrap", "crun"
PEERS = (BWRAP, CRUN)


class Summary(NamedTuple):
    """Percentiles of one series, in milliseconds."""

    min: float
    p10: float
    p50: float
    p99: float


class Budget(NamedTuple):
    """``name`` may take ``most`` times as long as ``peer``, median of start → exited."""

    name: str
    peer: str
    most: float


# bwrap runs an init of its own, crun none; hence two lines each.
BUDGETS = (
    Budget(LITHOS_NO_INIT, BWRAP, 0.7),
    Budget(LITHOS_NO_INIT, CRUN, 0.4),
    Budget(LITHOS, BWRAP, 1.1),
    Budget(LITHOS, CRUN, 0.6),
)


class Verdict(NamedTuple):
    """A budget and what was measured."""

    budget: Budget
    ratio: float

    @property
    def met(self) -> bool:
        """Whether the ratio keeps within the budget."""
        return self.ratio <= self.budget.most

    def sentence(self) -> str:
        """Say it, and by how much a missed budget is missed."""
        name, peer, most = self.budget
        ending = "met" if self.met else f"missed by {(self.ratio / most - 1) * 100:.0f} %"
        return f"{name}: {self.ratio:.2f} x {peer}, at most {most:.2f}: {ending}"


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that at least ``percent`` of all do not exceed (nearest rank)."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def summarize(seconds: Sequence[float]) -> Summary:
    """Summarize one series; it must not be empty."""
    return Summary(min(seconds) * 1e3, *(percentile(seconds, percent) * 1e3 for percent in (10, 50, 99)))


def exited(timings: Mapping[str, Sequence[Timing]]) -> dict[str, Summary]:
    """Return start → exited of every contender."""
    return {name: summarize([timing.exited for timing in series]) for name, series in timings.items()}


def executed(timings: Mapping[str, Sequence[Timing]]) -> dict[str, Summary]:
    """Return start → exec of those that show it."""
    seen = {name: [one.executed for one in series if one.executed is not None] for name, series in timings.items()}
    return {name: summarize(series) for name, series in seen.items() if series}


def ratio(summaries: Mapping[str, Summary], name: str, peer: str) -> float | None:
    """Return how many times as long as ``peer`` ``name`` takes, by medians; None when one was not run."""
    if name not in summaries or peer not in summaries:
        return None
    return summaries[name].p50 / summaries[peer].p50


def verdicts(summaries: Mapping[str, Summary]) -> list[Verdict]:
    """Judge every budget whose two sides were run."""
    ratios = ((budget, ratio(summaries, budget.name, budget.peer)) for budget in BUDGETS)
    return [Verdict(budget, measured) for budget, measured in ratios if measured is not None]


def table(timings: Mapping[str, Sequence[Timing]]) -> str:
    """Return the aligned table, in milliseconds, fastest first."""
    ends, starts = exited(timings), executed(timings)
    heads = ["ms", "exec p50", "p99", "min", "exited p50", "p99", "min", *(f"x {peer}" for peer in PEERS)]
    rows = [heads]
    for name in sorted(ends, key=lambda name: ends[name].p50):
        start, end = starts.get(name), ends[name]
        rows.append([name, *_cells(start), *_cells(end), *(_cell(ratio(ends, name, peer)) for peer in PEERS)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def _cells(summary: Summary | None) -> list[str]:
    return [_cell(value) for value in ((summary.p50, summary.p99, summary.min) if summary else (None,) * 3)]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def document(timings: Mapping[str, Sequence[Timing]], host: Mapping[str, object]) -> dict[str, object]:
    """Return everything as JSON takes it: summaries and every single time, in milliseconds."""
    ends, starts = exited(timings), executed(timings)
    return {
        "host": dict(host),
        "rounds": min(map(len, timings.values())),
        "contenders": {
            name: {
                "exec": starts[name]._asdict() if name in starts else None,
                "exited": ends[name]._asdict(),
                "ratios": {peer: ratio(ends, name, peer) for peer in PEERS},
                "samples": [round(timing.exited * 1e3, 4) for timing in series],
            }
            for name, series in timings.items()
        },
        "budgets": [
            {**verdict.budget._asdict(), "ratio": verdict.ratio, "met": verdict.met} for verdict in verdicts(ends)
        ],
    }
