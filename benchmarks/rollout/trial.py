"""One cell of the table: a contender under load, and something happens."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from ..program import Failed
from .contenders import Contender, Report
from .load import Plan
from .samples import Sample, read
from .stage import COMMAND_TIME, memory_is_limited, stage

OLD, NEW = "v1", "v2"
WARM_UP = 1.0  # seconds of load that do not count: the other instances are still starting
STEADY = 2.0  # seconds before it happens
AFTERWARDS = 6.0  # seconds of load after it, at least: bad versions do their harm in that time
TAIL = 2.0  # seconds of load after the command's end, at least: what serves then is what is left
LONGEST = COMMAND_TIME + 60.0  # seconds of load, at most


class Scenario(NamedTuple):
    """One column of the table."""

    key: str
    title: str
    act: Callable[[Contender], Report]
    serves: str  # the version that ought to serve in the end
    deadly: bool = False  # a process that serves dies of it: what was inside is lost with every supervisor
    needs_memory_limit: bool = False


class Trial(NamedTuple):
    """What happened in one cell."""

    contender: str
    scenario: str
    event: float  # seconds of CLOCK_MONOTONIC, as the samples have them
    ended: float  # when the command had ended
    report: Report
    samples: tuple[Sample, ...]
    virtual: bool = False  # in the virtual machine, see virtual.py


def _upgrade(behaviour: str) -> Callable[[Contender], Report]:
    return lambda contender: contender.upgrade(NEW, behaviour)


def _kill_instance(contender: Contender) -> Report:
    contender.kill_instance()
    return Report(0, "killed")


def _kill_supervisor(contender: Contender) -> Report:
    return contender.kill_supervisor()


SCENARIOS = (
    Scenario("good", "a good version", _upgrade("good"), NEW),
    Scenario("slow", "takes 3 s to start", _upgrade("slow"), NEW),
    Scenario("fails-at-once", "fails at once", _upgrade("fails-at-once"), OLD),
    Scenario("fails-later", "fails after 1 s", _upgrade("fails-later"), OLD, deadly=True),
    Scenario(
        "eats-memory", "out of memory after 1 s", _upgrade("eats-memory"), OLD, deadly=True, needs_memory_limit=True
    ),
    Scenario("kill-instance", "kill -9 of an instance", _kill_instance, OLD, deadly=True),
    Scenario("kill-supervisor", "kill -9 of the supervisor", _kill_supervisor, OLD),
)


class Generator:
    """The load on a port, in a process of its own."""

    def __init__(self, plan: Plan) -> None:
        command = [sys.executable, "-m", "benchmarks.rollout.load", *plan.options()]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        self._output = self._process.stdout
        if self._output.readline() != "started\n":
            self._process.wait()
            raise Failed("the load did not start, see above")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()

    def finish(self) -> tuple[Sample, ...]:
        """End the load and return what became of its requests."""
        self._process.terminate()
        return read(json.loads(self._output.read()))


def perform(kind: type[Contender], scenario: Scenario, plan: Plan, afterwards: float = AFTERWARDS) -> Trial:
    """Run one trial, with this plan on the stage's own port.

    ``afterwards`` is how many seconds the load goes on at least after it has happened. Raises Failed.
    """
    with stage() as place:
        contender = kind(place)
        try:
            if memory_is_limited():
                contender.limit_memory()
            contender.start(OLD)
            with Generator(plan._replace(port=place.port, seconds=LONGEST)) as load:
                time.sleep(WARM_UP + STEADY)
                event = time.monotonic()
                report = scenario.act(contender)
                ended = time.monotonic()
                time.sleep(max(TAIL, event + afterwards - ended))
                samples = load.finish()
        finally:
            contender.stop()
    return Trial(contender.name, scenario.key, event, ended, report, samples)
