"""`python -m benchmarks.spread FILE`, with which the table of docs/recipes/index.md was made."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

from catalogue import PROJECT, STACKS

if TYPE_CHECKING:
    from stack_site import Site

ROW = re.compile(r"^\| asyncio \| (\S+) \| (\d+) \| (\d+)% \| (\d+)% \|$", re.MULTILINE)
KINDS = ("shared", "`reuse-port`")


def test_it_measures_an_application(site: Site) -> None:
    (stack,) = [stack for stack in STACKS if stack.name == "asyncio"]
    site.set_up(stack)
    command = [sys.executable, "-m", "benchmarks.spread", "--runs", "1", "--requests", "100", str(stack.container_file)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    rows = ROW.findall(done.stdout)
    assert [row[:2] for row in rows] == [
        ("shared", "1"),
        ("shared", "32"),
        ("`reuse-port`", "1"),
        ("`reuse-port`", "32"),
    ]
    assert all(int(smallest) > 0 for address, _, _, smallest in rows if address == KINDS[1]), done.stdout
