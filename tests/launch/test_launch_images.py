"""A hostile image: its links lead nowhere outside, and not to the supervisor's own files."""

from __future__ import annotations

import errno
import itertools
import os
import sys
from pathlib import Path

import pytest
from launch_stage import Stage

from lithos_runner.launch.launcher import RootUnusable
from lithos_runner.launch.spec import LaunchSpec

LINKED = ("dev", "proc", "run", "sys", "tmp")
TARGETS = ("/", "../../../../../..", "/etc", "/proc/self/fd", "/dev", "/run", "/tmp", "/proc/self/root", "missing")


def outside(image: Path) -> object:
    """What a mount, a directory or a device node in the wrong place would change."""
    directories = [sorted(os.listdir(directory)) for directory in ("/", "/dev", "/run", image, image / "etc")]
    return Path("/proc/self/mountinfo").read_text(), os.uname().nodename, directories


@pytest.mark.parametrize(("name", "target"), [*itertools.product(LINKED, TARGETS)])
def test_links_in_place_of_mount_points(stage: Stage, image: Path, name: str, target: str) -> None:
    (image / "marker").write_text("of the image\n")
    (image / name).rmdir()
    (image / name).symlink_to(target)
    before = outside(image)
    try:
        # As user 0 with the init: it has most to win.
        ended = stage.shell("cat /marker", root=str(image), uid=0, gid=0)
    except RootUnusable as error:
        assert str(error).startswith(f"root {image}: cannot ")  # noqa: PT017
    else:
        assert ended.failure or ended.stdout == "of the image\n"
    assert outside(image) == before


@pytest.fixture
def host_directory(tmp_path: Path) -> Path:
    """A directory of the host with a program that the image does not have."""
    directory = tmp_path / "host"
    directory.mkdir()
    (directory / "program").write_text("#!/bin/sh\necho a file of the host\n")
    (directory / "program").chmod(0o755)
    return directory


@pytest.mark.parametrize("uid", [0, 65534])
@pytest.mark.parametrize("init", [True, False])
def test_a_link_to_the_supervisors_program(stage: Stage, image: Path, init: bool, uid: int) -> None:
    """CVE-2019-5736: what is executed there could be opened for writing by its user."""
    (image / "program").symlink_to("/proc/self/exe")
    ended = stage.run(LaunchSpec("test/app.0", "/program", ("-V",), root=str(image), uid=uid, init=init))
    assert ended.failure
    assert ended.failure.errno == errno.EXDEV
    assert "behind /proc" in ended.failure.sentence


SCRIPTS = {
    "a script": {"program": "#!/proc/self/exe\n"},
    "a script of a script": {"program": "#!/second\n", "second": "#! \t/proc/self/exe x\n"},
    "a name that ends with NUL": {"program": "#!/proc/self/exe\0.py\n"},
    "a name that ends with a tab": {"program": "#!/proc/self/exe\t-c\n"},
    "a script of a link": {"program": "#!/link\n", "link": ""},
    "a name that begins with white space of another kind": {"program": "#!\v/bin/sh\n", "\v/bin/sh": ""},
}


@pytest.mark.parametrize("files", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("mode", [0o755, 0o111])
def test_a_script_that_names_the_supervisors_program(
    stage: Stage, image: Path, files: dict[str, str], mode: int
) -> None:
    for name, content in files.items():
        path = image / name
        path.parent.mkdir(exist_ok=True, parents=True)
        if content:
            path.write_text(content)
            path.chmod(mode)
        else:
            path.symlink_to("/proc/self/exe")
    ended = stage.run(LaunchSpec("test/app.0", "/program", root=str(image), uid=0, init=False))
    assert ended.failure
    assert ended.failure.errno == (errno.EXDEV if mode == 0o755 else errno.EACCES)


@pytest.mark.parametrize("init", [True, False])
def test_a_link_through_the_supervisors_descriptors(
    stage: Stage, image: Path, host_directory: Path, init: bool
) -> None:
    """CVE-2024-21626: until execve(2) the descriptors of the supervisor are in /proc/self/fd of the instance."""
    descriptor = os.open(host_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    (image / "program").symlink_to(f"/proc/self/fd/{descriptor}/program")
    ended = stage.run(LaunchSpec("test/app.0", "/program", root=str(image), uid=0, init=init))
    os.close(descriptor)
    assert ended.failure
    assert ended.failure.errno == errno.EXDEV
    assert ended.stdout == ""


def test_a_workdir_outside_the_root(stage: Stage, image: Path, host_directory: Path) -> None:
    """CVE-2024-21626: /proc/self/fd/N as working directory."""
    descriptor = os.open(host_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    (image / "home").symlink_to(f"/proc/self/fd/{descriptor}")
    ended = stage.shell("cat program", root=str(image), workdir="/home")
    os.close(descriptor)
    assert ended.failure
    assert ended.failure.sentence == (
        "test/app.0: cannot verify the instance's privileges: refused, as this is not as promised: working directory"
    )
    assert ended.stdout == ""


def test_set_user_id_and_device_files_of_an_image_do_nothing(stage: Stage, image: Path) -> None:
    (image / "bin/sh").chmod(0o4755)
    os.mknod(image / "disk", 0o060666, os.makedev(1, 3))
    os.mknod(image / "null", 0o020666, os.makedev(1, 3))
    ended = stage.shell("cat /proc/self/status; cat /disk; cat /null", root=str(image))
    assert "Uid:\t65534\t65534\t65534\t65534\n" in ended.stdout
    assert "/disk: Permission denied" in ended.stderr
    assert "/null: Permission denied" in ended.stderr


def test_an_image_cannot_be_written(stage: Stage, image: Path) -> None:
    ended = stage.shell("echo x > /bin/sh; echo x > /new; chmod 777 /bin", root=str(image), uid=0)
    assert ended.stderr.count("Read-only file system") == 3
    assert not (image / "new").exists()


def test_user_0_cannot_break_the_init_for_others(stage: Stage) -> None:
    """All instances run the same memory file; its owner could take the right to execute it away from everybody."""
    ended = stage.shell("chmod 0 /proc/1/exe; echo x > /proc/1/exe", uid=0)
    assert ended.stderr.count("\n") == 2
    assert stage.shell("echo alive").stdout == "alive\n"


def test_an_image_runs_with_its_own_files(stage: Stage, image: Path) -> None:
    (image / "marker").write_text("of the image\n")
    for init in (True, False):
        ended = stage.shell("cat /marker; ls /run /tmp; ls /", root=str(image), init=init)
        assert ended.stdout.startswith("of the image\n")
        assert ended.stdout.split("\n")[-2] == "tmp"
        assert sys.prefix not in ended.stdout
