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
from benchmarks.rollout.__main__ import able, possible
from benchmarks.rollout.peers import Gunicorn
from benchmarks.rollout.stage import Failed, children, stage, until
from benchmarks.rollout.systemd import Systemd
from benchmarks.rollout.trial import SCENARIOS

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


def test_who_cannot_take_part_is_left_out_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    assert able([Gunicorn, Absent], None) == [Gunicorn]
    assert capsys.readouterr().out == "without absent: it is not here\n"
    assert able([Gunicorn, Absent], ["gunicorn"]) == [Gunicorn]


def test_who_was_asked_for_must_be_able_to() -> None:
    with pytest.raises(Failed, match="absent cannot take part: it is not here"):
        able([Gunicorn, Absent], ["absent"])


def test_systemd_takes_part_only_where_it_is() -> None:
    assert bool(Systemd.missing()) != os.path.isdir("/run/systemd/system")


def test_without_the_memory_controller_nothing_is_out_of_memory(capsys: pytest.CaptureFixture[str]) -> None:
    keys = [scenario.key for scenario in SCENARIOS]
    assert possible(SCENARIOS, None, memory=True) == list(SCENARIOS)
    assert capsys.readouterr().out == ""
    assert [one.key for one in possible(SCENARIOS, None, memory=False)] == [k for k in keys if k != "eats-memory"]
    assert "no memory controller on this host" in capsys.readouterr().out
    with pytest.raises(Failed, match="the scenario eats-memory cannot run: cgroup v2 has no memory controller"):
        possible(SCENARIOS, ["eats-memory"], memory=False)


@pytest.mark.parametrize("options", [("--contender", "init"), ("--scenario", "rain"), ("--rate", "0")])
def test_bad_usage(options: tuple[str, ...]) -> None:
    assert benchmark(*options).code == 2
