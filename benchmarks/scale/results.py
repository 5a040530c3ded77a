"""From measurements to the table and verdicts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple


class Measurement(NamedTuple):
    """One figure: ``values`` of several rounds, of which the median counts; ``most`` is the budget, if there is one."""

    what: str
    values: tuple[float, ...]
    unit: str
    most: float | None = None

    @property
    def typical(self) -> float:
        """The median."""
        return median(self.values)

    @property
    def met(self) -> bool:
        """Whether it keeps within the budget."""
        return self.most is None or self.typical <= self.most


_PLACES = (str.ljust, str.rjust, str.rjust, str.rjust, str.ljust, str.rjust, str.ljust)
_HEADS = ("", "median", "least", "most", "", "budget", "")


def table(measurements: Sequence[Measurement]) -> str:
    """Return the aligned table."""
    rows = [_HEADS, *map(_row, measurements)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def _row(one: Measurement) -> tuple[str, ...]:
    figures = (one.typical, min(one.values), max(one.values))
    budget = ("", "") if one.most is None else (f"{one.most:g}", "met" if one.met else "missed")
    return one.what, *map(_figure, figures), one.unit, *budget


def _figure(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    placed = [place(cell, width) for place, cell, width in zip(_PLACES, row, widths, strict=True)]
    return "  ".join(placed).rstrip()


def document(measurements: Sequence[Measurement], host: dict[str, object]) -> dict[str, object]:
    """Return everything as JSON takes it."""
    return {"host": host, "measurements": [{**one._asdict(), "met": one.met} for one in measurements]}
