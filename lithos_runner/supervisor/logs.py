"""What instances print: a FIFO for each of stdout and stderr, drained into files of bounded size.

The application's end is opened for reading *and* writing: with the supervisor gone it neither gets SIGPIPE nor an
error, its output waits in the pipe for the next supervisor. A full disk or a flood of output costs log lines or the
writer's time, never the supervisor's life and at most a bounded part of its attention.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress

from .loop import READABLE, Loop

FILE_SIZE = 10 << 20  # bytes; then the file is rotated
FILES_KEPT = 5  # rotated files beside the current one
CHUNK = 64 << 10  # bytes a turn of the event loop: the default size of a pipe
RATE = 16 << 20  # bytes a second and stream; above that the writer waits
_TAIL = 4096  # bytes that are looked at for the last lines
_LAST_LINES = 5  # as many as it takes from the panic of a Go program, or the exception of a Python one, to the end
_LONGEST = 200  # characters of one of them


class LogFile:
    """A file that is rotated before it grows beyond ``FILE_SIZE``, at the end of a line where there is one."""

    def __init__(self, path: str) -> None:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        self.path = path
        self._fd = _open(path)
        self._mark = self._size = os.lseek(self._fd, 0, os.SEEK_END)

    def take(self, pipe: int) -> int:
        """Move what is in ``pipe``, at most ``CHUNK`` bytes, into the file; return how many. Raises OSError."""
        if self._size + 2 * CHUNK > FILE_SIZE:
            return self._take_last(pipe)
        moved = os.splice(pipe, self._fd, CHUNK)
        self._size += moved
        return moved

    def _take_last(self, pipe: int) -> int:
        text = os.read(pipe, CHUNK)
        end = text.rfind(b"\n") + 1 or len(text)
        last = self._rotate()
        try:
            os.write(last, text[:end])
            self._size = os.write(self._fd, text[end:])
        finally:
            os.close(last)
        return len(text)

    def _rotate(self) -> int:
        """Go on with an empty file; return the descriptor of the one before, which has a new name."""
        # The new file first: without it (ENOSPC, EMFILE) nothing is renamed, and no file is lost.
        fresh = f"{self.path}.new"
        last, self._fd = self._fd, _open(fresh)
        self._size = self._mark = 0
        names = [fresh, self.path, *(f"{self.path}.{number}" for number in range(1, FILES_KEPT + 1))]
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            with suppress(FileNotFoundError):
                os.rename(newer, older)
        return last

    def mark(self) -> None:
        """Begin a new life: ``last_lines`` looks no further back than here."""
        self._mark = self._size

    def last_lines(self) -> list[str]:
        """Return the last lines of this life that are not empty, for messages: a few, and not more than fits there."""
        tail = os.pread(self._fd, _TAIL, max(self._mark, self._size - _TAIL))
        lines = [line.strip() for line in tail.decode("utf-8", "replace").splitlines()]
        return [_shortened(line) for line in lines if line][-_LAST_LINES:]

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _shortened(line: str) -> str:
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)


def _open_pipe(fifo: str, keep: bool) -> int:
    if not keep:
        with suppress(FileNotFoundError):
            os.unlink(fifo)
    with suppress(FileExistsError):
        os.mkfifo(fifo, 0o600)
    # Our end is writable too: a FIFO without any writer would report a hang-up for ever.
    return os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


class Stream:
    """One stream of one instance, kept over its restarts."""

    def __init__(self, fifo: str, path: str, loop: Loop, say: Callable[[str], None], *, keep: bool = False) -> None:
        """Create ``fifo`` and append what comes out of it to the file ``path``; ``keep`` one that is in use.

        Raises OSError.
        """
        self._loop = loop
        self._say = say
        self._fifo = fifo
        self._losing = False
        self._budget, self._since = RATE, 0.0
        self.file = LogFile(path)
        try:
            self._reader = _open_pipe(fifo, keep)
        except OSError:
            self.file.close()
            raise
        loop.watch(self._reader, READABLE, self._readable)

    def open(self, uid: int, gid: int) -> int:
        """Return a new descriptor for an application's life; it may also open it again as /dev/stdout."""
        self.file.mark()
        os.fchown(self._reader, uid, gid)
        return os.open(self._fifo, os.O_RDWR | os.O_CLOEXEC)

    def _readable(self, _events: int) -> None:
        now = time.monotonic()
        if now >= self._since + 1:
            self._budget, self._since = RATE, now
        self._budget -= self._drain_once()
        if self._budget <= 0:
            self._loop.forget(self._reader)
            self._loop.deadline(self, self._since + 1, self._resume)

    def _resume(self) -> None:
        self._loop.watch(self._reader, READABLE, self._readable)

    def drain(self) -> None:
        """Take what an ended application has left in the pipe, and no more: it may have given its end to others."""
        left = fcntl.fcntl(self._reader, fcntl.F_GETPIPE_SZ)
        while left > 0 and (moved := self._drain_once()):
            left -= moved

    def _drain_once(self) -> int:
        try:
            moved = self.file.take(self._reader)
        except BlockingIOError:
            return 0
        except OSError as error:
            return self._lose(error)
        if self._losing:
            self._losing = False
            self._say(f"{self.file.path}: writing again")
        return moved

    def _lose(self, error: OSError) -> int:
        """Throw output away rather than stop its writer; say so once."""
        if not self._losing:
            self._losing = True
            reason = os.strerror(error.errno or errno.EIO)
            self._say(f"cannot write {self.file.path}: {reason}; output is lost until it can be written")
        try:
            return len(os.read(self._reader, CHUNK))
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Take what is left, then let go of the pipe and the file."""
        self.drain()
        self._loop.deadline(self, None, self._resume)
        self._loop.forget(self._reader)
        os.close(self._reader)
        self.file.close()
        with suppress(FileNotFoundError):
            os.unlink(self._fifo)
