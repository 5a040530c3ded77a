"""Reading files that somebody hostile prepared: nothing outside of the image, no device, no FIFO, no flood."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lithos_runner.config import check_container, files, load_container
from lithos_runner.config.errors import ConfigErrors, Error
from lithos_runner.config.files import MAX_BYTES, HostFiles, RootedFiles, Unreadable, read_file
from lithos_runner.config.ownership import check_mode

SECRET = "root:$6$secret"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image, and beside it a file of the host that must not be read."""
    (tmp_path / "shadow").write_text(SECRET)
    image = tmp_path / "images" / "web"
    (image / "config").mkdir(parents=True)
    return image


def read(image: Path, path: str = "/config/app.yaml") -> str:
    with RootedFiles(str(image.parent), below=image.name) as inside:
        return inside.read(path, [])


def refusal(image: Path, path: str = "/config/app.yaml") -> str:
    with pytest.raises(Unreadable) as caught:
        read(image, path)
    return str(caught.value).removeprefix(f"{image}")


def test_a_plain_file(image: Path) -> None:
    (image / "config/app.yaml").write_text("\ufeffexecutable: /é\n")

    assert read(image) == read(image, "config/../config/app.yaml") == "executable: /é\n"


MISSING = "/config/app.yaml:1:1: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    "link",
    ["{host}/shadow", "../../../shadow", "../../../../../../../../../..{host}/shadow", "/proc/self/root{host}/shadow"],
)
def test_links_end_in_the_image(image: Path, link: str, tmp_path: Path) -> None:
    (image / "config/app.yaml").symlink_to(link.format(host=tmp_path))

    assert refusal(image) == MISSING


def test_the_hosts_shadow_is_the_images(image: Path) -> None:
    """An absolute link is as harmless as it is in the running container."""
    (image / "etc").mkdir()
    (image / "etc/shadow").write_text("of the image")
    (image / "config/app.yaml").symlink_to("/etc/shadow")

    assert read(image) == "of the image"


@pytest.mark.parametrize("path", ["/../../shadow", "../../shadow", "/config/../../../shadow", "{host}/shadow"])
def test_paths_end_in_the_image(image: Path, path: str, tmp_path: Path) -> None:
    assert refusal(image, path.format(host=tmp_path)).endswith("cannot be read: No such file or directory")


def test_a_directory_that_is_a_link(image: Path, tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text(SECRET)
    (image / "config").rmdir()
    (image / "config").symlink_to(tmp_path)

    assert refusal(image) == MISSING


@pytest.mark.usefixtures("image")
def test_magic_links_of_proc_are_not_followed(tmp_path: Path) -> None:
    """An image may hold a mounted /proc, whose links lead anywhere."""
    with (
        open(tmp_path / "shadow") as secret,
        RootedFiles("/proc/self") as inside,
        pytest.raises(Unreadable, match="Too many levels of symbolic links"),
    ):
        inside.read(f"fd/{secret.fileno()}", [])


def test_a_loop_of_links(image: Path) -> None:
    (image / "config/app.yaml").symlink_to("app.yaml")

    assert refusal(image) == "/config/app.yaml:1:1: cannot be read: Too many levels of symbolic links"


def test_a_fifo_is_not_waited_for(image: Path) -> None:
    os.mkfifo(image / "config/app.yaml")

    assert refusal(image) == "/config/app.yaml:1:1: is not a regular file"


def test_a_device_is_not_opened(image: Path) -> None:
    os.mknod(image / "config/app.yaml", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero

    assert refusal(image) == "/config/app.yaml:1:1: is not a regular file"


def test_a_directory(image: Path) -> None:
    (image / "config/app.yaml").mkdir()

    assert refusal(image) == "/config/app.yaml:1:1: cannot be read: Is a directory"


def test_a_huge_file_is_not_read(image: Path) -> None:
    with open(image / "config/app.yaml", "wb") as sparse:
        sparse.truncate(1 << 40)

    assert refusal(image) == f"/config/app.yaml:1:1: is larger than {MAX_BYTES} bytes"


@pytest.mark.parametrize("link", ["../shadow", "{host}", "/"])
def test_an_image_that_is_a_link_out_of_the_images(image: Path, link: str, tmp_path: Path) -> None:
    latest = image.parent / "latest"
    latest.symlink_to(link.format(host=tmp_path))

    with pytest.raises(OSError, match=r"Invalid cross-device link|Not a directory"):
        RootedFiles(str(image.parent), below="latest")


def test_an_image_that_is_a_link_to_another(image: Path) -> None:
    (image / "config/app.yaml").write_text("a: b")
    (image.parent / "latest").symlink_to("web")

    assert read(image.parent / "latest") == "a: b"


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """A process that exchanges two paths as fast as it can."""
    code = (
        "import ctypes, sys, os\n"
        "libc = ctypes.CDLL(None)\n"
        "one, other = map(os.fsencode, sys.argv[1:])\n"
        "os.write(1, b'.')\n"
        "while True: libc.renameat2(-100, one, -100, other, 2)\n"
    )
    reader, writer = os.pipe()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", code, str(one), str(other)],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)],
    )
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"."
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)


def attempts(read_once: object, seconds: float = 1.0) -> Iterator[str]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            yield read_once()  # type: ignore[operator]
        except ConfigErrors as error:
            yield str(error)


def test_a_directory_swapped_during_the_read(image: Path, tmp_path: Path) -> None:
    """A path of `..` through a directory that is a link to the host every other moment."""
    (tmp_path / "app.yaml").write_text(SECRET)
    (image / "config/app.yaml").write_text("of the image")
    (image / "decoy").symlink_to(tmp_path)
    with swapping(image / "config", image / "decoy"):
        found = set(attempts(lambda: read(image)))

    assert found <= {"of the image", *(f"{image}{end}" for end in (MISSING, RETRY))}
    assert "of the image" in found


RETRY = "/config/app.yaml:1:1: cannot be read: Resource temporarily unavailable"


def test_the_swap_reaches_the_host_where_nothing_protects(image: Path, tmp_path: Path) -> None:
    """The test above can fail: the same race wins against open(2)."""
    (tmp_path / "app.yaml").write_text(SECRET)
    (image / "config/app.yaml").write_text("of the image")
    (image / "decoy").symlink_to(tmp_path)
    with swapping(image / "config", image / "decoy"):
        found = attempts(lambda: read_file(str(image / "config/app.yaml")), seconds=30)

        assert any(text == SECRET for text in found)


def test_a_directory_listed_in_an_image(image: Path, tmp_path: Path) -> None:
    (image / "config/b").touch()
    (image / "config/a").touch()
    (image / "out").symlink_to(tmp_path)
    with RootedFiles(str(image)) as inside:
        assert inside.names("/config") == ["a", "b"]
        assert inside.names("../../config/..") == ["config", "out"]
        with pytest.raises(FileNotFoundError):
            inside.names("/out")


def test_a_directory_of_too_many_files(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_NAMES", 2)
    for name in "ab":
        (image / "config" / name).touch()
    with RootedFiles(str(image)) as inside:
        assert inside.names("config") == ["a", "b"]
        (image / "config/c").touch()
        with pytest.raises(OSError, match="the directory has more than 2 entries"):
            inside.names("config")


def test_no_descriptor_is_left_open(image: Path) -> None:
    (image / "config/app.yaml").write_text("a: b")
    before = os.listdir("/proc/self/fd")
    read(image)
    refusal(image, "/missing")
    refusal(image, "/config")
    with pytest.raises(FileNotFoundError):
        RootedFiles(str(image.parent), below="missing")

    assert os.listdir("/proc/self/fd") == before


def test_an_old_race_is_tried_again(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel asks for it with EAGAIN, see openat2(2)."""
    (image / "config/app.yaml").write_text("a: b")
    real = files._libc
    refusals = [3]

    class Libc:
        @staticmethod
        def syscall(*arguments: object) -> int:
            if refusals[0]:
                refusals[0] -= 1
                files.ctypes.set_errno(files.errno.EAGAIN)
                return -1
            return int(real.syscall(*arguments))

    monkeypatch.setattr(files, "_libc", Libc)

    assert read(image) == "a: b"
    assert refusals == [0]


# Ownership


def distrust(source: HostFiles | RootedFiles, path: str) -> list[str]:
    errors: list[Error] = []
    source.read(path, errors)
    return [str(error) for error in errors]


def test_who_may_write_a_file_counts_where_it_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: b")
    file.chmod(0o666)
    message = f"{file}:1:1: {file} is writable by group or others (mode 0666): run chmod go-w on it"

    assert distrust(HostFiles(secure=True), str(file)) == [message]
    assert distrust(HostFiles(secure=False), str(file)) == []
    with RootedFiles(str(tmp_path), distrust=check_mode) as inside:
        assert distrust(inside, "a.yaml") == [message]
    with RootedFiles(str(tmp_path)) as inside:
        assert distrust(inside, "a.yaml") == []


def test_files_of_an_image_may_belong_to_anybody(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: b")
    os.chown(file, 100_000, 100_000)

    with RootedFiles(str(tmp_path), distrust=check_mode) as inside:
        assert distrust(inside, "a.yaml") == []


@pytest.mark.parametrize("place", ["parts/a.yaml", "parts"])
def test_run_trusts_nothing_it_includes_that_others_could_write(tmp_path: Path, place: str) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/a.yaml").write_text("/a")
    file = tmp_path / "app.yaml"
    file.write_text("executable: !*Include parts/a.yaml\n")
    assert load_container(str(file)).executable == "/a"

    (tmp_path / place).chmod(0o777)

    assert check_container(str(file)).executable == "/a"
    with pytest.raises(ConfigErrors, match="is writable by group or others"):
        load_container(str(file))


def test_a_missing_file_has_one_error(tmp_path: Path) -> None:
    errors: list[Error] = []
    with pytest.raises(Unreadable):
        HostFiles(secure=True).read(str(tmp_path / "none"), errors)

    assert errors == []
