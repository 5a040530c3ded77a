"""`lithos ps`: what should run and what runs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from cgroup.usage import MEMORY_FILES
from lithos_runner.commands import CommandError
from lithos_runner.status import names, place, table
from lithos_runner.status.readings import Life, Observation, Observer, Supervisor, life
from lithos_runner.status.report import report
from lithos_runner.status.table import Row, Section

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

HELP = "show what should run and what runs"

NOTHING_RUNS = "lithos: nothing runs here, start something with `lithos run FILE`"

COLUMNS = [column for column in table.COLUMNS if column is not table.CPU]

#: A supervisor with what was seen of its instances.
Seen = tuple[Supervisor, list[Observation]]

_NO_CPU: Mapping[Life, float] = MappingProxyType({})


def configure(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_name(parser)


def add_name(parser: ArgumentParser) -> None:
    """Declare the argument NAME, which may be left out."""
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="only SANDBOX/PROCESS, or its one instance SANDBOX/PROCESS.N"
    )


def run(args: Namespace) -> int:
    """Print the table, or the object."""
    with Observer(MEMORY_FILES if args.json else table.FILES) as observer:
        supervisors = chosen(observer.supervisors(), args.name)
        if args.json:
            print(json.dumps(report(observer, supervisors), indent=2))
        elif not supervisors:
            print(NOTHING_RUNS, file=sys.stderr)
        else:
            now = time.time()
            shown = table.table(sections(observe(observer, supervisors), now), now, place.style(sys.stdout), COLUMNS)
            print("\n".join(shown))
    return 0


def observe(observer: Observer, supervisors: list[Supervisor]) -> list[Seen]:
    """Look at all instances."""
    return [
        (supervisor, [observer.observe(instance) for instance in supervisor.instances]) for supervisor in supervisors
    ]


def sections(found: list[Seen], now: float, cpu: Mapping[Life, float] = _NO_CPU) -> list[Section]:
    """The parts of a table; `cpu` is what those instances use that have been measured, in CPUs."""
    return [
        Section(supervisor, [Row(seen, now, cpu.get(life(seen.instance))) for seen in observations])
        for supervisor, observations in found
    ]


def chosen(supervisors: list[Supervisor], name: str | None) -> list[Supervisor]:
    """The supervisors with only the instances that `name` stands for; those without such are left out.

    Raises `CommandError` when `name` stands for none.
    """
    if name is None:
        return supervisors
    instances = [instance.name for supervisor in supervisors for instance in supervisor.instances]
    try:
        wanted = names.select(name, instances)
    except names.UnknownNameError as error:
        raise CommandError(str(error)) from error
    narrowed = [s._replace(instances=[i for i in s.instances if i.name in wanted]) for s in supervisors]
    return [supervisor for supervisor in narrowed if supervisor.instances]
