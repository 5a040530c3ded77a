"""`python -m benchmarks.scale`, as root: measure, show, and with --check judge."""

from __future__ import annotations

import argparse
import json
import sys

from .. import program
from .results import Measurement, document, table
from .site import sites
from .trials import TRIALS, Extent


def _parse() -> argparse.Namespace:
    extent = Extent()
    names = [trial.__name__ for trial in TRIALS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--trial", action="append", choices=names, help="may be repeated (default: all)")
    for name, unit in (("configured", "processes"), ("running", "instances"), ("rounds", "of what can be repeated")):
        default = getattr(extent, name)
        parser.add_argument(
            f"--{name}", type=program.positive, default=default, metavar="N", help=f"{unit} ({default})"
        )
    parser.add_argument("--json", metavar="FILE", help="write all results there")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a budget is missed")
    return parser.parse_args()


def _run(options: argparse.Namespace) -> int:
    host = program.host()
    print(f"{program.described(host)}\n", flush=True)
    extent = Extent(options.configured, options.running, options.rounds)
    found: list[Measurement] = []
    with sites() as place:
        for trial in TRIALS:
            if not options.trial or trial.__name__ in options.trial:
                print(f"{trial.__name__} …", file=sys.stderr, flush=True)
                found += trial(place, extent)
    print(table(found))
    if options.json:
        program.write(options.json, json.dumps(document(found, host), indent=1) + "\n")
    return int(options.check and not all(one.met for one in found))


if __name__ == "__main__":
    sys.exit(program.main("scale", _run, _parse()))
