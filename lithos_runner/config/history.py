"""The history of process files: what each sandbox was told to run, and since when.

::

    <config-log-dir>/<sandbox>.log      one line for each change: the time (RFC 3339), a space, the entries as JSON
    <config-log-dir>/<sandbox>.log.1    the newest of those that are full, up to .100

The format is lithos's. Lines that lithos wrote are read, too.
"""

from __future__ import annotations

import errno
import json
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple

import attrs

from .host import Host, SandboxServices
from .kinds import keys

FILE_SIZE = 10 << 20
"""Bytes; a file that a line would make larger is rotated first."""

FILES_KEPT = 100
"""Rotated files beside the current one."""

_FILE = re.compile(r"(?P<sandbox>[^.]+)\.log(?:\.(?P<number>[1-9][0-9]*))?")

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


class Change(NamedTuple):
    """One line of a history: since when these entries are to run; both are None when it cannot be read."""

    file: str
    line: int
    since: datetime | None
    entries: Mapping[str, Mapping[str, Any]] | None

    @property
    def images(self) -> frozenset[str] | None:
        """The names of the images, in their shortest spelling."""
        if self.entries is None:
            return None
        return frozenset(posixpath.normpath(entry["image"]) for entry in self.entries.values())


class Limits(NamedTuple):
    """How far back a history counts: `days`, but at least and at most so many versions, the current one included."""

    days: float | None = None
    at_least: int = 0
    at_most: int = 1000


# Writing


def record(host: Host, directory: str | None) -> list[str]:
    """Write the entries that are put into force to the histories in `directory`; None: no history is kept.

    A line is written when it differs from the one before, so that every line is a change. An entry that is broken
    is carried on from the line before, as its instances are, and nothing is written about a sandbox that is broken as
    a whole. Never raises OSError: returns a sentence for each sandbox whose change could not be written.
    """
    if directory is None:
        return []
    failures = []
    for sandbox in host.sandboxes.values():
        file = os.path.join(directory, f"{sandbox.name}.log")
        try:
            os.makedirs(directory, 0o755, exist_ok=True)
            _record(file, sandbox, host.broken)
        except OSError as error:
            reason = error.strerror or str(error)
            failures.append(f"cannot write {file}: {reason}; the history of the sandbox lacks this change")
    return failures


def _record(file: str, sandbox: SandboxServices, broken: frozenset[str]) -> None:
    before = _last_entries(file)
    carried = {name: entry for name, entry in (before or {}).items() if f"{sandbox.name}/{name}" in broken}
    entries = carried | {name: _plain(service.entry) for name, service in sandbox.services.items()}
    if entries != before:
        _append(file, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {_encode(entries)}\n".encode())


def _plain(record: Any) -> dict[str, Any]:
    """What a file would hold for a record: its keys as they are written, without those at their default."""
    values = ((key, getattr(record, key.attribute)) for key in keys(type(record)))
    return {key.name: _json(value) for key, value in values if value != key.default}


def _json(value: Any) -> Any:
    if attrs.has(type(value)):
        return _plain(value)
    return list(value) if isinstance(value, tuple) else value


def _last_entries(file: str) -> Mapping[str, Mapping[str, Any]] | None:
    """The entries of the last line; None when there is none, or when it is broken."""
    try:
        with open(file, "rb") as stream:
            lines = stream.read().splitlines()
    except FileNotFoundError:  # also right after a rotation, then one line is written twice
        return None
    return _change(file, len(lines), lines[-1]).entries if lines else None


def _append(file: str, line: bytes) -> None:
    # A file that grows too large is better than a change that nobody knows of.
    with suppress(OSError):
        if os.stat(file).st_size + len(line) > FILE_SIZE:
            _rotate(file)
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        size = os.fstat(descriptor).st_size
        torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
        text = b"\n" + line if torn else line
        if os.write(descriptor, text) < len(text):
            os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file)
    finally:
        os.close(descriptor)


def _rotate(file: str) -> None:
    names = [file, *(f"{file}.{number}" for number in range(1, FILES_KEPT + 1))]
    for newer, older in reversed([*pairwise(names)]):
        with suppress(FileNotFoundError):
            os.rename(newer, older)


# Reading


def files(directory: str) -> dict[str, list[str]]:
    """The files of each sandbox that has a history in `directory`, the newest first. Raises OSError."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in os.listdir(directory):
        if match := _FILE.fullmatch(name):
            number = int(match["number"] or 0)
            found.setdefault(match["sandbox"], []).append((number, os.path.join(directory, name)))
    return {sandbox: [path for _, path in sorted(numbered)] for sandbox, numbered in found.items()}


def read(paths: Iterable[str]) -> Iterator[Change]:
    """The lines of the files of a sandbox (see `files`), the oldest first. Raises OSError.

    A rotation meanwhile hides no file: they are opened from the newest on, and one that moved comes up once more.
    """
    with ExitStack() as stack:
        opened: dict[tuple[int, int], tuple[str, BinaryIO]] = {}
        for path in paths:
            with suppress(FileNotFoundError):
                file = stack.enter_context(open(path, "rb"))
                status = os.fstat(file.fileno())
                opened.setdefault((status.st_dev, status.st_ino), (path, file))
        for path, stream in reversed(opened.values()):
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield _change(path, number, line)


def _change(file: str, number: int, line: bytes) -> Change:
    try:
        time, _, text = line.decode().partition(" ")
        since = datetime.fromisoformat(time)
        if since.tzinfo is None:
            raise ValueError("a time without its zone may be any")
        return Change(file, number, since, _entries(json.loads(text)))
    except (ValueError, RecursionError):
        return Change(file, number, None, None)


def _entries(value: object) -> Mapping[str, Mapping[str, Any]]:
    """The value of a line, when it has the form of a process file. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError("no mapping")
    for entry in value.values():
        image = entry.get("image") if isinstance(entry, dict) else None
        if not isinstance(image, str) or posixpath.normpath(image).startswith(("/", "..")):
            raise ValueError("an entry without an image")
    return value


# How far back it counts


class Version(NamedTuple):
    """Changes that followed each other and name the same images; `images` is None for lines that cannot be read.

    `until` is when another version took over, None for the last one.
    """

    images: frozenset[str] | None
    changes: list[Change]
    until: datetime | None


def versions(changes: Iterable[Change]) -> list[Version]:
    """The versions in a history, the oldest first; what does not change the images makes no new one."""
    found: list[Version] = []
    for change in changes:
        images = change.images
        if found and found[-1].images == images:
            found[-1].changes.append(change)
        else:
            found.append(Version(images, [change], None))
    later: datetime | None = None
    for index in reversed(range(len(found))):
        version = found[index]
        found[index] = version._replace(until=later)
        later = version.changes[0].since or later  # a line that cannot be read says nothing
    return found


def within(history: list[Version], limits: Limits, now: datetime) -> list[Version]:
    """The newest versions of a history that the limits keep: those that were in force within the last days."""
    kept = history[max(0, len(history) - limits.at_most) :]
    if limits.days is None:
        return kept
    since = now - timedelta(days=limits.days)
    while len(kept) > limits.at_least and kept[0].until is not None and kept[0].until <= since:
        kept = kept[1:]
    return kept
