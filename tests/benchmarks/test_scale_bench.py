"""The benchmark of many instances: its table, and a small run of it, as root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cgroup
from benchmarks.scale.process import Supervisor, replacement
from benchmarks.scale.results import Measurement, document, table
from benchmarks.scale.site import Shape, sites
from benchmarks.scale.trials import TRIALS
from lithos_runner.config import load_host

PROJECT = Path(__file__).parents[2]
MEASUREMENTS = (
    Measurement("reload", (20.0, 40.0, 1000.0), "ms", 300),
    Measurement("… its CPU time", (12.25,), "ms"),
    Measurement("memory", (21.0,), "MB", 20),
)


def left() -> list[str]:
    """What a benchmark may have left behind."""
    places = ("/var/tmp", "/dev/shm", cgroup.find().mount)
    return [name for place in places for name in os.listdir(place) if name.startswith("scale-")]


def test_the_median_is_what_counts() -> None:
    assert table(MEASUREMENTS).splitlines() == [
        "                median  least  most      budget",
        "reload            40.0   20.0  1000  ms     300  met",
        "… its CPU time    12.2   12.2  12.2  ms",
        "memory            21.0   21.0  21.0  MB      20  missed",
    ]


def test_the_document_has_every_value() -> None:
    found = json.loads(json.dumps(document(MEASUREMENTS, {"cpus": 2})))
    assert found["host"] == {"cpus": 2}
    assert [one["met"] for one in found["measurements"]] == [True, True, False]
    assert found["measurements"][0]["values"] == [20, 40, 1000]


@pytest.mark.parametrize("alike", [True, False])
def test_a_site_has_the_shape_that_was_asked_for(alike: bool) -> None:
    with sites() as place:
        site = place.make("test", Shape(7, 2, sandboxes=3, images=4, alike=alike))
        host = load_host(str(site.master))
    assert host.errors == ()
    services = [service for sandbox in host.sandboxes.values() for service in sandbox.services.values()]
    assert (len(host.sandboxes), len(services), sum(len(one.instances) for one in services)) == (3, 7, 14)
    assert len({one.entry.image for one in services}) == 4
    assert len({one.container.environ["NUMBER"] for one in services}) == (1 if alike else 7)


@pytest.mark.parametrize("init", [True, False])
def test_a_replacement_is_another_life(init: bool) -> None:
    with sites() as place:
        supervisor = Supervisor(place.make("test", Shape(1, 2, init=init)))
        try:
            before = supervisor.until_ready(2)
            replacement(before[1])
            after = supervisor.until_ready(2)
            assert [one["restarts"] for one in sorted(after, key=lambda one: str(one["name"]))] in ([0, 1], [1, 0])
            pid = supervisor.process.pid
            supervisor.replace()
            assert supervisor.process.pid != pid
            assert {one["pid"] for one in supervisor.until_ready(2)} == {one["pid"] for one in after}
        finally:
            supervisor.stop()
    assert left() == []


def test_everything_is_measured_and_nothing_left() -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--configured", "20", "--running", "10", "--rounds", "1"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=250, check=False)
    assert (done.returncode, done.stderr.split()) == (0, [word for trial in TRIALS for word in (trial.__name__, "…")])
    for what in (
        "10 times sleep",
        "memory with 4 instances",
        "wake-ups in 10",
        "lithos ps",
        "metrics of 10",
        "SIGKILL",
        "crash",
    ):
        assert what in done.stdout
    for what in ("check, 20 instances of 2 processes", "reload, 20 processes", "the master file written anew"):
        assert what in done.stdout
    assert left() == []


@pytest.mark.parametrize("options", [("--rounds", "0"), ("--trial", "none")])
def test_bad_usage(options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "benchmarks.scale", *options]
    assert subprocess.run(command, cwd=PROJECT, capture_output=True, timeout=60, check=False).returncode == 2
