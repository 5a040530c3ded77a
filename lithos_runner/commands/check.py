"""`lithos check`: every fault of the given configuration files at once, before anything runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # yaml and attrs cost 50 ms, which `lithos --help` need not pay
    from lithos_runner.config import Container, Error

HELP = "check configuration files and report every fault with file, line and column"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "--check-container",
        metavar="FILE",
        dest="containers",
        action="append",
        required=True,
        help="check a container file on its own, without a master file; may be repeated",
    )
    parser.add_argument(
        "--set",
        metavar="VAR=VALUE",
        dest="settings",
        action="append",
        default=[],
        help="the value of a variable @{VAR}, as for `lithos run`; may be repeated",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say what was checked")


def run(args: argparse.Namespace) -> int:
    """Check the files; 0 when all are right, 2 when not."""
    from lithos_runner.config import settings

    try:
        variables = settings(args.settings)
    except ValueError as error:
        print(f"lithos: --set: {error}", file=sys.stderr)
        return 2
    errors: list[Error] = []
    for file in args.containers:
        errors += _check(file, variables, verbose=args.verbose)
    if not errors:
        return 0
    print(*errors, sep="\n", file=sys.stderr)
    faulty = len({error.file for error in errors})
    print(f"lithos: {_count(len(errors), 'error')} in {_count(faulty, 'file')}", file=sys.stderr)
    return 2


def _check(file: str, variables: Mapping[str, str], *, verbose: bool) -> tuple[Error, ...]:
    from lithos_runner.config import ConfigErrors, load_container

    try:
        container = load_container(file, variables)
    except ConfigErrors as errors:
        return errors.errors
    if verbose:
        print(f"lithos: {file} is correct: {_summary(container)}", file=sys.stderr)
    return ()


def _summary(container: Container) -> str:
    ports = ", ".join(map(str, container.tcp_ports)) or "none"
    return f"{container.executable!r}, instances: {container.instances}, ports: {ports}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
