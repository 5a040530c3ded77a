"""`python -m benchmarks.rollout`, as root: measure, show, and with --check judge."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from .. import program
from ..program import Failed
from .contenders import everyone
from .load import Plan
from .plot import svg
from .results import cell, document, trials_of, verdicts
from .stage import INSTANCES, memory_is_limited
from .table import LEGEND, table
from .trial import AFTERWARDS, SCENARIOS, Trial, perform
from .virtual import Part, divide, measure

_NICE = -15
_TITLE = "How long clients wait for an answer, and how many get none"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; raises SystemExit."""
    names = [contender.name for contender in everyone()]
    keys = [scenario.key for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollout", description=__doc__)
    parser.add_argument("--contender", action="append", choices=names, help="may be repeated (default: all that can)")
    parser.add_argument("--scenario", action="append", choices=keys, help="may be repeated (default: all that can)")
    parser.add_argument(
        "--rate",
        type=program.positive,
        default=300,
        metavar="N",
        help="requests per second, half of them kept (default: 300)",
    )
    parser.add_argument(
        "--after",
        type=float,
        default=AFTERWARDS,
        metavar="SECONDS",
        help="of load, at least, after it has happened (default: %(default)g)",
    )
    parser.add_argument("--vm", action="store_true", help="do what this host cannot in the VM of integration/vm")
    parser.add_argument("--json", metavar="FILE", help="write all results there, every request among them")
    parser.add_argument("--plot", metavar="FILE", help="write an SVG plot there")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a promise of lithos was not kept")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> int:
    # What else runs on the host would be measured with the contenders, who all inherit this.
    os.nice(_NICE)
    plan = Plan(fresh=options.rate / 2, kept=options.rate / 2)
    host = {**program.host(), "instances": INSTANCES, "plan": plan._asdict()}
    trials = list(_trials(options, host))
    cells = {(trial.contender, trial.scenario): cell(trial) for trial in trials}
    notes = introduction(host)
    print("\n".join(("", table(cells), "", LEGEND, *notes, "")))
    judged = verdicts(cells)
    for verdict in judged:
        print(verdict.sentence())
    if options.json:
        program.write(options.json, json.dumps(document(trials, cells, host)) + "\n")
    if options.plot:
        program.write(options.plot, svg(trials, cells, _TITLE, notes))
    return int(options.check and not (judged and all(verdict.kept for verdict in judged)))


def _trials(options: argparse.Namespace, host: dict[str, Any]) -> list[Trial]:
    """Make all trials, in the order of the table; what is to be known of the virtual machine is added to ``host``."""
    names = [one.name for one in everyone()]
    asked = Part(
        [one for one in everyone() if one.name in (options.contender or names)],
        [one for one in SCENARIOS if options.scenario is None or one.key in options.scenario],
    )
    division = divide(asked, memory=memory_is_limited())
    for sentence in said(division.lacking, {*(options.contender or ()), *(options.scenario or ())}, virtual=options.vm):
        print(sentence, flush=True)
    trials = list(_perform(division.here, Plan(**host["plan"]), options.after))
    for part in division.elsewhere if options.vm else ():
        found = measure(part, options.rate)
        host["virtual"] = found["host"]
        trials += trials_of(found)
    return sorted(trials, key=lambda trial: names.index(trial.contender))


def said(lacking: Mapping[str, str], named: Collection[str], *, virtual: bool) -> Iterator[str]:
    """Say what this host lacks. Raises Failed when that was asked for by its name and no virtual machine does it."""
    for name, reason in lacking.items():
        if virtual:
            yield f"in the virtual machine: {name}, as {reason}"
        elif name in named:
            raise Failed(f"{name} cannot be measured: {reason}; --vm does it in a virtual machine")
        else:
            yield f"without {name}, as {reason}; --vm does it in a virtual machine"


def _perform(part: Part, plan: Plan, afterwards: float) -> Iterator[Trial]:
    for scenario in part.scenarios:
        for contender in part.contenders:
            print(f"{scenario.title}: {contender.name}", file=sys.stderr, flush=True)
            yield perform(contender, scenario, plan, afterwards)


def introduction(host: Mapping[str, Any]) -> list[str]:
    """Say in a few lines what was measured, and where."""
    plan = Plan(**host["plan"])
    lines = [
        program.described(host),
        f"{host['instances']} instances, 10 ms of work per request; {_rates(plan)}",
    ]
    if "virtual" in host:
        lines += [f"* in a virtual machine: {line}" for line in introduction(host["virtual"])]
    return lines


def _rates(plan: Plan) -> str:
    return (
        f"{plan.fresh:g} requests a second on connections of their own and {plan.kept:g} on {plan.connections} that "
        f"are kept; {plan.timeout:g} s until a request has failed"
    )


if __name__ == "__main__":
    sys.exit(program.main("rollout", _run, parse()))
