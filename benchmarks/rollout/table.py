"""The table for terminals and pipes: a block for every scenario, a row for every contender. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from .results import Cell, Cells
from .samples import Latency
from .trial import SCENARIOS

HEADS = ("", "failed", "(kept)", "inside", "p50", "p99", "worst", "steady p99", "exit", "serves")


def table(cells: Cells) -> str:
    """Return all blocks; only what was run is shown."""
    rows = {
        scenario: [(name + mark(one), *_row(one)) for (name, key), one in cells.items() if key == scenario.key]
        for scenario in SCENARIOS
    }
    every = [HEADS, *(row for block in rows.values() for row in block)]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    lines: list[str] = []
    for scenario, block in rows.items():
        if block:
            lines += [scenario.title, *(_line(row, widths) for row in (HEADS, *block)), ""]
    return "\n".join(lines[:-1])


def mark(one: Cell) -> str:
    """What stands behind that which comes from the virtual machine."""
    return " *" if one.virtual else ""


def _row(one: Cell) -> Iterator[str]:
    yield str(one.failed)
    yield f"({one.failed_kept})"
    yield str(one.inside)
    yield from _times(one.after)
    yield _milliseconds(one.steady.p99) if one.steady else ""
    yield str(one.report.code)
    yield " and ".join(one.serves) or "nothing"


def _times(times: Latency | None) -> tuple[str, ...]:
    return tuple(map(_milliseconds, times)) if times else ("", "", "")


def _milliseconds(time: float) -> str:
    return f"{time:.1f}" if time < 100 else f"{time:.0f}"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    first, *middle, last = row
    cells = map(str.rjust, middle, widths[1:-1])
    return "  ".join([f"  {first.ljust(widths[0])}", *cells, last]).rstrip()


LEGEND = (
    "failed: requests without an answer, of them (kept) on kept connections; inside: cut inside a process that died\n"
    "p50, p99, worst: milliseconds from when a request was due, of all answered since it happened\n"
    "exit: the exit code of the command; serves: which versions answer in the last second"
)
