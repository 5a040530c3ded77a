from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
before = set(sys.modules)
import cgroup
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""

# A supervisor holds this package for its whole life, so what it drags along is part of its size.
HEAVY = {
    "asyncio",
    "attr",
    "attrs",
    "ctypes",
    "inspect",
    "json",
    "logging",
    "pathlib",
    "socket",
    "subprocess",
    "yaml",
}


def imported() -> set[str]:
    output = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    return set(output.split())


def test_is_usable_without_the_rest_of_the_project() -> None:
    modules = imported()
    assert "cgroup" in modules
    assert "cgroupspy" in modules
    assert "lithos_runner" not in modules


def test_drags_nothing_heavy_along() -> None:
    assert not imported() & HEAVY
