"""`lithos logs`: what instances wrote to their standard output and error."""

from __future__ import annotations

import argparse
import sys
import time
from functools import cache
from typing import TYPE_CHECKING

from lithos_runner.commands import MASTER_FILE, CommandError
from lithos_runner.status import logs, names, place, table
from lithos_runner.status.readings import Observer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

HELP = "show what instances wrote to stdout and stderr"

#: How many lines -f begins with, as tail(1).
FOLLOW_FROM = 10
#: Seconds between two looks at the files.
POLL = 0.2


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="NAME", help="SANDBOX/PROCESS, or its one instance SANDBOX/PROCESS.N")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is added")
    parser.add_argument(
        "-n",
        "--lines",
        metavar="LINES",
        type=_count,
        help=f"only the last LINES of each file (default: all, with -f {FOLLOW_FROM})",
    )
    parser.add_argument(
        "-C",
        "--config",
        metavar="FILE",
        help=f"master file that says where logs are of what does not run any more (default: {MASTER_FILE})",
    )
    stream = parser.add_mutually_exclusive_group()
    for name in logs.STREAMS:
        stream.add_argument(
            f"--{name}", dest="stream", action="store_const", const=name, help=f"only standard {name[3:]}"
        )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Print what there is, and with -f go on until Ctrl-C."""
    try:
        found = find(args.name, args.stream, args.config)
        if args.follow:
            _follow(found, args)
        else:
            _print(found, args.lines)
    except names.UnknownNameError as error:
        raise CommandError(f"no logs: {error}") from error
    except PermissionError as error:
        raise CommandError(f"cannot read {error.filename}: {error.strerror}, try it as root") from error
    except KeyboardInterrupt:
        pass
    return 0


def find(name: str, stream: str | None, config: str | None) -> list[logs.Log]:
    """The logs of the instances that `name` stands for; raises `UnknownNameError` when there are none.

    `config` is the master file of a supervisor that may have ended.
    """
    with Observer() as observer:
        directories = dict.fromkeys(supervisor.log_dir for supervisor in observer.supervisors())
    running = [log for each in directories for log in logs.find_logs(each)]
    try:
        return _choose(name, stream, running)
    except names.UnknownNameError:
        # It may have been stopped, and its logs are where they were.
        ended = [log for each in _directories_of_ended(config) for log in logs.find_logs(each)]
        return _choose(name, stream, [*running, *ended])


@cache
def _directories_of_ended(config: str | None) -> list[str]:
    """Where `lithos run` keeps logs, and where a master file has them kept."""
    from lithos_runner.config.host import load_entries  # slow to import, and seldom needed

    entries = load_entries(config or MASTER_FILE)
    if entries.master is None and config is not None:
        raise CommandError(f"cannot use {entries.errors[0]}", exit_code=2)
    return [logs.default_directory(), *([entries.master.stdio_log_dir] if entries.master else [])]


def _choose(name: str, stream: str | None, found: list[logs.Log]) -> list[logs.Log]:
    instances = names.select(name, list(dict.fromkeys(log.instance for log in found)))
    return [log for log in found if log.instance in instances and stream in (None, log.stream)]


def _print(found: list[logs.Log], count: int | None) -> None:
    show = Printer(found)
    for log in found:
        show(log, logs.all_lines(log) if count is None else logs.last_lines(log, count))


def _follow(found: list[logs.Log], args: argparse.Namespace) -> None:
    count = FOLLOW_FROM if args.lines is None else args.lines
    followers = {log: logs.Follower(log, count) for log in found}
    while True:
        show = Printer(followers)
        for log, follower in followers.items():
            show(log, follower.lines())
        sys.stdout.flush()
        time.sleep(POLL)
        for log in find(args.name, args.stream, args.config):
            if log not in followers:  # an instance that was started meanwhile
                followers[log] = logs.Follower(log, sys.maxsize)


class Printer:
    """Prints lines, with the instance and the stream before each where there is more than one log."""

    def __init__(self, found: Collection[logs.Log]) -> None:
        self._style = place.style(sys.stdout)
        self._terminal = sys.stdout.isatty()
        several_streams = len({log.stream for log in found}) > 1
        titles = {log: f"{log.instance} {log.stream}" if several_streams else log.instance for log in found}
        width = max(map(len, titles.values()), default=0)
        self._prefixes = {log: self._prefix(log, title.ljust(width)) for log, title in titles.items()}
        if len(found) == 1:
            self._prefixes = dict.fromkeys(found, b"")

    def _prefix(self, log: logs.Log, title: str) -> bytes:
        colour = table.RED if log.stream == "stderr" else table.CYAN
        return f"{self._style.paint(title, colour)} | ".encode()

    def __call__(self, log: logs.Log, lines: Iterable[bytes]) -> None:
        """Print these lines of a log; what a terminal would obey is made harmless, applications are not trusted."""
        prefix = self._prefixes[log]
        for line in lines:
            sys.stdout.buffer.write(prefix + (logs.harmless(line) if self._terminal else line))
