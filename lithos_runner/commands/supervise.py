"""What `lithos run` and `lithos tree` have in common: becoming a supervisor."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from . import CommandError

if TYPE_CHECKING:
    from ..supervisor.loader import Request
    from ..supervisor.supervisor import Options


MOST_INSTANCES = 10_000


def add_limits(parser: argparse.ArgumentParser, default: str = "enforce") -> None:
    """Add --limits; ``default`` says what holds without it."""
    parser.add_argument(
        "--limits",
        choices=("enforce", "available", "off"),
        help="enforce: a limit that this host cannot set is an error; available: set those it can and name the "
        f"others; off: set none (default: {default})",
    )


def count(text: str) -> int:
    """A number of instances."""
    if not text.isdecimal() or int(text) > MOST_INSTANCES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {MOST_INSTANCES}")
    return int(text)


def require_root(command: str) -> None:
    """Raise CommandError for anybody else."""
    if os.geteuid() != 0:
        raise CommandError(f"{command} needs root, to open ports, make cgroups and become other users: use sudo")


def supervise(request: Request, options: Options) -> int:
    """Be the supervisor until a signal ends it; its refusals and failures are this command's (CommandError)."""
    from ..supervisor import supervisor

    try:
        supervisor.run(request, options)
    except supervisor.Refusal as refusal:
        faults = str(refusal)
        print(faults, file=sys.stderr)
        count = len(faults.splitlines())
        raise CommandError(f"{count} error{'s'[: count > 1]}, nothing was started", exit_code=2) from refusal
    except supervisor.Failure as failure:
        raise CommandError(str(failure)) from failure
    return 0
