"""What the benchmarks have in common as programs: how they end, what numbers they take, where they run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

# For applications: an instance's user can reach it, which is not so for every virtual environment.
PYTHON = "/usr/bin/python3"
LITHOS = (sys.executable, "-m", "lithos_runner.commands.main")


class Failed(Exception):
    """Something did not come as far as what is measured; the message is a sentence."""


def main(name: str, run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Run as root and return the exit status: that of ``run``, or 1 when it fails; argparse has used 2."""
    # Ended by a signal we still take down what we made.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        if os.geteuid() != 0:
            raise Failed("cgroups and instances need root: run as root")
        return run(options)
    except (Failed, OSError) as error:
        print(f"benchmarks.{name}: {error}", file=sys.stderr)
        return 1


def positive(text: str) -> int:
    """Take an option that is a number above zero. Raises ValueError."""
    number = int(text)
    if number <= 0:
        raise ValueError
    return number


def host() -> dict[str, Any]:
    """Return what is to be known of this host beside any result."""
    name = os.uname()
    return {
        "kernel": f"Linux {name.release} {name.machine}",
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
        "python": sys.version.split()[0],
    }


def described(found: Mapping[str, Any]) -> str:
    """Say in a line what ``host`` has found."""
    return (
        f"{found['date']}, {found['kernel']}, {found['cpus']} cpus, load {found['load']:.2f}, Python {found['python']}"
    )


def write(path: str, text: str) -> None:
    """Write a file of results."""
    with open(path, "w") as file:
        file.write(text)
