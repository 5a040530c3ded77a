"""What the supervisor says: one sentence a line on stderr, which is a terminal or the journal."""

from __future__ import annotations

import os
import select
from contextlib import suppress


def say(sentence: str) -> None:
    """Print ``lithos: sentence``; a closed stderr, or one that nobody reads, never stops the supervisor."""
    # A sentence may quote an application, whose escape sequences must not reach a terminal.
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in f"lithos: {sentence}")
    stderr = select.poll()
    stderr.register(2, select.POLLOUT)
    with suppress(OSError):
        # What poll(2) calls writable takes this much of a pipe without blocking, see pipe(7).
        if stderr.poll(0):
            os.write(2, line.encode()[: select.PIPE_BUF - 1] + b"\n")
