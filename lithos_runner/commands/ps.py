"""`lithos ps`: what should run and what runs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from lithos_runner.commands import CommandError
from lithos_runner.status import names, place, processes, table
from lithos_runner.status.readings import Life, Observer, life
from lithos_runner.status.report import report
from lithos_runner.status.table import Row, Section

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from lithos_runner.status.readings import Instance, Supervisor

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
        "name",
        metavar="NAME",
        nargs="?",
        help="only SANDBOX/PROCESS, or its one instance SANDBOX/PROCESS.N; commands are SANDBOX/cmd.NAME",
    )


def run(args: Namespace) -> int:
    """Print the table, or the object."""
    with Observer() as observer:
        runs = Runs(observer.supervisors(), observer.commands()).only(args.name)
        if args.json:
            print(json.dumps(report(observer, *runs), indent=2))
            return 0
        now = time.time()
        for line in table.table(sections(observer, runs, now), now, place.style(sys.stdout), COLUMNS):
            print(line)
        for sentence in absent(observer, empty=not any(runs)):
            print(sentence, file=sys.stderr)
    return 0


class Runs(NamedTuple):
    """What runs: supervisors with their instances, and commands."""

    supervisors: list[Supervisor]
    commands: list[Instance]

    @property
    def instances(self) -> list[Instance]:
        """All of them, commands too."""
        return [*(instance for supervisor in self.supervisors for instance in supervisor.instances), *self.commands]

    def only(self, name: str | None) -> Runs:
        """What `name` stands for, None for everything; supervisors without such an instance are left out.

        Raises `CommandError` when `name` stands for none.
        """
        if name is None:
            return self
        try:
            wanted = names.select(name, [instance.name for instance in self.instances])
        except names.UnknownNameError as error:
            raise CommandError(str(error)) from error
        narrowed = [s._replace(instances=[i for i in s.instances if i.name in wanted]) for s in self.supervisors]
        commands = [command for command in self.commands if command.name in wanted]
        return Runs([supervisor for supervisor in narrowed if supervisor.instances], commands)


def absent(observer: Observer, *, empty: bool) -> list[str]:
    """What is to be said beside a table, or when it is `empty`: who was killed, or that nothing runs."""
    return [_of_killed(each) for each in observer.killed()] or ([NOTHING_RUNS] if empty else [])


def _of_killed(supervisor: Supervisor) -> str:
    left = [one for one in supervisor.instances if one.pid and processes.is_alive(one.pid, one.pid_start)]
    goes_on = f"{len(left)} instance(s) go on without it: start it again, and it takes them over"
    return f"lithos: the supervisor of {supervisor.config} was killed; {goes_on}"


def sections(observer: Observer, runs: Runs, now: float, cpu: Mapping[Life, float] = _NO_CPU) -> list[Section]:
    """Look at all instances; `cpu` is what those use that have been measured, in CPUs."""

    def rows(instances: list[Instance]) -> list[Row]:
        return [Row(observer.observe(instance), now, cpu.get(life(instance))) for instance in instances]

    of_supervisors = [Section(supervisor, rows(supervisor.instances)) for supervisor in runs.supervisors]
    return [*of_supervisors, *([Section(None, rows(runs.commands))] if runs.commands else [])]
