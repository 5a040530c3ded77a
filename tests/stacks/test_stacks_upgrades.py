"""Each stack under load: restarted, upgraded, grown, shrunk, killed; what clients see of it."""

from __future__ import annotations

import math
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from real_host import until
from stack_clients import ask_often, listener_inodes
from stack_site import processes

from lithos_runner.config import load_container
from lithos_runner.supervisor.readiness import listening

if TYPE_CHECKING:
    from pathlib import Path

    from catalogue import Stack
    from stack_site import Service

pytestmark = pytest.mark.timeout(400)  # the first test of a stack sets it up
WEB = "shop/web"


def other(version: str) -> str:
    return {"1": "2", "2": "1"}[version]


def test_it_is_seen_to_wait_for_connections(service: Service, stack: Stack) -> None:
    """Which is how it got ready: its images say `readiness: listening`."""
    for path in service.groups():

        def seen(path: Path = path) -> bool:
            return stack.readiness in listening.look(processes(path), listener_inodes()).waits.values()

        until(seen, f"{path.name} is {stack.readiness.value}")


def test_a_rolling_restart_fails_no_request(service: Service) -> None:
    before = service.running.pids()
    with service.load() as load:
        service.do("restart", WEB)
        load.until_answered_by(service.names())
    after = service.running.pids()

    assert load.failures == []
    assert len(after) == 3
    assert not {*before.values()} & {*after.values()}


def test_a_new_version_fails_no_request(service: Service) -> None:
    old, new = service.version(), other(service.version())
    with service.load() as load:
        load.until_answered(old)
        service.switch(web=service.entry(f"v{new}", 3))
        load.until_answered_by(service.names())

    assert load.failures == []
    last = ask_often(100)
    assert {one.version for one in last} == {new}


def test_growing_and_shrinking_fails_no_request(service: Service) -> None:
    with service.load() as load:
        for instances in (6, 2, 3):
            service.do("scale", WEB, str(instances))
            assert len(service.names()) == instances
            load.until_answered_by(service.names())

    assert load.failures == []


def test_a_killed_instance_costs_no_more_than_what_it_had_in_hand(service: Service) -> None:
    name, victim = next(iter(service.running.pids().items()))
    assert victim is not None
    with service.load() as load:
        load.until_answered_by({name})
        os.kill(victim, signal.SIGKILL)
        until(lambda: service.running.pids()[name] not in (victim, None), f"{name} is started again")
        service.until_ready(3)
        load.until_answered_by({name})

    # A client has one connection at a time, and asks another instance next.
    assert len(load.failures) <= len(load.clients), load.failures


REQUESTS = 800
DEVIATIONS = 8  # of a fair spread's standard deviation; a fair spread is outside once in 10^15 runs


def test_versions_serve_side_by_side(service: Service, stack: Stack) -> None:
    service.switch(old=service.entry("v1", 3), new=service.entry("v2", 1))
    try:
        assert service.names() == {"shop/old.0", "shop/old.1", "shop/old.2", "shop/new.0"}
        answers: Counter[str] = Counter()
        for answer, count in ask_often(REQUESTS).items():
            assert answer.version == {"shop/old": "1", "shop/new": "2"}[answer.name.partition(".")[0]]
            answers[answer.version] += count
    finally:
        service.switch(web=service.entry("v1", 3))

    assert answers.keys() == {"1", "2"}
    (port,) = load_container(str(stack.container_file), {}).tcp_ports.values()
    if port.reuse_port:
        bound = DEVIATIONS * math.sqrt(REQUESTS * 0.25 * 0.75)
        assert abs(answers["2"] - REQUESTS * 0.25) < bound, answers
