"""The instances' groups on the real kernel: a limit is in force or is said not to be, never dropped in silence."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from writes import Writes

import cgroup
from lithos_runner.supervisor.cgroups import AVAILABLE, ENFORCE, OFF, Tree

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
    theirs.discard(SANDBOX)
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
