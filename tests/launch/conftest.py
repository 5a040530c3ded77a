"""Real instances in a real cgroup, on the host's root or on a small image."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from launch_stage import SYSTEM_PATH, Privately, Stage

import cgroup
from benchmarks import images
from lithos_runner.launch import kernel
from lithos_runner.launch.launcher import Launcher


@pytest.fixture(scope="session")
def python() -> str:
    """The system's interpreter: that of the virtual environment may be where only root can read."""
    path = shutil.which("python3", path=SYSTEM_PATH)
    assert path, "these tests need the python3 of the system"
    return path


@pytest.fixture(scope="session")
def group() -> Iterator[cgroup.Group]:
    with cgroup.Group.open(cgroup.find().mount) as root:
        made = root.create(f"lithos-test-launch-{os.getpid()}")
        yield made
        made.kill()
        made.remove()


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    made = Launcher(str(tmp_path_factory.mktemp("root")))
    yield made
    made.close()


@pytest.fixture(scope="session")
def stage(launcher: Launcher, group: cgroup.Group) -> Stage:
    return Stage(launcher, group)


@pytest.fixture(scope="session")
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A root file system of its own: programs, their libraries and the directories that an image must have."""
    root = tmp_path / "image"
    images.make(root, images.programs("/bin/sh", "/bin/cat", "/bin/ls", "/bin/chmod", "/bin/readlink"))
    return root


@pytest.fixture
def forked() -> Callable[[Callable[[], object]], None]:
    """Call a function in a forked child; what it raises is raised here, as text."""

    def run(function: Callable[[], object]) -> None:
        report, end = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _report_and_exit(function, end)
        os.close(end)
        with open(report) as text:
            complaint = text.read()
        _, status = os.waitpid(pid, 0)
        assert (complaint, status) == ("", 0)

    return run


@pytest.fixture
def privately(group: cgroup.Group, forked: Callable[[Callable[[], object]], None], tmp_path: Path) -> Privately:
    """Call a function with a stage, in a forked child whose mounts are its own."""

    def run(function: Callable[[Stage], object]) -> None:
        def in_own_mounts() -> None:
            kernel.perform(kernel.unshare(kernel.CLONE_NEWNS))
            kernel.perform(kernel.mount(None, b"/", None, kernel.MS_REC | kernel.MS_PRIVATE))
            (tmp_path / "root").mkdir()
            function(Stage(Launcher(str(tmp_path / "root")), group))

        forked(in_own_mounts)

    return run


def _report_and_exit(function: Callable[[], object], end: int) -> None:
    try:
        function()
    except BaseException as error:
        os.write(end, repr(error).encode())
    finally:
        os._exit(0)
