"""Real groups below the real v2 root, and directories that are shaped like one."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

import cgroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def hierarchy() -> cgroup.Hierarchy:
    return cgroup.find()


@pytest.fixture
def root(hierarchy: cgroup.Hierarchy) -> Iterator[cgroup.Group]:
    with cgroup.Group.open(hierarchy.mount) as group:
        yield group


@pytest.fixture
def offered(hierarchy: cgroup.Hierarchy, root: cgroup.Group) -> frozenset[str]:
    """The controllers of this host that the tests use, enabled for the children of the root.

    They stay enabled: another run may be using them, and groups without limits do not feel them.
    """
    controllers = hierarchy.controllers & {"cpu", "hugetlb", "memory", "pids"}
    root.enable(controllers)
    return controllers


@pytest.fixture
def group(root: cgroup.Group) -> Iterator[cgroup.Group]:
    """A new and empty real group; whatever a test leaves in it is killed and removed."""
    name = f"lithos-test-{os.getpid()}"
    made = root.create(name)
    yield made
    made.close()
    if name in root.children():
        with root.child(name) as left:
            left.kill()
            left.remove()


@pytest.fixture
def spawn() -> Iterator[Callable[[cgroup.Group], subprocess.Popen[bytes]]]:
    """Start a process that stays in a group until it is killed or its standard input is closed."""
    started: list[subprocess.Popen[bytes]] = []

    def spawn(group: cgroup.Group) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        started.append(process)
        group.attach(process.pid)
        return process

    yield spawn
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Callable[..., cgroup.Group]]:
    """Open a directory with the given files (dots in names as in `memory.max`) as if it were a group."""
    opened: list[cgroup.Group] = []

    def fake(files: dict[str, str]) -> cgroup.Group:
        for name, text in {"cgroup.controllers": "", **files}.items():
            (tmp_path / name).write_text(text)
        opened.append(cgroup.Group.open(str(tmp_path)))
        return opened[-1]

    yield fake
    for group in opened:
        group.close()
