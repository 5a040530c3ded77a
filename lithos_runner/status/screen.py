"""A terminal that a program draws on as a whole, and gives back as it was on any way out."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

# Alternate screen, no cursor, no line wrap; xterm's control sequences, which the Linux console has but for
# the first: https://invisible-island.net/xterm/ctlseqs/ctlseqs.html
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
# A line is cleared before it is written: behind a line as wide as the screen that would take its last character.
_HOME, _CLEAR_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Screen:
    """The terminal at standard input and output, while it is ours."""

    def __init__(self, wake: int) -> None:
        self._wake = wake

    def draw(self, lines: list[str]) -> None:
        """Show these lines, as many as there is room for, in one write."""
        rows = os.get_terminal_size(sys.stdout.fileno()).lines
        if len(lines) > rows:
            lines = [*lines[: rows - 1], f"… {len(lines) - rows + 1} more lines"]
        _send(_HOME + "\r\n".join(_CLEAR_LINE + line for line in lines) + _END_OF_SCREEN)

    def key(self, timeout: float) -> str:
        """Wait for a key: what it sends, "" when none came in `timeout` seconds or the size changed.

        At the end of the input this is "q".
        """
        stdin = sys.stdin.fileno()
        ready, _, _ = select.select([stdin, self._wake], [], [], timeout)
        if self._wake in ready:
            os.read(self._wake, 64)
        if stdin in ready:
            return os.read(stdin, 64).decode(errors="replace") or "q"
        return ""


@contextmanager
def screen() -> Iterator[Screen]:
    """Take the terminal over until the block is left, by SIGINT, SIGTERM or SIGHUP too; SIGTSTP gives it back."""
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    raw = [*before]
    raw[3] = before[3] & ~(termios.ICANON | termios.ECHO)
    wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def enter() -> None:
        termios.tcsetattr(stdin, termios.TCSADRAIN, raw)
        _send(_ENTER)

    def leave() -> None:
        _send(_LEAVE)
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(0 if number == signal.SIGINT else 128 + number)

    def suspend(_: int, __: FrameType | None) -> None:
        leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        enter()

    handlers = {**dict.fromkeys(_ENDINGS, end), signal.SIGTSTP: suspend, signal.SIGWINCH: lambda *_: None}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    signal.set_wakeup_fd(woken)
    try:
        enter()
        yield Screen(wake)
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in previous.items():
            signal.signal(number, handler)
        leave()
        os.close(wake)
        os.close(woken)


def _send(sequence: str) -> None:
    """Write past Python's buffer: a signal handler must not enter it while a drawing is in there (RuntimeError)."""
    data = sequence.encode(sys.stdout.encoding or "utf-8", "replace")
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]
