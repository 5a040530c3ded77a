"""Images made of programs of this host, for benchmarks and tests: no volume can bring them, volumes are `noexec`."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .program import PYTHON

_MOUNT_POINTS = ("dev", "etc", "proc", "run", "sys", "tmp")
_LIBRARY = re.compile(r"(/\S+) \(0x")  # in a line of ldd(1)
# The bytecode, too: compiling would make every start slower.
_IMPORT = """
import sys, {}
for each in sys.modules.values():
    print(getattr(each, "__file__", None), getattr(getattr(each, "__spec__", None), "cached", None), sep="\\n")
"""


def make(root: Path, files: Iterable[str]) -> None:
    """Make a root directory with copies of these files of the host, each at its own path.

    They are no links to the host's: what a faulty test or benchmark did to them, it would do to the host.
    """
    for name in _MOUNT_POINTS:
        (root / name).mkdir(parents=True)
    for path in files:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)  # with its time, by which Python knows whether bytecode is of its source


def copy(root: Path, to: Path) -> None:
    """Make the same image a second time; its files are hard links, as image builders do it."""
    shutil.copytree(root, to, copy_function=os.link)


@functools.cache
def programs(*paths: str) -> frozenset[str]:
    """Return the files of programs: they and their libraries, by the names under which the dynamic loader looks."""
    return frozenset(paths).union(_LIBRARY.findall(_printed("ldd", *paths)))


@functools.cache
def python(*modules: str) -> frozenset[str]:
    """Return the files of the host's Python, as far as it needs them to import these modules."""
    imported = _printed(PYTHON, "-ISBc", _IMPORT.format(", ".join(modules))).splitlines()
    files = [path for path in imported if os.path.exists(path)]  # not None
    return programs(PYTHON, *(path for path in files if path.endswith(".so"))).union(files)


def _printed(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
