"""The instances' groups on the real kernel: a limit is in force or is said not to be, never dropped in silence."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

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
