"""Removing a directory whose content is hostile, however deep and wide it is."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from ..files import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

_STAY = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV


def open_directory(parent: int, path: str) -> int:
    """Open a directory below `parent` for reading.

    Raises OSError with ELOOP when there is a link on the way and with EXDEV when there is a mount point, see
    openat2(2).
    """
    return openat2(parent, path, os.O_RDONLY | os.O_DIRECTORY, _STAY)


def remove_tree(parent: int, name: str, removed: Callable[[], None]) -> None:
    """Remove the directory `name` of the directory `parent` with all that is in it; calls `removed` for each entry.

    Links are removed, never followed, and no mount point is entered. It takes two descriptors and no recursion
    however deep the tree is, so the way up is by `..`: when that does not lead back to where the way down began,
    somebody moves directories, and that ends it. Raises OSError; what is left then may be removed by another call.
    """
    here = os.dup(parent)
    above: list[tuple[str, tuple[int, int]]] = []
    below: str | None = name
    try:
        while below is not None or above:
            if below is not None:
                above.append((below, _identity(here)))
                here = _move(here, open_directory(here, below))
            else:
                emptied, identity = above.pop()
                here = _move(here, os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here))
                if _identity(here) != identity:
                    raise OSError(errno.EAGAIN, "a directory was moved meanwhile", emptied)
                os.rmdir(emptied, dir_fd=here)
                removed()
                if not above:
                    return
            below = _remove_files(here, removed)
    finally:
        os.close(here)


def _move(here: int, there: int) -> int:
    os.close(here)
    return there


def _identity(directory: int) -> tuple[int, int]:
    status = os.fstat(directory)
    return status.st_dev, status.st_ino


def _remove_files(directory: int, removed: Callable[[], None]) -> str | None:
    """Remove what is no directory until one comes, and return its name; None when the directory is empty."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            os.unlink(entry.name, dir_fd=directory)
            removed()
    return None
