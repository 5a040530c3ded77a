"""Traps in images and on volumes: links in the place of mount points, of directories and of files to write to."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from launch_stage import Privately, Stage, mounts

from lithos_runner.launch import kernel, trees
from lithos_runner.launch.launcher import RootUnusable
from lithos_runner.launch.spec import LaunchSpec, Volume

OUTSIDE = "a symbolic link leads out of the directory that the administrator named"
OURS = "that is, or the image links it to, a place where lithos mounts something itself"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory that an application can write to, beside one that it cannot."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/file").write_text("of the host\n")
    directory = tmp_path / "host"
    directory.mkdir()
    directory.chmod(0o777)
    return directory


def volume(host: Path, below: str = "", **fields: object) -> Volume:
    return Volume("/data", "bind", base=str(host), below=below, **fields)  # type: ignore[arg-type]


@pytest.fixture
def rooted(image: Path) -> Path:
    (image / "data").mkdir()
    return image


# Mount points

PLACES = ("/", "/proc", "/sys", "/sys/kernel", "/sys/fs/cgroup", "/dev", "/dev/pts", "/dev/shm", "/tmp")
VOLUMES = {
    "bind": Volume("/link", "bind", writable=True),
    "tmpfs": Volume("/link", "tmpfs"),
    "state": Volume("/link", "state"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("up", ["", "../../../.."])
@pytest.mark.parametrize("kind", VOLUMES)
def test_a_mount_point_that_leads_to_mounts_of_ours(
    stage: Stage, image: Path, host: Path, kind: str, up: str, place: str
) -> None:
    """Protects /sys and /dev from being covered by files of the application, and volumes from being covered."""
    (image / "link").symlink_to(up + place)
    ended = stage.shell("echo it ran", root=str(image), uid=0, volumes=(VOLUMES[kind]._replace(base=str(host)),))
    assert ended.failure
    assert ended.failure.sentence == (f"test/app.0: cannot mount the volume /link: {os.strerror(errno.EBUSY)}; {OURS}")
    assert ended.stdout == ""


@pytest.mark.parametrize("place", ["/proc", "/sys/kernel", "/dev", "/dev/pts"])
def test_a_mount_point_of_ours(stage: Stage, image: Path, place: str) -> None:
    """The container file is part of the image: it can name them without a link."""
    ended = stage.shell("echo it ran", root=str(image), uid=0, volumes=(Volume(place, "tmpfs"),))
    assert ended.failure
    assert ended.failure.errno == errno.EBUSY


@pytest.mark.parametrize("kind", VOLUMES)
def test_a_mount_point_that_leads_to_the_host(stage: Stage, image: Path, host: Path, kind: str) -> None:
    """Protects directories of the host: there is none of them where the links are followed."""
    (image / "link").symlink_to(host.parent / "secret")
    before = Path("/proc/self/mountinfo").read_text()
    ended = stage.shell("echo it ran", root=str(image), uid=0, volumes=(VOLUMES[kind]._replace(base=str(host)),))
    assert ended.failure
    assert ended.failure.errno == errno.ENOENT
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_mount_point_inside_of_a_volume_that_leads_to_mounts_of_ours(stage: Stage, rooted: Path, host: Path) -> None:
    """The link is not the image's but was left by an earlier life of the application."""
    (host / "inner").symlink_to("/sys/kernel")
    volumes = (volume(host, writable=True), Volume("/data/inner", "tmpfs"))
    ended = stage.shell("echo it ran", root=str(rooted), uid=0, volumes=volumes)
    assert ended.failure
    assert ended.failure.errno == errno.EBUSY


def test_a_mount_point_behind_a_magic_link(privately: Privately, rooted: Path, host: Path) -> None:
    """Protects what the set-up has open: a /proc in a volume is that of the host, with the child's descriptors."""
    (host / "proc").mkdir()
    (rooted / "link").symlink_to("/data/proc/self/cwd")

    def look(stage: Stage) -> None:
        kernel.perform(kernel.mount(b"proc", os.fsencode(host / "proc"), b"proc", 0))
        volumes = (volume(host), Volume("/link", "tmpfs"))
        ended = stage.shell("echo it ran", root=str(rooted), uid=0, volumes=volumes)
        assert ended.failure
        assert ended.failure.errno == errno.ELOOP

    privately(look)


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
def test_an_image_whose_own_mount_point_leads_to_a_volume(stage: Stage, rooted: Path, host: Path, name: str) -> None:
    """CVE-2019-19921: another instance changes the link there, and what should be restricted in /proc is elsewhere."""
    (host / name).mkdir()
    (rooted / name).rmdir()
    (rooted / name).symlink_to(f"/data/{name}")
    with pytest.raises(RootUnusable) as caught:
        stage.shell("echo it ran", root=str(rooted), uid=0, volumes=(volume(host, writable=True),))
    assert str(caught.value) == (
        f"root {rooted}: cannot find the directory {name}: {os.strerror(errno.ELOOP)}; it must not be a symbolic link"
    )


def test_volumes_cover_nothing_of_the_kernel(stage: Stage, image: Path) -> None:
    """The control of the tests above: where these places are is what everything is mounted on in an instance."""
    ended = stage.shell("cat /proc/self/mountinfo", root=str(image))
    assert {"/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", "/dev/shm", "/tmp"} <= set(mounts(ended.stdout))


# Directories of the host that the application has written to


@pytest.mark.parametrize("target", ["/etc", "{secret}", "../secret", "..", "deep/../../secret", "/proc/self/cwd"])
@pytest.mark.parametrize("below", ["link", "link/file"])
@pytest.mark.parametrize("mkdir", [True, False])
def test_a_planted_link_leads_out_of_the_directory(
    stage: Stage, rooted: Path, host: Path, target: str, below: str, mkdir: bool
) -> None:
    """Protects what the administrator did not name: a writable bind of /etc would be the host."""
    (host / "deep").mkdir()
    (host / "link").symlink_to(target.format(secret=host.parent / "secret"))
    ended = stage.shell("echo it ran", root=str(rooted), volumes=(volume(host, below, writable=True, mkdir=mkdir),))
    assert ended.failure
    assert ended.failure.sentence == (
        f"test/app.0: cannot open {host}/{below} for the volume /data: {os.strerror(errno.EXDEV)}; {OUTSIDE}"
    )
    assert ended.stdout == ""


@pytest.mark.parametrize("below", ["link", "link/new"])
def test_no_directory_is_made_behind_a_planted_link(stage: Stage, rooted: Path, host: Path, below: str) -> None:
    """Protects directories of root: one that is made gets an owner, wherever a link to nothing says it should be."""
    (host / "link").symlink_to("missing")
    ended = stage.shell("echo it ran", root=str(rooted), volumes=(volume(host, below, mkdir=True, uid=65534),))
    assert ended.failure
    assert ended.failure.errno == errno.ELOOP
    assert os.listdir(host) == ["link"]


@pytest.mark.parametrize("content", ["file", None])
def test_only_a_directory_that_was_made_just_now_changes_hands(tmp_path: Path, content: str | None) -> None:
    """Protects directories of others: one that was moved there meanwhile is somebody else's, or has something in it."""
    directory = tmp_path / "moved"
    directory.mkdir(mode=0o700)
    if content:
        (directory / content).touch()
    else:
        os.chown(directory, 5, 5)
    before = directory.stat()
    descriptor = os.open(directory, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        trees.hand_over(descriptor, trees.Made(0o777, 65534, 65534))
    os.close(descriptor)
    assert directory.stat()[:6] == before[:6]


# Programs that an earlier life has left


@pytest.mark.parametrize("init", [True, False])
def test_a_planted_program_that_is_the_supervisors(stage: Stage, host: Path, init: bool) -> None:
    """CVE-2019-5736 without an image: noexec is of no use, the program that the link leads to is elsewhere."""
    (host / "program").symlink_to("/proc/self/exe")
    volumes = (volume(host, writable=True)._replace(target="/mnt"),)
    ended = stage.shell("", executable="/mnt/program", volumes=volumes, uid=0, init=init)
    assert ended.failure
    assert ended.failure.errno == errno.ELOOP


# The output file


@pytest.mark.parametrize("uid", [0, 65534])
def test_the_output_is_written_to_a_file_on_a_volume(stage: Stage, rooted: Path, host: Path, uid: int) -> None:
    script = "echo out; echo err >&2"
    for _ in range(2):
        ended = stage.shell(
            script, root=str(rooted), uid=uid, volumes=(volume(host, writable=True),), output="/data/log"
        )
        assert (ended.failure, ended.stdout, ended.stderr) == (None, "", "")
    assert (host / "log").read_text() == "out\nerr\n" * 2
    status = (host / "log").stat()
    assert (status.st_uid, status.st_mode) == (uid, 0o100644)


def test_the_output_file_is_an_ordinary_descriptor_of_no_other_number(stage: Stage, host: Path, python: str) -> None:
    """Appending and waiting, inherited by the application's children; and nothing of the opening is left."""
    script = (
        "import fcntl, os; modes = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK;"
        "flags = {fcntl.fcntl(fd, fcntl.F_GETFL) & modes for fd in (1, 2)};"
        "print(flags == {os.O_WRONLY | os.O_APPEND}, os.listdir('/proc/self/fd'), fcntl.fcntl(1, fcntl.F_GETFD))"
    )
    volumes = (volume(host, writable=True)._replace(target="/mnt"),)
    stage.run(LaunchSpec("test/app.0", python, ("-ISc", script), volumes=volumes, output="/mnt/log"))
    assert (host / "log").read_text() == "True ['0', '1', '2', '3'] 0\n"  # 3: the directory that is listed


def _link_to_another_file(host: Path) -> None:
    (host / "log").symlink_to("other")


def _link_to_a_file_of_root(host: Path) -> None:
    (host / "log").symlink_to("/proc/sysrq-trigger")


def _magic_link(host: Path) -> None:
    (host / "log").symlink_to("/proc/self/fd/2")


def _fifo(host: Path) -> None:
    os.mkfifo(host / "log", 0o666)
    (host / "log").chmod(0o666)


def _device(host: Path) -> None:
    os.mknod(host / "log", 0o020666, os.makedev(1, 3))


def _directory(host: Path) -> None:
    (host / "log").mkdir()


def _file_of_root(host: Path) -> None:
    (host / "log").touch(mode=0o600)


NO_LINK = "it must be a regular file that no symbolic link or /proc leads to"
OUTPUTS = {
    "a link": (_link_to_another_file, errno.ELOOP, NO_LINK),
    "a link to a file of root": (_link_to_a_file_of_root, errno.ELOOP, NO_LINK),
    "a magic link": (_magic_link, errno.ELOOP, NO_LINK),
    "a FIFO that nobody reads": (_fifo, errno.ENXIO, NO_LINK),
    "a device": (_device, errno.EACCES, "the user of the instance must be able to write it"),
    "a directory": (_directory, errno.EISDIR, NO_LINK),
    "a file of root": (_file_of_root, errno.EACCES, "the user of the instance must be able to write it"),
}


@pytest.mark.parametrize(("plant", "error", "hint"), OUTPUTS.values(), ids=OUTPUTS)
def test_a_planted_output_file(stage: Stage, rooted: Path, host: Path, plant: object, error: int, hint: str) -> None:
    """Protects what root may write and the user may not, and the supervisor from waiting for the reader of a FIFO."""
    plant(host)  # type: ignore[operator]
    before = sorted(os.listdir(host))
    ended = stage.shell("echo it ran", root=str(rooted), volumes=(volume(host, writable=True),), output="/data/log")
    assert ended.failure
    assert ended.failure.sentence == (
        f"test/app.0: cannot open stdout-stderr-file /data/log: {os.strerror(error)}; {hint}"
    )
    assert sorted(os.listdir(host)) == before


def test_an_output_file_that_is_a_fifo_with_a_reader(stage: Stage, rooted: Path, host: Path) -> None:
    """Who reads it slowly would decide when the application goes on."""
    _fifo(host)
    reader = os.open(host / "log", os.O_RDONLY | os.O_NONBLOCK)
    ended = stage.shell("echo it ran", root=str(rooted), volumes=(volume(host, writable=True),), output="/data/log")
    assert ended.failure
    assert ended.failure.errno == errno.EINVAL
    assert os.read(reader, 100) == b""
    os.close(reader)


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full"])
def test_an_output_file_that_is_a_device(stage: Stage, image: Path, device: str) -> None:
    ended = stage.shell("echo it ran", root=str(image), output=device)
    assert ended.failure
    assert ended.failure.errno == errno.EINVAL


@pytest.mark.parametrize("uid", [0, 65534])
def test_an_output_file_behind_a_descriptor_of_the_supervisor(stage: Stage, rooted: Path, host: Path, uid: int) -> None:
    """Protects directories that only the supervisor can reach: until execve(2) its descriptors are in /proc."""
    open_to_all = host.parent / "secret/open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    descriptor = os.open(open_to_all, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    (host / "deep").symlink_to(f"/proc/self/fd/{descriptor}")
    volumes = (volume(host, writable=True),)
    ended = stage.shell("echo it ran", root=str(rooted), uid=uid, volumes=volumes, output="/data/deep/log")
    os.close(descriptor)
    assert ended.failure
    assert ended.failure.errno == errno.ELOOP
    assert os.listdir(open_to_all) == []


def test_an_output_file_that_is_on_no_volume(stage: Stage, image: Path) -> None:
    ended = stage.shell("echo it ran", root=str(image), uid=0, output="/log")
    assert ended.failure
    assert ended.failure.sentence == (
        "test/app.0: cannot open stdout-stderr-file /log: Read-only file system; it must be on a writable volume"
    )
