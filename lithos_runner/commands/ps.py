"""`lithos ps`: what should run and what runs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from lithos_runner.commands import CommandError
from lithos_runner.status import names, place, processes, table
from lithos_runner.status.readings import Life, Observer, life
from lithos_runner.status.report import report
from lithos_runner.status.table import Row, Section

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from lithos_runner.status.readings import Supervisor

HELP = "show what should run and what runs"

NOTHING_RUNS = "lithos: nothing runs here, start something with `lithos run FILE`"

COLUMNS = [column for column in table.COLUMNS if column is not table.CPU]

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
    with Observer() as observer:
        supervisors = chosen(observer.supervisors(), args.name)
        if args.json:
            print(json.dumps(report(observer, supervisors), indent=2))
            return 0
        now = time.time()
        for line in table.table(sections(observer, supervisors, now), now, place.style(sys.stdout), COLUMNS):
            print(line)
        for sentence in absent(observer, supervisors):
            print(sentence, file=sys.stderr)
    return 0


def absent(observer: Observer, supervisors: list[Supervisor]) -> list[str]:
    """What is to be said beside the table of `supervisors`: who was killed, or that nothing runs."""
    return [_of_killed(each) for each in observer.killed()] or ([] if supervisors else [NOTHING_RUNS])


def _of_killed(supervisor: Supervisor) -> str:
    left = [one for one in supervisor.instances if one.pid and processes.is_alive(one.pid, one.pid_start)]
    goes_on = f"{len(left)} instance(s) go on without it: start it again, and it takes them over"
    return f"lithos: the supervisor of {supervisor.config} was killed; {goes_on}"


def sections(
    observer: Observer, supervisors: list[Supervisor], now: float, cpu: Mapping[Life, float] = _NO_CPU
) -> list[Section]:
    """Look at all instances; `cpu` is what those use that have been measured, in CPUs."""
    return [
        Section(supervisor, [Row(observer.observe(i), now, cpu.get(life(i))) for i in supervisor.instances])
        for supervisor in supervisors
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
