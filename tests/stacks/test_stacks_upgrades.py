"""Each stack under load: restarted, upgraded, grown, shrunk, killed; what clients see of it."""

from __future__ import annotations

import math
import os
import signal
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest
from real_host import until
from stack_site import ask_often, is_seen

from lithos_runner.config import load_container
from lithos_runner.supervisor.readiness.listening import Wait

if TYPE_CHECKING:
    from catalogue import Stack
    from stack_site import Service

pytestmark = pytest.mark.timeout(400)  # the first test of a stack sets it up
WEB = "shop/web"
VERSIONS = {"v1": ("1", "2"), "v2": ("2", "1")}  # of an image, and the other one
REQUESTS = 800
DEVIATIONS = 8  # of a fair spread's standard deviation; a fair spread is outside once in 10^15 runs


def test_it_is_seen_to_wait_for_connections(service: Service, stack: Stack) -> None:
    """Which is how it got ready, as its images say `readiness: listening`; what cannot be seen is said."""
    for group in service.groups():
        until(partial(is_seen, group, stack.readiness), f"{group.name} is {stack.readiness.value}")
    if stack.readiness is Wait.UNCLEAR:
        service.running.until_said("it cannot be seen whether it waits for connections")


def test_a_rolling_restart_fails_no_request(service: Service) -> None:
    before = service.running.pids()
    with service.load() as load:
        service.do("restart", WEB)
        load.until_answered_by(*service.names())
    after = service.running.pids()

    assert load.failures == []
    assert after.keys() == before.keys()
    assert not {*before.values()} & {*after.values()}


def test_a_new_version_fails_no_request(service: Service) -> None:
    running = service.web()
    old, new = VERSIONS[running["image"]]
    with service.load() as load:
        load.until_answered_by(old)
        service.switch(web=running | {"image": f"v{new}"})
        load.until_answered_by(*service.names())

    assert load.failures == []
    assert {one.version for one in ask_often(100)} == {new}


def test_growing_and_shrinking_fails_no_request(service: Service) -> None:
    with service.load() as load:
        for instances in (6, 2):
            service.do("scale", WEB, str(instances))
            assert len(service.names()) == instances
            load.until_answered_by(*service.names())

    assert load.failures == []


def test_a_killed_instance_costs_no_more_than_what_it_had_in_hand(service: Service) -> None:
    serving = service.names()
    name, victim = next(iter(service.running.pids().items()))
    assert victim is not None
    with service.load() as load:
        load.until_answered_by(name)
        os.kill(victim, signal.SIGKILL)
        until(lambda: service.running.pids()[name] not in (victim, None), f"{name} is started again")
        service.until_ready(serving)
        load.until_answered_by(name)

    # A client has one connection at a time, and asks another instance next.
    assert len(load.failures) <= len(load.clients), load.failures


def test_versions_serve_side_by_side_in_the_ratio_of_their_instances(service: Service, stack: Stack) -> None:
    web = service.web()
    old, new = VERSIONS[web["image"]]
    service.switch(web=web, canary=service.entry(f"v{new}", 1))
    answers: Counter[str] = Counter()
    for answer, count in ask_often(REQUESTS).items():
        assert answer.version == {"shop/web": old, "shop/canary": new}[answer.name.partition(".")[0]]
        answers[answer.version] += count

    assert answers.keys() == {old, new}
    (port,) = load_container(str(stack.container_file), {}).tcp_ports.values()
    if port.reuse_port:  # with a shared socket it is for the kernel to say who is woken
        share = 1 / (web["instances"] + 1)
        bound = DEVIATIONS * math.sqrt(REQUESTS * share * (1 - share))
        assert abs(answers[new] - REQUESTS * share) < bound, answers
