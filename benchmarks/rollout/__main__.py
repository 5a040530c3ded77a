"""`python -m benchmarks.rollout`, as root: measure, show, and with --check judge."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence

from .contenders import Contender, everyone
from .load import Plan
from .plot import svg
from .results import cell, document, verdicts
from .stage import INSTANCES, Failed, memory_is_limited
from .table import LEGEND, table
from .trial import SCENARIOS, Scenario, Trial, perform

_NICE = -15
_TITLE = "How long clients wait for an answer, and how many get none"
_NO_MEMORY = (
    "cgroup v2 has no memory controller on this host, so that no instance can be limited: integration/vm has a host "
    "where it can"
)


def main() -> int:
    """Return the exit status: 0, 1 (it failed or a promise was not kept), 2 (bad usage)."""
    options = _parse()
    # Ended by a signal we still take down what we made.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        if os.geteuid() != 0:
            raise Failed("cgroups and instances need root: run as root")
        # What else runs on the host would be measured with the contenders, who all inherit this.
        os.nice(_NICE)
        return _run(options)
    except (Failed, OSError) as error:
        print(f"benchmarks.rollout: {error}", file=sys.stderr)
        return 1


def _parse() -> argparse.Namespace:
    names = [contender.name for contender in everyone()]
    keys = [scenario.key for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollout", description=__doc__)
    parser.add_argument("--contender", action="append", choices=names, help="may be repeated (default: all that can)")
    parser.add_argument("--scenario", action="append", choices=keys, help="may be repeated (default: all that can)")
    parser.add_argument(
        "--rate", type=_positive, default=300, metavar="N", help="requests per second, half of them kept (default: 300)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all results there, every request among them")
    parser.add_argument("--plot", metavar="FILE", help="write an SVG plot there")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a promise of lithos was not kept")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise ValueError
    return number


def _run(options: argparse.Namespace) -> int:
    contenders = able(everyone(), options.contender)
    scenarios = possible(SCENARIOS, options.scenario, memory=memory_is_limited())
    plan = Plan(fresh=options.rate / 2, kept=options.rate / 2)
    host = _host()
    print(_introduction(host, plan), flush=True)
    trials = list(_perform(contenders, scenarios, plan))
    cells = {(trial.contender, trial.scenario): cell(trial) for trial in trials}
    print(f"\n{table(cells)}\n\n{LEGEND}\n")
    judged = verdicts(cells)
    for verdict in judged:
        print(verdict.sentence())
    if options.json:
        _write(options.json, json.dumps(document(trials, cells, {**host, "plan": plan._asdict()})) + "\n")
    if options.plot:
        _write(options.plot, svg(trials, cells, _TITLE, _introduction(host, plan).splitlines()))
    return int(options.check and not (judged and all(verdict.kept for verdict in judged)))


def able(contenders: Sequence[type[Contender]], wanted: list[str] | None) -> list[type[Contender]]:
    """Choose who takes part; who was asked for by name must be able to. Raises Failed."""
    chosen = [one for one in contenders if wanted is None or one.name in wanted]
    unable = {one: one.missing() for one in chosen if one.missing()}
    for one, reason in unable.items():
        if wanted is not None:
            raise Failed(f"{one.name} cannot take part: {reason}")
        print(f"without {one.name}: {reason}", flush=True)
    return [one for one in chosen if one not in unable]


def possible(scenarios: Sequence[Scenario], wanted: list[str] | None, *, memory: bool) -> list[Scenario]:
    """Choose what happens; what was asked for by name must be possible. Raises Failed."""
    chosen = [one for one in scenarios if wanted is None or one.key in wanted]
    impossible = [] if memory else [one for one in chosen if one.needs_memory_limit]
    for one in impossible:
        if wanted is not None:
            raise Failed(f"the scenario {one.key} cannot run: {_NO_MEMORY}")
        print(f"without {one.key}: {_NO_MEMORY}", flush=True)
    return [one for one in chosen if one not in impossible]


def _perform(contenders: Sequence[type[Contender]], scenarios: Sequence[Scenario], plan: Plan) -> Iterator[Trial]:
    for scenario in scenarios:
        for contender in contenders:
            print(f"{scenario.title}: {contender.name}", file=sys.stderr, flush=True)
            yield perform(contender, scenario, plan)


def _host() -> dict[str, object]:
    name = os.uname()
    return {
        "kernel": f"Linux {name.release} {name.machine}",
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
        "python": sys.version.split()[0],
        "instances": INSTANCES,
    }


def _introduction(host: dict[str, object], plan: Plan) -> str:
    return (
        f"{host['date']}, {host['kernel']}, {host['cpus']} cpus, load {host['load']:.2f}, Python {host['python']}\n"
        f"{INSTANCES} instances, 10 ms of work per request; {plan.fresh:g} requests a second on connections of their "
        f"own and {plan.kept:g} on {plan.connections} that are kept; {plan.timeout:g} s until a request has failed"
    )


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
