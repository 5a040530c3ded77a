"""`lithos restart`: replace instances by new ones of the same configuration, without a gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import client

if TYPE_CHECKING:
    import argparse

HELP = "replace instances by new ones of the same configuration, one after the other"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("name", metavar="NAME", help="SANDBOX/PROCESS, or its one instance SANDBOX/PROCESS.N")
    client.add_config(parser)
    client.add_timeout(parser)
    parser.epilog = "Exit code 1: the new instances failed, and the old ones serve on."


def run(arguments: argparse.Namespace) -> int:
    """Ask, and wait for the end of the roll-out."""
    supervisor = client.require(arguments.config, arguments.name)
    service, _, _ = arguments.name.partition(".")
    supervisor.roll_out(service, "restart", timeout=arguments.timeout, name=arguments.name)
    return 0
