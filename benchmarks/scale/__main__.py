"""`python -m benchmarks.scale`, as root: measure, show, and with --check judge."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys

from .process import Failed
from .results import Measurement, document, table
from .site import sites
from .trials import TRIALS, Extent


def main() -> int:
    """Return the exit status: 0, 1 (it failed or a budget is missed), 2 (bad usage)."""
    options = _parse()
    # Ended by a signal we still take down what we made.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        if os.geteuid() != 0:
            raise Failed("instances need root: run as root")
        return _run(options)
    except (Failed, OSError) as error:
        print(f"benchmarks.scale: {error}", file=sys.stderr)
        return 1


def _parse() -> argparse.Namespace:
    extent = Extent()
    names = [trial.__name__ for trial in TRIALS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--trial", action="append", choices=names, help="may be repeated (default: all)")
    for name, unit in (("configured", "processes"), ("running", "instances"), ("rounds", "of what can be repeated")):
        default = getattr(extent, name)
        parser.add_argument(f"--{name}", type=_positive, default=default, metavar="N", help=f"{unit} ({default})")
    parser.add_argument("--json", metavar="FILE", help="write all results there")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a budget is missed")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise ValueError
    return number


def _run(options: argparse.Namespace) -> int:
    host = _host()
    print(f"{host['kernel']}, {host['cpus']} cpus, load {host['load']:.2f}, Python {host['python']}\n", flush=True)
    extent = Extent(options.configured, options.running, options.rounds)
    found: list[Measurement] = []
    with sites() as place:
        for trial in TRIALS:
            if not options.trial or trial.__name__ in options.trial:
                print(f"{trial.__name__} …", file=sys.stderr, flush=True)
                found += trial(place, extent)
    print(table(found))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(document(found, host), file, indent=1)
    return int(options.check and not all(one.met for one in found))


def _host() -> dict[str, object]:
    name = os.uname()
    return {
        "kernel": f"Linux {name.release} {name.machine}",
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": sys.version.split()[0],
    }


if __name__ == "__main__":
    sys.exit(main())
