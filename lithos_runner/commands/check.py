"""`lithos check`: every fault of the configuration files at once, before anything runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from . import MASTER_FILE, CommandError

if TYPE_CHECKING:  # yaml and attrs cost 50 ms, which `lithos --help` need not pay
    from lithos_runner.config import Container, Error, Host

HELP = "check configuration files and report every fault with file, line and column"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "-C",
        "--config",
        metavar="FILE",
        help=f"check a master file and all that belongs to it (default: {MASTER_FILE})",
    )
    parser.add_argument(
        "--sandbox", metavar="S", help="the sandbox whose process file --alternate-config stands in for"
    )
    parser.add_argument(
        "--alternate-config",
        metavar="FILE",
        help="check this process file instead of the one in place; needs --sandbox",
    )
    parser.add_argument(
        "--check-container",
        metavar="FILE",
        dest="containers",
        action="append",
        default=[],
        help="check a container file on its own, without a master file; may be repeated",
    )
    parser.add_argument(
        "--set",
        metavar="VAR=VALUE",
        dest="settings",
        action="append",
        default=[],
        help="with --check-container, the value of a variable @{VAR}, as for `lithos run`; may be repeated",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say what was checked")


def run(args: argparse.Namespace) -> int:
    """Check the files; 0 when all are right, 2 when not."""
    from lithos_runner.config import settings

    _check_usage(args)
    try:
        variables = settings(args.settings)
    except ValueError as error:
        raise CommandError(f"--set: {error}", exit_code=2) from error
    errors: list[Error] = []
    for file in args.containers:
        errors += _check_container(file, variables, verbose=args.verbose)
    if args.config is not None or not args.containers:
        errors += _check_host(args)
    if not errors:
        return 0
    print(*errors, sep="\n", file=sys.stderr)
    faulty = len({error.file for error in errors})
    print(f"lithos: {_count(len(errors), 'error')} in {_count(faulty, 'file')}", file=sys.stderr)
    return 2


def _check_usage(args: argparse.Namespace) -> None:
    if (args.sandbox is None) != (args.alternate_config is None):
        raise CommandError("--sandbox and --alternate-config go together", exit_code=2)
    if args.containers and args.sandbox is not None and args.config is None:
        raise CommandError("--sandbox needs -C FILE beside --check-container", exit_code=2)
    if args.settings and not args.containers:
        raise CommandError("--set goes with --check-container", exit_code=2)


def _check_container(file: str, variables: Mapping[str, str], *, verbose: bool) -> tuple[Error, ...]:
    from lithos_runner.config import ConfigErrors, check_container

    try:
        container = check_container(file, variables)
    except ConfigErrors as errors:
        return errors.errors
    if verbose:
        _say(f"{file} is correct: {_summary(container)}")
    return ()


def _summary(container: Container) -> str:
    ports = ", ".join(map(str, container.tcp_ports)) or "none"
    return f"{container.executable!r}, instances: {container.instances}, ports: {ports}"


def _check_host(args: argparse.Namespace) -> tuple[Error, ...]:
    from lithos_runner.config import load_host

    file = args.config or MASTER_FILE
    host = load_host(file, alternates={args.sandbox: args.alternate_config} if args.sandbox else {})
    if args.verbose and not host.errors:
        for line in _report(file, host):
            _say(line)
    return host.errors


def _report(file: str, host: Host) -> Iterator[str]:
    services = [service for sandbox in host.sandboxes.values() for service in sandbox.services.values()]
    instances = sum(len(service.instances) for service in services)
    counts = f"{_count(len(host.sandboxes), 'sandbox', 'es')}, {_count(len(services), 'process', 'es')}"
    yield f"{file} is correct: {counts}, {_count(instances, 'instance')}"
    for name, sandbox in host.sandboxes.items():
        if not sandbox.services:
            yield f"nothing is to run in the sandbox {name}"
    yield _this_host()


def _this_host() -> str:
    """What a generated hosts file would say of this host."""
    import socket

    name = socket.gethostname()
    try:
        return f"this host is {name}, {socket.gethostbyname(name)}"
    except OSError as error:
        return f"this host is {name}, which has no IPv4 address: {error.strerror}"


def _say(sentence: str) -> None:
    print(f"lithos: {sentence}", file=sys.stderr)


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{plural}"
