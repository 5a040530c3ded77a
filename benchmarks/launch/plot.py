"""A strip plot as SVG: one row per contender, a dot per start, a bar at the median. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from .race import Timing
from .results import Summary, exited, percentile

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 860, 150, 70, 44, 34
_DOTS = 12  # pixels that the dots of a row are spread over, so that equal times do not hide each other
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # ms between two grid lines

_STYLE = (
    "text{font:13px sans-serif;fill:#333}.title{font-weight:bold}.grid{stroke:#ddd}.dot{fill:#7a9cc6;fill-opacity:.45}"
    ".ours{fill:#d9822b;fill-opacity:.55}.median{stroke:#222;stroke-width:2}"
)


def svg(timings: Mapping[str, Sequence[Timing]], title: str) -> str:
    """Draw start → exited. The axis ends where 99 % of every contender's starts are shown; the rest is cut off."""
    ends = exited(timings)
    names = sorted(ends, key=lambda name: ends[name].p50)
    step = next((step for step in _STEPS if _longest(ends) / step <= 10), _STEPS[-1])
    scale = (_WIDTH - _LEFT - _RIGHT) / (-(-_longest(ends) // step) * step)
    height = _TOP + _ROW * len(names) + 30
    size = f'width="{_WIDTH}" height="{height}"'
    words = escape(title)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {_WIDTH} {height}" role="img">',
            f"<title>{words}</title><style>{_STYLE}</style><rect {size} fill='#fff'/>",
            f'<text class="title" x="12" y="22">{words}</text>',
            *_grid(step, scale, height),
            *(line for row, name in enumerate(names) for line in _strip(row, name, timings[name], ends[name], scale)),
            "</svg>\n",
        ]
    )


def _longest(ends: Mapping[str, Summary]) -> float:
    return max(summary.p99 for summary in ends.values())


def _grid(step: float, scale: float, height: int) -> Iterator[str]:
    for line in range(round((_WIDTH - _LEFT - _RIGHT) / scale / step) + 1):
        x = _LEFT + line * step * scale
        unit = " ms" if line == 0 else ""
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 8}" y2="{height - 24}"/>'
        yield f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{line * step:g}{unit}</text>'


def _strip(row: int, name: str, series: Sequence[Timing], summary: Summary, scale: float) -> Iterator[str]:
    middle = _TOP + _ROW * row + _ROW / 2 - 6
    colour = "ours" if name.startswith("lithos") else "dot"
    yield f'<text x="12" y="{middle + 4:.1f}">{escape(name)}</text>'
    most = percentile([timing.exited for timing in series], 99)
    for number, timing in enumerate(series):
        if timing.exited <= most:
            x = _LEFT + timing.exited * 1e3 * scale
            y = middle + (number % (_DOTS + 1)) - _DOTS / 2
            yield f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
    x = _LEFT + summary.p50 * scale
    yield f'<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="{middle - 11:.1f}" y2="{middle + 11:.1f}"/>'
    yield f'<text x="{_WIDTH - 12}" y="{middle + 4:.1f}" text-anchor="end">{summary.p50:.2f}</text>'
