"""UNIX sockets: mode and owner, what is in their place, whose directories they may be in, and that they are removed."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from open_listeners import Opened, accept_all, connect

from lithos_runner.supervisor.desired import Port
from lithos_runner.supervisor.listeners import ListenFailed

if TYPE_CHECKING:
    from collections.abc import Callable

NOBODY = 65534


@pytest.fixture
def port(tmp_path: Path) -> Port:
    return Port("unix", 3, "app.sock", path=str(tmp_path / "app.sock"))


def status(port: Port) -> tuple[str, int, int]:
    found = Path(port.path).lstat()
    return stat.filemode(found.st_mode), found.st_uid, found.st_gid


def test_a_socket_is_there_and_answers(opened: Opened, port: Port) -> None:
    opened.open(port)
    with connect(port):
        assert len(accept_all(opened.descriptor(port))) == 1
    assert status(port) == ("srw-rw-rw-", 0, 0)
    with opened.duplicate(port) as theirs:
        assert theirs.getsockname() == port.path


@pytest.mark.parametrize("umask", [0, 0o077])
def test_mode_and_owner_are_the_configurations_whatever_the_umask(opened: Opened, port: Port, umask: int) -> None:
    before = os.umask(umask)
    try:
        opened.open(port._replace(mode=0o620, user=1000, group=1001))
    finally:
        os.umask(before)
    assert status(port) == ("srw--w----", 1000, 1001)


def test_mode_and_owner_change_on_the_living_socket(opened: Opened, port: Port) -> None:
    opened.open(port)
    with connect(port):
        assert opened.listeners.keep([port._replace(mode=0o600, user=NOBODY, group=5)]) == []
        assert len(accept_all(opened.descriptor(port))) == 1
    assert status(port) == ("srw-------", NOBODY, 5)


def test_a_socket_whose_file_was_exchanged_is_not_changed_and_that_is_said(opened: Opened, port: Port) -> None:
    """The directory may be an application's, and the link would lead chmod(2) to a file of the host."""
    opened.open(port)
    victim = Path(port.path).with_name("victim")
    victim.write_text("")
    victim.chmod(0o600)
    Path(port.path).unlink()
    Path(port.path).symlink_to(victim)
    opened.listeners.keep([port._replace(mode=0o777, user=NOBODY)])
    assert (stat.S_IMODE(victim.stat().st_mode), victim.stat().st_uid) == (0o600, 0)
    assert opened.said == [
        f"{port.path}: cannot change the open socket: somebody has put another file in its place; it stays as it was"
    ]


def test_it_is_removed_when_it_is_not_wanted_any_more(opened: Opened, port: Port) -> None:
    opened.open(port)
    opened.listeners.keep([])
    assert not Path(port.path).exists()


def test_what_has_taken_its_place_is_not_removed(opened: Opened, port: Port) -> None:
    opened.open(port)
    Path(port.path).unlink()
    Path(port.path).write_text("not ours")
    opened.listeners.close()
    assert Path(port.path).read_text() == "not ours"


def test_that_its_directory_is_gone_does_no_harm(opened: Opened, tmp_path: Path) -> None:
    directory = tmp_path / "sockets"
    directory.mkdir()
    opened.open(Port("unix", 3, "app", path=str(directory / "app.sock")))
    (directory / "app.sock").unlink()
    directory.rmdir()
    opened.listeners.close()


# What is there already


def test_a_socket_that_a_killed_supervisor_has_left_is_replaced(opened: Opened, port: Port) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(port.path)
        left.listen()
    opened.open(port)
    connect(port).close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_socket_that_somebody_has_is_not_replaced(opened: Opened, port: Port, kind: int) -> None:
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(port.path)
        if kind != socket.SOCK_DGRAM:
            other.listen(0)
        before = Path(port.path).stat()
        with pytest.raises(ListenFailed) as caught:
            opened.open(port)
        assert str(caught.value) == (
            f"cannot listen on {port.path}: another process listens there; stop it or take another path"
        )
        assert os.path.samestat(Path(port.path).stat(), before)


def test_not_even_when_its_queue_is_full(opened: Opened, port: Port) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(port.path)
        other.listen(0)
        with connect(port), pytest.raises(ListenFailed, match="another process listens there"):
            opened.open(port)


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("/nonexistent")])
def test_what_is_no_socket_is_never_replaced(opened: Opened, port: Port, make: Callable[[Path], None]) -> None:
    make(Path(port.path))
    before = Path(port.path).lstat()
    with pytest.raises(ListenFailed, match="there is a file that is no socket; remove it or take another path"):
        opened.open(port)
    assert os.path.samestat(Path(port.path).lstat(), before)


# Where it may be


def test_the_directory_must_be_there(opened: Opened, tmp_path: Path) -> None:
    with pytest.raises(ListenFailed, match="No such file or directory; the directory must be there before the socket"):
        opened.open(Port("unix", 3, "app", path=str(tmp_path / "missing" / "app.sock")))


def test_the_last_directory_may_be_the_applications(opened: Opened, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    port = Port("unix", 3, "app", path=str(directory / "app.sock"))
    opened.open(port)
    connect(port).close()


@pytest.mark.parametrize(
    ("mode", "owner", "below", "safe"),
    [
        (0o755, NOBODY, 0, False),
        (0o777, 0, 0, False),
        (0o775, 0, 0, False),
        (0o1777, 0, 0, True),
        (0o1777, 0, NOBODY, False),
        (0o755, 0, NOBODY, True),
    ],
)
def test_nobody_else_may_be_able_to_exchange_a_directory_of_the_path(
    opened: Opened, tmp_path: Path, mode: int, owner: int, below: int, safe: bool
) -> None:
    """Or root would be led by a link to make a file, and to give it away, where they like."""
    above = tmp_path / "above"
    directory = above / "sockets"
    directory.mkdir(parents=True)
    above.chmod(mode)
    os.chown(above, owner, 0)
    os.chown(directory, below, 0)
    port = Port("unix", 3, "app", path=str(directory / "app.sock"))
    if safe:
        opened.open(port)
        connect(port).close()
    else:
        with pytest.raises(ListenFailed) as caught:
            opened.open(port)
        assert str(caught.value) == (
            f"cannot listen on {port.path}: others than root can exchange 'sockets' in {above}; "
            "only the last directory of the path can be theirs"
        )
        assert list(directory.iterdir()) == []


def test_roots_own_links_are_followed(opened: Opened, tmp_path: Path) -> None:
    """As /var/run is one."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    port = Port("unix", 3, "app", path=str(tmp_path / "link" / "app.sock"))
    opened.open(port)
    connect(port).close()
    opened.listeners.close()
    assert list((tmp_path / "real").iterdir()) == []


# Shut down by an instance


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_RDWR])
def test_a_shut_down_socket_is_replaced_as_the_kernel_has_no_way_back(opened: Opened, port: Port, how: int) -> None:
    opened.open(port)
    with opened.duplicate(port) as theirs:
        theirs.shutdown(how)
        with pytest.raises(ConnectionRefusedError):
            connect(port)
        opened.turn()
    connect(port).close()
    assert len(accept_all(opened.descriptor(port))) == 1
    what = "instances that start from now on have a new one; restart the others"
    assert opened.said == [f"{port.path}: an instance shut the listening socket down; {what}"]
    opened.listeners.close()
    assert not Path(port.path).exists()


def test_inodes_are_those_of_the_socket_not_of_its_file(opened: Opened, port: Port) -> None:
    opened.open(port)
    assert opened.listeners.inodes([port], "run/web.0") == {os.fstat(opened.descriptor(port)).st_ino}
