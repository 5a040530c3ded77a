"""The log files of instances: which there are, their last lines, and what is added to them.

::

    <log_dir>/<sandbox>/<process>.<index>.stdout      what is being written
    <log_dir>/<sandbox>/<process>.<index>.stdout.1    the newest of the rotated ones, up to .5
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, suppress
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_DIRECTORY = "/var/log/lithos/stdio"
STREAMS = ("stdout", "stderr")
ROTATED = 5

#: Also the longest line that is waited for; a longer one is shown in parts.
BLOCK = 1 << 16

# Control characters but for tabs, and colours, which are harmless (console_codes(4), "SGR").
_CONTROL = re.compile("\x1b\\[[0-9;:]*m|[\x00-\x08\x0a-\x1f\x7f-\x9f]")


class Log(NamedTuple):
    """One stream of one instance; `path` is the file that is written to."""

    instance: str
    stream: str
    path: str

    def open(self) -> Iterator[BinaryIO]:
        """Open the file and then its rotated predecessors, the newest first; the caller closes them.

        A rotation meanwhile moves files to where they come up once more, and never hides one.
        """
        previous = None
        for path in [self.path, *(f"{self.path}.{number}" for number in range(1, ROTATED + 1))]:
            try:
                file = open(path, "rb")  # noqa: SIM115
            except FileNotFoundError:
                continue
            if _identity(file) == previous:
                file.close()
                continue
            previous = _identity(file)
            yield file


def _identity(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino


def default_directory() -> str:
    """Where supervisors keep logs unless they are told otherwise."""
    return os.environ.get("LITHOS_LOG_DIR", DEFAULT_DIRECTORY)


def find_logs(directory: str) -> list[Log]:
    """All logs below `directory`, in the order of their instances."""
    found = {
        Log(f"{sandbox}/{instance}", stream, os.path.join(directory, sandbox, f"{instance}.{stream}"))
        for sandbox in _listdir(directory)
        for instance, stream in map(_parse, _listdir(os.path.join(directory, sandbox)))
        if instance and stream in STREAMS
    }
    return sorted(found, key=_order)


def _parse(name: str) -> tuple[str, str]:
    """The instance and the stream in the name of a file, also of a rotated one."""
    base, _, end = name.rpartition(".")
    if end.isdigit():
        base, _, end = base.rpartition(".")
    return base, end


def _order(log: Log) -> tuple[str, int, str, int]:
    process, _, index = log.instance.rpartition(".")
    return process, int(index) if index.isdigit() else -1, log.instance, STREAMS.index(log.stream)


def _listdir(path: str) -> list[str]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return os.listdir(path)
    return []


def all_lines(log: Log) -> Iterator[bytes]:
    """Every line of a log, rotated files included, each with its line end."""
    with ExitStack() as stack:
        for file in reversed([stack.enter_context(file) for file in log.open()]):
            yield from map(_ended, file)


def last_lines(log: Log, count: int) -> list[bytes]:
    """The last `count` lines of a log, for which only as much is read as is needed."""
    with ExitStack() as stack:
        files = [stack.enter_context(file) for file in log.open()]
        return [*map(_ended, _last_lines(files, count))]


def _last_lines(files: list[BinaryIO], count: int) -> list[bytes]:
    lines: list[bytes] = []
    for file in files:
        lines = [*_tail(file, count - len(lines)), *lines]
    return lines


def _tail(file: BinaryIO, count: int) -> list[bytes]:
    """The last lines of a file, which is read backwards in blocks and left at its end."""
    position = end = file.seek(0, os.SEEK_END)
    blocks: list[bytes] = []
    seen = 0
    # One line end more than lines: the one that ends the file begins none.
    while position and seen <= count and count:
        size = min(BLOCK, position)
        position = file.seek(position - size)
        blocks.append(file.read(size))
        seen += blocks[-1].count(b"\n")
    file.seek(end)
    # bytes.splitlines() would split at carriage returns too.
    lines = BytesIO(b"".join(reversed(blocks))).readlines()
    return lines[max(0, len(lines) - count) :]


def _ended(line: bytes) -> bytes:
    return line if line.endswith(b"\n") else line + b"\n"


class Follower:
    """Reads a log from its last `count` lines on, over any number of rotations."""

    def __init__(self, log: Log, count: int) -> None:
        self._log = log
        files = [*log.open()]
        self._lines = _last_lines(files, count)
        for file in files[1:]:
            file.close()
        self._file = files[0] if files else None

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def lines(self) -> Iterator[bytes]:
        """The lines that were completed since the last call."""
        self._read()
        for file in self._newer():
            self.close()
            self._file = file
            self._read()
        lines, self._lines = self._lines, []
        if lines and not lines[-1].endswith(b"\n") and len(lines[-1]) < BLOCK:
            self._lines.append(lines.pop())
        yield from map(_ended, lines)

    def _read(self) -> None:
        if self._file is None:
            return
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)  # emptied in place, as logrotate's copytruncate does
        partial = self._lines.pop() if self._lines and not self._lines[-1].endswith(b"\n") else b""
        self._lines += BytesIO(partial + self._file.read()).readlines()

    def _newer(self) -> list[BinaryIO]:
        """The files that were begun after the one that is open, the oldest first."""
        newer: list[BinaryIO] = []
        for file in self._log.open():
            if self._file and _identity(file) == _identity(self._file):
                file.close()
                break
            newer.insert(0, file)
        return newer


def harmless(line: bytes) -> bytes:
    """A line as a terminal may show it: what could move its cursor or type into it is written out (^[)."""
    shown = harmless_text(line.decode(errors="replace").rstrip("\r\n"))
    reset = "\x1b[0m" if "\x1b" in shown else ""
    return f"{shown}{reset}\n".encode()


def harmless_text(text: str, kept: str = "") -> str:
    """As `harmless`, for text that need not be one line; the control characters in `kept` stay."""
    return _CONTROL.sub(lambda match: match[0] if match[0] in kept else _written_out(match), text)


def _written_out(match: re.Match[str]) -> str:
    text = match.group()
    if len(text) > 1:
        return text
    return f"^{chr(ord(text) ^ 0x40)}" if text < "\x80" else f"\\x{ord(text):02x}"
