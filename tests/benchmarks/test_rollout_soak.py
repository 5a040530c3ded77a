"""The soak: its steps and what it asks, by values; and what it asks, of instances that really run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_host import PYTHON, RealHost, real_host

from benchmarks.rollout import invariants, soak
from benchmarks.rollout.history import BEHAVIOURS, Action, Expected, Goal, Step, Victim, history
from benchmarks.rollout.invariants import Bounds, Instance
from benchmarks.rollout.lithos import Site
from benchmarks.rollout.load import Plan
from benchmarks.rollout.samples import Outcome, Sample, inside_the_dying
from benchmarks.rollout.stage import APPLICATION, kill, release, stage, until
from benchmarks.rollout.trial import Generator
from lithos_runner.config import load_host

__all__ = ["real_host"]

GOAL = Goal("v1", 4)


# Steps.


def test_a_seed_is_a_history() -> None:
    first, again, other = (list(islice(history(seed), 50)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@given(st.integers(min_value=0))
def test_everything_happens(seed: int) -> None:
    steps = list(islice(history(seed), 300))
    assert {step.action for step in steps} == set(Action)
    assert {step.victim for step in steps} == set(Victim)
    assert len({step.version for step in steps} | {GOAL.version}) == 301
    assert all(step.instances >= 1 and step.pause >= 0 and step.kill_after >= 0 for step in steps)


def step(action: Action, victim: Victim = Victim.NOBODY) -> Step:
    return Step(7, 0.5, action, 2, victim, 1.5)


ASKED = {Action.SCALE: Goal("v1", 2), Action.GOOD: Goal("v7", 4), Action.SLOW: Goal("v7", 4)}
CODES = {Action.FAILS_AT_ONCE: 1, Action.FAILS_LATER: 1, Action.FAULTY_FILE: 2}
USUAL = {action: Expected(CODES.get(action, 0), ASKED.get(action, GOAL)) for action in Action}


@pytest.mark.parametrize("action", Action)
def test_when_nobody_is_killed_one_thing_may_come_of_a_step(action: Action) -> None:
    assert step(action).expected(GOAL) == (USUAL[action],)


@pytest.mark.parametrize("action", Action)
def test_a_new_version_may_be_rolled_back_when_an_instance_of_it_is_killed(action: Action) -> None:
    usual, *others = step(action, Victim.INSTANCE).expected(GOAL)
    assert usual == USUAL[action]
    rolls = action in (Action.GOOD, Action.SLOW, Action.RESTART)
    assert others == ([Expected(1, GOAL)] if rolls else [])


@pytest.mark.parametrize("action", Action)
def test_a_command_whose_supervisor_is_killed_may_not_know_how_it_ended(action: Action) -> None:
    expected = set(step(action, Victim.SUPERVISOR).expected(GOAL))
    asked = USUAL[action].goal
    if action is Action.FAULTY_FILE:
        assert expected == {Expected(2, GOAL)}
    elif action is Action.SCALE:
        assert expected == {Expected(0, asked), Expected(1, asked), Expected(1, GOAL)}
    else:
        assert expected == {Expected(0, asked), Expected(1, asked)}


def test_a_step_says_what_it_is() -> None:
    assert step(Action.SCALE).sentence() == "scale to 2"
    assert step(Action.RESTART, Victim.SUPERVISOR).sentence() == "restart; kill -9 of the supervisor after 1.50 s"


# What is asked.


def instance(index: int, state: str = "ready", **changes: Any) -> Instance:
    return Instance(f"bench/web.{index}", "v1", state, 100 + index, 1, 0, f"bench/web.{index}")._replace(**changes)


FOUR = [instance(index) for index in range(4)]
LINKS = {0: "/dev/null", 1: "pipe:[1]", 2: "pipe:[2]", 3: "socket:[3]", 4: "anon_inode:[eventpoll]", 5: "socket:[5]"}


def request(at: float, outcome: Outcome, life: str, version: str = "v1") -> Sample:
    return Sample(at, 0.01, outcome, version, life, kept=False)


ALIVE = [request(1, Outcome.OK, "a"), request(3, Outcome.OK, "a")]

CASES: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
    (
        "a: bench/web.0 lacks",
        lambda: invariants.descriptors("bench/web.0", LINKS, {"socket:[3]"}),
        lambda: invariants.descriptors("bench/web.0", {k: v for k, v in LINKS.items() if k != 1}, {"socket:[3]"}),
    ),
    (
        "a: descriptor 5 of bench/web.0 is socket:[5]: only 3",
        lambda: invariants.descriptors("bench/web.0", LINKS, {"socket:[3]", "socket:[9]"}),
        lambda: invariants.descriptors("bench/web.0", LINKS, {"socket:[3]", "socket:[5]"}),
    ),
    (
        "a: descriptor 3 of bench/web.0 is socket:[3]: only 3",
        lambda: invariants.descriptors("bench/web.0", LINKS, {"socket:[3]"}),
        lambda: invariants.descriptors("bench/web.0", LINKS, set()),
    ),
    (
        "a: descriptor 6 of bench/web.0 is /sys/fs/cgroup",
        lambda: invariants.descriptors("bench/web.0", LINKS, {"socket:[3]"}),
        lambda: invariants.descriptors("bench/web.0", {**LINKS, 6: "/sys/fs/cgroup"}, {"socket:[3]"}),
    ),
    (
        "b: a request at 2.000 on a fresh connection: cut at 2.010 by a",
        lambda: invariants.requests([ALIVE[0], request(2, Outcome.CUT, "a")]),
        lambda: invariants.requests([*ALIVE, request(2, Outcome.CUT, "a")]),
    ),
    (
        "b: a request at 2.000 on a fresh connection: refused",
        lambda: invariants.requests(ALIVE),
        lambda: invariants.requests([*ALIVE, request(2, Outcome.REFUSED, "")]),
    ),
    (
        "c, d: 3 instances are ready",
        lambda: invariants.crowd(FOUR, Bounds(4, 8)),
        lambda: invariants.crowd([*FOUR[1:], instance(0, "starting")], Bounds(4, 8)),
    ),
    (
        "c: 5 instances start or are ready",
        lambda: invariants.crowd([*FOUR, instance(4, "draining")], Bounds(4, 4)),
        lambda: invariants.crowd([*FOUR, instance(4, "starting")], Bounds(4, 4)),
    ),
    (
        "d: v1, v2 answered when only v1",
        lambda: invariants.served(ALIVE, "v1"),
        lambda: invariants.served([*ALIVE, request(2, Outcome.OK, "b", "v2")], "v1"),
    ),
    (
        "d, e: bench/web.0 of v1 is 500 instead of 100",
        lambda: invariants.kept(FOUR, [instance(0, version="v2", pid=500), *FOUR[1:3], instance(7)]),
        lambda: invariants.kept(FOUR, [*FOUR[1:], instance(0, pid=500)]),
    ),
    (
        "e: 2 applications are in the cgroup bench/web.0",
        lambda: invariants.single({"bench/web.0": [100], "bench/web.1": [101]}),
        lambda: invariants.single({"bench/web.0": [100, 102], "bench/web.1": [101]}),
    ),
    (
        "f: the cgroup bench/web.1 is left",
        lambda: invariants.remains("cgroup", ["bench/web.0"], ["bench/web.0"]),
        lambda: invariants.remains("cgroup", ["bench/web.0", "bench/web.1"], ["bench/web.0"]),
    ),
    (
        "f: the cgroup bench/web.1 of a living instance",
        lambda: invariants.remains("cgroup", ["bench/web.0"], ["bench/web.0"]),
        lambda: invariants.remains("cgroup", ["bench/web.0"], ["bench/web.0", "bench/web.1"]),
    ),
    (
        "g: a refused configuration changed",
        lambda: invariants.unchanged(FOUR, list(reversed(FOUR))),
        lambda: invariants.unchanged(FOUR, [*FOUR[1:], instance(0, generation=2)]),
    ),
    (
        "h: the supervisor has ended with code -6",
        lambda: invariants.unharmed(None),
        lambda: invariants.unharmed(-6),
    ),
]


@pytest.mark.parametrize(("complaint", "well", "ill"), CASES, ids=[case[0] for case in CASES])
def test_what_is_well_is_silent_and_what_is_ill_is_not(
    complaint: str, well: Callable[[], Any], ill: Callable[[], Any]
) -> None:
    assert list(well()) == []
    assert len(found := list(ill())) == 1
    assert found[0].startswith(complaint)


# Of real files and real instances.


def test_the_four_files_are_a_valid_configuration() -> None:
    with stage() as place:
        site = Site(place, reuse_port=True, memory_limit=64 << 20)
        site.create()
        for version, behaviour in enumerate(["good", *(step(action).behaviour for action in BEHAVIOURS)], 1):
            site.image(f"v{version}", behaviour)
            site.processes("processes/bench.yaml", f"v{version}", instances=version)
            host = load_host(f"{place.folder}/master.yaml")
            assert host.errors == ()
            assert len(host.sandboxes["bench"].services["web"].instances) == version


def test_a_killed_instance_loses_what_was_inside_and_nothing_else(real_host: RealHost) -> None:
    port = real_host.port()
    folder = real_host.directory / "app"
    release(folder, "v1", "good")
    program = {"executable": PYTHON, "arguments": ["-ES", str(folder / APPLICATION.name), "3"]}
    ports = {str(port): {"fd": 3, "host": "127.0.0.1", "listen-backlog": 1000}}
    running = real_host.start(real_host.container(**program, tcp_ports=ports, instances=2))
    running.until_started()
    apps = [running.app(index) for index in range(2)]
    with Generator(Plan(port, seconds=60, timeout=60)) as load:
        lists = soak.listening(port)
        for index, pid in enumerate(apps):
            # It listens before it serves, so ask until it has opened what it needs for that.
            assert until(lambda pid=pid: any("eventpoll" in link for link in soak.links(pid).values()))
            assert list(invariants.descriptors(f"{index}", soak.links(pid), lists)) == []
        groups = {
            str(path): soak.applications(str(path.relative_to(real_host.slice.parent))) for path in real_host.groups()
        }
        assert list(invariants.single(groups)) == []
        kill(apps[0])
        assert until(lambda: running.instances()[0]["restarts"] == 1)
        running.until_state("ready")
        samples = load.finish()
    assert list(invariants.requests(samples)) == []
    assert {one.outcome for one in samples} <= {Outcome.OK, Outcome.CUT}
    assert len({one.life for one in samples if one.outcome is Outcome.OK}) >= 2
    assert set(inside_the_dying(samples)) == {one for one in samples if one.outcome is Outcome.CUT}
    running.stop()
