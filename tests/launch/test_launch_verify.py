"""The last step before execve(2) can say no: with any promise broken the application is never executed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest
from launch_stage import SHELL, Ended, Stage

from lithos_runner.launch import kernel, spawn
from lithos_runner.launch.kernel import Call
from lithos_runner.launch.operations import (
    ChangeDirectory,
    DropRoot,
    EnterTemplate,
    NewSession,
    Operation,
    PlaceDescriptors,
    RestrictSystemCalls,
)

Change = Callable[[list[Operation]], list[Operation]]


class Replaced:
    """An operation whose system calls are not those that it should make."""

    def __init__(self, operation: Operation, calls: Callable[[list[Call]], list[Call]]) -> None:
        self._operation = operation
        self._calls = calls

    def describe(self) -> str:
        return self._operation.describe()

    def calls(self) -> list[Call]:
        return self._calls(self._operation.calls())


def without(kind: type) -> Change:
    return lambda steps: [step for step in steps if not isinstance(step, kind)]


def calls_of(kind: type, change: Callable[[list[Call]], list[Call]]) -> Change:
    return lambda steps: [Replaced(step, change) if isinstance(step, kind) else step for step in steps]


def leaving_out(kind: type, name: str) -> Change:
    """Leave the calls of one function of ``kernel`` out of an operation."""
    function = getattr(kernel, name)
    return calls_of(kind, lambda calls: [call for call in calls if call.function is not function])


def adding(kind: type, *calls: Call) -> Change:
    return calls_of(kind, lambda before: [*before, *calls])


def _outside(steps: list[Operation]) -> list[Operation]:
    """Enter the host's root before the own one, and stay there: CVE-2024-21626."""
    chosen = [step for step in steps if not isinstance(step, ChangeDirectory)]
    at = next(index for index, step in enumerate(chosen) if isinstance(step, EnterTemplate))
    fd = os.open("/etc", os.O_PATH | os.O_CLOEXEC)
    return [*chosen[: at + 1], Replaced(NewSession(), lambda _: [Call(_fchdir, (fd,))]), *chosen[at + 1 :]]


_fchdir = kernel._function("fchdir", kernel._int)
_setresuid = kernel._setresuid
_setresgid = kernel._setresgid

# What is done wrong, as which user, and the promise that the sentence names.
BROKEN: dict[str, tuple[Change, int, str]] = {
    "root is kept": (without(DropRoot), 65534, "user"),
    "the saved user stays root": (
        calls_of(DropRoot, lambda calls: _swap(calls, _setresuid, (65534, 65534, 0))),
        65534,
        "user",
    ),
    "the group is kept": (leaving_out(DropRoot, "_setresgid"), 65534, "group"),
    "the saved group stays root": (
        calls_of(DropRoot, lambda calls: _swap(calls, _setresgid, (65534, 65534, 0))),
        65534,
        "group",
    ),
    "supplementary groups are kept": (leaving_out(DropRoot, "_setgroups"), 65534, "supplementary groups"),
    "user 0 keeps its capabilities": (leaving_out(DropRoot, "_capset"), 0, "capabilities"),
    "the bounding set is kept": (leaving_out(DropRoot, "_prctl"), 65534, "capability 0"),
    "one capability stays in the bounding set": (
        calls_of(DropRoot, lambda calls: [call for call in calls if call.what != "capability 21"]),
        65534,
        "capability 21",
    ),
    "system calls are not restricted": (without(RestrictSystemCalls), 65534, "no_new_privs"),
    "there is no filter": (
        calls_of(RestrictSystemCalls, lambda calls: calls[:1]),
        65534,
        "seccomp",
    ),
    "the supervisor's session": (without(NewSession), 65534, "session"),
    "a directory of the host": (_outside, 65534, "working directory"),
    "descriptors are not placed": (without(PlaceDescriptors), 65534, "descriptor "),
    "another file at 3": (adding(PlaceDescriptors, kernel.dup2(0, 3)), 65534, "descriptor 3"),
    "close-on-exec at 3": (
        adding(PlaceDescriptors, kernel.close_range(3, 3, kernel.CLOSE_RANGE_CLOEXEC)),
        65534,
        "descriptor 3 (close-on-exec)",
    ),
}


def _swap(calls: list[Call], function: object, arguments: tuple[object, ...]) -> list[Call]:
    return [call._replace(arguments=arguments) if call.function is function else call for call in calls]


@pytest.fixture(autouse=True)
def groups() -> Iterator[None]:
    before = os.getgroups()
    os.setgroups([4, 27])
    yield
    os.setgroups(before)


@pytest.fixture
def launch(stage: Stage, monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> Callable[[Change, int], Ended]:
    def run(change: Change, uid: int) -> Ended:
        whole = spawn.sequence
        monkeypatch.setattr(spawn, "sequence", lambda *arguments, **options: change(whole(*arguments, **options)))
        spec = SHELL._replace(uid=uid, arguments=("-c", "echo it ran"), sockets=((3, "web"),))
        return stage.run(spec, {3: listener.fileno()})

    return run


def test_the_whole_sequence_keeps_its_promises(launch: Callable[[Change, int], Ended]) -> None:
    ended = launch(lambda steps: steps, 65534)
    assert (ended.failure, ended.stdout) == (None, "it ran\n")


@pytest.mark.parametrize(("change", "uid", "promise"), BROKEN.values(), ids=BROKEN)
def test_a_broken_promise_stops_the_launch(
    launch: Callable[[Change, int], Ended], change: Change, uid: int, promise: str
) -> None:
    ended = launch(change, uid)
    assert ended.failure
    assert ended.failure.errno == 0
    verified = "descriptors" if promise.startswith("descriptor ") else "privileges"
    assert ended.failure.sentence.startswith(
        f"test/app.0: cannot verify the instance's {verified}: refused, as this is not as promised: {promise}"
    )
    assert (ended.code, ended.stdout) == (spawn.SETUP_FAILED, "")
