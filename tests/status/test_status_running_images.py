"""On which images something runs: by the kernel's word, and by the state files of instances that wait."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from fake_host import Host, state_of

from lithos_runner.status.running_images import Identity, running_images

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A root that is bound somewhere else in another mount namespace, as the launcher does it.
ROOTED = 'mount --bind "$1" "$2" && exec "$3" -c "$4" "$2"'
CHROOT = "import os, sys; os.chroot(sys.argv[1]); print('in', flush=True); sys.stdin.read()"


def identity(path: Path) -> Identity:
    return path.stat().st_dev, path.stat().st_ino


@pytest.fixture
def image(tmp_path: Path) -> Path:
    made = tmp_path / "images" / "v1"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def rooted(image: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the image as its root."""
    (tmp_path / "mnt").mkdir()
    arguments = ["sh", "-c", ROOTED, "sh", str(image), str(tmp_path / "mnt"), sys.executable, CHROOT]
    with subprocess.Popen(
        ["unshare", "--mount", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        yield process
        process.communicate()


@pytest.mark.usefixtures("host")
def test_the_root_of_a_process_whatever_namespace_it_is_in(rooted: subprocess.Popen[str], image: Path) -> None:
    assert identity(image) in running_images([])
    rooted.communicate("end")
    assert identity(image) not in running_images([])


def test_an_image_in_a_state_file(host: Host, image: Path) -> None:
    """Of an instance that waits for its next start nothing runs; its supervisor may be registered or not."""
    supervisor = host.supervisor()
    supervisor.tell("write_instance", state_of(image=str(image)))
    assert identity(image) in running_images([])
    supervisor.kill()
    assert identity(image) in running_images([])
    (host.root / "supervisors" / os.listdir(host.root / "supervisors")[0]).unlink()
    assert identity(image) not in running_images([])
    assert identity(image) in running_images([str(supervisor.runtime)])


@pytest.mark.parametrize("changes", [{"image": "/not/there"}, {"image": 7}, {"pid": "x"}, {"pid": 1, "pid_start": 1}])
def test_a_state_file_may_be_wrong(host: Host, changes: dict[str, object]) -> None:
    host.supervisor().tell("write_instance", state_of(**changes))

    assert running_images([str(host.root / "not-there")])


def test_who_may_not_see_an_instance_is_told_so(host: Host) -> None:
    host.supervisor().tell("write_instance", state_of(host.instance()))
    script = (
        "import os; os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "try: running_images([])\n"
        "except PermissionError as error: print(error)\n"
    )
    for directory in (host.root, *host.root.parents[:2]):
        directory.chmod(0o755)
    command = [sys.executable, "-c", f"from lithos_runner.status.running_images import running_images\n{script}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "Permission denied: '/proc/" in done.stdout
