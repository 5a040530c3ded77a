"""Directories and mounts, held by descriptors: opened past anybody's traps, copied, attached.

These functions act at once, in a child, and raise OSError. Whoever could write to a directory may have left symbolic
links there: below a directory of the host nothing leads out of it (``RESOLVE_BENEATH``), a mount point stays inside
the instance's root (``RESOLVE_IN_ROOT``), and neither goes through /proc (``RESOLVE_NO_MAGICLINKS``); see openat2(2).
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from . import kernel
from .kernel import perform

BENEATH = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_MAGICLINKS
INSIDE = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_MAGICLINKS
TRUSTED = 0
DIRECTORY = os.O_PATH | os.O_DIRECTORY


class Made(NamedTuple):
    """What a directory gets when it has to be made."""

    mode: int
    uid: int
    gid: int


PARENT = Made(0o755, 0, 0)


def open_at(directory: int, path: str, flags: int, resolve: int) -> int:
    """Open ``path`` below the descriptor ``directory``."""
    return perform(kernel.openat2(directory, os.fsencode(path), flags, resolve))


def open_directory(start: int, path: str, resolve: int, made: Made | None = None) -> int:
    """Open the directory ``path`` below ``start``; with ``made`` make it when it is missing, with all above it."""
    try:
        return open_at(start, path, DIRECTORY, resolve)
    except FileNotFoundError:
        if made is None:
            raise
    above, name = os.path.split(path)
    parent = open_directory(start, above or ".", resolve, PARENT)
    try:
        return _make_directory(parent, name, made)
    finally:
        os.close(parent)


def _make_directory(parent: int, name: str, made: Made) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:  # by another instance, a moment ago; or a link that leads nowhere, which is not followed
        return open_at(parent, name, DIRECTORY, kernel.RESOLVE_NO_SYMLINKS)
    directory = open_at(parent, name, os.O_RDONLY | os.O_DIRECTORY, kernel.RESOLVE_NO_SYMLINKS)
    try:
        hand_over(directory, made)
    except BaseException:
        os.close(directory)
        raise
    return directory


def hand_over(directory: int, made: Made) -> None:
    """Give the directory that was made just now its owner and mode.

    Who may write to the directory above can have put another one in its place: then nothing is given away.
    """
    if os.fstat(directory).st_uid != os.geteuid() or os.listdir(directory):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    os.fchown(directory, made.uid, made.gid)
    os.fchmod(directory, made.mode)


def copy(source: int, attributes: int) -> int:
    """Return a detached copy of the file or directory ``source`` with all mounts below, every one with ``attributes``.

    mount(2) can change only the top mount of a recursive bind; mount_setattr(2) does the tree. Private: what the host
    mounts there later would come without these attributes, and what an instance mounts must not appear on the host.
    """
    flags = kernel.OPEN_TREE_CLONE | kernel.AT_RECURSIVE | kernel.AT_EMPTY_PATH
    tree = perform(kernel.open_tree(source, b"", flags))
    flags = kernel.AT_EMPTY_PATH | kernel.AT_RECURSIVE
    perform(kernel.mount_setattr(tree, b"", flags, attributes, kernel.MS_PRIVATE))
    return tree


def attach(tree: int, point: int) -> None:
    """Mount the detached ``tree`` on the directory or file that the descriptor ``point`` is."""
    flags = kernel.MOVE_MOUNT_F_EMPTY_PATH | kernel.MOVE_MOUNT_T_EMPTY_PATH
    perform(kernel.move_mount(tree, point, b"", flags))
