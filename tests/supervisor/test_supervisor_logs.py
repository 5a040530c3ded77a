from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from lithos_runner.supervisor import logs
from lithos_runner.supervisor.logs import LogFile, Stream
from lithos_runner.supervisor.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Fed:
    """A log file and the pipe that it takes from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = LogFile(str(path))
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK)

    def feed(self, text: bytes) -> None:
        os.write(self.writer, text)
        left = len(text)
        while left:
            left -= self.file.take(self.reader)

    def texts(self) -> list[bytes]:
        """The files, oldest first."""
        numbers = range(logs.FILES_KEPT + 2, 0, -1)
        paths = [*(self.path.with_name(f"{self.path.name}.{number}") for number in numbers), self.path]
        return [path.read_bytes() for path in paths if path.exists()]

    def close(self) -> None:
        self.file.close()
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def fed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fed]:
    monkeypatch.setattr(logs, "FILE_SIZE", 400)
    monkeypatch.setattr(logs, "CHUNK", 100)
    made = Fed(tmp_path / "deep" / "er" / "hello.0.stdout")
    yield made
    made.close()


LINES = [b"line %04d %s\n" % (number, b"x" * (number % 40)) for number in range(60)]


def test_files_are_rotated_at_the_end_of_a_line_and_nothing_is_lost(fed: Fed) -> None:
    for line in LINES:
        fed.feed(line)
    texts = fed.texts()
    assert len(texts) == logs.FILES_KEPT + 1
    assert all(len(text) <= logs.FILE_SIZE and text.endswith(b"\n") for text in texts)
    # What is gone is the oldest, what is left has no gap.
    assert b"".join(LINES).endswith(b"".join(texts))
    assert {path.name for path in fed.path.parent.iterdir()} == {
        fed.path.name,
        *(f"{fed.path.name}.{number}" for number in range(1, logs.FILES_KEPT + 1)),
    }


def test_a_line_longer_than_a_file_is_cut(fed: Fed) -> None:
    text = b"y" * 1000
    for start in range(0, len(text), 50):
        fed.feed(text[start : start + 50])
    assert b"".join(fed.texts()) == text
    assert all(len(part) <= logs.FILE_SIZE for part in fed.texts())


def test_the_end_of_a_chunk_that_is_no_end_of_a_line_goes_to_the_next_file(fed: Fed) -> None:
    fed.feed(b"a" * 99 + b"\n")
    fed.feed(b"b" * 99 + b"\n")
    fed.feed(b"c" * 99 + b"\n")
    fed.feed(b"whole\nbegun")
    fed.feed(b" and ended\n")
    assert [text.splitlines()[-1] for text in fed.texts()] == [b"whole", b"begun and ended"]


def test_a_file_is_appended_to_by_the_next_supervisor(fed: Fed) -> None:
    fed.feed(b"first\n")
    again = LogFile(str(fed.path))
    os.write(fed.writer, b"second\n")
    again.take(fed.reader)
    again.close()
    assert fed.path.read_bytes() == b"first\nsecond\n"


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        LogFile(str(tmp_path / "log"))


def test_nobody_else_can_read_it(fed: Fed) -> None:
    assert fed.path.stat().st_mode & 0o777 == 0o640


def test_the_last_line_is_of_this_life(fed: Fed) -> None:
    fed.feed(b"of the first life\n")
    assert fed.file.last_lines() == ["of the first life"]
    fed.file.mark()
    assert fed.file.last_lines() == []
    fed.feed(b"\xff\x00 of the second\n\n  \n")
    assert fed.file.last_lines() == ["\ufffd\x00 of the second"]


def test_the_last_lines_are_few_and_fit_into_a_sentence(fed: Fed) -> None:
    fed.feed(b"".join(b"%d\n" % number for number in range(9)) + b"x" * 201 + b"\n")
    assert fed.file.last_lines() == ["5", "6", "7", "8", "x" * 200 + "…"]


def test_the_last_line_outlives_the_removal_of_its_file(fed: Fed) -> None:
    fed.feed(b"said\n")
    fed.path.unlink()
    assert fed.file.last_lines() == ["said"]


def test_without_a_next_file_nothing_is_renamed_and_the_file_stays_bounded(fed: Fed) -> None:
    """A directory in its place stands for ENOSPC, EMFILE and whatever else open(2) may say."""
    obstacle = fed.path.with_name(f"{fed.path.name}.new")
    obstacle.mkdir()
    for _ in range(3):
        fed.feed(b"k" * 99 + b"\n")
    for _ in range(5):
        os.write(fed.writer, b"lost\n")
        with pytest.raises(IsADirectoryError):
            fed.file.take(fed.reader)
    assert [len(text) for text in fed.texts()] == [300]
    obstacle.rmdir()
    fed.feed(b"kept\n")
    assert [text[-5:] for text in fed.texts()] == [b"kept\n", b""]


class Listened:
    """A stream with its loop and its complaints."""

    def __init__(self, directory: Path) -> None:
        self.loop = Loop()
        self.said: list[str] = []
        self.fifo, self.path = directory / "fifo", directory / "log" / "hello.0.stderr"
        self.stream = Stream(str(self.fifo), str(self.path), self.loop, self.said.append)
        self.end = self.stream.open(os.getuid(), os.getgid())

    def turns(self, count: int) -> None:
        """Handle what is there, without waiting for more."""
        for _ in range(count):
            self.loop.deadline("turn", time.monotonic(), lambda: None)
            self.loop.turn()


@pytest.fixture
def listened(tmp_path: Path) -> Iterator[Listened]:
    made = Listened(tmp_path)
    yield made
    made.stream.close()
    os.close(made.end)
    made.loop.close()
    assert not made.fifo.exists()


def test_what_is_printed_is_in_the_file(listened: Listened) -> None:
    os.write(listened.end, b"\0\xff\n")
    listened.loop.turn()
    assert listened.path.read_bytes() == b"\0\xff\n"


def test_the_end_of_an_application_is_its_users(tmp_path: Path) -> None:
    made = Listened(tmp_path)
    os.close(made.stream.open(65534, 65533))
    status = made.fifo.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65533, 0o600)
    os.close(made.end)
    made.stream.close()
    made.loop.close()


def test_without_a_writer_the_loop_sleeps(listened: Listened) -> None:
    """A FIFO whose last writer is gone reports a hang-up for ever, unless the reader is a writer as well."""
    os.write(listened.end, b"x\n")
    os.close(listened.end)
    listened.loop.turn()
    start = time.monotonic()
    listened.loop.deadline("end", start + 0.05, lambda: None)
    listened.loop.turn()
    assert time.monotonic() >= start + 0.05
    listened.end = listened.stream.open(os.getuid(), os.getgid())


def test_a_flood_is_slowed_down(listened: Listened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond RATE bytes a second the stream is not looked at, and its writer waits in the full pipe."""
    chunk = b"f" * 4096
    listened.stream.close()
    monkeypatch.setattr(logs, "RATE", 2 * len(chunk))
    listened.stream = Stream(str(listened.fifo), str(listened.path), listened.loop, listened.said.append)
    os.close(listened.end)
    listened.end = listened.stream.open(os.getuid(), os.getgid())
    start = time.monotonic()
    for _ in range(2):
        os.write(listened.end, chunk)
        listened.turns(1)
    os.write(listened.end, chunk)
    listened.turns(5)
    assert listened.path.stat().st_size == 2 * len(chunk)
    while listened.path.stat().st_size < 3 * len(chunk):
        listened.loop.turn()
    assert time.monotonic() >= start + 1


def test_drain_takes_all_of_a_pipe_that_was_enlarged(listened: Listened) -> None:
    size = fcntl.fcntl(listened.end, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.write(listened.end, b"d" * size)
    listened.stream.drain()
    assert listened.path.stat().st_size == size


def test_drain_ends_although_somebody_writes_on(listened: Listened) -> None:
    """An ended application may have passed its end of the pipe to a neighbour."""
    with subprocess.Popen(["cat", "/dev/zero"], stdout=listened.end) as neighbour:
        while listened.path.stat().st_size < 1 << 20:
            listened.stream.drain()
        neighbour.kill()


def test_a_lost_stream_says_so_once_and_again_when_it_writes(listened: Listened) -> None:
    """The limit of a file's size stands for a full disk, which is in test_supervisor_streams."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    for _ in range(3):
        os.write(listened.end, b"lost\n")
        listened.turns(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    os.write(listened.end, b"kept\n")
    listened.turns(1)
    assert listened.path.read_bytes() == b"kept\n"
    assert listened.said == [
        f"cannot write {listened.path}: File too large; output is lost until it can be written",
        f"{listened.path}: writing again",
    ]
