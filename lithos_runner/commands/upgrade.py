"""`lithos upgrade`: let a supervisor go on as the program that is installed now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from . import CommandError, client

if TYPE_CHECKING:
    import argparse

HELP = "let the supervisor go on as the version that is installed now; instances and connections stay"

_PATIENCE = 30.0  # seconds


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    client.add_config(parser, "the only one that runs")
    parser.epilog = "The same as SIGUSR2. A version that cannot be loaded changes nothing."


def run(arguments: argparse.Namespace) -> int:
    """Ask, and wait until the supervisor is another program with the same pid."""
    old = client.require(arguments.config)
    before = old.ask("upgrade")
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        new = client.find(old.supervisor.config)
        if new is not None and new.supervisor.started > before["started"]:
            print(f"pid {new.supervisor.pid} goes on with {len(new.supervisor.instances)} instance(s)")
            return 0
        time.sleep(0.05)
    raise CommandError(f"pid {before['pid']} has not become the installed program in {_PATIENCE:g} s; its log says why")
