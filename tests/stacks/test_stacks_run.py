"""Each stack with `lithos run`, as its README has it: port 80, three instances, nobody, limits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families
from real_host import RealHost, leaving_nothing, processes_in
from stack_site import PORT, ask_often

import cgroup
from lithos_runner.config import load_container

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue import Stack
    from clients import Answer

pytestmark = pytest.mark.timeout(400)  # the first test of a stack sets it up
NOBODY = "65534"
BATCHES = 10
REQUESTS = 300


class OneFile(RealHost):
    """A host on which a container file of examples/ serves."""

    def __init__(self) -> None:
        super().__init__()
        self._ports.append(PORT)


@pytest.fixture(scope="module")
def host(stack: Stack) -> Iterator[OneFile]:
    """The stack serves for all tests of this module."""
    with leaving_nothing(OneFile()) as host:
        running = host.start(stack.container_file).until_serving()
        yield host
        running.stop()


@pytest.mark.usefixtures("host")
def test_all_instances_answer(stack: Stack) -> None:
    answers: Counter[Answer] = Counter()
    names = {f"run/{stack.name}.{index}" for index in range(3)}
    for _ in range(BATCHES):
        answers += ask_often(REQUESTS)
        if names == {one.name for one in answers}:
            break
    assert names == {one.name for one in answers}, answers
    assert {"1"} == {one.version for one in answers}


def test_nobody_serves(host: OneFile) -> None:
    for instance in host.ps():
        found = processes_in(Path(cgroup.find().mount, instance["cgroup"]))
        assert instance["pid"] in found
        for pid in found:
            status = Path(f"/proc/{pid}/status").read_text()
            users = next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
            assert users == [NOBODY] * 4, (instance["name"], pid)


def test_each_instance_has_its_own_cgroup_and_limit(host: OneFile, stack: Stack) -> None:
    limit = load_container(str(stack.container_file), {}).memory_limit
    instances = host.ps()
    assert len({one["cgroup"] for one in instances}) == 3
    for one in instances:
        assert one["memory"]["current"] > 0, one
        if one["memory"]["source"] == "cgroup":
            assert one["memory"]["max"] == limit, one


def test_metrics_have_the_memory_of_each(host: OneFile, stack: Stack) -> None:
    families = text_string_to_metric_families(host.lithos("metrics").stdout)
    memory = {
        (sample.labels["process"], sample.labels["index"]): sample.value
        for family in families
        for sample in family.samples
        if sample.name == "lithos_instance_memory_bytes"
    }
    assert memory.keys() == {(stack.name, str(index)) for index in range(3)}
    assert all(memory.values())
