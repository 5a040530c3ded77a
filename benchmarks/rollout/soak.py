"""A soak: a service of ours under load, and random things happen to it, seeded and so repeatable.

`python -m benchmarks.rollout.soak --seconds 600`, as root: scaling, restarts, good and bad versions, refused files,
`kill -9` of instances and of the supervisor, in the middle of all that. What `invariants` asks is asked throughout.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

import cgroup

from .. import program
from ..program import PYTHON, Failed
from . import invariants
from .history import Action, Expected, Goal, Step, Victim, history
from .invariants import Bounds, Instance
from .lithos import NAME, SANDBOX, Lithos, LithosReusePort, LithosShared
from .load import Plan
from .samples import Sample
from .stage import COMMAND_TIME, INSTANCES, kill, stage, until
from .trial import WARM_UP, Generator

_LOOK = 0.05  # seconds between two looks at the instances
_SETTLING = 60.0  # seconds within which everything has to have settled
_LISTEN = "0A"  # TCP_LISTEN of linux/tcp_states.h
_RATE = 200.0  # requests per second


class Soak:
    """A service, and what it has been found out to have done wrong."""

    def __init__(self, service: Lithos) -> None:
        self.service = service
        self.goal = Goal("v1", INSTANCES)
        self.complaints: list[str] = []
        self._victim: int | None = None  # the instance's process that was killed last
        self._kills: list[float] = []  # when such a process was killed
        self._said = service.stage.folder / "said"  # by the last command
        self._settled: list[tuple[float, float, str]] = []  # from, until, the version that ought to serve

    def run(self, seed: int, seconds: float) -> tuple[Sample, ...]:
        """Do steps until the time is over. Raises Failed when the service cannot be soaked any more."""
        self.service.start(self.goal.version)
        end = time.monotonic() + seconds
        plan = Plan(self.service.stage.port, seconds + COMMAND_TIME + _SETTLING, fresh=_RATE / 2, kept=_RATE / 2)
        with Generator(plan) as load:
            time.sleep(WARM_UP)
            for step in takewhile(lambda _: time.monotonic() < end, history(seed)):
                self._pause(step.pause)
                self._do(step)
            self._pause(WARM_UP)
            samples = load.finish()
        self._complain("load", invariants.requests(samples, self._kills))
        for start, until_then, version in self._settled:
            within = (sample for sample in samples if start <= sample.at and sample.end <= until_then)
            self._complain("load", invariants.served(within, version))
        return samples

    def _pause(self, seconds: float) -> None:
        """Let the settled service serve for a while."""
        start = time.monotonic()
        time.sleep(seconds)
        self._settled.append((start, time.monotonic(), self.goal.version))

    def _do(self, step: Step) -> None:
        before = self.service.site.instances()
        expected = step.expected(self.goal)
        code = self._act(step, expected)
        print(f"{step.version}: {step.sentence()}: exit {code}", flush=True)
        goals = [one.goal for one in expected if one.code == code]
        if not goals:
            codes = " or ".join(str(one.code) for one in expected)
            self._complain(step.version, [f"exit {code}, expected {codes}: {self._said.read_text().strip()}"])
        self._settle(step, goals or [one.goal for one in expected])
        self._examine(step, before)

    def _settle(self, step: Step, goals: Sequence[Goal]) -> None:
        """Wait until one of these runs, and nothing else. Raises Failed when that never comes."""
        if not until(lambda: self._has_become(goals), _SETTLING):
            raise Failed(f"{step.version}: {self.service.site.instances()} has not become {goals}")

    def _has_become(self, goals: Sequence[Goal]) -> bool:
        runs = self._runs()
        if runs is None or runs not in goals or self._victim in self._pids():
            return False
        self.goal = runs
        return True

    def _act(self, step: Step, expected: Sequence[Expected]) -> int:
        """Give the command, kill meanwhile, and look all the time; return the command's exit code."""
        with self._said.open("wb") as said:
            command = subprocess.Popen(self._command(step), stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        start = time.monotonic()
        killed = step.victim is Victim.NOBODY
        try:
            while command.poll() is None or not killed:
                passed = time.monotonic() - start
                if passed > COMMAND_TIME:
                    raise Failed(f"{step.version}: the command did not end within {COMMAND_TIME:g} s")
                if not killed and passed >= step.kill_after:
                    self._kill(step)
                    killed = True
                self._look(step, expected)
                time.sleep(_LOOK)
        finally:
            command.kill()
            command.wait()
        return command.returncode

    def _command(self, step: Step) -> list[str]:
        site = self.service.site
        if step.action is Action.SCALE:
            return site.command("scale", NAME, str(step.instances))
        if step.action is Action.RESTART:
            return site.command("restart", NAME)
        if step.action is Action.NOTHING:
            return ["/bin/true"]
        if step.action is Action.FAULTY_FILE:
            return site.command("switch", SANDBOX, str(site.write("faulty.yaml", "web: {image: v1, imagee: v2}\n")))
        site.image(step.version, step.behaviour)
        return site.command("switch", SANDBOX, str(site.processes("next.yaml", step.version, self.goal.instances)))

    def _kill(self, step: Step) -> None:
        if step.victim is Victim.INSTANCE:
            self._victim = random.Random(step.number).choice(self._pids())  # noqa: S311 - repeatable
            self._kills.append(time.monotonic())
            with suppress(ProcessLookupError):  # a version that ends by itself was faster
                kill(self._victim)
            return
        self.service.replace_supervisor()

    # Looking on

    def _look(self, step: Step, expected: Sequence[Expected]) -> None:
        """Ask for c and d, while a command is at work."""
        if instances := self._at_one_moment():
            counts = (self.goal.instances, *(one.goal.instances for one in expected))
            least, most = min(counts), max(counts)
            dead = step.victim is Victim.INSTANCE
            self._complain(step.version, invariants.crowd(instances, Bounds(least - dead, 2 * most)))

    def _at_one_moment(self) -> list[Instance]:
        """All instances; each has a file of its own, and only files that stay the same belong to one moment."""
        seen = self.service.site.instances()
        while seen != (again := self.service.site.instances()):
            seen = again
        return seen

    def _pids(self) -> list[int]:
        return [one.pid for one in self.service.site.instances() if one.pid]

    def _runs(self) -> Goal | None:
        """What runs, when it is of one version and all of it is ready, and nothing more is to come or to go."""
        instances = self.service.site.instances()
        places = {f"{NAME}.{index}" for index in range(len(instances))}
        if {one.name for one in instances} != places or {one.state for one in instances} != {"ready"}:
            return None
        if not all(one.pid for one in instances):  # one has died, and its supervisor has not noticed yet
            return None
        version, *others = {one.version for one in instances}
        return None if others else Goal(version, len(instances))

    def _examine(self, step: Step, before: list[Instance]) -> None:
        """Ask for a, e, f, g and h, when all has settled."""
        site = self.service.site
        instances = site.instances()
        sockets = listening(self.service.stage.port)
        for one in instances:
            self._complain(step.version, invariants.descriptors(one.name, links(one.pid), sockets))
        groups = {one.cgroup: applications(one.cgroup) for one in instances}
        self._complain(step.version, invariants.single(groups))
        found = set(_groups(f"{site.slice}/{SANDBOX}"))
        self._complain(step.version, invariants.remains("cgroup", found, groups))
        self._complain(step.version, invariants.remains("mount", _mounts(self.service.stage.folder), ()))
        if step.action is not Action.RESTART and step.victim is not Victim.INSTANCE:
            self._complain(step.version, invariants.kept(before, instances))
        if step.action is Action.FAULTY_FILE and step.victim is not Victim.INSTANCE:
            self._complain(step.version, invariants.unchanged(before, instances))
        self._complain(step.version, invariants.unharmed(self.service.supervisor.poll()))

    def _complain(self, when: str, complaints: Iterator[str] | list[str]) -> None:
        for complaint in complaints:
            self.complaints.append(f"{when}: {complaint}")
            print(f"BROKEN {self.complaints[-1]}", flush=True)


def links(pid: int | None) -> dict[int, str]:
    """The descriptors of a process, and what they are; none when it has ended."""
    folder = f"/proc/{pid}/fd"
    found: dict[int, str] = {}
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError):  # closed meanwhile
                found[int(name)] = os.readlink(f"{folder}/{name}")
    return found


def listening(port: int) -> set[str]:
    """The links of all listening sockets of this host. Raises Failed when none listens on the port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    found = {f"socket:[{row[9]}]" for row in rows if row[3] == _LISTEN}
    if not any(row[1].endswith(f":{port:04X}") and row[3] == _LISTEN for row in rows):
        raise Failed(f"nobody listens on port {port} any more")
    return found


def _groups(parent: str) -> Iterator[str]:
    """The cgroups below one, as paths below the mount."""
    mount = cgroup.find().mount
    with suppress(FileNotFoundError), cgroup.Group.open(f"{mount}/{parent}") as group:
        yield from (f"{parent}/{name}" for name in group.children())


def applications(path: str) -> list[int]:
    """The processes in a cgroup that execute the application."""
    found = []
    with cgroup.Group.open(cgroup.find().path(path)) as group:
        for pid in group.core.procs:
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if words[0] == PYTHON.encode():
                    found.append(pid)
    return found


def _mounts(folder: Path) -> list[str]:
    """The mount points of the host in a folder: an instance's are in its own namespace."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [point for point in points if point.startswith(f"{folder}/")]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollout.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="begin no step after that time (default: 600)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--reuse-port", action="store_true", help="a listening socket for every instance")
    return parser.parse_args()


def _run(options: argparse.Namespace) -> int:
    print(f"seed {options.seed}: repeat it with --seed {options.seed}", flush=True)
    with stage() as place:
        service = (LithosReusePort if options.reuse_port else LithosShared)(place)
        soak = Soak(service)
        try:
            samples = soak.run(options.seed, options.seconds)
        finally:
            service.stop()
    print(f"{len(samples)} requests, {len(soak.complaints)} complaints (seed {options.seed})")
    return 1 if soak.complaints else 0


if __name__ == "__main__":
    sys.exit(program.main("rollout.soak", _run, _parse()))
