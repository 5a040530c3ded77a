"""Who could have written a file; needs root, as every test here that gives files away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lithos_runner.config import check_ownership

STRANGER = 65534


@pytest.fixture
def file() -> Iterator[Path]:
    # Not tmp_path: its parents are closed to the stranger.
    with TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # noqa: S103 - the normal mode of a directory in /etc
        file = Path(directory, "app.yaml")
        file.write_text("executable: /a\n")
        file.chmod(0o644)
        yield file


def reasons(file: Path) -> list[str]:
    errors = check_ownership(str(file))
    assert all(error[:4] == (str(file), 1, 1, "") for error in errors)
    return [error.message.replace(str(file.parent), "ETC") for error in errors]


def test_a_file_of_this_user(file: Path) -> None:
    assert reasons(file) == []


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write(file: Path, mode: int) -> None:
    file.chmod(mode)

    assert reasons(file) == [f"ETC/app.yaml is writable by group or others (mode {mode:04o}): run chmod go-w on it"]


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_directory_that_others_may_write(file: Path, mode: int) -> None:
    file.parent.chmod(mode)

    assert reasons(file) == [f"ETC is writable by group or others (mode {mode:04o}): run chmod go-w on it"]


def test_a_sticky_directory_keeps_others_from_replacing_the_file(file: Path) -> None:
    file.parent.chmod(0o1777)

    assert reasons(file) == []


def test_sticky_means_nothing_on_a_file(file: Path) -> None:
    file.chmod(0o1666)

    assert reasons(file) == ["ETC/app.yaml is writable by group or others (mode 1666): run chmod go-w on it"]


def test_a_file_and_a_directory_of_somebody_else(file: Path) -> None:
    for place in (file, file.parent):
        os.chown(place, STRANGER, STRANGER)

    assert reasons(file) == [
        f"ETC belongs to uid {STRANGER}, who could change what runs: chown it to 0",
        f"ETC/app.yaml belongs to uid {STRANGER}, who could change what runs: chown it to 0",
    ]


def test_the_effective_user_trusts_itself_and_root(file: Path) -> None:
    os.chown(file, STRANGER, STRANGER)
    os.seteuid(STRANGER)
    try:
        assert reasons(file) == []
    finally:
        os.seteuid(0)


def test_both_ends_of_a_symbolic_link_count(file: Path, tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.mkdir()
    target = file.rename(far / "target.yaml")
    file.symlink_to(target)
    assert reasons(file) == []

    far.chmod(0o777)
    file.parent.chmod(0o777)

    assert reasons(file) == [
        "ETC is writable by group or others (mode 0777): run chmod go-w on it",
        f"{far} is writable by group or others (mode 0777): run chmod go-w on it",
    ]


def test_a_missing_file(file: Path) -> None:
    file.unlink()

    assert reasons(file) == ["cannot look at ETC/app.yaml: No such file or directory"]
