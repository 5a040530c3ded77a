"""`python -m benchmarks.launch`, as root: measure, show, and with --check judge."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

# It is the supervisor that starts instances, and to copy a larger process takes longer: be as large, and no larger.
import lithos_runner.supervisor.supervisor  # noqa: F401

from .. import program
from ..program import Failed
from .contenders import all_contenders
from .race import WARM_UP, Clock, Contender, race
from .results import document, exited, table, verdicts
from .stage import stage


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.launch", description=__doc__)
    parser.add_argument(
        "--rounds", type=program.positive, default=100, metavar="N", help="starts of each (default: 100)"
    )
    parser.add_argument(
        "--seconds",
        type=program.positive,
        default=300,
        metavar="S",
        help="begin no round after that time (default: 300)",
    )
    parser.add_argument("--only", metavar="NAME,...", help="contenders to run (default: all that this host has)")
    parser.add_argument("--json", metavar="FILE", help="write all results there")
    parser.add_argument("--plot", metavar="FILE", help="write an SVG plot there")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a budget is missed")
    return parser.parse_args()


def _run(options: argparse.Namespace) -> int:
    with ExitStack() as stack:
        place = stack.enter_context(stage())
        contenders = _chosen(all_contenders(place, stack), options.only)
        host = {**program.host(), "rss_mb": round(_rss() / 1e6, 1), "memory_limit": place.memory}
        print(_introduction(host, options.rounds), flush=True)
        clock = Clock(time.monotonic, time.monotonic() + options.seconds)
        timings = race(contenders, options.rounds, clock, lambda done: _progress(done, options.rounds))
    print(f"\n{table(timings)}\n")
    judged = verdicts(exited(timings))
    for verdict in judged:
        print(verdict.sentence())
    if options.json:
        program.write(options.json, json.dumps(document(timings, host), indent=1) + "\n")
    if options.plot:
        from .plot import svg  # only now: with `html` it would have made every start slower

        program.write(options.plot, svg(timings, f"start to exited /bin/true, {host['kernel']}"))
    return int(options.check and not (judged and all(verdict.met for verdict in judged)))


def _chosen(contenders: Sequence[Contender], only: str | None) -> list[Contender]:
    if only is None:
        return list(contenders)
    wanted = only.split(",")
    names = [contender.name for contender in contenders]
    for unknown in (name for name in wanted if name not in names):
        raise Failed(f"there is no contender {unknown!r} here, only {', '.join(names)}")
    return [contender for contender in contenders if contender.name in wanted]


def _rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def _introduction(host: dict[str, object], rounds: int) -> str:
    limit = host["memory_limit"]
    limited = f"limited to {limit} bytes" if limit else "without a limit (no memory controller on cgroup v2 here)"
    return (
        f"{program.described(host)}\n"
        f"{rounds} rounds after {WARM_UP} to warm up, from a process of {host['rss_mb']} MB RSS\n"
        f"lithos and crun: the time includes making and removing a cgroup, {limited}; the others have none"
    )


def _progress(done: int, rounds: int) -> None:
    if sys.stderr.isatty():
        print(f"\rround {max(done, 0)} of {rounds} ", end="\n" if done == rounds else "", file=sys.stderr, flush=True)
    elif done > 0 and done % max(1, rounds // 10) == 0:
        print(f"round {done} of {rounds}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(program.main("launch", _run, _parse()))
