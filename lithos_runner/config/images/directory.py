"""A directory of images on the disk."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Self

from ..files import RESOLVE_BENEATH, openat2
from .removal import open_directory, remove_tree

Identity = tuple[int, int]
"""st_dev and st_ino: they stay the same by whatever name or mount a directory is found."""

_ASIDE = ".lithos-clean."


class Image(NamedTuple):
    """An image that lies in the directory; `changed` is when itself or its list of files was, in epoch seconds."""

    name: str
    identity: Identity
    changed: float


class Busy(Exception):
    """Somebody else cleans the directory."""


class ImageDirectory:
    """A directory of images, opened once; a context manager. Its images are exactly `levels` below it.

    Raises OSError when it cannot be opened.
    """

    def __init__(self, path: str, levels: int) -> None:
        self.path = path
        self._levels = levels
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def lock(self) -> None:
        """Keep others from cleaning it until this is closed; raises Busy."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"{self.path} is being cleaned by somebody else, wait for that to end") from error

    def images(self) -> list[Image]:
        """The images, in the order of their names: no links, nothing hidden, nothing on another file system."""
        return sorted(_image(parent, path) for parent, path in self._entries() if not _hidden(path))

    def left_aside(self) -> list[str]:
        """What a cleaning that was interrupted did not get to remove; see `set_aside`."""
        return sorted(path for _, path in self._entries() if os.path.basename(path).startswith(_ASIDE))

    def identity(self, name: str) -> Identity | None:
        """Which directory an image is, also by links as long as they stay in here; None when there is none."""
        try:
            descriptor = openat2(self._fd, name, os.O_PATH | os.O_DIRECTORY, RESOLVE_BENEATH)
        except OSError:
            return None
        try:
            return _identity(os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def set_aside(self, image: Image) -> str | None:
        """Take its name from an image and return the one that it has now; None when it is another one by now.

        So an image is there as a whole or not at all, at whatever moment the removal ends. Raises OSError.
        """
        aside = os.path.join(os.path.dirname(image.name), f"{_ASIDE}{image.identity[1]}")
        self._rename(image.name, aside)
        if self.identity(aside) == image.identity:
            return aside
        self.put_back(aside, image.name)
        return None

    def put_back(self, aside: str, name: str) -> None:
        """Give an image its name again, unless a new one has come to it. Raises OSError."""
        try:
            self._rename(aside, name)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise

    def remove(self, aside: str, removed: Callable[[], None]) -> None:
        """Remove what was set aside; calls `removed` for each file and directory of it. Raises OSError."""
        with _opened(self._fd, os.path.dirname(aside)) as parent:
            remove_tree(parent, os.path.basename(aside), removed)

    def _rename(self, name: str, new: str) -> None:
        with _opened(self._fd, os.path.dirname(name)) as parent:
            os.rename(os.path.basename(name), os.path.basename(new), src_dir_fd=parent, dst_dir_fd=parent)

    def _entries(self) -> Iterator[tuple[int, str]]:
        """The directories at the level of images: their parent, for as long as it is open, and their path in here."""
        return _below(self._fd, "", self._levels)


def _below(directory: int, prefix: str, levels: int) -> Iterator[tuple[int, str]]:
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    for name in names:
        path = os.path.join(prefix, name)
        if levels == 1:
            yield directory, path
        elif not _hidden(path):
            try:
                with _opened(directory, name) as below:
                    yield from _below(below, path, levels - 1)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise


def _hidden(path: str) -> bool:
    return os.path.basename(path).startswith(".")


def _image(parent: int, path: str) -> Image:
    status = os.stat(os.path.basename(path), dir_fd=parent, follow_symlinks=False)
    # A copy may keep the time of modification, but not that of the inode's change, see inode(7).
    return Image(path, _identity(status), max(status.st_mtime, status.st_ctime))


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


@contextmanager
def _opened(parent: int, path: str) -> Iterator[int]:
    descriptor = open_directory(parent, path or ".")
    try:
        yield descriptor
    finally:
        os.close(descriptor)
