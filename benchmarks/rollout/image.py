"""An image that has a Python of its own: a volume with the host's could not be executed, volumes are `noexec`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from .stage import PYTHON

_MOUNT_POINTS = ("dev", "proc", "sys", "tmp")  # every image has to have them
_LINKS = ("bin", "lib", "lib64", "sbin")  # to their namesakes in /usr where that is merged
_UNUSED = shutil.ignore_patterns("test", "config-*", "site-packages", "dist-packages")
_LIBRARY = re.compile(r"(/\S+) \(0x")  # in a line of ldd(1)


def make(root: Path) -> None:
    """Make a root directory with the interpreter, its standard library, and the shared libraries of both."""
    for name in _MOUNT_POINTS:
        (root / name).mkdir(parents=True)
    for name in _LINKS:
        with suppress(OSError):  # no link on this host
            target = os.readlink(f"/{name}")
            (root / target).mkdir(parents=True)
            (root / name).symlink_to(target)
    library = _standard_library()
    shutil.copytree(library, _inside(root, library), symlinks=True, ignore=_UNUSED, copy_function=_link)
    _place(root, PYTHON)
    for path in set(_shared_libraries([PYTHON, *map(str, library.glob("lib-dynload/*.so"))])):
        _place(root, path)


def copy(root: Path, to: Path) -> None:
    """Make the same image a second time; its files are hard links, as image builders do it."""
    shutil.copytree(root, to, symlinks=True, copy_function=os.link)


def _standard_library() -> Path:
    program = (PYTHON, "-ISc", "import sysconfig; print(sysconfig.get_path('stdlib'))")
    return Path(subprocess.run(program, capture_output=True, text=True, check=True).stdout.strip())


def _shared_libraries(programs: Iterable[str]) -> Iterator[str]:
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    yield from _LIBRARY.findall(listed)


def _inside(root: Path, path: str | Path) -> Path:
    return root / str(path).lstrip("/")


def _place(root: Path, path: str) -> None:
    """Put a file of the host at its path, whatever link it is there."""
    target = _inside(root, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _link(os.path.realpath(path), str(target))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
