"""Whether nobody but root and the current user could have written a configuration file."""

from __future__ import annotations

import os
import stat

from .errors import Error, Place
from .witness import UNSEEN, Witness


def check_ownership(path: str, witness: Witness = UNSEEN) -> list[Error]:
    """The reasons not to trust the file at `path`; empty when it can be trusted.

    The file and its directory (behind a symbolic link, those of the link and of its target) must belong
    to root or to the effective user and must not be writable by group or others. A sticky directory may be
    writable: in it nobody can replace a file of somebody else (unlink(2)).
    """
    target = os.path.realpath(path)
    places = dict.fromkeys((os.path.dirname(os.path.abspath(path)), os.path.dirname(target), target))
    return [Error(*Place(path), "", message) for place in places if (message := _distrust(place, witness))]


def check_mode(path: str, status: os.stat_result) -> list[Error]:
    """As `check_ownership`, for a file in an image: it may belong to anybody but is written by nobody else."""
    return [Error(*Place(path), "", message)] if (message := _writable_by_others(status, path)) else []


def _distrust(path: str, witness: Witness) -> str:
    try:
        status = os.stat(path)
    except OSError as error:
        return f"cannot look at {path}: {error.strerror}"
    witness.saw(path, status)
    trusted = (0, os.geteuid())
    if status.st_uid not in trusted:
        return f"{path} belongs to uid {status.st_uid}, who could change what runs: chown it to {trusted[-1]}"
    return _writable_by_others(status, path)


def _writable_by_others(status: os.stat_result, path: str) -> str:
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or sticky:
        return ""
    mode = stat.S_IMODE(status.st_mode)
    return f"{path} is writable by group or others (mode {mode:04o}): run chmod go-w on it"
