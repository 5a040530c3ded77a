"""What the supervisor says: one sentence a line on stderr, which is a terminal or the journal."""

from __future__ import annotations

import os


def say(sentence: str) -> None:
    """Print ``lithos: sentence``; a closed or full stderr never stops the supervisor."""
    line = f"lithos: {sentence}\n".encode("utf-8", "backslashreplace")
    try:
        os.write(2, line)
    except OSError:
        return
