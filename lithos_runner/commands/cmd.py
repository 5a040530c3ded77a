"""`lithos cmd`: run a command of a process file once, and wait for it."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from . import MASTER_FILE, CommandError
from .supervise import add_limits, require_root

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..config import Master, SandboxServices, Service
    from ..supervisor.command import Command

HELP = "run a command of a process file once, as an instance, and wait for it"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.usage = "lithos cmd [-h] [-C FILE] [--limits {enforce,available,off}] SANDBOX NAME [ARG…]"
    parser.add_argument(
        "-C", "--config", "--master", metavar="FILE", default=MASTER_FILE, help=f"master file (default: {MASTER_FILE})"
    )
    add_limits(parser, default="as the supervisor that runs, else enforce")
    parser.add_argument("sandbox", metavar="SANDBOX", help="the sandbox of the process file")
    # One list, as argparse would take a `--` between two arguments for its own.
    parser.add_argument(
        "words",
        metavar="NAME [ARG…]",
        nargs=argparse.REMAINDER,
        help="the entry of the process file, of kind Command, and what is added to its `arguments`, options included",
    )
    parser.epilog = (
        "Exit code: that of the command, 128 + n when signal n has killed it. 1, with a sentence that begins with "
        "`lithos:`, when it cannot be started; 2 when the configuration is wrong. SIGTERM or Ctrl-C ends the command."
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it to its end."""
    # Until the command runs we import, and keep it all: looking for garbage in that took 20 of 150 ms.
    gc.disable()
    import cgroup

    from ..launch.launcher import RootUnusable
    from ..supervisor import command

    require_root("cmd")
    if not arguments.words:
        raise CommandError("cmd needs a NAME: which command of the sandbox?", exit_code=2)
    name, *words = arguments.words
    master = os.path.abspath(arguments.config)
    found = find(master, arguments.sandbox, name)
    try:
        wanted = _command(found, words)
        gc.freeze()
        gc.enable()
        return command.run(wanted, command.tree_of(found.master, arguments.limits))
    except (command.Failure, RootUnusable) as error:
        raise CommandError(str(error)) from error
    except cgroup.CgroupError as error:
        hint = "; --limits available goes on without it" if isinstance(error, cgroup.ControllerMissing) else ""
        raise CommandError(f"{error}{hint}") from error
    except OSError as error:
        raise CommandError(f"cannot run {found.service.name}: {error.strerror or error}") from error


class Found(NamedTuple):
    """A command, and what the master file says of where it runs."""

    service: Service
    master: Master
    devfs: str


def find(master: str, sandbox: str, name: str) -> Found:
    """Return a command of a sandbox; raises CommandError when there is none, or it is configured wrong."""
    from ..config import load_host

    host = load_host(master, only=sandbox)
    if host.master is None or not host.broken.isdisjoint((sandbox, f"{sandbox}/{name}")):
        print(*host.errors, sep="\n", file=sys.stderr)
        count = len(host.errors)
        raise CommandError(f"{count} error{'s'[: count > 1]}, {sandbox}/{name} was not started", exit_code=2)
    if sandbox not in host.sandboxes:
        known = load_host(master).process_files
        raise CommandError(f"{master} leads to no sandbox {sandbox}{_hint(sandbox, known)}", exit_code=2)
    return Found(_choose(host.sandboxes[sandbox], name), host.master, host.devfs)


def _choose(sandbox: SandboxServices, name: str) -> Service:
    service = sandbox.services.get(name)
    if service is not None and service.entry.kind == "Command":
        return service
    commands = [each.process for each in sandbox.services.values() if each.entry.kind == "Command"]
    if service is not None:
        what = f"{service.name} is a Daemon, which a supervisor keeps running; `lithos cmd` runs those of kind Command"
    else:
        what = f"the process file of {sandbox.name} has no {name}"
    raise CommandError(what + _hint(name, commands), exit_code=2)


def _hint(word: str, words: Collection[str]) -> str:
    from ..config.errors import did_you_mean

    there = ", ".join(sorted(words))
    return did_you_mean(word, words) or (f"; there is {there}" if there else "; there is none")


def _command(found: Found, words: list[str]) -> Command:
    from ..supervisor import command, translate

    service = found.service
    return command.Command(
        group=translate.service_group(service, found.devfs),
        arguments=tuple(words),
        interactive=service.container.interactive,
        sandbox_limits=translate.sandbox_limits(service.settings),
        # Nothing else is looked up in there while the root is made, and nobody removes it.
        mount_point=service.settings.image_dir,
    )
