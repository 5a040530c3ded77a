"""`lithos scale`: change the number of instances, in the process file where there is one."""

from __future__ import annotations

import argparse
import os

from . import CommandError, client
from .supervise import count

HELP = "change the number of instances of a process"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("name", metavar="NAME", type=_process, help="SANDBOX/PROCESS")
    parser.add_argument("instances", metavar="N", type=count, help="how many instances there shall be")
    client.add_config(parser)
    client.add_timeout(parser)
    parser.epilog = (
        "With `lithos tree` it writes N into the sandbox's process file, where it lasts; with `lithos run` it lasts "
        "until the supervisor ends. Exit code 1: not all of them got ready; what was changed stays so."
    )


def _process(text: str) -> str:
    sandbox, _, process = text.partition("/")
    if not sandbox or not process or "." in process:
        raise argparse.ArgumentTypeError(f"{text!r} is not SANDBOX/PROCESS, such as shop/web")
    return text


def run(arguments: argparse.Namespace) -> int:
    """Change it, and wait until it is so."""
    name, timeout = arguments.name, arguments.timeout
    if arguments.config is not None and client.find(arguments.config) is None:
        _write(os.path.abspath(arguments.config), name, arguments.instances)
        client.say_that_none_runs(arguments.config)
        return 0
    supervisor = client.require(arguments.config, name)
    if supervisor.ask("status")["reloads"]:
        _write(supervisor.supervisor.config, name, arguments.instances)
        supervisor.roll_out(name, "reload", timeout=timeout)
    else:
        supervisor.roll_out(name, "scale", timeout=timeout, name=name, instances=arguments.instances)
    return 0


def _write(master: str, name: str, instances: int) -> None:
    """Put the number into the process file, and leave everything else in it as it is."""
    from ..config import edit
    from .switch import process_file, replace

    sandbox, _, process = name.partition("/")
    path = process_file(master, sandbox)

    def changed() -> str:
        try:
            with open(path, encoding="utf-8", newline="") as file:
                return edit.with_instances(file.read(), process, instances)
        except ValueError as error:
            raise CommandError(f"cannot change {path}: {error}", exit_code=2) from error

    replace(path, changed, master, sandbox)
