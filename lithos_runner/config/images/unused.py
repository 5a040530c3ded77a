"""Which of the images on the disk nobody needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from cgroup.hierarchy import parse_mountinfo

from .directory import Identity, Image, ImageDirectory

USED = "used"
LINKED = "used, by a link"
RUNNING = "something runs on it"
OCCUPIED = "something is mounted in it, or the configuration names a directory in it"
RECENT = "changed a short time ago"
UNUSED = ""


class Keep(NamedTuple):
    """What keeps an image, beside its name.

    `running` are directories (st_dev, st_ino) that something runs on. `paths` keep what they lie in. What was changed
    after `until`, in epoch seconds, is kept too.
    """

    running: frozenset[Identity]
    paths: frozenset[str]
    until: float


class Verdict(NamedTuple):
    """An image and why it is kept: one of the reasons above."""

    image: Image
    reason: str


def judge(directory: ImageDirectory, used: frozenset[str], keep: Keep) -> list[Verdict]:
    """Say of every image of a directory whether it is kept. `used` are names. Raises OSError."""
    # A name of another depth than images have uses what it lies in, and all that lies in it.
    around = {part for name in used for part in _upwards(name)}
    occupied = {part for path in keep.paths for part in _upwards(path)}
    linked = {directory.identity(name) for name in used}

    def reason(image: Image) -> str:
        if image.name in around or not used.isdisjoint(_upwards(image.name)):
            return USED
        if image.identity in linked:
            return LINKED
        if image.identity in keep.running:
            return RUNNING
        if os.path.join(directory.path, image.name) in occupied:
            return OCCUPIED
        return RECENT if image.changed > keep.until else UNUSED

    return [Verdict(image, reason(image)) for image in directory.images()]


def mount_points() -> frozenset[str]:
    """Where file systems are mounted, for `Keep.paths`."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        return frozenset(mount.point for mount in parse_mountinfo(stream.read()))


def _upwards(path: str) -> Iterator[str]:
    """A path and all that it lies in."""
    while path not in ("", "/"):
        yield path
        path = os.path.dirname(path)
