"""Images are found below a trusted directory, are those that were checked, and are let go of when nobody uses them."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from launch_stage import SHELL, Stage, mounts

import cgroup
from lithos_runner.launch.launcher import Launcher, RootUnusable
from lithos_runner.launch.spec import LaunchSpec

OUTSIDE = "a symbolic link leads out of the directory that the administrator named"


@pytest.fixture
def images(image: Path) -> Path:
    """A directory of images, with v1 in it."""
    directory = image.parent / "images"
    directory.mkdir()
    image.rename(directory / "v1")
    (directory / "v1/marker").write_text("v1\n")
    return directory


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def marker(stage: Stage, **changes: object) -> str:
    ended = stage.shell("cat /marker", **changes)
    assert ended.failure is None
    return ended.stdout


def test_an_image_is_found_below_the_directory(stage: Stage, images: Path) -> None:
    assert marker(stage, root=str(images), image="v1", identity=identity(images / "v1")) == "v1\n"
    assert marker(stage, root=str(images), image="v1") == "v1\n"
    assert marker(stage, root=str(images / "v1"), image=".") == "v1\n"
    assert marker(stage, root=str(images / "v1")) == "v1\n"


def test_a_link_may_lead_from_one_image_to_another(stage: Stage, images: Path) -> None:
    (images / "latest").symlink_to("v1")
    assert marker(stage, root=str(images), image="latest", identity=identity(images / "v1")) == "v1\n"


@pytest.mark.parametrize("target", ["{elsewhere}", "../elsewhere", "../images/v1", "/"])
def test_an_image_that_is_a_link_out_of_the_directory_is_refused(stage: Stage, images: Path, target: str) -> None:
    elsewhere = images.parent / "elsewhere"
    os.symlink(images / "v1", elsewhere)
    (images / "v2").symlink_to(target.format(elsewhere=elsewhere))
    with pytest.raises(RootUnusable) as caught:
        stage.shell("echo it ran", root=str(images), image="v2")
    path = images / "v2"
    assert str(caught.value) == (
        f"root {path}: cannot make a read-only root from {path}: {os.strerror(errno.EXDEV)}; {OUTSIDE}"
    )


def test_an_image_that_was_exchanged_since_it_was_read_is_refused(stage: Stage, images: Path) -> None:
    """Between the check of its configuration and the start, say by whoever may write to the directory of images."""
    read = identity(images / "v1")
    (images / "v1").rename(images / "v0")
    (images / "v1").mkdir()
    for name in ("dev", "proc", "sys", "tmp"):
        (images / "v1" / name).mkdir()
    with pytest.raises(RootUnusable) as caught:
        stage.shell("echo it ran", root=str(images), image="v1", identity=read)
    path = images / "v1"
    assert str(caught.value) == (
        f"root {path}: cannot make a read-only root from {path}: Stale file handle; "
        "another directory has taken its place since it was checked: reload the configuration"
    )


def test_a_new_image_of_the_same_name_is_another_root(stage: Stage, images: Path) -> None:
    first = {"root": str(images), "image": "v1", "identity": identity(images / "v1")}
    assert marker(stage, **first) == "v1\n"
    (images / "v1").rename(images / "v0")
    shutil.copytree(images / "v0", images / "v1")
    (images / "v1/marker").write_text("new\n")
    assert marker(stage, **first) == "v1\n", "what runs goes on with what it had"
    assert marker(stage, **{**first, "identity": identity(images / "v1")}) == "new\n"


def test_roots_that_nobody_uses_are_let_go(tmp_path: Path, group: cgroup.Group, images: Path) -> None:
    (tmp_path / "root").mkdir()
    launcher = Launcher(str(tmp_path / "root"))
    stage = Stage(launcher, group)
    used = SHELL._replace(root=str(images), image="v1")
    unused = [used._replace(image="./v1"), used._replace(identity=identity(images / "v1"))]
    counts = []
    for spec in (used, *unused):
        assert stage.run(spec).failure is None
        counts.append(len(os.listdir("/proc/self/fd")))
    launcher.keep([used, SHELL])
    assert counts == [counts[0], counts[0] + 1, counts[0] + 2]
    assert len(os.listdir("/proc/self/fd")) == counts[0]
    launcher.keep([])
    assert len(os.listdir("/proc/self/fd")) == counts[0] - 1
    assert stage.run(used).failure is None
    launcher.close()


def test_the_run_of_an_image_is_its_own(stage: Stage, images: Path) -> None:
    (images / "v1/run/marker").write_text("of the image\n")
    assert stage.shell("cat /run/marker", root=str(images), image="v1").stdout == "of the image\n"


def test_an_image_needs_no_run(stage: Stage, images: Path) -> None:
    (images / "v1/run").rmdir()
    assert marker(stage, root=str(images), image="v1") == "v1\n"


# Devices of the host's choice


@pytest.fixture
def devfs(tmp_path: Path) -> Path:
    """As lithos_mkdev makes it, with less in it."""
    directory = tmp_path / "devfs"
    (directory / "pts").mkdir(parents=True)
    (directory / "shm").mkdir()
    (directory / "fd").symlink_to("/proc/self/fd")
    os.mknod(directory / "null", 0o020666, os.makedev(1, 3))
    (directory / "null").chmod(0o666)
    (directory / "program").write_text("#!/bin/sh\necho it ran\n")
    (directory / "program").chmod(0o755)
    return directory


@pytest.mark.parametrize("on_the_host", [True, False])
def test_devices_of_the_hosts_choice(stage: Stage, images: Path, devfs: Path, on_the_host: bool) -> None:
    root: dict[str, object] = {} if on_the_host else {"root": str(images), "image": "v1"}
    script = "cat /proc/self/mountinfo; ls /dev /dev/pts >&2; echo x > /dev/null; echo x > /dev/shm/new"
    ended = stage.shell(script, devfs=str(devfs), **root)
    assert ended.stderr.split() == ["/dev:", "fd", "null", "program", "pts", "shm", "/dev/pts:", "ptmx"]
    seen = mounts(ended.stdout)
    assert seen["/dev"].options == {"ro", "nosuid", "noexec"}
    assert {seen["/dev/pts"].kind, seen["/dev/shm"].kind} == {"devpts", "tmpfs"}


def test_the_hosts_devices_can_be_neither_changed_nor_executed(stage: Stage, images: Path, devfs: Path) -> None:
    script = "echo x > /dev/new; chmod 0 /dev/null; /dev/program"
    ended = stage.shell(script, devfs=str(devfs), root=str(images), image="v1", uid=0)
    assert ended.stderr.count("Read-only file system") == 2
    assert ended.stderr.count("Permission denied") == 1
    assert ended.stdout == ""


def test_devices_without_their_directories(stage: Stage, images: Path, devfs: Path) -> None:
    (devfs / "pts").rmdir()
    ended = stage.run(LaunchSpec("test/app.0", "/bin/sh", root=str(images), image="v1", devfs=str(devfs)))
    assert ended.failure
    assert ended.failure.sentence == (
        "test/app.0: cannot mount devpts on /dev/pts: No such file or directory; "
        "`devfs-dir` must have the directories pts and shm"
    )
