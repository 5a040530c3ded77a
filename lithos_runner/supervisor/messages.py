"""What the supervisor says: one sentence a line, always on stderr, and where the master file asks for it in logs too.

A log is a file, or a name in syslog. Nothing that is wrong with one, be it a full disk or a syslog daemon that hangs,
stops the supervisor or the sentence on stderr.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from ..config import Master, Sandbox

Level = Literal["error", "warn", "info"]
ERROR: Level = "error"
WARN: Level = "warn"
INFO: Level = "info"

SYSLOG = "/dev/log"

# The levels of a log, with their severity in syslog(3). Nothing is said at the last two.
_SEVERITIES = {"error": 3, "warn": 4, "info": 6, "debug": 7, "trace": 7}
# In the order of their numbers in sys/syslog.h, where local0 is 16.
_FACILITIES = ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp")


class Log(NamedTuple):
    """Takes the sentences of `level` and of those above it. `name` is the path of a file, or a name in syslog."""

    name: str
    level: str


class Logs(NamedTuple):
    """The log of the supervisor and those of its sandboxes; with a `facility` they are syslog's, else files."""

    facility: str | None
    own: Log
    sandboxes: dict[str, Log]


def logs_of(master: Master, sandboxes: dict[str, Sandbox]) -> Logs:
    """Return the logs that the files of a host ask for."""
    app, directory = master.syslog_app_name, master.default_log_dir

    def log(syslog_name: str, file: str, level: str | None) -> Log:
        path = os.path.join(directory, file)
        return Log(path if master.syslog_facility is None else syslog_name, level or master.log_level)

    return Logs(
        master.syslog_facility,
        log(app, master.log_file, None),
        {
            name: log(f"{app}-{name}", sandbox.log_file or f"{name}.log", sandbox.log_level)
            for name, sandbox in sandboxes.items()
        },
    )


def decode(value: list[Any]) -> Logs:
    """Return the logs that were written as JSON, where a tuple is a list."""
    facility, own, sandboxes = value
    return Logs(facility, Log(*own), {name: Log(*log) for name, log in sandboxes.items()})


_logs: Logs | None = None
_failing: set[str] = set()  # names of the logs that could not be written the last time


def log_to(logs: Logs | None) -> None:
    """Write to these logs too from now on, and make the directories of their files; None is for stderr alone."""
    global _logs
    _logs = logs
    _failing.clear()
    if logs is not None and logs.facility is None:
        for log in (logs.own, *logs.sandboxes.values()):
            with suppress(OSError):  # the first sentence for it says why
                os.makedirs(os.path.dirname(log.name), 0o755, exist_ok=True)


def say(sentence: str, level: Level = INFO) -> None:
    """Print ``lithos: sentence`` and log it; one that begins with ``SANDBOX/`` is for that sandbox's log, too."""
    # A sentence may quote an application, whose escape sequences must not reach a terminal.
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in sentence)
    _print(text)
    if _logs is not None:
        for log in takers(_logs, text, level):
            _log(log.name, _logs.facility, level, text)


def takers(logs: Logs, sentence: str, level: Level) -> list[Log]:
    """Return the logs that take a sentence; of syslog only one, as all that is said there is read together."""
    sandbox = logs.sandboxes.get(sentence.partition("/")[0])
    found = [logs.own] if sandbox is None else [sandbox] if logs.facility else [logs.own, sandbox]
    return [log for log in found if _SEVERITIES[level] <= _SEVERITIES[log.level]]


def _print(text: str) -> None:
    stderr = select.poll()
    stderr.register(2, select.POLLOUT)
    # Closed, or read by nobody.
    with suppress(OSError):
        # What poll(2) calls writable takes this much of a pipe without blocking, see pipe(7).
        if stderr.poll(0):
            os.write(2, f"lithos: {text}".encode()[: select.PIPE_BUF - 1] + b"\n")


def _log(name: str, facility: str | None, level: Level, text: str) -> None:
    """Write to a log; when that begins to fail, say so once."""
    try:
        if facility is None:
            _append(name, f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {level.upper()} {text}\n".encode())
        else:
            _send(f"<{_priority(facility, level)}>{time.strftime('%b %e %T')} {name}[{os.getpid()}]: {text}".encode())
    except OSError as error:
        if name not in _failing:
            _failing.add(name)
            place = name if facility is None else f"{SYSLOG} as {name}"
            _print(f"cannot write to {place}: {error.strerror}; what belongs there is on stderr only")
    else:
        _failing.discard(name)


def _append(path: str, line: bytes) -> None:
    # Opened for each line, so that whoever renames or removes the file, as logrotate does, need not tell us.
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)
    try:
        if (written := os.write(log, line)) < len(line):
            os.ftruncate(log, os.fstat(log).st_size - written)  # else the next line would continue this one
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    finally:
        os.close(log)


def _send(message: bytes) -> None:
    # syslog(3), and so Python's syslog, waits for a daemon that has no room for the message.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as daemon:
        daemon.sendto(message, SYSLOG)


def _priority(facility: str, level: Level) -> int:
    number = 16 + int(facility[-1]) if facility.startswith("local") else _FACILITIES.index(facility)
    return number << 3 | _SEVERITIES[level]
