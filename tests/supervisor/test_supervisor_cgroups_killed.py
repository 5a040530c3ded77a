"""A supervisor in a group that was killed before: what an init leaves when it restarts a service there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

import cgroup

CODE = """
import os, sys
from lithos_runner.launch import kernel
from lithos_runner.supervisor.cgroups import OFF, Tree

tree = Tree(OFF, sys.argv[1])
tree.prepare("box", {})
for name in ("hello.0", "hello.1"):
    group = tree.create("box", name, {})
    pid, pidfd = kernel.clone3(0, group.fd)
    if pid == 0:
        os._exit(7)
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    print(result.si_code == os.CLD_EXITED, result.si_status)
    group.remove()
tree.close()
"""
INTO_GROUP = ("/bin/sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"')


@pytest.fixture
def group() -> Iterator[cgroup.Group]:
    with cgroup.Group.open(cgroup.find().mount) as root, root.create(f"test-killed-{os.getpid()}") as made:
        yield made
        made.remove()


@pytest.mark.parametrize("kills", [0, 1, 3])
def test_what_it_clones_into_a_group_lives(group: cgroup.Group, kills: int) -> None:
    for _ in range(kills):
        group.kill()
    command = [*INTO_GROUP, group.path, sys.executable, "-c", CODE, f"{os.path.basename(group.path)}.slice"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("True 7\nTrue 7\n", "")
