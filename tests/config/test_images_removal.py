"""Removing a directory full of traps: everything in it goes, nothing outside is touched."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lithos_runner.config.images import removal

DEEP = 5000  # directories: more than a path may have characters in names of one, and than Python may recurse


def remove(parent: Path, name: str = "tree") -> int:
    """Remove a directory and return how many entries that were."""
    removed: list[None] = []
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        removal.remove_tree(descriptor, name, lambda: removed.append(None))
    finally:
        os.close(descriptor)
    return len(removed)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    made.mkdir()
    return made


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What must still be there afterwards."""
    made = tmp_path / "outside"
    (made / "directory").mkdir(parents=True)
    (made / "directory" / "file").write_text("precious")
    return made


def test_everything_goes(tree: Path) -> None:
    for number in range(3000):  # more than one getdents64(2) returns
        (tree / f"{number}").touch()
    for path in ("a/b/c", "a/b/d", "a/e", "empty"):
        (tree / path).mkdir(parents=True)
        (tree / path / "file").touch()
    os.mkfifo(tree / "a" / "fifo")
    os.mknod(tree / "a" / "null", 0o20666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "a" / "socket"))
    (tree / "a" / "\udcff\n").touch()

    assert remove(tree.parent) == 3000 + 6 + 4 + 4 + 1
    assert not tree.exists()


def test_links_are_removed_and_not_followed(tree: Path, outside: Path) -> None:
    (tree / "absolute").symlink_to(outside)
    (tree / "relative").symlink_to("../outside")
    (tree / "file").symlink_to(outside / "directory" / "file")
    (tree / "dangling").symlink_to("nothing")
    (tree / "loop").symlink_to("loop")
    os.link(outside / "directory" / "file", tree / "hard")

    assert remove(tree.parent) == 7
    assert (outside / "directory" / "file").read_text() == "precious"


def test_a_link_in_the_place_of_the_directory_is_refused(tree: Path, outside: Path) -> None:
    tree.rmdir()
    tree.symlink_to(outside)

    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        remove(tree.parent)
    assert (outside / "directory" / "file").exists()


def test_the_directory_is_below_its_parent(tree: Path, outside: Path) -> None:
    with pytest.raises(OSError, match="cross-device"):
        remove(tree, "../outside")
    assert outside.exists()


def test_depth_takes_neither_descriptors_nor_recursion(tree: Path) -> None:
    here = os.open(tree, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("d", dir_fd=here)
        os.close(os.open("file", os.O_CREAT, dir_fd=here))
        here, last = os.open("d", os.O_RDONLY, dir_fd=here), here
        os.close(last)
    os.close(here)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, before[1]))
    try:
        assert remove(tree.parent) == 2 * DEEP + 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# In a mount namespace of its own: what is bound into the tree is another file system, or the same once more.
MOUNTS = """
import errno, os, subprocess, sys
from lithos_runner.config.images.removal import remove_tree
parent, source = sys.argv[1:]
subprocess.run(["mount", *source.split(), parent + "/tree/a/mount"], check=True)
try:
    remove_tree(os.open(parent, os.O_RDONLY), "tree", lambda: None)
except OSError as error:
    print(errno.errorcode[error.errno])
print(*sorted(os.listdir(parent + "/tree/a/mount")))
"""


@pytest.mark.parametrize("source", ["--bind {outside}", "-t proc none", "--bind {outside}/directory/file"])
def test_mounts_are_not_entered(tree: Path, outside: Path, source: str) -> None:
    mount = tree / "a" / "mount"
    mount.parent.mkdir()
    is_file = source.endswith("file")
    mount.touch() if is_file else mount.mkdir()
    script = MOUNTS.replace("os.listdir", "open") if is_file else MOUNTS
    command = ["unshare", "--mount", sys.executable, "-c", script, str(tree.parent), source.format(outside=outside)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    error, content = done.stdout.splitlines()
    assert error == ("EBUSY" if is_file else "EXDEV")
    assert content
    assert (outside / "directory" / "file").read_text() == "precious"


def test_a_directory_that_is_moved_out_meanwhile_ends_it(tree: Path, outside: Path) -> None:
    """Else the way up would lead to what is outside."""
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").touch()

    def move() -> None:
        (tree / "a" / "b").rename(outside / "b")

    descriptor = os.open(tree.parent, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="a directory was moved meanwhile") as refusal:
            removal.remove_tree(descriptor, "tree", move)
    finally:
        os.close(descriptor)
    assert refusal.value.errno == errno.EAGAIN
    assert (outside / "directory" / "file").exists()
    assert (outside / "b").exists()


def test_no_descriptor_stays_open(tree: Path) -> None:
    (tree / "a").mkdir()
    before = os.listdir("/proc/self/fd")
    remove(tree.parent)
    with pytest.raises(FileNotFoundError):
        remove(tree.parent)

    assert os.listdir("/proc/self/fd") == before
