"""What this host cannot do, done by the same program in the virtual machine of `integration/vm`, and brought back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..program import Failed
from .contenders import Contender
from .trial import Scenario

MOST_REQUESTS = 20  # per second: what the processors of an emulated machine can do beside a roll-out
AFTERWARDS = 15.0  # seconds: what takes six elsewhere takes longer there
_TRIAL_TIME = 150  # seconds that a trial may take there
_PROJECT = Path(__file__).parents[2]
_RESULTS = "rollout.json"
_NO_MEMORY = "cgroup v2 has no memory controller here"


class Part(NamedTuple):
    """Trials: all of these contenders in all of these scenarios."""

    contenders: Sequence[type[Contender]]
    scenarios: Sequence[Scenario]


class Division(NamedTuple):
    """The trials that were asked for, each in one of the parts."""

    here: Part
    elsewhere: Sequence[Part]
    lacking: Mapping[str, str]  # why something cannot be done here, a sentence, by its name


def divide(asked: Part, *, memory: bool) -> Division:
    """Say what can be done here; ``memory`` is whether this host can limit it."""
    missing = {one: one.missing() for one in asked.contenders}
    able = [one for one in asked.contenders if not missing[one]]
    unable = [one for one in asked.contenders if missing[one]]
    impossible = [] if memory else [one for one in asked.scenarios if one.needs_memory_limit]
    possible = [one for one in asked.scenarios if one not in impossible]
    return Division(
        Part(able, possible),
        [part for part in (Part(unable, asked.scenarios), Part(able, impossible)) if all(part)],
        {**{one.name: missing[one] for one in unable}, **{one.key: _NO_MEMORY for one in impossible}},
    )


def options(part: Part, rate: int) -> list[str]:
    """What to tell the program that does a part in the virtual machine; ``rate`` is that of this host."""
    return [
        *(word for one in part.contenders for word in ("--contender", one.name)),
        *(word for one in part.scenarios for word in ("--scenario", one.key)),
        *("--rate", str(min(rate, MOST_REQUESTS)), "--after", f"{AFTERWARDS:g}", "--json", f"/root/out/{_RESULTS}"),
    ]


def measure(part: Part, rate: int) -> dict[str, Any]:
    """Have a part done in the virtual machine and return what `--json` writes there. Raises Failed."""
    deadline = str(_TRIAL_TIME * len(part.contenders) * len(part.scenarios))
    machine = [sys.executable, "integration/vm", "--deadline", deadline, "run", "--"]
    command = [*machine, "python", "-m", "benchmarks.rollout", *options(part, rate)]
    ended = subprocess.run(command, cwd=_PROJECT, stdin=subprocess.DEVNULL, check=False)
    if ended.returncode != 0:
        raise Failed(f"`{' '.join(command[1:])}` ended with {ended.returncode}, see above")
    found: dict[str, Any] = json.loads((_PROJECT / "build/vm/out" / _RESULTS).read_text())
    return found
