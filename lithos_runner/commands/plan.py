"""`lithos plan`: what reading the files again would do, instance by instance; it changes nothing."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from . import MASTER_FILE, CommandError, client

if TYPE_CHECKING:
    import argparse

    from ..plan.changes import Change, GroupFacts
    from ..supervisor.desired import Desired

HELP = "show what a reload would do to each instance, and why"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "-C", "--config", metavar="FILE", default=MASTER_FILE, help=f"master file (default: {MASTER_FILE})"
    )
    parser.add_argument(
        "--sandbox", metavar="S", help="the sandbox whose process file --alternate-config stands in for"
    )
    parser.add_argument(
        "--alternate-config", metavar="FILE", help="as if this process file were in place; needs --sandbox"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "Instances that are kept are shown only when there is something to say about them, or in JSON. Exit code 2: "
        "the files have faults; what they concern would go on as it is."
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare what is configured with what runs."""
    from ..plan.changes import UNCHANGED, changes

    if (arguments.sandbox is None) != (arguments.alternate_config is None):
        raise CommandError("--sandbox and --alternate-config go together", exit_code=2)
    master = os.path.abspath(arguments.config)
    desired = _desired(arguments, master)
    planned = changes(_running(master), _wanted(desired), desired.broken)
    if arguments.json:
        print(json.dumps(_report(planned, desired.faults), indent=2))
    else:
        shown = [change for change in planned if change.reason != UNCHANGED]
        _print(shown, len(planned) - len(shown))
        print(*desired.faults, sep="\n", end="\n" if desired.faults else "", file=sys.stderr)
    return 2 if desired.faults else 0


def _desired(arguments: argparse.Namespace, master: str) -> Desired:
    from ..supervisor import wanted

    alternates = {arguments.sandbox: arguments.alternate_config} if arguments.sandbox else {}
    return wanted.read_host(master, alternates)


def _wanted(desired: Desired) -> list[GroupFacts]:
    from ..plan.changes import GroupFacts

    return [GroupFacts(group.name, group.instances, group.facts) for group in desired.groups]


def _running(master: str) -> list[GroupFacts]:
    from ..plan.changes import GroupFacts

    supervisor = client.find(master)
    groups: list[dict[str, Any]] = supervisor.ask("groups")["groups"] if supervisor else _left_behind(master)
    return [GroupFacts(f"{one['sandbox']}/{one['process']}", one["instances"], one["facts"]) for one in groups]


def _left_behind(master: str) -> list[dict[str, Any]]:
    """What a supervisor that was killed has left to its successor; its reload is the one to plan."""
    from ..status import store
    from ..status.readings import Observer

    with Observer() as observer:
        killed = [each for each in observer.killed() if os.path.realpath(each.config) == os.path.realpath(master)]
    try:
        goals: list[Any] = [record["goal"] for each in killed for record in store.read_services(each.runtime)]
    except PermissionError as error:
        raise CommandError(f"cannot read {error.filename}: {error.strerror}; try it as root") from error
    return goals


def _report(planned: list[Change], faults: list[str]) -> dict[str, Any]:
    changes = [{"instance": one.instance, "what": one.what.value, "reason": one.reason} for one in planned]
    return {"changes": changes, "faults": faults}


def _print(shown: list[Change], kept: int) -> None:
    width = max((len(change.instance) for change in shown), default=0)
    for change in shown:
        print(f"{change.instance:{width}}  {change.what.value:7}  {change.reason}".rstrip())
    if kept:
        print(f"{kept} instance{'s'[: kept > 1]} would be kept as they are" if shown else f"nothing to do: {kept} kept")
    elif not shown:
        print("nothing to do")
