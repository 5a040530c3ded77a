"""The standard streams of a one-off command: its caller's own, but never its caller's terminal.

A process with the caller's terminal could type into it (TIOCSTI, CVE-2017-5226), and change how it works for who comes
after. So what is a terminal has something in its place, and all else is passed as it is:

====================  ====================  ===============================================
the caller's …        in its place          … for a command that is `interactive`
====================  ====================  ===============================================
standard input        /dev/null             a new pseudoterminal, the command's own
output, error         a pipe                the same pseudoterminal; if input is none, a pipe
====================  ====================  ===============================================
"""

from __future__ import annotations

import codecs
import os
import termios
import tty
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from ..status.logs import harmless_text
from .loop import READABLE, WRITABLE, Loop

_BLOCK = 1 << 16
_MOST_LEFT = 1 << 20  # bytes that a pipe can hold (pipe-max-size of pipe(7)); a terminal holds less


class Streams:
    """Descriptors 0 to 2 of a command, and what copies between them and the caller's terminal."""

    def __init__(self, loop: Loop, owner: int, hung_up: Callable[[], None], *, interactive: bool) -> None:
        """Make what takes a terminal's place; ``owner`` is the command's user, who may open it again by name.

        ``hung_up`` is called when the terminal of an interactive command is gone. Raises OSError.
        """
        self.interactive = interactive and os.isatty(0)
        self.sources = {number: number for number in range(3)}
        self._loop = loop
        self._owner = owner
        self._outputs: list[_Copy] = []
        self._pipes: dict[int, int] = {}
        self._terminal = -1
        with ExitStack() as stack:
            self._stack = stack
            terminals = [number for number in range(3) if os.isatty(number)]
            if self.interactive:
                self._open_terminal(terminals, hung_up)
            else:
                self._replace(terminals)
            self._stack = stack.pop_all()

    def _own(self, descriptor: int) -> int:
        self._stack.callback(os.close, descriptor)
        return descriptor

    def _replace(self, terminals: list[int]) -> None:
        for number in terminals:
            self.sources[number] = self._own(os.open(os.devnull, os.O_RDONLY)) if number == 0 else self._pipe(number)

    def _pipe(self, number: int) -> int:
        """Return a pipe to a terminal: one for both streams if they go to the same, so that their order stays."""
        terminal = os.fstat(number).st_rdev
        if terminal not in self._pipes:
            ours, theirs = map(self._own, os.pipe())
            os.set_blocking(ours, False)
            os.fchown(theirs, self._owner, -1)
            self._pipes[terminal] = theirs
            self._outputs.append(_Copy(self._loop, ours, self._screen(number), _Harmless()))
        return self._pipes[terminal]

    def _open_terminal(self, terminals: list[int], hung_up: Callable[[], None]) -> None:
        """Make a terminal that behaves as the caller's does, and let the caller's hand on every key as it is."""
        before = termios.tcgetattr(0)
        ours, theirs = map(self._own, os.openpty())
        os.fchown(theirs, self._owner, -1)
        os.fchmod(theirs, 0o600)
        os.set_blocking(ours, False)
        termios.tcsetattr(theirs, termios.TCSANOW, before)
        self._terminal = ours
        self.resize()
        self._stack.callback(_restore, before)
        tty.setraw(0, termios.TCSADRAIN)  # with what has been typed already
        self.sources |= dict.fromkeys(terminals, theirs)
        screen = next(number for number in (1, 2, 0) if number in terminals)
        self._outputs.append(_Copy(self._loop, ours, self._screen(screen)))
        # Another number for the same, as each number has one handler.
        _Copy(self._loop, 0, self._own(os.dup(ours)), ended=hung_up)

    def _screen(self, number: int) -> int:
        """Open a terminal anew: with O_NONBLOCK, which must not be set for all others that have it open."""
        return self._own(os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))

    def resize(self) -> None:
        """Give the command's terminal, if it has one, the size of the caller's."""
        if self.interactive:
            with suppress(OSError, termios.error):  # the caller's is gone, which is noticed elsewhere
                termios.tcsetwinsize(self._terminal, termios.tcgetwinsize(0))

    @property
    def pending(self) -> bool:
        """Whether there is output for which the caller's terminal has no room yet."""
        return any(output.pending for output in self._outputs)

    def drain(self) -> None:
        """Take over all that the command has printed; for when none of its processes lives."""
        for output in self._outputs:
            output.drain()

    def close(self) -> None:
        """Give the caller's terminal back as it was."""
        self._stack.close()


def _restore(attributes: list[Any]) -> None:
    with suppress(termios.error):  # the terminal is gone
        termios.tcsetattr(0, termios.TCSANOW, attributes)


class _Harmless:
    """Writes out what a terminal would obey: the command says it to a pipe, and is not trusted."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __call__(self, data: bytes) -> bytes:
        return harmless_text(self._decoder.decode(data), kept="\n\r").encode()


class _Copy:
    """Copies from one descriptor to another, taking no more than the other has room for."""

    def __init__(
        self,
        loop: Loop,
        source: int,
        target: int,
        change: Callable[[bytes], bytes] = bytes,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin; ``change`` is done to all that passes, ``ended`` is called when the source has ended."""
        self._loop = loop
        self._source = source
        self._target = target
        self._change = change
        self._ended = ended
        self._rest = b""
        self._finished = False
        self._watch()

    @property
    def pending(self) -> bool:
        """Whether there is something that the target had no room for."""
        return bool(self._rest)

    def _watch(self) -> None:
        """Wait for room when something is left, else for more."""
        self._loop.forget(self._source)
        self._loop.forget(self._target)
        if self._rest:
            self._loop.watch(self._target, WRITABLE, self._write)
        elif not self._finished:
            self._loop.watch(self._source, READABLE, self._read)

    def _read(self, _events: int) -> None:
        data = _available(self._source)
        if data:
            self._rest = self._change(data)
            self._write(0)
        elif data is not None:
            self._finished = True
            self._watch()
            self._ended()

    def _write(self, _events: int) -> None:
        try:
            self._rest = self._rest[os.write(self._target, self._rest) :]
        except BlockingIOError:
            pass
        except OSError:  # the target is gone; who writes to the source must not wait for ever
            self._rest = b""
        self._watch()

    def drain(self) -> None:
        """Take what is at the source, and nothing that is added by somebody to whom it was given."""
        found = bytearray()
        while len(found) < _MOST_LEFT and (data := _available(self._source)):
            found += data
        self._finished = True
        self._rest += self._change(bytes(found))
        self._write(0)


def _available(source: int) -> bytes | None:
    """Return what can be read now: nothing at the end, None when there is nothing yet."""
    try:
        return os.read(source, _BLOCK)
    except BlockingIOError:
        return None
    except OSError:  # EIO: a terminal that has been hung up
        return b""
