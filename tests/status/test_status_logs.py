from __future__ import annotations

import os
from itertools import chain
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lithos_runner.status import logs
from lithos_runner.status.logs import Follower, Log, all_lines, find_logs, harmless, last_lines

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def log(tmp_path: Path) -> Log:
    (tmp_path / "run").mkdir()
    return Log("run/hello.0", "stdout", str(tmp_path / "run" / "hello.0.stdout"))


def write(log: Log, text: str) -> None:
    with open(log.path, "a") as file:
        file.write(text)


def rotate(log: Log) -> None:
    """What the supervisor does: everything one number further, the oldest goes."""
    for number in range(logs.ROTATED, 0, -1):
        older = f"{log.path}.{number - 1}" if number > 1 else log.path
        if os.path.exists(older):
            os.rename(older, f"{log.path}.{number}")


def numbered(numbers: range) -> list[bytes]:
    return [b"%d\n" % number for number in numbers]


class TestFind:
    def test_files_are_found_in_the_order_of_instances(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        names = ("b.10.stdout", "b.2.stderr", "b.2.stdout", "a.0.stdout.3", "notes.txt", "stdout", "x.log.1")
        for name in names:
            (tmp_path / "run" / name).touch()
        (tmp_path / "stray").touch()
        assert [(log.instance, log.stream) for log in find_logs(str(tmp_path))] == [
            ("run/a.0", "stdout"),
            ("run/b.2", "stdout"),
            ("run/b.2", "stderr"),
            ("run/b.10", "stdout"),
        ]

    def test_there_may_be_none(self, tmp_path: Path) -> None:
        assert find_logs(str(tmp_path / "missing")) == []


class TestLines:
    def test_all_of_them_the_oldest_first(self, log: Log) -> None:
        for number in range(7):
            write(log, f"{number}\n")
            rotate(log)
        write(log, "last")
        assert [*all_lines(log)] == [b"2\n", b"3\n", b"4\n", b"5\n", b"6\n", b"last\n"]

    @pytest.mark.parametrize("count", [0, 1, 3, 4, 8, 100])
    def test_the_last_ones_reach_into_rotated_files(self, log: Log, count: int) -> None:
        write(log, "0\n1\n2\n3\n")
        rotate(log)
        write(log, "4\n5\n6\n7\n")
        assert last_lines(log, count) == numbered(range(max(0, 8 - count), 8))

    @given(
        st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b"\r"))),
        st.integers(0, 12),
        st.booleans(),
        st.integers(1, 20),
    )
    def test_the_last_ones_are_the_end_of_all(
        self, tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], count: int, ended: bool, block: int
    ) -> None:
        path = tmp_path_factory.mktemp("log") / "x"
        path.write_bytes(b"\n".join(lines) + (b"\n" if lines and ended else b""))
        log = Log("run/x.0", "stdout", str(path))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logs, "BLOCK", block)
            every = [*all_lines(log)]
            assert last_lines(log, count) == every[len(every) - min(count, len(every)) :]


class TestFollower:
    def test_it_begins_with_the_last_lines(self, log: Log) -> None:
        write(log, "0\n1\n2\n")
        assert [*Follower(log, 2).lines()] == [b"1\n", b"2\n"]

    def test_half_a_line_waits_for_its_end(self, log: Log) -> None:
        write(log, "0\nha")
        follower = Follower(log, 10)
        assert [*follower.lines()] == [b"0\n"]
        write(log, "lf")
        assert [*follower.lines()] == []
        write(log, " a line\nnext\n")
        assert [*follower.lines()] == [b"half a line\n", b"next\n"]

    def test_a_line_without_an_end_is_shown_in_parts(self, log: Log) -> None:
        write(log, "")
        follower = Follower(log, 10)
        write(log, "x" * (logs.BLOCK + 1))
        assert [*follower.lines()] == [b"x" * (logs.BLOCK + 1) + b"\n"]

    @pytest.mark.parametrize("rotations", [1, 2, 5])
    def test_nothing_is_lost_or_shown_twice_over_rotations(self, log: Log, rotations: int) -> None:
        write(log, "0\n")
        follower = Follower(log, 10)
        for number in range(rotations):
            write(log, f"{number + 1}\n")
            rotate(log)
        write(log, f"{rotations + 1}\n")
        assert [*follower.lines()] == numbered(range(rotations + 2))
        assert [*follower.lines()] == []

    def test_between_rename_and_creation_it_goes_on(self, log: Log) -> None:
        write(log, "0\n")
        follower = Follower(log, 10)
        rotate(log)
        assert [*follower.lines()] == [b"0\n"]
        write(log, "1\n")
        assert [*follower.lines()] == [b"1\n"]

    def test_a_file_emptied_in_place_is_read_from_its_start(self, log: Log) -> None:
        write(log, "a long line\n")
        follower = Follower(log, 10)
        assert [*follower.lines()] == [b"a long line\n"]
        os.truncate(log.path, 0)
        write(log, "new\n")
        assert [*follower.lines()] == [b"new\n"]

    def test_a_file_that_comes_later_is_read_whole(self, log: Log) -> None:
        follower = Follower(log, 10)
        assert [*follower.lines()] == []
        write(log, "0\n1\n")
        assert [*follower.lines()] == numbered(range(2))

    @given(st.lists(st.sampled_from(["write", "half", "rotate", "look"]), max_size=25))
    def test_whatever_happens_every_line_comes_once(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[str]
    ) -> None:
        log = Log("run/x.0", "stdout", str(tmp_path_factory.mktemp("log") / "x"))
        write(log, "")
        follower = Follower(log, 0)
        seen: list[bytes] = []
        written = ""
        rotations = 0
        for number, step in enumerate(chain(steps, ["write", "look"])):
            if step == "look" or (step == "rotate" and rotations == logs.ROTATED):
                seen += follower.lines()
                rotations = 0
            if step == "rotate":
                # The supervisor rotates between lines only.
                if not written.endswith("\n") and written:
                    write(log, "\n")
                    written += "\n"
                rotate(log)
                write(log, "")
                rotations += 1
            elif step in ("write", "half"):
                text = f"{number}\n" if step == "write" else f"{number},"
                write(log, text)
                written += text
        follower.close()
        assert b"".join(seen).decode() == written


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"plain\ttext\n", "plain\ttext\n"),
        ("größe ✓\n".encode(), "größe ✓\n"),
        (b"\x1b[1;31mred\n", "\x1b[1;31mred\x1b[0m\n"),
        (b"\x1b[2J\x1b]0;title\x07\n", "^[[2J^[]0;title^G\n"),
        (b"one\rtwo\r\n", "one^Mtwo\n"),
        ("\u009b2J\x7f\n".encode(), "\\x9b2J^?\n"),
        (b"\xff\x00\n", "\ufffd^@\n"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(line: bytes, shown: str) -> None:
    assert harmless(line).decode() == shown


@given(st.binary())
def test_only_colours_get_through_to_a_terminal(line: bytes) -> None:
    text = harmless(line).decode()
    rest = "".join(
        part[part.index("m") + 1 :] if part[0] == "[" else part for part in (" " + text).split("\x1b") if part
    )
    assert not any(ord(char) < 32 and char not in "\t\n" for char in rest)
    assert not any(0x7F <= ord(char) < 0xA0 for char in rest)
