from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from lithos_runner.supervisor.loop import HANG_UP, READABLE, WRITABLE, Loop, Signals

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_a_readable_descriptor_is_handled_as_long_as_it_is_readable(loop: Loop, pipe: tuple[int, int]) -> None:
    calls: list[int] = []
    loop.watch(pipe[0], READABLE, calls.append)
    os.write(pipe[1], b"x")
    loop.turn()
    loop.turn()
    assert calls == [READABLE, READABLE]
    loop.forget(pipe[0])
    loop.deadline("end", time.monotonic(), lambda: None)
    loop.turn()
    assert len(calls) == 2


def test_masks(loop: Loop, pipe: tuple[int, int]) -> None:
    calls: list[int] = []
    loop.watch(pipe[1], WRITABLE, calls.append)
    loop.turn()
    assert calls == [WRITABLE]
    reader, writer = os.pipe()
    os.close(writer)
    loop.forget(pipe[1])
    loop.watch(reader, 0, calls.append)
    loop.turn()
    assert calls == [WRITABLE, HANG_UP]
    loop.forget(reader)
    os.close(reader)


def test_who_is_forgotten_within_a_round_is_not_called(loop: Loop) -> None:
    """Both pipes are readable; the first handler, whichever that is, forgets the other."""
    pipes = [os.pipe(), os.pipe()]
    calls: list[int] = []

    def handler(own: int) -> None:
        calls.append(own)
        loop.forget(pipes[1 - own][0])

    for index, (reader, writer) in enumerate(pipes):
        os.write(writer, b"x")
        loop.watch(reader, READABLE, lambda _events, index=index: handler(index))
    loop.turn()
    assert len(calls) == 1
    for end in (end for ends in pipes for end in ends):
        os.close(end)


def test_a_number_that_is_taken_anew_within_a_round_gets_no_old_event(loop: Loop) -> None:
    """A handler closes the other pipe and opens one that gets the same number: that has nothing to say."""
    pipes = {index: os.pipe() for index in (0, 1)}
    calls: list[str] = []

    def handler(own: int) -> None:
        calls.append("first")
        reader, writer = pipes.pop(1 - own)
        loop.forget(reader)
        os.close(reader)
        os.close(writer)
        fresh = os.pipe()
        assert reader in fresh
        pipes[2] = fresh
        loop.watch(reader, READABLE, lambda _events: calls.append("reused"))

    for index, (reader, writer) in list(pipes.items()):
        os.write(writer, b"x")
        loop.watch(reader, READABLE, lambda _events, index=index: handler(index))
    loop.turn()
    assert calls == ["first"]
    for end in (end for ends in pipes.values() for end in ends):
        os.close(end)


def test_forgetting_a_stranger_is_nothing(loop: Loop) -> None:
    loop.forget(999)


def test_deadlines_are_kept_each_once_and_in_time(loop: Loop) -> None:
    calls: list[str] = []
    start = time.monotonic()
    loop.deadline("a", start + 3600, lambda: calls.append("a"))
    loop.deadline("b", start + 0.01, lambda: calls.append("b"))
    loop.turn()
    assert (calls, time.monotonic() >= start + 0.01) == (["b"], True)
    loop.deadline("a", start + 0.03, lambda: calls.append("a"))
    loop.turn()
    assert (calls, time.monotonic() >= start + 0.03) == (["b", "a"], True)


def test_an_owner_has_one_deadline(loop: Loop) -> None:
    calls: list[str] = []
    now = time.monotonic()
    loop.deadline("a", now, lambda: calls.append("early"))
    loop.deadline("a", now + 0.01, lambda: calls.append("late"))
    loop.deadline("b", now, lambda: calls.append("taken back"))
    loop.deadline("b", None, lambda: None)
    loop.turn()
    assert calls == ["late"]


def test_a_due_deadline_can_take_back_another(loop: Loop) -> None:
    calls: list[str] = []
    now = time.monotonic()
    for own, other in (("a", "b"), ("b", "a")):

        def due(own: str = own, other: str = other) -> None:
            calls.append(own)
            loop.deadline(other, None, lambda: None)

        loop.deadline(own, now, due)
    loop.turn()
    assert calls == ["a"]


def test_an_overdue_deadline_does_not_keep_events_waiting(loop: Loop, pipe: tuple[int, int]) -> None:
    calls: list[str] = []
    os.write(pipe[1], b"x")
    loop.watch(pipe[0], READABLE, lambda _events: calls.append("event"))
    loop.deadline("a", time.monotonic() - 10, lambda: calls.append("deadline"))
    loop.turn()
    assert calls == ["event", "deadline"]


def test_signals_become_events(loop: Loop) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    got: list[int] = []
    signals = Signals(loop, [signal.SIGUSR1, signal.SIGUSR2], got.append)
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR2)
    while len(got) < 2:
        loop.turn()
    signals.close()
    assert sorted(got) == [signal.SIGUSR1, signal.SIGUSR2]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_signal_wakes_a_loop_that_sleeps(loop: Loop) -> None:
    got: list[int] = []
    signals = Signals(loop, [signal.SIGUSR1], got.append)
    child = subprocess.Popen([sys.executable, "-c", f"import os; os.kill({os.getpid()}, {int(signal.SIGUSR1)})"])
    while not got:
        loop.turn()
    signals.close()
    assert (child.wait(), got) == (0, [signal.SIGUSR1])


@pytest.mark.parametrize(
    ("number", "ignored"),
    [(signal.SIGHUP, True), (signal.SIGINT, False), (signal.SIGQUIT, False), (signal.SIGTERM, False)],
)
def test_of_ignored_signals_only_the_one_of_nohup_stays_ignored(loop: Loop, number: int, ignored: bool) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    signals = Signals(loop, [number], lambda _number: None)
    assert (signal.getsignal(number) == signal.SIG_IGN) is ignored
    signals.close()
    assert signal.getsignal(number) == signal.SIG_IGN
    signal.signal(number, before)
