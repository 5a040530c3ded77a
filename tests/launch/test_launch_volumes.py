"""Every kind of volume, asked about inside the instance."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from launch_stage import SHELL, Privately, Stage, mounts

from lithos_runner.launch import kernel, spawn
from lithos_runner.launch.spec import Volume

RECURSIVE = ("nosuid", "nodev", "noexec")
MOUNTS = "cat /proc/self/mountinfo"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory of the host that a sandbox file names."""
    directory = tmp_path / "host"
    directory.mkdir()
    directory.chmod(0o777)
    (directory / "file").write_text("of the host\n")
    return directory


@pytest.fixture
def rooted(image: Path) -> Path:
    """An image with mount points."""
    for name in ("data", "data/inner", "state", "var/lib/app", "tmp/deep"):
        (image / name).mkdir(parents=True)
    return image


def bind(base: Path, target: str = "/data", **fields: object) -> Volume:
    return Volume(target, "bind", base=str(base), **fields)  # type: ignore[arg-type]


def owner_and_mode(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


# Binds


@pytest.mark.parametrize(("writable", "access"), [(False, "ro"), (True, "rw")])
def test_a_bind_shows_a_directory_of_the_host(
    stage: Stage, rooted: Path, host: Path, writable: bool, access: str
) -> None:
    ended = stage.shell(f"{MOUNTS}; cat /data/file >&2", root=str(rooted), volumes=(bind(host, writable=writable),))
    assert ended.stderr == "of the host\n"
    assert mounts(ended.stdout)["/data"].options == {access, *RECURSIVE}


def test_a_read_only_bind_cannot_be_written_even_by_user_0(stage: Stage, rooted: Path, host: Path) -> None:
    script = "echo x > /data/file; echo x > /data/new; chmod 0 /data/file"
    ended = stage.shell(script, root=str(rooted), uid=0, volumes=(bind(host),))
    assert ended.stderr.count("Read-only file system") == 3
    assert (host / "file").read_text() == "of the host\n"


def test_what_is_written_to_a_writable_bind_is_on_the_host(stage: Stage, rooted: Path, host: Path) -> None:
    ended = stage.shell("echo x > /data/new", root=str(rooted), volumes=(bind(host, writable=True),))
    assert (ended.failure, ended.stderr) == (None, "")
    assert (host / "new").read_text() == "x\n"
    assert owner_and_mode(host / "new") == (65534, 65534, 0o644)


def test_nothing_on_a_bind_is_executed(stage: Stage, rooted: Path, host: Path) -> None:
    """lithos's documentation promises noexec; what an application has written is no program of its next life."""
    (host / "program").write_text("#!/bin/sh\necho it ran\n")
    (host / "program").chmod(0o4755)
    volumes = (bind(host, writable=True),)
    assert "Permission denied" in stage.shell("/data/program", root=str(rooted), volumes=volumes).stderr
    ended = stage.shell("", executable="/data/program", root=str(rooted), volumes=volumes)
    assert ended.failure
    assert ended.failure.errno == errno.EACCES


def test_a_path_below_the_directory_is_bound(stage: Stage, rooted: Path, host: Path) -> None:
    (host / "a/b").mkdir(parents=True)
    (host / "a/b/marker").write_text("below\n")
    (host / "link").symlink_to("a")
    for below in ("a/b", "link/b"):
        ended = stage.shell("cat /data/marker", root=str(rooted), volumes=(bind(host, below=below),))
        assert ended.stdout == "below\n"


@pytest.mark.parametrize(("writable", "complaints"), [(False, 2), (True, 0)])
def test_what_is_mounted_below_a_bind_is_as_restricted_as_the_bind(
    privately: Privately, rooted: Path, host: Path, writable: bool, complaints: int
) -> None:
    """lithos changed the top mount only: what was mounted below stayed writable."""
    (host / "a/b").mkdir(parents=True)

    def look(stage: Stage) -> None:
        for below in ("a", "a/b"):
            kernel.perform(kernel.mount(b"tmpfs", os.fsencode(host / below), b"tmpfs", 0))
            (host / "a/b").mkdir(exist_ok=True)
        script = f"{MOUNTS}; echo x > /data/a/new; echo x > /data/a/b/new"
        ended = stage.shell(script, root=str(rooted), uid=0, volumes=(bind(host, writable=writable),))
        seen = mounts(ended.stdout)
        wanted = {"rw" if writable else "ro", *RECURSIVE}
        assert [seen[point].options for point in ("/data/a", "/data/a/b")] == [wanted, wanted]
        assert ended.stderr.count("Read-only file system") == complaints

    privately(look)


def test_nothing_that_an_instance_has_mounted_appears_on_the_host(
    privately: Privately, rooted: Path, host: Path
) -> None:
    """Under systemd the host's mounts are shared: what is mounted in a copy is mounted in the original, too."""
    (host / "inner").mkdir()

    def look(stage: Stage) -> None:
        kernel.perform(kernel.mount(b"tmpfs", os.fsencode(host), b"tmpfs", 0))
        kernel.perform(kernel.mount(None, os.fsencode(host), None, MS_SHARED))
        (host / "inner").mkdir()
        before = Path("/proc/self/mountinfo").read_text()
        volumes = (bind(host, writable=True), Volume("/data/inner", "tmpfs"))
        with stage.living("", root=str(rooted), volumes=volumes) as running:
            assert Path("/proc/self/mountinfo").read_text() == before
        assert running.end().failure is None

    privately(look)


MS_SHARED = 1 << 20


# Directories that are made


@pytest.mark.parametrize(("base", "below"), [("", "a/b/c"), ("a", "b/c"), ("a/b/c", "")])
def test_missing_directories_are_made(stage: Stage, rooted: Path, host: Path, base: str, below: str) -> None:
    volume = bind(host / base, below=below, writable=True, mkdir=True, mode=0o1770, uid=65534, gid=33)
    before = os.umask(0o077)
    ended = stage.shell("echo x > /data/new", root=str(rooted), volumes=(volume,))
    os.umask(before)
    assert (ended.failure, ended.stderr) == (None, "")
    assert owner_and_mode(host / "a/b/c") == (65534, 33, 0o1770)
    assert owner_and_mode(host / "a/b") == owner_and_mode(host / "a") == (0, 0, 0o755)


def test_a_directory_that_is_there_keeps_its_owner_and_mode(stage: Stage, rooted: Path, host: Path) -> None:
    (host / "a").mkdir()
    os.chown(host / "a", 5, 6)
    (host / "a").chmod(0o711)
    volume = bind(host, below="a", mkdir=True, uid=65534, gid=33)
    assert stage.shell("", root=str(rooted), volumes=(volume,)).failure is None
    assert owner_and_mode(host / "a") == (5, 6, 0o711)


# Memory


def test_a_tmpfs_has_its_size_mode_and_owner(stage: Stage, rooted: Path) -> None:
    volume = Volume("/data", "tmpfs", size=64 << 10, mode=0o1750, uid=65534, gid=33)
    script = f"{MOUNTS}; cat /dev/zero > /data/new; ls -ldn /data /data/new >&2"
    ended = stage.shell(script, root=str(rooted), volumes=(volume,))
    mounted = mounts(ended.stdout)["/data"]
    assert (mounted.kind, mounted.options) == ("tmpfs", {"rw", "nosuid", "nodev"})
    assert "No space left on device" in ended.stderr
    listed = [line.split() for line in ended.stderr.splitlines()[-2:]]
    assert listed[0][:4] == ["drwxr-x--T", "2", "65534", "33"]
    assert int(listed[1][4]) == 64 << 10


def test_state_volumes_share_one_file_system(stage: Stage, rooted: Path) -> None:
    volumes = (
        Volume("/data", "state", below="deep/app", mode=0o700, uid=65534, gid=33),
        Volume("/state", "state"),
        Volume("/var/lib/app", "state", below="deep", size=64 << 10),
    )
    script = """cat /proc/self/mountinfo
        echo x > /data/new
        cat /state/deep/app/new /var/lib/app/app/new >&2
        cat /dev/zero > /state/full
        ls -ldn /data /state /state/full /var/lib/app >&2"""
    ended = stage.shell(script, root=str(rooted), volumes=volumes)
    assert ended.stderr.startswith("x\nx\n")
    assert "No space left on device" in ended.stderr
    listed = [line.split() for line in ended.stderr.splitlines()[-4:]]
    assert [line[0] for line in listed] == ["drwx------", "drwxrwxrwt", "-rw-r--r--", "drwxrwxrwx"]
    assert listed[0][2:4] == ["65534", "33"]
    assert 0 < int(listed[2][4]) <= 64 << 10
    seen = mounts(ended.stdout)
    assert {seen[volume.target].options for volume in volumes} == {frozenset({"rw", "nosuid", "nodev"})}
    assert seen["/tmp"].count == 1


@pytest.mark.parametrize("kind", ["tmpfs", "state"])
def test_what_is_in_memory_is_of_one_instance_and_one_life(stage: Stage, rooted: Path, kind: str) -> None:
    volumes = (Volume("/data", kind),)  # type: ignore[arg-type]
    for _ in range(2):
        ended = stage.shell("ls -A /data; echo x > /data/new", root=str(rooted), volumes=volumes)
        assert (ended.stdout, ended.stderr) == ("", "")


# Where they are mounted


@pytest.mark.parametrize("target", ["/tmp", "/dev/shm"])
def test_a_volume_on_a_directory_of_ours_takes_its_place(stage: Stage, rooted: Path, host: Path, target: str) -> None:
    ended = stage.shell(f"{MOUNTS}; cat {target}/file >&2", root=str(rooted), volumes=(bind(host, target),))
    assert mounts(ended.stdout)[target].count == 1
    assert ended.stderr == "of the host\n"


def test_a_volume_below_tmp_is_not_covered(stage: Stage, rooted: Path, host: Path) -> None:
    ended = stage.shell("cat /tmp/deep/file", root=str(rooted), volumes=(bind(host, "/tmp/deep"),))
    assert ended.stdout == "of the host\n"


def test_a_volume_may_be_inside_of_another(stage: Stage, rooted: Path, host: Path) -> None:
    (host / "inner").mkdir()
    volumes = (Volume("/data/inner", "tmpfs"), bind(host))
    ended = stage.shell(
        "cat /data/file; echo x > /data/inner/new; cat /data/inner/new", root=str(rooted), volumes=volumes
    )
    assert ended.stdout == "of the host\nx\n"
    assert os.listdir(host / "inner") == []


@pytest.mark.parametrize("link", ["lib", "/var/lib", "../var/lib"])
def test_a_link_inside_the_image_may_lead_to_a_mount_point(stage: Stage, rooted: Path, host: Path, link: str) -> None:
    """As /var/run does in most distributions."""
    (rooted / "var/link").symlink_to(link)
    ended = stage.shell("cat /var/lib/app/file", root=str(rooted), volumes=(bind(host, "/var/link/app"),))
    assert ended.stdout == "of the host\n"


def test_volumes_work_on_the_hosts_root(stage: Stage, host: Path) -> None:
    volumes = (bind(host, "/mnt", writable=True), Volume("/srv", "state", below="srv"))
    ended = stage.shell("cat /mnt/file; echo x > /srv/new; cat /srv/new", volumes=volumes)
    assert (ended.stdout, ended.stderr) == ("of the host\nx\n", "")


# What cannot be mounted

MAKE_IT = "create it on the host, or give the volume `mkdir: true`"
IN_THE_IMAGE = "make that directory in the image"
FAULTS: dict[str, tuple[Volume, str]] = {
    "no directory on the host": (
        Volume("/data", "bind", base="{host}", below="none"),
        f"open {{host}}/none for the volume /data: No such file or directory; {MAKE_IT}",
    ),
    "a file on the host": (
        Volume("/data", "bind", base="{host}/file"),
        "open {host}/file for the volume /data: Not a directory; a volume is a directory",
    ),
    "a file on the way": (
        Volume("/data", "bind", base="{host}", below="file/a", mkdir=True),
        "open {host}/file/a for the volume /data: Not a directory; a volume is a directory",
    ),
    "no mount point": (
        Volume("/none", "bind", base="{host}"),
        f"mount the volume /none: No such file or directory; {IN_THE_IMAGE}",
    ),
    "no mount point for memory": (
        Volume("/none", "tmpfs"),
        f"mount the volume /none: No such file or directory; {IN_THE_IMAGE}",
    ),
    "a file as mount point": (
        Volume("/bin/sh", "state"),
        "mount the volume /bin/sh: Not a directory; a volume is mounted on a directory",
    ),
}


@pytest.mark.parametrize(("volume", "rest"), FAULTS.values(), ids=FAULTS)
def test_a_volume_that_cannot_be_mounted(stage: Stage, rooted: Path, host: Path, volume: Volume, rest: str) -> None:
    found = volume._replace(base=volume.base.format(host=host))
    ended = stage.shell("echo it ran", root=str(rooted), volumes=(found,))
    assert ended.failure
    assert ended.failure.sentence == f"test/app.0: cannot {rest.format(host=host)}"
    assert (ended.code, ended.stdout) == (spawn.SETUP_FAILED, "")


def test_starts_with_volumes_leave_nothing_behind(stage: Stage, rooted: Path, host: Path) -> None:
    stage.shell("", root=str(rooted))
    before = Path("/proc/self/mountinfo").read_text(), os.listdir("/proc/self/fd")
    volumes = (bind(host, mkdir=True), Volume("/state", "state"), Volume("/tmp/deep", "tmpfs"))
    for target in ("/var/lib/app", "/none"):
        ended = stage.shell("", root=str(rooted), volumes=(*volumes, bind(host, target)))
        assert bool(ended.failure) == (target == "/none")
    assert (Path("/proc/self/mountinfo").read_text(), os.listdir("/proc/self/fd")) == before


def test_a_file_server_that_does_not_answer_stops_one_start_only(
    privately: Privately, rooted: Path, tmp_path: Path
) -> None:
    """The directory is on a FUSE file system whose server is us, and we do not answer; see fuse(4)."""
    dead = tmp_path / "dead"
    dead.mkdir()

    def look(stage: Stage) -> None:
        server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
        kernel.perform(kernel.mount(b"dead", os.fsencode(dead), b"fuse", 0, options))
        waiting = stage.start(SHELL._replace(root=str(rooted), volumes=(bind(dead, below="directory"),)))
        assert os.read(server, 1 << 16)  # FUSE_INIT: the child has come that far, and waits for the answer
        assert stage.shell("echo it ran", root=str(rooted)).stdout == "it ran\n"
        assert not waiting.ends_within(0)
        waiting.kill(9)
        assert waiting.end().signal == 9

    privately(look)
