"""UNIX sockets in the file system: bound where nobody but root can redirect us, with the owner and mode asked for.

Applications may own the directory of a socket, so its entries are hostile; the directories above are not.
"""

from __future__ import annotations

import errno
import os
import socket
import stat

from ..desired import Port


class Unsafe(OSError):
    """A path that others than root can redirect, or that is taken; the message is the rest of a sentence."""


def bind(listener: socket.socket, port: Port) -> None:
    """Bind, in place of a socket that nobody listens on any more, and set owner and mode. Raises OSError.

    Nobody can connect before listen(2), so nobody meets the socket with another mode.
    """
    directory = open_directory(port.path)
    try:
        try:
            listener.bind(port.path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(port.path, directory)
            listener.bind(port.path)
        _set_access(port, directory)
    finally:
        os.close(directory)


def set_access(port: Port) -> None:
    """Give the socket's file the owner and mode of ``port``. Raises OSError."""
    directory = open_directory(port.path)
    try:
        _set_access(port, directory)
    finally:
        os.close(directory)


def _set_access(port: Port, directory: int) -> None:
    # O_PATH holds the very file that was looked at; a link in its place is seen as a link.
    descriptor = os.open(os.path.basename(port.path), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise Unsafe(errno.ENOTSOCK, "somebody has put another file in its place")
        file = (
            f"/proc/self/fd/{descriptor}"  # fchmod(2) refuses O_PATH; this leads to the same file, see proc_pid_fd(5)
        )
        os.chown(file, port.user, port.group)
        os.chmod(file, port.mode)  # after chown(2), which may clear bits
    finally:
        os.close(descriptor)


def inode(path: str) -> tuple[int, int] | None:
    """Return device and inode of the file at ``path``, None when there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remove(path: str, made: tuple[int, int] | None) -> None:
    """Remove the socket that was ``made``; what has taken its place since is left alone. Raises OSError."""
    directory = open_directory(path)
    try:
        if made is not None and inode(path) == made:
            os.unlink(os.path.basename(path), dir_fd=directory)
    finally:
        os.close(directory)


def _remove_stale(path: str, directory: int) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise Unsafe(errno.EEXIST, "there is a file that is no socket; remove it or take another path")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a full queue answers EAGAIN, and that is an answer
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise Unsafe(errno.EADDRINUSE, "another process listens there; stop it or take another path")
    os.unlink(os.path.basename(path), dir_fd=directory)


def open_directory(path: str) -> int:
    """Open the directory of ``path``, step by step; raises Unsafe where others than root could exchange a step."""
    directory = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    above = "/"
    try:
        for name in os.path.dirname(path).strip("/").split("/"):
            if not name:
                continue
            if _exchangeable(directory, name):
                advice = "only the last directory of the path can be theirs"
                raise Unsafe(errno.EPERM, f"others than root can exchange {name!r} in {above}; {advice}")
            below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
            os.close(directory)
            directory = below
            above = os.path.join(above, name)
    except BaseException:
        os.close(directory)
        raise
    return directory


def _exchangeable(directory: int, name: str) -> bool:
    """Whether somebody but root can rename or remove the entry ``name``; see rename(2) on sticky directories."""
    holder = os.fstat(directory)
    if holder.st_uid != 0:
        return True
    if not holder.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    return not holder.st_mode & stat.S_ISVTX or os.stat(name, dir_fd=directory, follow_symlinks=False).st_uid != 0
