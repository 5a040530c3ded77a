"""`lithos tree`: supervise all that the four kinds of file configure."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from . import MASTER_FILE
from .supervise import add_limits, require_root, supervise

if TYPE_CHECKING:
    import argparse

HELP = "supervise everything that a master file and its sandboxes configure"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "-C", "--config", metavar="FILE", default=MASTER_FILE, help=f"master file (default: {MASTER_FILE})"
    )
    add_limits(parser)
    parser.epilog = (
        "Runs in the foreground; `lithos check` says beforehand what is wrong. SIGHUP makes it read the files again, "
        "SIGTERM or Ctrl-C ends all instances. If it is killed they go on, and the next one takes them over."
    )


def run(arguments: argparse.Namespace) -> int:
    """Supervise until a signal comes."""
    from ..supervisor import loader, supervisor

    require_root("tree")
    request = loader.Request(file=os.path.abspath(arguments.config))
    return supervise(request, supervisor.Options(config=request.file, limits=arguments.limits, once=False))
