"""After execve(2) exactly the planned descriptors are open, whatever numbers they and their sources had before."""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lithos_runner.launch import descriptors, kernel

# Runs after execve(2): every open descriptor with its file's inode, written to a file that it opens itself.
SURVIVORS = """
import json, os, sys
def inode(fd):
    try: return os.fstat(fd).st_ino
    except OSError: return None
found = {fd: inode(fd) for fd in range(256)}
json.dump({fd: inode for fd, inode in found.items() if inode is not None}, open(sys.argv[1], "w"))
"""

# target → source, and the descriptors that are kept until execve(2). Sources are made to have these numbers.
CASES: dict[str, tuple[dict[int, int], tuple[int, ...]]] = {
    "nothing to do": ({0: 0, 1: 1, 2: 2, 3: 3}, ()),
    "crossing numbers": ({0: 0, 1: 1, 2: 2, 3: 4, 4: 3}, ()),
    "a ring of three": ({0: 0, 1: 1, 2: 2, 3: 4, 4: 5, 5: 3}, ()),
    "standard streams swapped": ({0: 2, 1: 0, 2: 1}, ()),
    "a socket at 0": ({0: 7, 1: 1, 2: 2}, ()),
    "a source below, targets with a gap": ({0: 0, 1: 1, 2: 2, 3: 9, 40: 8, 7: 40}, ()),
    "one source at two targets": ({0: 0, 1: 1, 2: 1, 3: 8, 4: 8}, ()),
    "kept descriptors in the way of targets": ({0: 0, 1: 1, 2: 2, 3: 10, 4: 11}, (3, 4)),
    "kept descriptors in the way of parked ones": ({0: 0, 1: 1, 2: 2, 3: 3}, (4, 5)),
}


@settings(deadline=None)
@given(st.sets(st.integers(0, 5000), max_size=12))
def test_gaps_and_targets_divide_all_numbers(targets: set[int]) -> None:
    covered = [*descriptors.gaps(targets), *((target, target) for target in targets)]
    edges = sorted(covered)
    assert edges[0][0] == 0
    assert edges[-1][1] == descriptors.LAST
    assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(edges))


NUMBERS = st.integers(0, 60)


@settings(deadline=None)
@given(st.dictionaries(NUMBERS, NUMBERS, min_size=1, max_size=8), st.lists(NUMBERS, unique=True, max_size=2))
def test_a_plan_never_overwrites_what_is_needed(sources: dict[int, int], kept: list[int]) -> None:
    moves = descriptors.plan(sources, tuple(kept))
    table = {number: number for number in range(61)}  # what each number stands for: itself, at first
    for source, number in moves.parked:
        table[number] = table[source]
    for number, target in moves.placed:
        table[target] = table[number]
    assert {target: table[target] for target in sources} == dict(sources)
    assert [table[number] for number in moves.kept] == kept


@pytest.mark.parametrize(("sources", "kept"), CASES.values(), ids=CASES)
def test_exactly_the_targets_survive_exec(
    sources: dict[int, int], kept: tuple[int, ...], python: str, tmp_path: Path
) -> None:
    listeners = {number: socket.create_server(("127.0.0.1", 0)) for number in {*sources.values(), *kept}}
    inodes = {number: os.fstat(listener.fileno()).st_ino for number, listener in listeners.items()}
    report = str(tmp_path / "survivors")
    pid = os.fork()
    if pid == 0:
        opened = {number: listener.fileno() for number, listener in listeners.items()}
        _place_and_execute(opened, sources, kept, (python, "-ISc", SURVIVORS, report))
    _, status = os.waitpid(pid, 0)
    for listener in listeners.values():
        listener.close()
    assert status == 0
    with open(report) as file:
        survivors = {int(number): inode for number, inode in json.load(file).items()}
    assert survivors == {target: inodes[source] for target, source in sources.items()}


def _place_and_execute(
    opened: Mapping[int, int], sources: Mapping[int, int], kept: tuple[int, ...], command: tuple[str, ...]
) -> None:
    """In the child: give the listeners the wanted numbers, carry the plan out, execute."""
    try:
        far = {number: os.dup2(descriptor, 200 + number, inheritable=True) for number, descriptor in opened.items()}
        for number, descriptor in far.items():
            os.dup2(descriptor, number, inheritable=True)
        for call in descriptors.calls(descriptors.plan(sources, kept)):
            kernel.perform(call)
        os.execv(command[0], command)  # noqa: S606
    finally:
        os._exit(1)
