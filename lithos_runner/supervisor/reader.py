"""The configuration reader: a short-lived process that prints what should run as JSON.

It is a process of its own so that YAML, attrs and all that a hostile file may do to them stay out of the supervisor;
``python -m lithos_runner.supervisor.reader '{"file": …}'`` is its whole interface. When the request has ``notes``,
standard input is the file that they are in: taken by an earlier reader, and taken anew for the next one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from ..launch import kernel
from . import notes

_NOTES = 0


def main(argument: str) -> None:
    """Print what ``argument`` (a Request as JSON) leads to, or that it is what it was."""
    # The supervisor waits for us; without it nobody would end a reader that waits for a FIFO or a dead file server.
    kernel.perform(kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL))
    fields = json.loads(argument)
    compare = fields.get("notes") is not None
    if compare and notes.unchanged(os.pread(_NOTES, os.fstat(_NOTES).st_size, 0).decode()):
        print(notes.UNCHANGED)
        return
    # Not at the top: they take five times as long as all of the above.
    from . import desired, wanted
    from .loader import Request

    taken = notes.Notes(time.time_ns())
    taken.saw(__file__, os.stat(__file__))  # a newer program may understand the same files in another way
    found = wanted.read(Request(**fields), taken)
    if compare:
        os.ftruncate(_NOTES, 0)
        os.pwrite(_NOTES, taken.text().encode(), 0)
    print(desired.encode(found))


if __name__ == "__main__":
    main(sys.argv[1])
