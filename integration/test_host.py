"""The VM is the host it claims to be; every other test here relies on it."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CGROUP_MOUNT = Path("/sys/fs/cgroup")


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


def test_systemd_is_pid_1() -> None:
    assert Path("/proc/1/comm").read_text() == "systemd\n"


def test_every_unit_came_up() -> None:
    state = subprocess.run(
        ("systemctl", "is-system-running", "--wait"), check=False, text=True, stdout=subprocess.PIPE
    ).stdout.strip()
    assert state == "running", output_of("systemctl", "--failed", "--plain")


def test_the_kernel_is_one_we_support() -> None:
    major, minor = platform.release().split(".")[:2]
    assert (int(major), int(minor)) >= (5, 14)


def test_cgroups_are_v2_and_nothing_else() -> None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    assert [(target, kind) for _, target, kind, *_ in mounts if kind in ("cgroup", "cgroup2")] == [
        (str(CGROUP_MOUNT), "cgroup2")
    ]


@pytest.mark.parametrize("controller", ["cpu", "io", "memory", "pids"])
def test_the_controllers_are_on_v2(controller: str) -> None:
    assert controller in (CGROUP_MOUNT / "cgroup.controllers").read_text().split()


@pytest.mark.parametrize("resource", ["cpu", "io", "memory"])
def test_pressure_is_measured(resource: str) -> None:
    assert (CGROUP_MOUNT / "system.slice" / f"{resource}.pressure").read_text().startswith("some avg10=")


@pytest.mark.parametrize("program", ["bwrap", "crun", "curl", "ip", "ps", "busctl"])
def test_the_programs_the_tests_compare_with_are_there(program: str) -> None:
    assert shutil.which(program)


@pytest.mark.parametrize("kind", ["veth", "bridge"])
def test_virtual_network_devices_can_be_made(kind: str) -> None:
    output_of("ip", "link", "add", "lithos-probe", "type", kind)
    try:
        assert "lithos-probe" in output_of("ip", "-brief", "link", "show", "type", kind)
    finally:
        output_of("ip", "link", "delete", "lithos-probe")


@pytest.mark.parametrize("package", ["cgroup", "lithos_runner"])
def test_the_installed_wheel_is_what_is_tested(package: str) -> None:
    origin = output_of(sys.executable, "-P", "-c", f"import {package}; print({package}.__file__)")
    assert Path(origin).is_relative_to("/opt/lithos")


def test_the_command_is_installed() -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="lithos")
    assert entry.dist is not None
    assert entry.dist.name == "lithos-runner"
    assert Path(shutil.which("lithos") or "").resolve() == Path(sys.prefix, "bin/lithos")
