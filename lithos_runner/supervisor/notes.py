"""Whether a configuration would read as it did the last time, told by stat(2) alone: a hundredth of the work.

A reader takes notes of what every path led to, and the next one compares them with what is there now. They are kept in
memory of the supervisor (``memfd_create(2)``), so nobody else can write them, and they end with it.

The kernel sets the change time (``st_ctime``) of a file whenever its content, mode, owner or name changes, and nobody
can set it back. What changed less than ``GRANULARITY`` before it was read could change again within the same tick of
the clock, and look the same. As in git (https://git-scm.com/docs/racy-git) such a file is not trusted: nothing is
noted then, and the next reader reads everything once more.
"""

from __future__ import annotations

import json
import os
import stat

from ..launch import trees

UNCHANGED = "unchanged"  # what a reader prints when that is all

GRANULARITY = 2_000_000_000  # ns; the coarsest clock of a file system is FAT's

_Place = tuple[str, str, str]  # path, and root and below of config.files.RootedFiles
_Mark = list[int]


class Notes:
    """Takes notes of one reading; a ``config.witness.Witness``."""

    def __init__(self, began: int) -> None:
        """``began``: when the reading did, in nanoseconds since the epoch."""
        self._trusted = began - GRANULARITY
        self._marks: dict[_Place, _Mark | None] = {}
        self._comparable = True

    def saw(self, path: str, status: os.stat_result | None, root: str = "", below: str = "") -> None:
        """See Witness."""
        mark = None if status is None else _mark(status)
        known = self._marks.setdefault((path, root, below), mark)
        young = status is not None and status.st_ctime_ns > self._trusted
        if young or mark != known:  # it may change once more, or has done so while it was read
            self._comparable = False

    def asked(self) -> None:
        """See Witness."""
        self._comparable = False

    def text(self) -> str:
        """Return them for ``unchanged``; "" when another reading cannot be compared with this one."""
        return json.dumps([[*place, mark] for place, mark in self._marks.items()]) if self._comparable else ""


def unchanged(text: str) -> bool:
    """Whether every path leads to what ``Notes.text`` says; False when that is "" or somebody has not finished it."""
    try:
        return all(_look(path, root, below) == mark for path, root, below, mark in json.loads(text))
    except (OSError, ValueError):
        return False


def _look(path: str, root: str, below: str) -> _Mark | None:
    try:
        descriptor = _inside(path, root, below) if root else os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if stat.S_IFMT(os.fstat(descriptor).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
            # A client of NFS asks the server when a file is opened, and answers stat(2) from memory; see nfs(5).
            os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC))
        return _mark(os.fstat(descriptor))
    finally:
        os.close(descriptor)


def _inside(path: str, root: str, below: str) -> int:
    """Open a path of an image as ``config.files.RootedFiles`` does: neither leaves what it is in."""
    images = os.open(root, trees.DIRECTORY | os.O_CLOEXEC)
    try:
        image = trees.open_at(images, below or ".", trees.DIRECTORY, trees.BENEATH)
    finally:
        os.close(images)
    try:
        return trees.open_at(image, path, os.O_PATH, trees.INSIDE)
    finally:
        os.close(image)


def _mark(status: os.stat_result) -> _Mark:
    return [
        *(status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    ]
