"""`restart-process-only`: the next life of an instance in the mounts of the one before."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch_stage import SHELL, Stage, mounts

import cgroup
from lithos_runner.launch import spawn
from lithos_runner.launch.spec import EtcFile, LaunchSpec, Volume

WRITE = "echo first > /data/kept; echo first > /state/kept; echo first > /tmp/kept; echo first > /dev/shm/kept"
READ = "cat /data/kept /state/kept /tmp/kept /dev/shm/kept"


@pytest.fixture
def fields(image: Path) -> dict[str, object]:
    for name in ("data", "state"):
        (image / name).mkdir()
    (image / "etc/hosts").touch()
    volumes = (Volume("/data", "tmpfs"), Volume("/state", "state"))
    return {"root": str(image), "volumes": volumes, "etc": (EtcFile("/etc/hosts", text="first\n"),)}


@pytest.fixture(params=[65534, 0])
def spec(request: pytest.FixtureRequest, fields: dict[str, object]) -> LaunchSpec:
    return SHELL._replace(uid=request.param, **fields)  # type: ignore[arg-type]


@pytest.fixture
def earlier(stage: Stage, spec: LaunchSpec) -> Iterator[int]:
    """The mount namespace of a life that has ended and has left something everywhere."""
    changes = {key: value for key, value in spec._asdict().items() if key != "arguments"}
    with stage.living(WRITE, **changes) as running:
        namespace = spawn.mount_namespace(running.child)
    ended = running.end()
    assert (ended.failure, ended.stderr) == (None, "")
    yield namespace
    os.close(namespace)


def again(stage: Stage, spec: LaunchSpec, script: str, earlier: int) -> str:
    ended = stage.run(spec._replace(arguments=("-c", script)), earlier=earlier)
    assert (ended.failure, ended.stderr) == (None, "")
    return ended.stdout


def test_what_was_in_memory_is_still_there(stage: Stage, spec: LaunchSpec, earlier: int) -> None:
    assert again(stage, spec, f"{READ}; echo second > /tmp/kept", earlier) == "first\n" * 4
    assert again(stage, spec, READ, earlier) == "first\n" * 2 + "second\nfirst\n"


def test_the_mounts_are_the_same_and_none_is_on_top_of_another(stage: Stage, spec: LaunchSpec, earlier: int) -> None:
    """Or a service that is started again for years would be slower each time."""
    fresh = mounts(stage.run(spec._replace(arguments=("-c", "cat /proc/self/mountinfo"))).stdout)
    for _ in range(2):
        assert mounts(again(stage, spec, "cat /proc/self/mountinfo", earlier)) == fresh


def test_a_changed_file_of_etc_or_volume_is_without_effect(stage: Stage, spec: LaunchSpec, earlier: int) -> None:
    """As in lithos, which does not read them again: that takes a start with mounts of its own."""
    changed = spec._replace(etc=(EtcFile("/etc/hosts", text="second\n"),), volumes=(Volume("/none", "tmpfs"),))
    assert again(stage, changed, "cat /etc/hosts", earlier) == "first\n"


def test_processes_and_cgroup_are_the_new_ones(stage: Stage, spec: LaunchSpec, earlier: int) -> None:
    with cgroup.Group.open(cgroup.find().mount) as top:
        second = top.create(f"lithos-test-kept-{os.getpid()}")
        try:
            script = "cat /proc/self/cgroup /sys/fs/cgroup/cgroup.procs; echo /proc/[0-9]*; cat /proc/1/cmdline"
            seen = again(Stage(stage.launcher, second), spec, script, earlier).splitlines()
        finally:
            second.kill()
            second.remove()
    assert "0::/" in seen
    assert {"1", "2"} <= set(seen), "its own processes in its own cgroup"
    assert seen[-2].split()[:2] == ["/proc/1", "/proc/2"]
    assert seen[-1].startswith("lithos-init")


def test_proc_is_restricted_for_user_0_as_before(stage: Stage, spec: LaunchSpec, earlier: int) -> None:
    script = "echo x > /proc/sys/kernel/hostname; cat /proc/keys; echo x > /sys/fs/cgroup/cgroup.procs"
    ended = stage.run(spec._replace(arguments=("-c", script)), earlier=earlier)
    refused = ended.stderr.count("Read-only file system") + ended.stderr.count("Permission denied")
    assert (refused, ended.stdout) == ((2, "") if spec.uid == 0 else (refused, ended.stdout))
    assert refused >= 2


def test_a_start_that_fails_leaves_the_mounts_as_they_were(stage: Stage, spec: LaunchSpec, earlier: int) -> None:
    assert stage.run(spec._replace(executable="/none"), earlier=earlier).failure
    assert again(stage, spec, READ, earlier) == "first\n" * 4


@pytest.mark.parametrize("init", [True, False])
def test_a_program_that_an_earlier_life_has_left(stage: Stage, init: bool) -> None:
    """CVE-2019-5736 on the host's root: /tmp is not noexec, and a script that nobody may read hides its interpreter."""
    plant = "echo '#!/proc/self/exe' > /tmp/program; chmod 111 /tmp/program"
    with stage.living(plant) as running:
        namespace = spawn.mount_namespace(running.child)
    running.end()
    ended = stage.run(SHELL._replace(executable="/tmp/program", init=init), earlier=namespace)
    os.close(namespace)
    assert ended.failure
    assert "cannot execute /tmp/program" in ended.failure.sentence


@pytest.mark.parametrize("program", ["/data/program", "/link", "/script"])
def test_a_program_of_an_image_is_not_on_a_volume(stage: Stage, image: Path, program: str) -> None:
    """Whoever can write there could exchange it between its check and execve(2), for a link to /proc/self/exe."""
    (image / "data").mkdir()
    (image / "link").symlink_to("/data/program")
    (image / "script").write_text("#!/data/program\n")
    (image / "script").chmod(0o755)
    spec = SHELL._replace(root=str(image), volumes=(Volume("/data", "tmpfs"),))
    script = "cat /bin/cat > /data/program; chmod 755 /data/program; /data/program /etc/none"
    with stage.living(script, root=spec.root, volumes=spec.volumes) as running:
        namespace = spawn.mount_namespace(running.child)
    assert "/etc/none: No such file" in running.end().stderr, "it can be executed, by anything but us"
    ended = stage.run(spec._replace(executable=program, init=False), earlier=namespace)
    os.close(namespace)
    assert ended.failure
    assert ended.failure.sentence == (
        f"test/app.0: cannot execute {program} as user 65534: {os.strerror(errno.EXDEV)}; "
        "it and its interpreter must be in the image itself, not on a volume or behind /proc"
    )


def test_the_mounts_of_one_that_has_ended_are_gone(stage: Stage) -> None:
    running = stage.start(SHELL)
    running.executed()
    running.kill(9)
    running.ends_within(1000)
    with pytest.raises(OSError, match="/proc/"):
        spawn.mount_namespace(running.child)
    running.end()
