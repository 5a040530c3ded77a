"""The table of `lithos ps` and `lithos top`: observations in, lines out; no clock, no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lithos_runner.status import processes, units
from lithos_runner.status.readings import COMMAND

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lithos_runner.status.readings import Exit, Observation, Supervisor

GAP = "  "
BAR_CELLS = 10

# SGR parameters, see console_codes(4).
BOLD, DIM, RED, GREEN, YELLOW, CYAN = "1", "2", "31", "32", "33", "36"

STATE_STYLES = {
    "ready": GREEN,
    "starting": CYAN,
    "draining": CYAN,
    "stopping": CYAN,
    "backoff": YELLOW,
    "failed": f"{BOLD};{RED}",
    "stopped": DIM,
    COMMAND: GREEN,
}

# From which part of its limit on the memory of an instance is worth a colour.
_FULL = ((0.9, RED), (0.75, YELLOW), (0.0, GREEN))


class Style(NamedTuple):
    """How lines are shown: how wide (None: no limit), with colours or not, with block characters or not."""

    width: int | None = None
    colour: bool = False
    blocks: bool = False

    def paint(self, text: str, sgr: str) -> str:
        """The text in the colour or weight `sgr`."""
        return f"\x1b[{sgr}m{text}\x1b[0m" if self.colour and sgr and text else text


class Row(NamedTuple):
    """One instance in a table; `cpu` is in CPUs (1.5 is 150 %), None where it was not measured."""

    seen: Observation
    now: float
    cpu: float | None = None


class Cell(NamedTuple):
    """A text and its SGR parameters."""

    text: str
    sgr: str = ""


NOTHING = Cell("-", DIM)


class Column(NamedTuple):
    """A column; numbers stand on the right."""

    title: str
    cell: Callable[[Row], Cell]
    right: bool = False


def _state(row: Row) -> Cell:
    state = row.seen.instance.state
    return Cell(state, STATE_STYLES.get(state, ""))


def _pid(row: Row) -> Cell:
    return Cell(str(row.seen.pid)) if row.seen.pid else NOTHING


def _uptime(row: Row) -> Cell:
    started = row.seen.instance.started
    return Cell(units.duration(row.now - started)) if started is not None else NOTHING


def _cpu(row: Row) -> Cell:
    return Cell(f"{row.cpu:.1%}".replace("%", " %")) if row.cpu is not None else NOTHING


def _memory(row: Row) -> Cell:
    memory = row.seen.memory
    if memory is None:
        return NOTHING
    limit = f" / {units.size(memory.max)}" if memory.max is not None else ""
    return Cell(units.size(memory.current) + limit, _level(_fill(row)))


def _fill(row: Row) -> float | None:
    memory = row.seen.memory
    return memory.current / memory.max if memory and memory.max else None


def _level(fill: float | None) -> str:
    """The colour of a part of the limit; one that is well below it has none."""
    colour = next(sgr for least, sgr in _FULL if (fill or 0) >= least)
    return colour if colour != GREEN else ""


def _percent(row: Row) -> Cell:
    fill = _fill(row)
    return Cell(f"{fill:.0%}", _level(fill)) if fill is not None else Cell("")


def _bar(row: Row) -> Cell:
    fill = _fill(row)
    if fill is None:
        return Cell("")
    cells = min(BAR_CELLS, round(fill * BAR_CELLS))
    return Cell("█" * cells + "░" * (BAR_CELLS - cells), _level(fill) or GREEN)


def _restarts(row: Row) -> Cell:
    restarts = row.seen.instance.restarts
    return Cell(str(restarts), YELLOW if restarts else "")


def _last_exit(row: Row) -> Cell:
    last = row.seen.instance.last_exit
    return Cell(_reason(last), "" if last.code == 0 else YELLOW) if last else NOTHING


def _last_exit_age(row: Row) -> Cell:
    last = row.seen.instance.last_exit
    return Cell(f"{units.duration(row.now - last.at)} ago", DIM) if last else Cell("")


def _reason(last: Exit) -> str:
    if last.oom_killed:
        return "out of memory"
    if last.signal is not None:
        return processes.signal_name(last.signal)
    return "unknown" if last.code is None else f"code {last.code}"


def _ports(row: Row) -> Cell:
    ports = row.seen.instance.ports
    return Cell(",".join(map(str, ports))) if ports else NOTHING


def _image(row: Row) -> Cell:
    return Cell(row.seen.instance.image)


def _status(row: Row) -> Cell:
    # Its own words, so nothing that a terminal would take for a command.
    text = "".join(character if character.isprintable() else "?" for character in row.seen.instance.status)
    return Cell(text if len(text) <= _LONGEST_STATUS else f"{text[: _LONGEST_STATUS - 1]}…")


NAME = Column("NAME", lambda row: Cell(row.seen.instance.name))
STATE = Column("STATE", _state)
PID = Column("PID", _pid, right=True)
UPTIME = Column("UPTIME", _uptime, right=True)
CPU = Column("CPU", _cpu, right=True)
MEMORY = Column("MEMORY", _memory, right=True)
PERCENT = Column("", _percent, right=True)
BAR = Column("", _bar)
RESTARTS = Column("RESTARTS", _restarts, right=True)
LAST_EXIT = Column("LAST EXIT", _last_exit)
AGE = Column("", _last_exit_age)
PORTS = Column("PORTS", _ports)
IMAGE = Column("IMAGE", _image)
STATUS = Column("STATUS", _status)

COLUMNS = (NAME, STATE, PID, UPTIME, CPU, MEMORY, PERCENT, BAR, RESTARTS, LAST_EXIT, AGE, PORTS, IMAGE, STATUS)

# What a narrow terminal does without, in this order.
_DISPENSABLE = (BAR, AGE, PERCENT, STATUS, IMAGE, PORTS, UPTIME, PID, LAST_EXIT, RESTARTS, CPU)


_MOST_FAULTS = 5
_LONGEST_STATUS = 40  # characters


class Section(NamedTuple):
    """A supervisor and its instances; None: commands, which have none."""

    supervisor: Supervisor | None
    rows: Sequence[Row]


def table(sections: Sequence[Section], now: float, style: Style, columns: Sequence[Column]) -> list[str]:
    """All supervisors with their instances, and the commands, as lines; `now` in epoch seconds.

    The columns have the same widths everywhere. Where the place is too narrow for all of them, the least
    important ones are left out.
    """
    rows = [row for section in sections for row in section.rows]
    instances = [row.seen.instance for row in rows]
    hidden = {
        BAR: not style.blocks,
        IMAGE: not any(instance.image for instance in instances),
        STATUS: not any(instance.status for instance in instances),
    }
    shown = [column for column in columns if not hidden.get(column)]
    widths = _fit(_widths(rows, shown), style.width)
    lines: list[str] = []
    for section in sections:
        if lines:
            lines.append("")
        lines += _above(section.supervisor, now, style)
        lines += _body(section.rows, widths, style)
    return lines


def _widths(rows: Sequence[Row], columns: Sequence[Column]) -> dict[Column, int]:
    """How wide each column is; one with neither a title nor a text is left out."""
    texts = {column: [column.title, *(column.cell(row).text for row in rows)] for column in columns}
    return {column: max(map(len, text)) for column, text in texts.items() if any(text)}


def _fit(widths: dict[Column, int], limit: int | None) -> dict[Column, int]:
    if limit is None:
        return widths
    kept = dict(widths)
    for column in _DISPENSABLE:
        if _total(kept) <= limit:
            break
        kept.pop(column, None)
    too_much = max(0, _total(kept) - limit)
    return {**kept, NAME: max(1, kept[NAME] - too_much)}


def _total(widths: dict[Column, int]) -> int:
    return sum(widths.values()) + len(GAP) * (len(widths) - 1)


def _body(rows: Sequence[Row], widths: dict[Column, int], style: Style) -> list[str]:
    if not rows:
        return [style.paint("no instances", DIM)]
    titles = [Cell(column.title, BOLD) for column in widths]
    return [_line(cells, widths, style) for cells in (titles, *([c.cell(row) for c in widths] for row in rows))]


def _line(cells: Sequence[Cell], widths: dict[Column, int], style: Style) -> str:
    parts = []
    for cell, (column, width) in zip(cells, widths.items(), strict=True):
        text = _from_the_left(cell.text, width)
        padding = " " * (width - len(text))
        painted = style.paint(text, cell.sgr)
        parts.append(padding + painted if column.right else painted + padding)
    return GAP.join(parts).rstrip()


def _above(supervisor: Supervisor | None, now: float, style: Style) -> list[str]:
    if supervisor is None:
        return [style.paint("one-off commands", BOLD)]
    return [_heading(supervisor, now, style), *_faults(supervisor, style)]


def _heading(supervisor: Supervisor, now: float, style: Style) -> str:
    facts = f"pid {supervisor.pid}, up {units.duration(now - supervisor.started)}"
    warning = _not_enforced(supervisor)
    config = supervisor.config
    if style.width is not None:
        config = _from_the_left(config, max(1, style.width - len(f"{GAP}{facts}{GAP}{warning}")))
    parts = (style.paint(config, BOLD), style.paint(facts, DIM), style.paint(warning, YELLOW))
    return GAP.join(parts).rstrip()


def _faults(supervisor: Supervisor, style: Style) -> list[str]:
    """What of the configuration is not in force, the first of it."""
    shown = [f"not in force: {fault}" for fault in supervisor.faults[:_MOST_FAULTS]]
    more = len(supervisor.faults) - len(shown)
    texts = [*shown, *([f"and {more} more, see lithos check -C {supervisor.config}"] if more else [])]
    return [style.paint(text[: style.width], YELLOW) for text in texts]


def _not_enforced(supervisor: Supervisor) -> str:
    if supervisor.limits == "off":
        return "no limits (--limits off)"
    missing = ", ".join(supervisor.not_enforced)
    return f"not limited: {missing}" if missing else ""


def _from_the_left(text: str, width: int) -> str:
    """The text, or its end after an ellipsis: names and paths differ at their ends."""
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]
