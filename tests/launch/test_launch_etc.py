"""Files of /etc that are mounted over those of an image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from launch_stage import Stage, mounts

from lithos_runner.launch import volumes
from lithos_runner.launch.spec import EtcFile, Volume

TARGET = "/etc/hosts"


@pytest.fixture
def etc(image: Path) -> Path:
    (image / "etc/hosts").write_text("of the image\n")
    return image / "etc"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The file of the host that a sandbox names; only root may read it."""
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost\n")
    path.chmod(0o600)
    return path


def seen(stage: Stage, etc: Path, file: EtcFile, **changes: object) -> str:
    ended = stage.shell(f"cat {file.target}", root=str(etc.parent), etc=(file,), **changes)
    assert ended.failure is None, ended.failure
    return ended.stdout


@pytest.mark.parametrize("required", [True, False])
def test_a_file_is_the_hosts_and_the_text_behind_it(stage: Stage, etc: Path, source: Path, required: bool) -> None:
    assert seen(stage, etc, EtcFile(TARGET, str(source), "::1 app\n", required)) == "127.0.0.1 localhost\n::1 app\n"
    assert seen(stage, etc, EtcFile(TARGET, str(source), required=required)) == "127.0.0.1 localhost\n"
    assert seen(stage, etc, EtcFile(TARGET, text="::1 äpp\n", required=required)) == "::1 äpp\n"
    assert seen(stage, etc, EtcFile(TARGET, required=required)) == ""


def test_a_last_line_without_an_end_gets_one(stage: Stage, etc: Path, source: Path) -> None:
    source.write_text("127.0.0.1 localhost")
    assert seen(stage, etc, EtcFile(TARGET, str(source), "::1 app")) == "127.0.0.1 localhost\n::1 app"


def test_the_hosts_file_is_read_at_every_start(stage: Stage, etc: Path, source: Path) -> None:
    seen(stage, etc, EtcFile(TARGET, str(source)))
    source.write_text("another\n")
    assert seen(stage, etc, EtcFile(TARGET, str(source))) == "another\n"


@pytest.mark.parametrize("uid", [0, 65534])
def test_it_is_read_only_and_leaves_the_image_alone(stage: Stage, etc: Path, source: Path, uid: int) -> None:
    script = f"cat /proc/self/mountinfo; echo x > {TARGET}; chmod 0 {TARGET}; {{ echo x > /etc/new; }}"
    ended = stage.shell(script, root=str(etc.parent), etc=(EtcFile(TARGET, str(source)),), uid=uid)
    assert mounts(ended.stdout)[TARGET].options == {"ro", "nosuid", "nodev", "noexec"}
    assert ended.stderr.count("Read-only file system") + ended.stderr.count("Permission denied") == 3
    assert ((etc / "hosts").read_text(), source.read_text()) == ("of the image\n", "127.0.0.1 localhost\n")


def test_files_are_in_the_state_directory_too(stage: Stage, etc: Path, source: Path) -> None:
    """Older images of lithos link to them there; a read-only mount of one does not protect the other's."""
    (etc.parent / "state").mkdir()
    (etc / "hosts").unlink()
    (etc / "hosts").symlink_to("/state/hosts")
    file = EtcFile(TARGET, str(source))
    assert seen(stage, etc, file, volumes=(Volume("/state", "state"),)) == "127.0.0.1 localhost\n"


def test_a_file_on_a_volume_is_mounted_over_like_one_of_the_image(stage: Stage, etc: Path, source: Path) -> None:
    volume = Volume("/etc", "bind", base=str(etc))
    assert seen(stage, etc, EtcFile(TARGET, str(source)), volumes=(volume,)) == "127.0.0.1 localhost\n"


# What else than a regular file an image may have there, and what an instance then finds.


def _missing(etc: Path) -> None:
    (etc / "hosts").unlink()


def _without_etc(etc: Path) -> None:
    _missing(etc)
    etc.rmdir()


def _link(etc: Path) -> None:
    _missing(etc)
    (etc.parent / "other").write_text("of the image\n")
    (etc / "hosts").symlink_to("/other")


def _linked_etc(etc: Path) -> None:
    etc.rename(etc.parent / "other")
    etc.symlink_to("other")


def _directory(etc: Path) -> None:
    _missing(etc)
    (etc / "hosts").mkdir()


def _fifo(etc: Path) -> None:
    _missing(etc)
    os.mkfifo(etc / "hosts")


def _file_as_etc(etc: Path) -> None:
    _without_etc(etc)
    etc.write_text("")


IRREGULAR = {
    "missing": _missing,
    "without /etc": _without_etc,
    "a link": _link,
    "a link as /etc": _linked_etc,
    "a directory": _directory,
    "a FIFO": _fifo,
    "a file as /etc": _file_as_etc,
}


@pytest.mark.parametrize("change", IRREGULAR.values(), ids=IRREGULAR)
def test_without_a_regular_file_nothing_is_mounted(stage: Stage, etc: Path, source: Path, change: object) -> None:
    change(etc)  # type: ignore[operator]
    ended = stage.shell("cat /proc/self/mountinfo", root=str(etc.parent), etc=(EtcFile(TARGET, str(source)),))
    assert ended.failure is None
    assert set(mounts(ended.stdout)) & {TARGET, "/other", "/other/hosts", "/etc"} == set()


@pytest.mark.parametrize("change", IRREGULAR.values(), ids=IRREGULAR)
def test_without_a_regular_file_a_required_one_is_an_error(
    stage: Stage, etc: Path, source: Path, change: object
) -> None:
    change(etc)  # type: ignore[operator]
    file = EtcFile(TARGET, str(source), required=True)
    ended = stage.shell("echo it ran", root=str(etc.parent), etc=(file,))
    assert ended.failure
    assert ended.failure.sentence.startswith("test/app.0: cannot mount a file on /etc/hosts: ")
    assert ended.failure.sentence.endswith("; the image must have a regular file there, in real directories")
    assert ended.stdout == ""


@pytest.mark.parametrize("link", ["{secret}", "/proc/self/fd/0", "../../../../../..{secret}"])
def test_a_link_to_a_file_of_the_host_leads_nowhere(stage: Stage, etc: Path, tmp_path: Path, link: str) -> None:
    """lithos ran as root on the host when it looked: a link that it followed would have been the host's file."""
    secret = tmp_path / "secret"
    secret.write_text("of the host\n")
    (etc / "hosts").unlink()
    (etc / "hosts").symlink_to(link.format(secret=secret))
    ended = stage.shell(f"cat {TARGET}", root=str(etc.parent), uid=0, etc=(EtcFile(TARGET, text="ours\n"),))
    assert ended.failure is None
    assert ended.stdout == ""
    assert secret.read_text() == "of the host\n"


# What cannot be copied


def test_as_much_as_is_allowed_is_copied(stage: Stage, etc: Path, source: Path) -> None:
    source.write_bytes(b"x" * volumes.MAX_ETC)
    assert len(seen(stage, etc, EtcFile(TARGET, str(source)))) == volumes.MAX_ETC


def test_more_is_an_error(stage: Stage, etc: Path, source: Path) -> None:
    source.write_bytes(b"x" * (volumes.MAX_ETC + 1))
    ended = stage.shell("echo it ran", root=str(etc.parent), etc=(EtcFile(TARGET, str(source)),))
    assert ended.failure
    assert ended.failure.sentence == (
        f"test/app.0: cannot read {source} for /etc/hosts: File too large; at most 1 MiB is copied"
    )


def test_a_file_that_the_host_has_not_is_an_error_even_if_nothing_would_be_mounted(stage: Stage, etc: Path) -> None:
    (etc / "hosts").unlink()
    ended = stage.shell("echo it ran", root=str(etc.parent), etc=(EtcFile(TARGET, "/none"),))
    assert ended.failure
    assert ended.failure.sentence == (
        "test/app.0: cannot read /none for /etc/hosts: No such file or directory; "
        "create it on the host, or set `copy-from-host: false`"
    )


def test_a_fifo_of_the_host_is_not_waited_for(stage: Stage, etc: Path, source: Path) -> None:
    source.unlink()
    os.mkfifo(source)
    assert seen(stage, etc, EtcFile(TARGET, str(source), "text\n")) == "text\n"
