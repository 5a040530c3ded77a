"""`lithos metrics`: what runs, as Prometheus text, from a process of its own."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress

from lithos_runner.commands import CommandError
from lithos_runner.status.prometheus import Page, scrape
from lithos_runner.status.readings import Observer

HELP = "print or serve Prometheus metrics of all instances"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--listen",
        metavar="ADDR:PORT",
        type=address,
        help="serve http://ADDR:PORT/metrics (IPv6 in brackets)",
    )
    how.add_argument(
        "--textfile",
        metavar="PATH",
        help="replace this file, for node_exporter's textfile collector (which reads *.prom)",
    )


def address(text: str) -> tuple[str, int]:
    """Split `127.0.0.1:9600` or `[::1]:9600`."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not host.strip("[]") or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDR:PORT, for example 127.0.0.1:9600")
    if ":" in host and not bracketed:
        raise argparse.ArgumentTypeError(f"an IPv6 address stands in brackets: [{host}]:{port}")
    return host[1:-1] if bracketed else host, int(port)


def run(args: argparse.Namespace) -> int:
    """Print once, write the file, or serve until a signal ends it."""
    if args.listen:
        _serve(*args.listen)
    elif args.textfile:
        _write(args.textfile)
    else:
        with Observer() as observer:
            sys.stdout.write(scrape(observer, Page()))
    return 0


def _serve(host: str, port: int) -> None:
    # http.server takes longer to import than one scrape takes.
    from lithos_runner.status.exporter import Exporter

    try:
        exporter = Exporter(host, port)
    except OSError as error:
        raise CommandError(
            f"cannot listen on {host}:{port}: {error.strerror}, choose another address or port"
        ) from error
    print(f"lithos: metrics at {exporter.url}", file=sys.stderr, flush=True)
    with exporter, suppress(KeyboardInterrupt):
        exporter.serve_forever()


def _write(path: str) -> None:
    from lithos_runner.status.exporter import write_textfile

    try:
        write_textfile(path)
    except OSError as error:
        raise CommandError(
            f"cannot write {path}: {error.strerror}, choose a directory that exists and that is yours"
        ) from error
