"""The load: requests at a fixed rate, some on fresh connections, some on kept ones; a process of its own.

The load is open: a request is due at a moment that nothing delays, and its time counts from there, so that a service
that stands still is seen by all who would have come meanwhile (https://github.com/giltene/wrk2 on coordinated
omission). `python -m benchmarks.rollout.load` runs for a bounded time, less when it gets SIGTERM, and prints what
became of every request as one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from typing import NamedTuple

from .samples import Outcome, Sample


class Plan(NamedTuple):
    """What is asked of whom. Rates are requests per second, of all connections together."""

    port: int = 0
    seconds: float = 10.0
    fresh: float = 150.0
    kept: float = 150.0
    connections: int = 15  # that are kept
    timeout: float = 5.0

    def options(self) -> list[str]:
        """The command line that says this."""
        return [word for name, value in self._asdict().items() for word in (f"--{name}", str(value))]


class Answer(NamedTuple):
    """As much of an answer as has come."""

    status: int
    version: str
    life: str
    complete: bool
    keeps: bool  # the connection may be used again


_REQUEST = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: {}\r\n\r\n"


def parse(received: bytes) -> Answer | None:
    """Read an HTTP/1.1 answer; None until the first line of its body has come. Raises ValueError for anything else."""
    head, _, body = received.partition(b"\r\n\r\n")
    first, newline, _ = body.partition(b"\n")
    if not newline:
        return None
    status, *lines = head.decode("ascii").lower().split("\r\n")
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    version, _, life = first.decode().partition(" ")
    length = int(fields.get("content-length") or "an answer without a length")
    return Answer(int(status.split()[1]), version, life, len(body) >= length, fields.get("connection") != "close")


class Connection:
    """A client's connection, made when it is needed."""

    def __init__(self, port: int, *, kept: bool) -> None:
        self._address = ("127.0.0.1", port)
        self._kept = kept
        self._request = _REQUEST.format("keep-alive" if kept else "close").encode()
        self._socket: socket.socket | None = None
        self.life = ""  # that has answered on it

    async def ask(self) -> Answer:
        """Send a request and return the whole answer. Raises OSError and ValueError."""
        if self._socket is None or self._was_closed(self._socket):
            await self._connect()
        assert self._socket is not None
        await asyncio.get_running_loop().sock_sendall(self._socket, self._request)
        answer = await self._answer(self._socket)
        if not (self._kept and answer.keeps):
            self.close()
        return answer

    def close(self) -> None:
        """Close it; the next request makes another."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self.life = None, ""

    async def _connect(self) -> None:
        self.close()
        self._socket = socket.socket()
        self._socket.setblocking(False)
        await asyncio.get_running_loop().sock_connect(self._socket, self._address)

    @staticmethod
    def _was_closed(client: socket.socket) -> bool:
        """Whether the server has closed it between two requests, as it may (RFC 9112, section 9.5)."""
        try:
            return client.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    async def _answer(self, client: socket.socket) -> Answer:
        received = b""
        while True:
            more = await asyncio.get_running_loop().sock_recv(client, 4096)
            if not more:
                raise ConnectionResetError("closed before the end of the answer")
            received += more
            if answer := parse(received):
                self.life = answer.life
                if answer.complete:
                    return answer


async def measure(connection: Connection, due: float, plan: Plan, *, kept: bool) -> Sample:
    """Make one request that is due now, and say what became of it."""
    version, life = "", ""
    try:
        async with asyncio.timeout_at(due + plan.timeout):
            answer = await connection.ask()
        version, life = answer.version, answer.life
        outcome = Outcome.OK if answer.status == 200 else Outcome.WRONG
    except ConnectionRefusedError:
        outcome = Outcome.REFUSED
    except TimeoutError:
        outcome = Outcome.TIMEOUT
    except OSError:
        outcome = Outcome.CUT
    except ValueError:
        outcome = Outcome.WRONG
    seconds = asyncio.get_running_loop().time() - due
    if outcome is not Outcome.OK:
        life = connection.life
        connection.close()
    return Sample(due, seconds, outcome, version, life, kept)


class Load:
    """All clients, until the time is over or somebody ends it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._end = self._start + plan.seconds
        self._samples: list[Sample] = []

    def end(self) -> None:
        """Begin no further request."""
        self._end = self._loop.time()

    async def run(self) -> list[Sample]:
        """Make all requests; returns when the last is answered or has failed."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fresh(group))
            for number in range(self._plan.connections):
                group.create_task(self._kept(number))
        return sorted(self._samples)

    async def _fresh(self, group: asyncio.TaskGroup) -> None:
        """Begin requests on connections of their own, whatever became of those before."""
        for count in itertools.count():
            due = self._start + count / self._plan.fresh
            if not await self._wait(due):
                return
            group.create_task(self._one(Connection(self._plan.port, kept=False), due, kept=False))

    async def _kept(self, number: int) -> None:
        """Make requests one after the other; one that is late delays the next, whose time counts all the same."""
        connection = Connection(self._plan.port, kept=True)
        for count in itertools.count():
            due = self._start + (count * self._plan.connections + number) / self._plan.kept
            if not await self._wait(due):
                connection.close()
                return
            await self._one(connection, due, kept=True)

    async def _wait(self, due: float) -> bool:
        """Wait for the moment; False when it lies after the end."""
        if due < self._end:
            await asyncio.sleep(due - self._loop.time())
        return due < self._end

    async def _one(self, connection: Connection, due: float, *, kept: bool) -> None:
        self._samples.append(await measure(connection, due, self._plan, kept=kept))


async def generate(plan: Plan) -> list[Sample]:
    """Run a plan; SIGTERM ends it early."""
    load = Load(plan)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, load.end)
    print("started", flush=True)
    return await load.run()


async def _generate_to_print(plan: Plan) -> list[Sample]:
    samples = await generate(plan)
    # Without a handler it would end us while we print.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    return samples


def main() -> None:
    """Do what the options of `Plan` say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollout.load", description=__doc__)
    for name, default in Plan._field_defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    plan = Plan(**vars(parser.parse_args()))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with suppress(PermissionError):  # who has to wait for the processor measures the wait
        os.nice(-10)
    gc.disable()  # it would stand still now and then; what it would collect is little
    json.dump(asyncio.run(_generate_to_print(plan)), sys.stdout)


if __name__ == "__main__":
    main()
