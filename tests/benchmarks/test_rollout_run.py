"""The benchmark of roll-outs, really run, as root."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import cgroup
from benchmarks.program import Failed
from benchmarks.rollout import virtual
from benchmarks.rollout.__main__ import parse, said
from benchmarks.rollout.peers import Gunicorn
from benchmarks.rollout.stage import children, stage, until
from benchmarks.rollout.systemd import Systemd
from benchmarks.rollout.trial import SCENARIOS
from benchmarks.rollout.virtual import Part, divide

PROJECT = Path(__file__).parents[2]
PEER = Gunicorn.name


class Ended(NamedTuple):
    pid: int
    code: int
    stdout: str
    stderr: str


def benchmark(*options: str) -> Ended:
    command = (sys.executable, "-m", "benchmarks.rollout", *options)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=PROJECT, stdout=pipe, stderr=pipe, text=True) as process:
        stdout, stderr = process.communicate(timeout=110)
    return Ended(process.pid, process.returncode, stdout, stderr)


def left(pid: int) -> list[str]:
    """Folders and cgroups of trials of one process: others may be under way."""
    found = [*os.listdir("/var/tmp"), *os.listdir(cgroup.find().mount)]
    return [name for name in found if name.startswith(f"rollout-{pid}-")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def ended(folder: Path) -> Ended:
    options = ("--contender", PEER, "--scenario", "good", "--scenario", "kill-supervisor", "--rate", "60")
    return benchmark(*options, "--json", f"{folder}/rollout.json", "--plot", f"{folder}/rollout.svg")


def test_a_trial_sees_both_versions(ended: Ended, folder: Path) -> None:
    assert (ended.code, ended.stderr) == (0, f"a good version: {PEER}\nkill -9 of the supervisor: {PEER}\n")
    document = json.loads((folder / "rollout.json").read_text())
    good, killed = document["trials"]
    assert (good["contender"], good["cell"]["serves"]) == (PEER, ["v2"])
    outcomes = {(version, outcome) for _, _, outcome, version, _, _ in good["samples"] if outcome == "ok"}
    assert outcomes == {("v1", "ok"), ("v2", "ok")}
    assert {kept for *_, kept in good["samples"]} == {True, False}
    assert (killed["cell"]["serves"], killed["cell"]["report"]["code"]) == (["v1"], 0)
    assert killed["cell"]["failed_fresh"] > 0  # its instances were killed with it


def test_it_says_what_was_measured(ended: Ended, folder: Path) -> None:
    lines = ended.stdout.splitlines()
    assert "30 requests a second on connections of their own and 30 on 15 that are kept" in ended.stdout
    assert sum(line.startswith(f"  {PEER} ") for line in lines) == 2
    assert (folder / "rollout.svg").read_text().startswith("<svg ")


def test_nothing_is_left_behind(ended: Ended) -> None:
    assert left(ended.pid) == []


def test_a_stage_ends_what_a_contender_leaves() -> None:
    with stage() as place:
        process = place.spawn("/bin/sh", "-c", "/bin/sleep 1000 & echo something >&2; exec /bin/sleep 1000")
        assert until(lambda: place.last_words() == "something")
        assert until(lambda: len(children(process.pid)) == 1)
    assert process.wait() == -signal.SIGKILL
    assert not place.folder.exists()
    assert not os.path.exists(place.group.path)


def test_a_restart_leaves_nobody_of_before() -> None:
    with stage() as place:
        first = place.spawn("/bin/sh", "-c", "/bin/sleep 1000 & exec /bin/sleep 1000")
        assert until(lambda: len(children(first.pid)) == 1)
        second = place.restart("/bin/sleep", "1000")
        assert until(lambda: place.group.core.procs == [second.pid])
        assert first.wait() == -signal.SIGKILL
    second.wait()


class Absent(Systemd):
    name = "absent"

    @staticmethod
    def missing() -> str:
        return "it is not here"


EVERYTHING = Part([Gunicorn, Absent], SCENARIOS)
KEYS = {scenario.key for scenario in SCENARIOS}


def cells(part: Part) -> set[tuple[str, str]]:
    return {(contender.name, scenario.key) for contender in part.contenders for scenario in part.scenarios}


@pytest.mark.parametrize("memory", [True, False])
def test_each_trial_is_made_once_where_it_can_be(memory: bool) -> None:
    division = divide(EVERYTHING, memory=memory)
    possible = KEYS if memory else KEYS - {"eats-memory"}
    assert cells(division.here) == {("gunicorn", key) for key in possible}
    elsewhere = [cell for part in division.elsewhere for cell in cells(part)]
    assert len(elsewhere) == len(set(elsewhere))
    assert {*elsewhere} | cells(division.here) == cells(EVERYTHING)
    assert division.lacking.keys() == {"absent"} | ({"eats-memory"} if not memory else set())


def test_what_all_can_do_here_is_done_nowhere_else() -> None:
    assert divide(Part([Gunicorn], SCENARIOS), memory=True) == (Part([Gunicorn], [*SCENARIOS]), [], {})


def test_what_is_left_out_is_left_out_aloud() -> None:
    assert list(said({"absent": "it is not here"}, [], virtual=False)) == [
        "without absent, as it is not here; --vm does it in a virtual machine"
    ]
    assert list(said({"absent": "it is not here"}, ["absent"], virtual=True)) == [
        "in the virtual machine: absent, as it is not here"
    ]


def test_what_was_asked_for_must_be_possible() -> None:
    with pytest.raises(Failed, match="absent cannot be measured: it is not here"):
        list(said({"absent": "it is not here"}, ["absent"], virtual=False))


def test_the_virtual_machine_is_asked_for_the_same_at_a_rate_that_it_can_bear() -> None:
    part = Part([Gunicorn, Systemd], SCENARIOS[1:3])
    options = parse(virtual.options(part, rate=300))
    assert (options.contender, options.scenario) == (["gunicorn", "systemd"], [one.key for one in SCENARIOS[1:3]])
    assert (options.rate, options.vm) == (virtual.MOST_REQUESTS, False)
    assert parse(virtual.options(part, rate=10)).rate == 10


def test_systemd_takes_part_only_where_it_is() -> None:
    assert bool(Systemd.missing()) != os.path.isdir("/run/systemd/system")


@pytest.mark.parametrize("options", [("--contender", "init"), ("--scenario", "rain"), ("--rate", "0")])
def test_bad_usage(options: tuple[str, ...]) -> None:
    assert benchmark(*options).code == 2
