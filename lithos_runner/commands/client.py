"""Talking to a supervisor: finding the right one, asking it, and waiting until what was asked for has happened."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from ..status.readings import Observer, Supervisor
from ..status.store import control_socket
from . import CommandError

_ANSWER_TIMEOUT = 30.0  # seconds; a supervisor answers within milliseconds, unless the host is in trouble
_POLL = 0.1  # seconds between two looks at a roll-out

Failures = frozenset[tuple[str, int]]  # services that have failed, and in which generation


class Client(NamedTuple):
    """A supervisor that lives."""

    supervisor: Supervisor

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send one request and return the answer; raises CommandError when there is none or it is an error."""
        path = control_socket(self.supervisor.runtime)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_ANSWER_TIMEOUT)
                connection.connect(path)
                connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
                text = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except PermissionError as error:
            raise CommandError(f"cannot ask the supervisor at {path}: {error.strerror}; try it as root") from error
        except OSError as error:
            raise CommandError(f"cannot ask the supervisor at {path}: {error.strerror or error}") from error
        if not text:
            raise CommandError(f"the supervisor at {path} closed the connection without an answer; try it as root")
        answer: dict[str, Any] = json.loads(text)
        if "error" in answer:
            raise CommandError(answer["error"])
        return answer

    def failures(self) -> Failures:
        """Return what has failed so far, to be asked before anything is asked for: that is no answer to it."""
        services = self.ask("status")["services"]
        return frozenset((one["name"], one["generation"]) for one in services if one["phase"] not in _WELL)

    def wait(self, concerned: Callable[[dict[str, Any]], bool], before: Failures, loads: int = 0) -> None:
        """Wait for the roll-outs of the services that ``concerned`` chooses; show progress on a terminal.

        ``loads``: how many configurations have to be taken in first. Raises CommandError with the reasons when
        one is rolled back or never serves that is not among ``before``.
        """
        progress = _Progress()
        while True:
            status = self.ask("status")
            services = [one for one in status["services"] if concerned(one)]
            progress.show(services)
            # Another supervisor has read the files at its start, and counts from then.
            taken_in = status["loads"] >= loads or status["started"] != self.supervisor.started
            if taken_in and all(one["phase"] in _FINAL for one in services):
                break
            time.sleep(_POLL)
        progress.end()
        failed = [one for one in services if _FINAL[one["phase"]] and (one["name"], one["generation"]) not in before]
        if failed:
            raise CommandError("; ".join(f"{one['name']} {_FINAL[one['phase']]}: {one['reason']}" for one in failed))


# How a roll-out can end, and what is said of an end that nobody wanted.
_FINAL = {"settled": "", "rolled back": "was rolled back", "failing": "does not get ready"}
_WELL = ("rolling", "settled")


def find(config: str | None, name: str | None = None) -> Client | None:
    """Return the supervisor of a configuration file, else the one that has ``name`` or the sandbox ``name``.

    None when there is none; raises CommandError when there are several.
    """
    with Observer() as observer:
        supervisors = observer.supervisors()
    if config is not None:
        path = os.path.abspath(config)
        found = [each for each in supervisors if each.config == path]
    else:
        found = [each for each in supervisors if name is None or _has(each, name)]
    if len(found) > 1:
        several = ", ".join(each.config for each in found)
        raise CommandError(f"several supervisors run here, choose one with -C: {several}", exit_code=2)
    return Client(found[0]) if found else None


def _has(supervisor: Supervisor, name: str) -> bool:
    for instance in supervisor.instances:
        process = f"{instance.sandbox}/{instance.process}"
        if name in (instance.name, process, instance.sandbox):
            return True
    return False


def require(config: str | None, name: str | None = None) -> Client:
    """As ``find``; raises CommandError when there is none."""
    client = find(config, name)
    if client is None:
        what = f"with the configuration {config}" if config else f"with {name}" if name else "here"
        raise CommandError(f"no supervisor runs {what}; `lithos ps` shows what runs")
    return client


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add -C, which chooses a supervisor."""
    parser.add_argument(
        "-C", "--config", metavar="FILE", help="of the supervisor with this file (default: the one that has NAME)"
    )


def add_no_wait(parser: argparse.ArgumentParser) -> None:
    """Add --no-wait."""
    parser.add_argument("--no-wait", action="store_true", help="do not wait for the roll-out, nor report how it ends")


class _Progress:
    """A line on a terminal that changes, and lines that say what is new in a pipe."""

    def __init__(self) -> None:
        self._last = ""
        self._terminal = sys.stderr.isatty()

    def show(self, services: list[dict[str, Any]]) -> None:
        text = ", ".join(f"{one['name']}: {one['phase']}, {one['ready']}/{one['instances']} ready" for one in services)
        if text == self._last:
            return
        self._last = text
        print(f"\r\033[K{text}" if self._terminal else text, end="" if self._terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def end(self) -> None:
        if self._terminal and self._last:
            print(file=sys.stderr)
