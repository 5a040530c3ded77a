"""What the readers of /proc, of notifications and of HTTP make of any text: an answer, never an exception."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lithos_runner.supervisor.readiness import http, listening, notifications, proc, threads
from lithos_runner.supervisor.readiness.listening import EPOLLET, EPOLLONESHOT, Entry

EPOLL_SET = b"""\
pos:\t0
flags:\t02000002
mnt_id:\t17
ino:\t1038
tfd:        6 events: 8000201d data: 3fe4cd0b0f000001  pos:0 ino:170ed4 sdev:9
tfd:        8 events:       19 data:           9a6940  pos:0 ino:40e sdev:10
tfd:        9 events:       19 data:                9  pos:0 ino:170ed4 sdev:9
"""
RING = b"SqMask:\t0x3\nUserBufs:\t0\nPollList:\n%sCqOverflowList:\n  user_data=0, res=0, flags=0\n"

# Text like that of the kernel with mistakes in it finds more than noise does.
_PIECES = [b"tfd:", b"events:", b"ino:", b" ino:40e sdev:", b"19", b"-1", b"0x", b"running", b"\n", b" ", b"\t", b"\0"]
_PIECES += [b"0::/", b"READY=1", b"HTTP/1.1 ", b"200", b"PollList:\n", b"op=13,", b"socket:[", b"]", b"\xff"]
texts = st.one_of(st.binary(), st.lists(st.sampled_from(_PIECES)).map(b"".join))


@given(texts)
def test_no_text_is_too_strange(text: bytes) -> None:
    threads.parse(text)
    list(threads.polled(text))
    listening.header(text, b"ino")
    list(listening.entries(text, 0x40E))
    listening.accepts(text)
    notifications.parse(text)
    notifications.unified(text)
    http.fault(text)
    string = text.decode("latin-1")
    proc.socket_inode(string)
    notifications.seconds({"WATCHDOG_USEC": string}, "WATCHDOG_USEC")


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.binary(max_size=40))))
def test_no_control_message_is_too_strange(control: list[tuple[int, int, bytes]]) -> None:
    sender = notifications.sender_of(control)
    assert sender.pidfd is None or sender.pidfd >= 0


@given(st.sets(st.integers(0, 2000)), st.integers(0, 2048))
def test_a_select_set_is_read_as_it_was_written(descriptors: set[int], count: int) -> None:
    bitmap = sum(1 << descriptor for descriptor in descriptors).to_bytes(256, "little")
    assert set(threads.selected(bitmap, count)) == {descriptor for descriptor in descriptors if descriptor < count}


@given(st.lists(st.tuples(st.integers(-1, 2000), st.integers(0, 0xFFFF))), st.binary(max_size=7))
def test_a_poll_array_is_read_as_it_was_written(polled: list[tuple[int, int]], torn: bytes) -> None:
    array = b"".join(struct.pack("iHH", descriptor, events, 0xFFFF) for descriptor, events in polled) + torn
    assert list(threads.polled(array)) == [fd for fd, events in polled if fd >= 0 and events & 0x41]


@pytest.mark.parametrize(
    ("text", "call"),
    [
        (b"running\n", None),
        (b"-1 0x7ffd 0x7f0c\n", None),
        (b"", None),
        (b"232 0x4 0x7ffe 0x3 0xffffffff 0x0 0x0 0x7ffe 0x7f0c\n", (232, (4, 0x7FFE, 3, 0xFFFFFFFF, 0, 0))),
    ],
)
def test_the_system_call_of_a_thread(text: bytes, call: tuple[int, tuple[int, ...]] | None) -> None:
    assert threads.parse(text) == call


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_each_number_is_one_call(machine: str) -> None:
    column = ("x86_64", "aarch64").index(machine)
    numbers = [calls[column] for calls in threads._CALLS.values() if calls[column] is not None]
    assert len(threads.readers(machine)) == len(numbers)


def test_the_entries_of_an_epoll_set() -> None:
    assert listening.header(EPOLL_SET, b"ino") == 1038
    assert list(listening.entries(EPOLL_SET, 0x170ED4)) == [Entry(6, 0x8000201D), Entry(9, 0x19)]
    assert list(listening.entries(EPOLL_SET, 1038)) == [Entry(8, 0x19)]
    assert list(listening.entries(EPOLL_SET, 0x70ED4)) == [], "not the end of another number"
    assert list(listening.entries(EPOLL_SET, None)) == []


@pytest.mark.parametrize(
    ("mode", "proves"),
    [(0, True), (EPOLLET, False), (EPOLLONESHOT, True), (EPOLLET | EPOLLONESHOT, True)],
)
def test_which_interest_proves_that_somebody_accepts(mode: int, proves: bool) -> None:
    assert Entry(6, 0x19 | mode).proves is proves


@pytest.mark.parametrize(
    ("pending", "accepts"),
    [(b"", False), (b"  op=13, task_works=0\n", True), (b"  op=6, task_works=0\n", False), (b"  op=130, t\n", False)],
)
def test_a_pending_accept_of_an_io_uring(pending: bytes, accepts: bool) -> None:
    assert listening.accepts(RING % pending) is accepts


@pytest.mark.parametrize(
    ("target", "inode"),
    [("socket:[812]", 812), ("socket:[]", None), ("pipe:[812]", None), ("/socket:[812]", None), ("", None)],
)
def test_the_inode_of_a_socket(target: str, inode: int | None) -> None:
    assert proc.socket_inode(target) == inode


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"READY=1", {"READY": "1"}),
        (b"READY=1\nSTATUS=a = b\n", {"READY": "1", "STATUS": "a = b"}),
        (b"STATUS=", {"STATUS": ""}),
        (b"STATUS=1\nSTATUS=2", {"STATUS": "1"}),
        (b"READY\n=1\n\n", {}),
        (b"READY=1\0", {}),
        (b"STATUS=\xff\x1b[2J", {"STATUS": "�\x1b[2J"}),
    ],
)
def test_a_message(data: bytes, message: dict[str, str]) -> None:
    assert notifications.parse(data) == message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1500000", 1.5), ("0", 0.0), ("", None), ("-1", None), ("1e6", None), ("٣", None), ("9" * 21, None)],
)
def test_a_time_in_microseconds(text: str, seconds: float | None) -> None:
    assert notifications.seconds({"EXTEND_TIMEOUT_USEC": text}, "EXTEND_TIMEOUT_USEC") == seconds
    assert notifications.seconds({}, "EXTEND_TIMEOUT_USEC") is None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b"0::/lithos.slice/run/hello.0\n", "/lithos.slice/run/hello.0"),
        (b"4:memory:/user\n1:name=systemd:/\n0::/a\n", "/a"),
        (b"0::/a (deleted)\n", "/a"),
        (b"0::/\n", "/"),
        (b"4:memory:0::/user\n", None),
        (b"", None),
    ],
)
def test_the_cgroup_of_a_sender(text: bytes, path: str | None) -> None:
    assert notifications.unified(text) == path


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"HTTP/1.1 200 OK\r\n", None),
        (b"HTTP/1.0 399\n", None),
        (b"HTTP/1.1 204 No Content\r\nServer: x\r\n", None),
        (b"HTTP/1.1 199 x\r\n", "was answered with status 199"),
        (b"HTTP/1.1 400 Bad Request\r\n", "was answered with status 400"),
        (b"HTTP/1.1 503 Service Unavailable\r\n", "was answered with status 503"),
        (b"HTTP/1.1 2000 x\r\n", "was not answered in HTTP"),
        (b"HTTP/1.1 20\r\n", "was not answered in HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "was not answered in HTTP"),
        (b"", "was not answered: the connection was closed"),
    ],
)
def test_the_beginning_of_an_answer(answer: bytes, fault: str | None) -> None:
    assert http.fault(answer) == fault
