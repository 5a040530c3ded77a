"""The load against real servers, among them the application that the benchmark serves."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.program import PYTHON
from benchmarks.rollout import load
from benchmarks.rollout.load import Answer, Connection, Load, Plan
from benchmarks.rollout.samples import Outcome, Sample
from benchmarks.rollout.stage import APPLICATION, release

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: keep-alive\r\n\r\nv1 a\ndone\n"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def ask(handler: Handler, requests: int, *, kept: bool, timeout: float = 60) -> list[Sample]:
    """Make requests one after the other on one connection to a server."""

    async def all_of_them() -> list[Sample]:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        plan = Plan(server.sockets[0].getsockname()[1], timeout=timeout)
        connection = Connection(plan.port, kept=kept)
        now = asyncio.get_running_loop().time
        async with server:
            found = [await load.measure(connection, now(), plan, kept=kept) for _ in range(requests)]
            connection.close()
        return found

    return asyncio.run(all_of_them())


def answering(*answers: bytes, connections: list[int] | None = None) -> Handler:
    """A server that gives one answer after the other on a connection and then closes it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if connections is not None:
            connections.append(len(connections))
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    return handle


def outcomes(found: list[Sample]) -> list[Outcome]:
    return [sample.outcome for sample in found]


@pytest.mark.parametrize("end", range(len(ANSWER)))
def test_an_answer_in_pieces(end: int) -> None:
    found = load.parse(ANSWER[:end])
    known = end >= ANSWER.index(b"v1 a\n") + 5
    assert found == (Answer(200, "v1", "a", complete=False, keeps=True) if known else None)


def test_a_whole_answer() -> None:
    assert load.parse(ANSWER) == Answer(200, "v1", "a", complete=True, keeps=True)
    closing = load.parse(ANSWER.replace(b"keep-alive", b"Close"))
    assert closing is not None
    assert not closing.keeps


@pytest.mark.parametrize("text", [b"\x80\r\n\r\nv1 a\n", b"HTTP/1.1 200 OK\r\n\r\nv1 a\n", b"HTTP/1.1 OK\r\n\r\n\n"])
def test_what_is_no_answer(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of int() or of decode()
        load.parse(text)


def test_a_kept_connection_is_kept() -> None:
    connections: list[int] = []
    found = ask(answering(ANSWER, ANSWER, ANSWER, connections=connections), 3, kept=True)
    assert [(one.outcome, one.version, one.life) for one in found] == [(Outcome.OK, "v1", "a")] * 3
    assert len(connections) == 1


def test_a_connection_of_its_own_for_every_request() -> None:
    connections: list[int] = []
    assert outcomes(ask(answering(ANSWER, connections=connections), 3, kept=False)) == [Outcome.OK] * 3
    assert len(connections) == 3


def test_a_close_that_was_announced_is_no_failure() -> None:
    closing = ANSWER.replace(b"keep-alive", b"close")
    assert outcomes(ask(answering(closing), 3, kept=True)) == [Outcome.OK] * 3


def test_a_close_between_two_requests_is_no_failure() -> None:
    """Without a word, before the next request: the client must look before it sends."""

    async def both() -> list[Sample]:
        closed = asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await answering(ANSWER)(reader, writer)
            closed.set()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        plan = Plan(server.sockets[0].getsockname()[1])
        connection = Connection(plan.port, kept=True)
        now = asyncio.get_running_loop().time
        async with server:
            first = await load.measure(connection, now(), plan, kept=True)
            await closed.wait()
            second = await load.measure(connection, now(), plan, kept=True)
            connection.close()
        return [first, second]

    assert outcomes(asyncio.run(both())) == [Outcome.OK] * 2


def test_a_close_in_the_middle_is_a_failure_of_a_known_life() -> None:
    (found,) = ask(answering(ANSWER[:-3]), 1, kept=False)
    assert (found.outcome, found.life, found.version) == (Outcome.CUT, "a", "")


def test_a_close_before_the_answer_is_a_failure_of_whom_answered_before() -> None:
    found = ask(answering(ANSWER, b""), 2, kept=True)
    assert [(one.outcome, one.life) for one in found] == [(Outcome.OK, "a"), (Outcome.CUT, "a")]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 No\r\nContent-Length: 3\r\n\r\nno\n", b"no\r\n\r\nHTTP\n"])
def test_another_answer_is_wrong(answer: bytes) -> None:
    assert outcomes(ask(answering(answer), 1, kept=False)) == [Outcome.WRONG]


def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        plan = Plan(bound.getsockname()[1], seconds=0.05)
        found = asyncio.run(load.generate(plan))
    assert found
    assert set(outcomes(found)) == {Outcome.REFUSED}


def test_nobody_accepts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        plan = Plan(silent.getsockname()[1], seconds=0.05, timeout=0.1)
        found = asyncio.run(load.generate(plan))
    assert set(outcomes(found)) == {Outcome.TIMEOUT}
    assert min(sample.seconds for sample in found) >= plan.timeout


def test_a_stall_is_seen_by_all_who_come_meanwhile() -> None:
    """The load is open: nobody waits with a request until those before it are answered."""

    async def stalled() -> tuple[float, list[Sample]]:
        due = asyncio.Semaphore(0)
        go = asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            due.release()
            await go.wait()
            await answering(ANSWER)(reader, writer)

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        plan = Plan(server.sockets[0].getsockname()[1], seconds=60, fresh=200, connections=0, timeout=60)
        async with server:
            running = Load(plan)
            result = asyncio.create_task(running.run())
            for _ in range(20):
                await due.acquire()
            running.end()
            answered = asyncio.get_running_loop().time()
            go.set()
            return answered, await result

    answered, found = asyncio.run(stalled())
    assert len(found) >= 20
    assert set(outcomes(found)) == {Outcome.OK}
    assert all(sample.end >= answered for sample in found[:20])
    steps = [later.at - sooner.at for sooner, later in itertools.pairwise(found)]
    assert steps == pytest.approx([1 / 200] * len(steps))


# The application.


@contextmanager
def serving(folder: Path, behaviour: str, listener: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    release(folder, "v7", behaviour)
    command = [PYTHON, "-ES", str(folder / APPLICATION.name), str(listener.fileno())]
    with subprocess.Popen(command, pass_fds=[listener.fileno()], stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def until_it_answers(port: int) -> Answer:
    async def asked() -> Answer:
        return await Connection(port, kept=False).ask()

    return asyncio.run(asked())


def test_the_application_loses_nothing_when_it_is_told_to_end(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        port = listener.getsockname()[1]
        with serving(tmp_path / "one", "good", listener) as first, serving(tmp_path / "two", "good", listener):
            lives = set()
            while len(lives) < 2:
                lives.add(until_it_answers(port).life)

            async def under_load() -> list[Sample]:
                running = Load(Plan(port, seconds=600, timeout=60))
                result = asyncio.create_task(running.run())
                for _ in range(50):  # until both are in the middle of it
                    await Connection(port, kept=False).ask()
                first.send_signal(signal.SIGTERM)
                await asyncio.to_thread(first.wait)
                running.end()
                return await result

            found = asyncio.run(under_load())
            assert first.returncode == 0
    assert set(outcomes(found)) == {Outcome.OK}
    assert {sample.kept for sample in found} == {True, False}
    assert {sample.version for sample in found} == {"v7"}


@pytest.mark.parametrize("behaviour", ["fails-at-once", "fails-later"])
def test_a_version_that_fails(tmp_path: Path, behaviour: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        serving(tmp_path / "app", behaviour, listener) as process,
    ):
        if behaviour == "fails-later":
            assert until_it_answers(listener.getsockname()[1]).version == "v7"
        assert process.wait() == 1
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert ("this version cannot start" in said) == (behaviour == "fails-at-once")


def test_a_version_that_is_slow_serves_well(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, serving(tmp_path / "app", "slow", listener):
        assert until_it_answers(listener.getsockname()[1]).complete
