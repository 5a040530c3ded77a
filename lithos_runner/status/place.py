"""Where a table is shown: a terminal, with its width and colours, or a pipe."""

from __future__ import annotations

import os
from typing import TextIO

from lithos_runner.status.table import Style


def style(stream: TextIO) -> Style:
    """How `stream` shows lines; NO_COLOR (https://no-color.org) and TERM=dumb take the colours away."""
    blocks = (stream.encoding or "").lower().startswith("utf")
    if not stream.isatty():
        return Style(blocks=False)
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Style(os.get_terminal_size(stream.fileno()).columns or None, colour, blocks)
