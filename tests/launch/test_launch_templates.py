"""Prepared roots follow the host: what is mounted after the launcher was made is there in the next instance."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from launch_stage import Privately, Stage

import cgroup
from lithos_runner.launch import kernel
from lithos_runner.launch.launcher import Launcher
from lithos_runner.launch.spec import Root


@pytest.fixture
def place() -> str:
    """A directory that every user may enter and that /tmp does not hide."""
    return "/mnt"


def test_later_mounts_are_seen(privately: Privately, place: str) -> None:
    def follow(stage: Stage) -> None:
        look = f"ls {place}"
        assert "fresh" not in stage.shell(look).stdout
        kernel.perform(kernel.mount(b"tmpfs", place.encode(), b"tmpfs", 0))
        Path(place, "fresh").touch()
        assert stage.shell(look).stdout == "fresh\n"
        assert stage.shell(f"echo x > {place}/fresh", uid=0).stderr.count("Read-only file system") == 1
        kernel.perform(kernel.umount2(place.encode(), 0))
        assert "fresh" not in stage.shell(look).stdout

    privately(follow)


def test_a_template_is_made_once(privately: Privately, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[str] = []
    original = Launcher._prepare

    def count(launcher: Launcher, root: Root) -> int:
        prepared.append(root.path)
        return original(launcher, root)

    monkeypatch.setattr(Launcher, "_prepare", count)

    def follow(stage: Stage) -> None:
        for _ in range(3):
            stage.shell("")
        assert prepared == ["/"]
        kernel.perform(kernel.mount(b"tmpfs", b"/mnt", b"tmpfs", 0))
        for _ in range(3):
            stage.shell("")
        assert prepared == ["/", "/"]

    privately(follow)


def test_what_one_instance_does_is_not_in_the_next(stage: Stage) -> None:
    script = "ls /tmp /dev/shm /dev/pts; umask 0; echo x > /tmp/left; echo x > /dev/shm/left; mkdir /tmp/d"
    first, second = stage.shell(script), stage.shell(script)
    assert first.stdout == second.stdout
    assert "left" not in second.stdout


def test_closing_lets_go_of_all_descriptors(tmp_path: Path, group: cgroup.Group) -> None:
    before = os.listdir("/proc/self/fd")
    launcher = Launcher(str(tmp_path))
    Stage(launcher, group).shell("")
    launcher.close()
    assert os.listdir("/proc/self/fd") == before
