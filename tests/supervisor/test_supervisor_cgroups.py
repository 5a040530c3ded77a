"""The instances' groups on the real kernel: a limit is in force or is said not to be, never dropped in silence."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from writes import Writes

import cgroup
from lithos_runner.supervisor.cgroups import AVAILABLE, ENFORCE, OFF, Tree, command_name

SANDBOX = f"test-{os.getpid()}"
ABSENT = {"nosuch.max": "1"}  # a file of a controller that no host has


@pytest.fixture
def prepared() -> Iterator[Callable[[str], Tree]]:
    trees: list[Tree] = []

    def prepare(mode: str) -> Tree:
        trees.append(Tree(mode))
        trees[-1].prepare(SANDBOX, {})
        return trees[-1]

    yield prepare
    for tree in trees:
        tree.close()
        assert not os.path.exists(tree.hierarchy.path(tree.path(SANDBOX, "")))


def test_a_limit_that_must_be_enforced_is_never_left_out(prepared: Callable[[str], Tree]) -> None:
    """Also where nobody has called `check` before."""
    tree = prepared(ENFORCE)
    with pytest.raises(cgroup.CgroupError, match="nosuch"):
        tree.create(SANDBOX, "hello.0", ABSENT)
    assert not os.path.exists(tree.hierarchy.path(tree.path(SANDBOX, "hello.0")))


@pytest.mark.parametrize("mode", [AVAILABLE, OFF])
def test_a_limit_that_need_not_be_enforced_is_left_out_and_named(prepared: Callable[[str], Tree], mode: str) -> None:
    tree = prepared(mode)
    assert tree.not_enforced(ABSENT) == ["nosuch"]
    tree.create(SANDBOX, "hello.0", ABSENT).remove()


def test_who_was_left_behind_makes_room(prepared: Callable[[str], Tree]) -> None:
    tree = prepared(AVAILABLE)
    left = tree.create(SANDBOX, "hello.0", {})
    tree.create(SANDBOX, "hello.0", {}).remove()
    left.close()


def test_a_sandbox_that_another_supervisor_has_removed_is_made_again(prepared: Callable[[str], Tree]) -> None:
    ours, theirs = prepared(AVAILABLE), prepared(AVAILABLE)
    theirs.keep(())
    assert not os.path.exists(ours.hierarchy.path(ours.path(SANDBOX, "")))
    ours.create(SANDBOX, "hello.0", {}).remove()


def test_a_limit_of_a_sandbox_is_written_only_when_it_is_another(prepared: Callable[[str], Tree]) -> None:
    tree = prepared(AVAILABLE)
    choices = {"pids.max": ("100", "99"), "hugetlb.2MB.max": ("4194304", "2097152")}
    file = next(file for file in choices if not tree.not_enforced([file]))
    first, second = choices[file]
    path = Path(tree.hierarchy.path(tree.path(SANDBOX, "")))
    tree.prepare(SANDBOX, {file: first})
    writes = Writes(path)
    tree.prepare(SANDBOX, {file: first})
    assert writes.seen() == []
    tree.prepare(SANDBOX, {file: second})
    assert {*writes.seen()} == {str(path / file)}
    # Whoever changed it: the configuration holds.
    (path / file).write_text(first)
    tree.prepare(SANDBOX, {file: second})
    assert (path / file).read_text() == f"{second}\n"
    writes.close()


def test_a_sandbox_that_was_removed_is_prepared_again(prepared: Callable[[str], Tree]) -> None:
    """As at a reload, when a command was the last to be in there."""
    ours, theirs = prepared(AVAILABLE), prepared(AVAILABLE)
    theirs.keep(())
    ours.prepare(SANDBOX, {})
    assert os.path.exists(ours.hierarchy.path(ours.path(SANDBOX, "")))


# Beside a supervisor.

# Two values of a limit; on a hybrid host only few controllers are on v2.
LIMITS = {"pids": ("pids.max", "7", "8"), "hugetlb": ("hugetlb.2MB.max", str(2 << 20), str(4 << 20))}
LIMIT, LESS, MORE = next(limit for name, limit in LIMITS.items() if name in cgroup.find().controllers)


def limit(tree: Tree) -> str:
    with open(f"{tree.hierarchy.path(tree.path(SANDBOX, ''))}/{LIMIT}") as file:
        return file.read().strip()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        yield process
        process.kill()


def test_where_somebody_runs_the_limits_stay_as_they_are(
    prepared: Callable[[str], Tree], sleeper: subprocess.Popen[bytes]
) -> None:
    theirs, ours = prepared(AVAILABLE), prepared(AVAILABLE)
    theirs.prepare(SANDBOX, {LIMIT: LESS})
    group = theirs.create(SANDBOX, "hello.0", {})
    group.attach(sleeper.pid)
    ours.join(SANDBOX, {LIMIT: MORE})
    assert limit(ours) == LESS
    group.kill()
    group.remove()
    ours.join(SANDBOX, {LIMIT: MORE})
    assert limit(ours) == MORE


def test_a_tree_can_be_where_another_processs_is(prepared: Callable[[str], Tree]) -> None:
    hierarchy = prepared(AVAILABLE).hierarchy
    parent = f"lithos-test-parent-{os.getpid()}"
    with cgroup.Group.open(hierarchy.mount) as root, root.create(parent) as theirs:
        tree = Tree(AVAILABLE, parent=f"/{parent}")
        assert tree.parent == f"/{parent}"
        tree.join(SANDBOX, {})
        group = tree.create(SANDBOX, command_name("hello", 5), {})
        assert group.path == f"{theirs.path}/lithos.slice/{SANDBOX}/cmd.hello.5"
        group.remove()
        tree.close()
        theirs.remove()


def test_commands_whose_lithos_cmd_was_killed_are_ended(
    prepared: Callable[[str], Tree], sleeper: subprocess.Popen[bytes]
) -> None:
    """Those of a living one are not, nor is anything else that is there."""
    tree = prepared(AVAILABLE)
    with subprocess.Popen(["/bin/true"]) as dead:
        dead.wait()
    left, kept = command_name("hello", dead.pid), [command_name("hello", os.getpid()), "hello.0", "cmd.0", "cmd.x"]
    groups = [tree.create(SANDBOX, name, {}) for name in [left, *kept]]
    groups[0].attach(sleeper.pid)
    other = Tree(AVAILABLE)
    other.prepare(SANDBOX, {})
    assert sleeper.wait(60) == -signal.SIGKILL
    assert not groups[0].exists
    assert [group.exists for group in groups[1:]] == [True] * len(kept)
    for group in groups:
        group.remove()
    other.close()
