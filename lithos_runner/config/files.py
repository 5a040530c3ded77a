"""How configuration files are read: bounded, regular files only, and from an image without ever leaving it."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import stat
from collections.abc import Callable
from typing import Protocol

from .errors import ConfigErrors, Error, Place
from .ownership import check_ownership
from .witness import UNSEEN, Witness

MAX_BYTES = 1 << 20

MAX_NAMES = 10_000
"""Entries of a directory; an image may hold one with millions."""

_RETRIES = 100
"""A rename during the walk makes openat2(2) give up with EAGAIN; nobody keeps renaming for so long by accident."""


class Unreadable(ConfigErrors):
    """There is no text to go on with: no such file, no regular one, too large, not UTF-8."""


class Files(Protocol):
    """Where the files of a configuration come from: the host, or the image of a container."""

    def read(self, path: str, errors: list[Error]) -> str:
        """The text of a file; reasons not to trust it go to `errors`. Raises Unreadable."""

    def names(self, directory: str) -> list[str]:
        """The entries of a directory, in alphabetical order. Raises OSError."""

    def shown(self, path: str) -> str:
        """The path as a message names it."""


Distrust = Callable[[str, os.stat_result], list[Error]]
"""(name in messages, what fstat(2) says) of a file in, the reasons not to trust it out."""


class HostFiles:
    """Files of the host, which must belong to root where `secure` is set."""

    def __init__(self, *, secure: bool, witness: Witness = UNSEEN) -> None:
        self._secure = secure
        self._witness = witness

    def read(self, path: str, errors: list[Error]) -> str:
        """See Files."""
        if self._secure and os.path.exists(path):
            errors += check_ownership(path, self._witness)
        return read_file(path, self._witness)

    def names(self, directory: str) -> list[str]:
        """See Files."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._witness.saw(directory, os.fstat(descriptor))
            return _names(descriptor)
        finally:
            os.close(descriptor)

    def has_directory(self, path: str) -> bool:
        """Whether `path` leads to a directory."""
        status = status_of(path, self._witness)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def has_entry(self, path: str) -> bool:
        """Whether there is something at `path`, be it a link that leads nowhere."""
        status_of(os.path.dirname(path), self._witness)
        return os.path.lexists(path)

    def shown(self, path: str) -> str:
        """See Files."""
        return path


class RootedFiles:
    """Files below a directory whose content is hostile; a context manager that holds the directory open.

    Every path is resolved by openat2(2) with RESOLVE_IN_ROOT: absolute paths and links begin at the
    directory and `..` ends there, also while somebody renames directories. Nothing but a regular file is
    ever opened for reading, so no device is touched and no FIFO waited for. Raises OSError when the
    directory cannot be opened.
    """

    def __init__(
        self,
        root: str,
        *,
        below: str = "",
        shown: str | None = None,
        distrust: Distrust | None = None,
        witness: Witness = UNSEEN,
    ) -> None:
        self._root, self._below = root, below
        self._witness = witness
        self._shown = os.path.join(root, below) if shown is None else shown
        self._distrust = distrust
        outer = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # An image may be a link to another one, but it does not lead out of the directory of the images.
            self._fd = openat2(outer, below, os.O_PATH | os.O_DIRECTORY, RESOLVE_BENEATH) if below else os.dup(outer)
        finally:
            os.close(outer)

    def __enter__(self) -> RootedFiles:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, path: str, errors: list[Error]) -> str:
        """See Files."""
        shown = self.shown(path)
        try:
            reader = self._open(path, os.O_PATH)
        except OSError as error:
            raise _unreadable(shown, error) from error
        try:
            status = self._seen(path, reader)
            if self._distrust is not None:
                errors += self._distrust(shown, status)
            return _text(reader, shown)
        finally:
            os.close(reader)

    def names(self, directory: str) -> list[str]:
        """See Files."""
        descriptor = self._open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._seen(directory, descriptor)
            return _names(descriptor)
        finally:
            os.close(descriptor)

    def shown(self, path: str) -> str:
        """See Files."""
        return os.path.join(self._shown, path.lstrip("/"))

    def _seen(self, path: str, descriptor: int) -> os.stat_result:
        status = os.fstat(descriptor)
        self._witness.saw(path, status, self._root, self._below)
        return status

    def _open(self, path: str, flags: int) -> int:
        return openat2(self._fd, path, flags, RESOLVE_IN_ROOT)


def status_of(path: str, witness: Witness) -> os.stat_result | None:
    """What stat(2) says of a path of the host; None when it leads nowhere."""
    try:
        status = os.stat(path)
    except OSError:
        status = None
    witness.saw(path, status)
    return status


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        names = [entry.name for entry in itertools.islice(entries, MAX_NAMES + 1)]
    if len(names) > MAX_NAMES:
        raise OSError(errno.E2BIG, f"the directory has more than {MAX_NAMES} entries")
    return sorted(names)


def read_file(path: str, witness: Witness = UNSEEN) -> str:
    """The text of a configuration file; raises Unreadable."""
    try:
        reader = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        witness.saw(path, os.fstat(reader))
        return _text(reader, path)
    finally:
        os.close(reader)


def _text(place: int, shown: str) -> str:
    """The text of the file that an O_PATH descriptor stands for."""
    mode = os.fstat(place).st_mode
    if stat.S_ISDIR(mode):
        raise _refusal(shown, "cannot be read: Is a directory")
    if not stat.S_ISREG(mode):
        raise _refusal(shown, "is not a regular file")
    try:
        with open(f"/proc/self/fd/{place}", "rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(shown, error) from error
    if len(raw) > MAX_BYTES:
        raise _refusal(shown, f"is larger than {MAX_BYTES} bytes")
    try:
        return raw.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        message = f"is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}"
        before = raw[: error.start].decode().removeprefix("\ufeff")
        raise Unreadable([Error(*place_after(shown, before), "", message)]) from error


def place_after(file: str, before: str) -> Place:
    """The place of the character that follows the text `before` in a file."""
    return Place(file, before.count("\n") + 1, len(before) - before.rfind("\n"))


def _unreadable(shown: str, error: OSError) -> Unreadable:
    return _refusal(shown, f"cannot be read: {error.strerror}")


def _refusal(shown: str, message: str) -> Unreadable:
    return Unreadable([Error(*Place(shown), "", message)])


# openat2(2); its number is the same on every architecture.
_NR_OPENAT2 = 437
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    """`struct open_how` of linux/openat2.h."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """openat2(2) with O_CLOEXEC, never through a magic link of /proc; raises OSError with the path."""
    how = _OpenHow(flags=flags | os.O_CLOEXEC, resolve=resolve | RESOLVE_NO_MAGICLINKS)
    for _ in range(_RETRIES):
        descriptor = _libc.syscall(
            ctypes.c_long(_NR_OPENAT2),
            ctypes.c_int(directory),
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if descriptor >= 0:
            return int(descriptor)
        number = ctypes.get_errno()
        if number != errno.EAGAIN:
            break
    raise OSError(number, os.strerror(number), path)
