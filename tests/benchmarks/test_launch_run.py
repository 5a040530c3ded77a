"""The benchmark of starts, really run, as root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cgroup
from benchmarks.launch import bundle

PROJECT = Path(__file__).parents[2]
HERE = ("lithos init:false", "lithos", "bwrap", "bwrap+setpriv", "crun", "posix_spawn")


def benchmark(*options: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "benchmarks.launch", *options)
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=100, check=False)


def left() -> tuple[set[str], str]:
    """The groups at the root of the v2 hierarchy and the mounts of this namespace."""
    return set(os.listdir(cgroup.find().mount)), Path("/proc/self/mountinfo").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def ended(folder: Path) -> subprocess.CompletedProcess[str]:
    return benchmark("--rounds", "3", "--json", f"{folder}/launch.json", "--plot", f"{folder}/launch.svg")


def test_everyone_takes_part(ended: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert (ended.returncode, ended.stderr.splitlines()[-1:]) == (0, ["round 3 of 3"])
    contenders = json.loads((folder / "launch.json").read_text())["contenders"]
    assert set(HERE) <= set(contenders)
    assert all(len(one["samples"]) == 3 and one["exited"]["min"] > 0 for one in contenders.values())
    assert {name for name, one in contenders.items() if one["exec"]} == {"lithos init:false", "lithos"}
    floor = contenders["posix_spawn"]["exited"]["min"]
    assert all(contenders[name]["exited"]["min"] > floor for name in HERE if name != "posix_spawn")


def test_it_says_what_was_measured(ended: subprocess.CompletedProcess[str], folder: Path) -> None:
    lines = ended.stdout.splitlines()
    assert "MB RSS" in lines[1]
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in HERE)
    assert sum(" x bwrap, at most " in line or " x crun, at most " in line for line in lines) == 4
    assert (folder / "launch.svg").read_text().startswith("<svg ")


@pytest.mark.usefixtures("ended")
def test_nothing_is_left_behind() -> None:
    names, mounts = left()
    assert not [name for name in names if name.startswith("lithos-benchmark-")]
    assert "lithos-benchmark-" not in mounts
    assert not list(Path("/run").glob("lithos-benchmark-*"))


def test_a_check_needs_budgets_that_were_measured() -> None:
    ended = benchmark("--rounds", "1", "--only", "posix_spawn", "--check")
    assert ended.returncode == 1
    assert "at most" not in ended.stdout


def test_an_unknown_contender() -> None:
    ended = benchmark("--only", "posix_spawn,runc")
    assert ended.returncode == 1
    assert ended.stderr.startswith("benchmarks.launch: there is no contender 'runc' here, only lithos init:false, ")


@pytest.mark.parametrize("rounds", ["0", "-1", "many"])
def test_bad_usage(rounds: str) -> None:
    assert benchmark("--rounds", rounds).returncode == 2


def test_crun_gets_the_deny_list_and_the_limit() -> None:
    linux = bundle.config("rootfs", "/group", 64 << 20)["linux"]
    assert isinstance(linux, dict)
    assert linux["resources"] == {"memory": {"limit": 64 << 20, "swap": 64 << 20}}
    assert {"mount", "bpf", "clone3", "keyctl"} <= set(linux["seccomp"]["syscalls"][0]["names"])
    unlimited = bundle.config("rootfs", "/group", None)["linux"]
    assert isinstance(unlimited, dict)
    assert unlimited["resources"] == {}
