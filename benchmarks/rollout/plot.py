"""The table as a picture (SVG): time runs to the right, latency upwards, what failed is red. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from math import log10

from .results import Cell, Cells
from .samples import Outcome, Sample
from .table import mark
from .trial import SCENARIOS, Trial

_LEFT, _HEAD, _LINE, _BOTTOM = 164, 67, 15, 30
_WIDTH, _HEIGHT, _CAPTION, _GAP = 172, 66, 16, 12  # of one small picture, the line below it, between two
_BEFORE, _AFTER = -2.0, 20.0  # seconds from the event that are shown
_BIN = 0.125  # seconds that share one stroke
_FLOOR, _CEILING = 0.005, 5.0  # seconds; latency is drawn on a logarithmic scale
_MARKS = ((0.01, "10 ms"), (0.1, "0.1 s"), (1.0, "1 s"))

# The card brings its own background: the page's colours may differ from what the system prefers.
_STYLE = (
    "text{font:12px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#1f2328}"
    ".title{font-weight:600;font-size:15px}.name{font-weight:600}.small{font-size:11px;fill:#57606a}"
    ".bad{font-weight:600;fill:#cf222e}.good{fill:#1a7f37}.card{fill:#fff}.frame{fill:#f6f8fa;stroke:#d0d7de}"
    ".mark{stroke:#d8dee4}.event{stroke:#57606a}.ended{stroke:#57606a;stroke-dasharray:2 3}"
    ".theirs{stroke:#6e8fb8;fill:none;stroke-width:1.3}.ours{stroke:#1f6feb;fill:none;stroke-width:1.3}"
    ".failed{fill:#cf222e}"
    "@media (prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9ea7b3}.bad,.failed{fill:#ff7b72}"
    ".good{fill:#3fb950}.card{fill:#0d1117}.frame{fill:#161b22;stroke:#30363d}.mark{stroke:#21262d}"
    ".event,.ended{stroke:#9ea7b3}.ours{stroke:#58a6ff}}"
)
_KEY = "solid line: it happens; dotted line: the command has ended; red: the part of the requests that failed"


def svg(trials: Sequence[Trial], cells: Cells, title: str, notes: Sequence[str]) -> str:
    """Draw every trial, and below it the number of its failed requests; ``notes`` are lines below the title."""
    names = list(dict.fromkeys(trial.contender for trial in trials))
    keys = [scenario for scenario in SCENARIOS if any(trial.scenario == scenario.key for trial in trials)]
    lines_above = [_KEY, *notes]
    top = _HEAD + _LINE * len(lines_above)
    width = _LEFT + len(keys) * (_WIDTH + _GAP) + 4
    height = top + len(names) * (_HEIGHT + _CAPTION + _GAP) + _BOTTOM
    size = f'width="{width}" height="{height}"'
    words = escape(title)
    columns = {scenario.key: _LEFT + place * (_WIDTH + _GAP) for place, scenario in enumerate(keys)}
    rows = {name: top + place * (_HEIGHT + _CAPTION + _GAP) for place, name in enumerate(names)}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}" role="img">',
        f"<title>{words}</title><style>{_STYLE}</style><rect class='card' {size} rx='8'/>",
        f'<text class="title" x="12" y="24">{words}</text>',
    ]
    for place, note in enumerate(lines_above):
        lines.append(f'<text class="small" x="12" y="{44 + _LINE * place}">{escape(note)}</text>')
    lines += [f'<text x="{columns[one.key]}" y="{top - 10}">{escape(one.title)}</text>' for one in keys]
    for name, y in rows.items():
        lines.append(f'<text class="name" x="12" y="{y + 14}">{escape(name)}</text>')
        for seconds, label in _MARKS:
            above = y + _y(seconds)
            lines.append(f'<text class="small" x="{_LEFT - 6}" y="{above + 3:.1f}" text-anchor="end">{label}</text>')
    for trial in trials:
        x, y = columns[trial.scenario], rows[trial.contender]
        lines.append(f'<g transform="translate({x} {y})">')
        lines += _picture(trial)
        lines.append(_label(cells[trial.contender, trial.scenario]))
        lines.append("</g>")
    return "\n".join([*lines, *_axis(columns, height), "</svg>\n"])


def _x(seconds: float) -> float:
    return (seconds - _BEFORE) / (_AFTER - _BEFORE) * _WIDTH


def _y(seconds: float) -> float:
    bounded = min(max(seconds, _FLOOR), _CEILING)
    return _HEIGHT * (1 - log10(bounded / _FLOOR) / log10(_CEILING / _FLOOR))


def _picture(trial: Trial) -> Iterator[str]:
    yield f'<rect class="frame" width="{_WIDTH}" height="{_HEIGHT}"/>'
    for seconds, _ in _MARKS:
        yield f'<line class="mark" x2="{_WIDTH}" y1="{_y(seconds):.1f}" y2="{_y(seconds):.1f}"/>'
    yield f'<line class="event" x1="{_x(0):.1f}" x2="{_x(0):.1f}" y2="{_HEIGHT}"/>'
    ended = trial.ended - trial.event
    if ended < _AFTER:
        yield f'<line class="ended" x1="{_x(ended):.1f}" x2="{_x(ended):.1f}" y2="{_HEIGHT}"/>'
    bins = _bins(trial)
    yield f'<path class="{"ours" if trial.contender.startswith("lithos") else "theirs"}" d="{_strokes(bins)}"/>'
    yield from _failures(bins)


def _label(cell: Cell) -> str:
    inside = f" + {cell.inside} inside" if cell.inside else ""
    kind = "bad" if cell.failed else "good"
    return f'<text class="{kind}" y="{_HEIGHT + _CAPTION - 3}">{cell.failed} failed{inside}{mark(cell)}</text>'


def _bins(trial: Trial) -> dict[int, list[Sample]]:
    """The requests by when they were due, in steps of `_BIN` since the left edge."""
    bins = defaultdict(list)
    for sample in trial.samples:
        if _BEFORE <= sample.at - trial.event < _AFTER:
            bins[int((sample.at - trial.event - _BEFORE) / _BIN)].append(sample)
    return bins


def _strokes(bins: dict[int, list[Sample]]) -> str:
    """A stroke from the fastest to the slowest answer of each step."""
    strokes = []
    for step, samples in sorted(bins.items()):
        times = [sample.seconds for sample in samples if sample.outcome is Outcome.OK]
        if times:
            # At least a pixel, or equal times could not be seen.
            bottom = min(_y(min(times)) + 0.5, _HEIGHT)
            strokes.append(f"M{_x(_BEFORE + step * _BIN):.1f} {bottom:.1f}V{_y(max(times)) - 0.5:.1f}")
    return "".join(strokes)


def _failures(bins: dict[int, list[Sample]]) -> Iterator[str]:
    """A bar from the top: as high as the part of the requests that failed."""
    for step, samples in sorted(bins.items()):
        part = sum(sample.outcome is not Outcome.OK for sample in samples) / len(samples)
        if part:
            x, width = _x(_BEFORE + step * _BIN), _BIN / (_AFTER - _BEFORE) * _WIDTH
            yield f'<rect class="failed" x="{x:.1f}" width="{width:.2f}" height="{max(2.0, part * _HEIGHT):.1f}"/>'


def _axis(columns: dict[str, int], height: int) -> Iterator[str]:
    """Seconds since it happened, below the last row."""
    for x in columns.values():
        for seconds in (0, 5, 10, 15, 20):
            anchor = "end" if seconds == _AFTER else "middle"
            unit = " s" if seconds == _AFTER else ""
            place = f'x="{x + _x(seconds):.1f}" y="{height - 14}" text-anchor="{anchor}"'
            yield f'<text class="small" {place}>{seconds}{unit}</text>'
