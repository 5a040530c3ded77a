"""Whose a cgroup is: tried with processes, as the locks are theirs and a process has no quarrel with itself."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from real_host import PATIENCE, Lines

import cgroup
from lithos_runner.supervisor.cgroups import AVAILABLE, Tree
from lithos_runner.supervisor.claims import Claims

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GROUP = "lithos.slice/shop"
HAS_IT = "has it"

# Claims GROUP, says how that went, does what follows on its command line, and stays until somebody says so.
CLAIMANT = f"""
import os, sys
import cgroup
from lithos_runner.supervisor.claims import Claims
claims = Claims(shared=sys.argv[1] == "shared", held={{}})
try:
    claims.claim({GROUP!r})
    print({HAS_IT!r}, flush=True)
except cgroup.CgroupError as error:
    print(error, flush=True)
exec(sys.argv[2])
sys.stdin.read(1)
claims.keep(())
"""
# Of which only a file is left in the end: it knows what its descriptor is for.
EXECUTE = """
(descriptor,) = claims.held.values()
os.set_inheritable(descriptor, True)
os.execv("/bin/sh", ["/bin/sh", "-c", "echo executed; read _"])
"""
# Dies, with a child that is not yet an instance: it has all descriptors still.
LEAVE_A_CHILD = """
if os.fork():
    os.kill(os.getpid(), 9)
print("child", flush=True)
"""


class Claimant:
    """A process with a claim, or without one: ``heard`` is what it said of that."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.process = process
        self.lines = Lines(process.stdout)
        self.heard = self.lines.until("")

    def end(self) -> None:
        self.process.communicate(b"\n", timeout=PATIENCE)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "lithos"
    monkeypatch.setenv("LITHOS_RUNTIME_DIR", str(root))
    return root


@contextmanager
def claimant(kind: str = "alone", then: str = "") -> Iterator[Claimant]:
    command = [sys.executable, "-c", CLAIMANT, kind, then]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Claimant(process)
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [("alone", "alone", False), ("alone", "shared", False), ("shared", "alone", False), ("shared", "shared", True)],
)
def test_one_alone_or_several_that_share(root: Path, first: str, second: str, both: bool) -> None:
    with claimant(first) as one, claimant(second) as other:
        assert one.heard == HAS_IT
        assert other.heard == HAS_IT if both else f"the supervisor with pid {one.process.pid} has it" in other.heard
        one.end()
        with claimant(first) as late:  # whoever is left has it as before
            assert late.heard == HAS_IT
            late.end()
        other.end()
    assert not (root / "cgroups").exists()


def test_only_root_can_lock_it(root: Path) -> None:
    with claimant() as one:
        (file,) = (root / "cgroups").iterdir()
        assert [path.stat().st_mode & 0o777 for path in (file.parent, file)] == [0o700, 0o600]
        one.end()


def test_it_ends_with_the_process_however_that_ends() -> None:
    with claimant(then=LEAVE_A_CHILD) as one:
        assert one.heard == HAS_IT
        one.lines.until("child")
        one.process.wait(PATIENCE)
        with claimant() as other:
            assert other.heard == HAS_IT
            other.end()
        one.end()  # the child's end


def test_the_next_program_of_the_process_has_it() -> None:
    with claimant(then=EXECUTE) as one:
        one.lines.until("executed")
        with claimant() as other:
            assert f"the supervisor with pid {one.process.pid} has it" in other.heard


def test_what_was_handed_over_is_let_go_of_with_the_rest(root: Path) -> None:
    before = Claims(shared=False, held={})
    before.claim(GROUP)
    after = Claims(shared=False, held=before.held)
    after.claim(GROUP)
    assert after.held == before.held
    after.keep(())
    assert not (root / "cgroups").exists()


def test_a_place_that_cannot_be_locked_belongs_to_nobody(root: Path) -> None:
    root.write_text("not a directory")
    with pytest.raises(cgroup.CgroupError, match=f"which says whose the cgroup {GROUP} is: Not a directory"):
        Claims(shared=False, held={}).claim(GROUP)


# Two values of a limit; on a hybrid host only few controllers are on v2.
LIMITS = {"pids": ("pids.max", "7", "8"), "hugetlb": ("hugetlb.2MB.max", str(2 << 20), str(4 << 20))}
PREPARE = """
import sys
from lithos_runner.supervisor.cgroups import AVAILABLE, Tree
from lithos_runner.supervisor.claims import Claims, Taken
_, sandbox, file, text = sys.argv
tree = Tree(AVAILABLE, claims=Claims(shared=False, held={}))
try:
    tree.prepare(sandbox, {file: text})
except Taken as taken:
    print(taken)
tree.close()
"""


def test_the_limits_of_a_sandbox_are_those_of_the_supervisor_that_has_it() -> None:
    file, ours, theirs = next(limit for name, limit in LIMITS.items() if name in cgroup.find().controllers)
    sandbox = f"test-{os.getpid()}"
    tree = Tree(AVAILABLE, claims=Claims(shared=False, held={}))
    tree.prepare(sandbox, {file: ours})
    path = tree.hierarchy.path(tree.path(sandbox, file))
    for _ in range(2):  # nobody is in there, so that who let go of it would remove it
        command = [sys.executable, "-c", PREPARE, sandbox, file, theirs]
        other = subprocess.run(command, capture_output=True, text=True, check=True)
        assert f"the supervisor with pid {os.getpid()} has it" in other.stdout
        with open(path) as limit:
            assert limit.read().strip() == ours
    tree.keep(())
    assert not os.path.exists(path)
    done = subprocess.run([sys.executable, "-c", PREPARE, sandbox, file, theirs], capture_output=True, check=True)
    assert done.stdout == b""
