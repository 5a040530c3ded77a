"""Talking to a supervisor: finding the right one, asking it, and waiting until what was asked for has happened."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..status.readings import Observer, Supervisor
from ..status.store import control_socket
from . import CommandError

_ANSWER_TIMEOUT = 30.0  # seconds; a supervisor answers within milliseconds, unless the host is in trouble
_POLL = 0.1  # seconds between two looks at a roll-out
_TIMEOUT = 60.0  # seconds; time for another start with the usual readiness-timeout, 30, and what goes before it
_AWAY = 10.0  # seconds without a supervisor in which another one may go on: the unit starts it again after one


class Away(CommandError):
    """No supervisor is there to answer."""


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
        except (ConnectionError, FileNotFoundError) as error:
            raise Away(f"cannot ask the supervisor at {path}: {error.strerror}") from error
        except OSError as error:
            raise CommandError(f"cannot ask the supervisor at {path}: {error.strerror or error}") from error
        if not text:
            raise Away(f"the supervisor at {path} closed the connection without an answer; try it as root")
        answer: dict[str, Any] = json.loads(text)
        if "error" in answer:
            raise CommandError(answer["error"])
        return answer

    def _status(self) -> dict[str, Any]:
        """Ask how far all is: the supervisor, or the next one if it replaces its program or is started again."""
        patience = time.monotonic() + _AWAY
        while True:
            try:
                return self.ask("status")
            except Away:
                if time.monotonic() >= patience:
                    raise
            time.sleep(_POLL)

    def roll_out(self, target: str, command: str, *, timeout: float | None, **arguments: Any) -> None:
        """Ask for a change of ``target`` (`sandbox` or `sandbox/process`) and see how it ends.

        ``timeout`` is for how many seconds a service may fail, None not to wait at all. Shows progress. Raises
        CommandError with the reasons when a service does not come where it should.
        """
        change = _Change(target, self.ask("status"))
        loads = self.ask(command, **arguments).get("loads", 0)
        if timeout is None:
            return
        progress = _Progress()
        while not change.is_over(status := self._status(), loads, time.monotonic() - timeout):
            progress.show(change.services(status))
            time.sleep(_POLL)
        progress.show(change.services(status))
        progress.end()
        failures = list(change.failures(status))
        if failures:
            raise CommandError("; ".join(failures))


_FAILING = "failing"  # somebody is started again, with or without success
# How a roll-out can end, and what is said of an end that nobody wanted.
_FINAL = {"settled": "", "rolled back": "was rolled back", "given up": "was given up"}
_ENDS = {**_FINAL, _FAILING: "does not get ready"}


class _Change:
    """What a command has asked for, seen through the supervisor's answers to "status"."""

    def __init__(self, target: str, before: dict[str, Any]) -> None:
        """``before``: what had failed before anything was asked for is no answer to it."""
        self._target = target
        self._before = {one["name"]: _version(one) for one in self.services(before)}
        self._started = before["started"]
        self._generations: dict[str, int] = {}  # those that the change has led to
        self._failing: dict[str, float] = {}  # since when a service that has not settled since

    def services(self, status: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the services that are concerned."""
        target = self._target
        return [one for one in status["services"] if target in (one["name"], one["name"].partition("/")[0])]

    def is_over(self, status: dict[str, Any], loads: int, too_long: float) -> bool:
        """Whether so many configurations have been taken in, and every roll-out has ended since.

        Who fails is started again, so that is no end, unless it has been so since ``too_long``, a time of
        time.monotonic().
        """
        # Another supervisor has read the files at its start, and counts from then.
        if status["loads"] < loads and status["started"] == self._started:
            return False
        services = self.services(status)
        self._generations = self._generations or {one["name"]: one["generation"] for one in services}
        self._note_failing(services)
        return all(self._has_ended(one, too_long) for one in services)

    def _note_failing(self, services: list[dict[str, Any]]) -> None:
        for one in services:
            if one["phase"] == _FAILING:
                self._failing.setdefault(one["name"], time.monotonic())
            elif one["phase"] in _FINAL:
                self._failing.pop(one["name"], None)

    def _has_ended(self, service: dict[str, Any], too_long: float) -> bool:
        if service["phase"] != _FAILING:
            return service["phase"] in _FINAL
        return not self._is_changed(service) or self._failing[service["name"]] <= too_long

    def _is_changed(self, service: dict[str, Any]) -> bool:
        return self._before.get(service["name"]) != _version(service)

    def failures(self, status: dict[str, Any]) -> Iterator[str]:
        """Say what is wrong with each service that is not where it should be."""
        if not {"", self._target, self._target.partition("/")[0]}.isdisjoint(status["broken"]):
            yield f"{self._target} goes on as it was: {'; '.join(status['faults'])}"
        for one in self.services(status):
            name, end = one["name"], _ENDS[one["phase"]]
            if one["generation"] != self._generations.get(name, one["generation"]):
                yield f"{name} was changed again before this was at its end"
            elif end and self._is_changed(one):
                yield f"{name} {end}: {one['reason']}"


def _version(service: dict[str, Any]) -> tuple[int, int]:
    return service["generation"], service["instances"]


def find(config: str | None, name: str | None = None) -> Client | None:
    """Return the supervisor of a configuration file, else the one that has ``name`` or the sandbox ``name``.

    None when there is none; raises CommandError when there are several.
    """
    with Observer() as observer:
        supervisors = observer.supervisors()
    if config is not None:
        path = os.path.realpath(config)
        found = [each for each in supervisors if os.path.realpath(each.config) == path]
    else:
        found = [each for each in supervisors if name is None or _has(each, name)]
    if len(found) > 1:
        several = ", ".join(each.config for each in found)
        raise CommandError(f"several supervisors run here, choose one with -C: {several}", exit_code=2)
    return Client(found[0]) if found else None


def _has(supervisor: Supervisor, name: str) -> bool:
    if any(name in (one.name, f"{one.sandbox}/{one.process}", one.sandbox) for one in supervisor.instances):
        return True
    # It may have no instance at the moment.
    return any(name == one["name"] for one in Client(supervisor).ask("status")["services"])


def require(config: str | None, name: str | None = None) -> Client:
    """As ``find``; raises CommandError when there is none."""
    client = find(config, name)
    if client is None:
        what = f"with the configuration {config}" if config else f"with {name}" if name else "here"
        raise CommandError(f"no supervisor runs {what}; `lithos ps` shows what runs")
    return client


def say_that_none_runs(master: str) -> None:
    """Say what becomes of a process file that was changed."""
    print(f"lithos: no supervisor runs with {master}; the file counts when one starts", file=sys.stderr)


def add_config(parser: argparse.ArgumentParser, default: str = "the one that has NAME") -> None:
    """Add -C, which chooses a supervisor; ``default`` says which one it is without it."""
    parser.add_argument("-C", "--config", metavar="FILE", help=f"of the supervisor with this file (default: {default})")


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """Add --timeout and --no-wait; ``timeout`` is None with the latter."""
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=_TIMEOUT,
        metavar="SECONDS",
        help="how long instances that fail, and are started again, may take to get ready after all "
        f"(default: {_TIMEOUT:g})",
    )
    parser.add_argument(
        "--no-wait",
        dest="timeout",
        action="store_const",
        const=None,
        help="do not wait for the roll-out, nor report how it ends",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


class _Progress:
    """A line on a terminal that changes, and lines that say what is new in a pipe."""

    def __init__(self) -> None:
        self._last = ""
        self._terminal = sys.stderr.isatty()

    def show(self, services: list[dict[str, Any]]) -> None:
        text = ", ".join(f"{one['name']}: {one['phase']}, {one['ready']}/{one['instances']} ready" for one in services)
        if text in ("", self._last):  # "": what was there is not configured any more
            return
        self._last = text
        print(f"\r\033[K{text}" if self._terminal else text, end="" if self._terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def end(self) -> None:
        if self._terminal and self._last:
            print(file=sys.stderr)
