"""`lithos top`: the table of `lithos ps`, drawn again each second, with the CPU that each instance uses."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from lithos_runner.commands import ps
from lithos_runner.status import place, table
from lithos_runner.status.meter import CpuMeter
from lithos_runner.status.readings import Observer

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

HELP = "show what runs, again each second, with CPU use"

PERIOD = 1.0
#: The time between the two readings that the first figures need.
FIRST = 0.2


def configure(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--once", action="store_true", help="print one table and end, as in a pipe")
    parser.add_argument("--note", default="", metavar="TEXT", help="a line to show below the table")
    ps.add_name(parser)


def run(args: Namespace) -> int:
    """Draw on a terminal until `q` or Ctrl-C, or print once."""
    with Observer() as observer:
        meter = CpuMeter()
        if not _lines(observer, meter, args.name):
            print(*ps.absent(observer, empty=True), sep="\n", file=sys.stderr)
            return 0
        if args.once or not (sys.stdin.isatty() and sys.stdout.isatty()):
            time.sleep(FIRST)
            print("\n".join(_lines(observer, meter, args.name)))
        else:
            _draw(observer, meter, args.name, args.note)
    return 0


def _draw(observer: Observer, meter: CpuMeter, name: str | None, note: str) -> None:
    from lithos_runner.status.screen import screen

    wait = FIRST
    with screen() as terminal:
        while terminal.key(wait) not in ("q", "Q"):
            below = ["", note] if note else []
            terminal.draw([*(_lines(observer, meter, name) or ps.absent(observer, empty=True)), *below])
            wait = PERIOD


def _lines(observer: Observer, meter: CpuMeter, name: str | None) -> list[str]:
    runs = ps.Runs(observer.supervisors(), observer.commands()).only(name)
    cpu = meter.measure(observer, runs.instances, time.monotonic())
    now = time.time()
    sections = ps.sections(observer, runs, now, cpu)
    return table.table(sections, now, place.style(sys.stdout), table.COLUMNS)
