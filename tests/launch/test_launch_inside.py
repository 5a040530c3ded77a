"""What a process sees inside an instance: asked there, as user 65534 and 0, with the init and without."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launch_stage import SYSTEM_PATH, Stage

import cgroup
from lithos_runner.launch import kernel
from lithos_runner.launch.launcher import Launcher
from lithos_runner.launch.preparation import DEVICE_LINKS, DEVICES
from lithos_runner.launch.spec import LaunchSpec, environment

INSIDE = (Path(__file__).parent / "inside.py").read_text()
WRITABLE = {"/proc": "proc", "/tmp": "tmpfs", "/dev/shm": "tmpfs", "/dev/pts": "devpts"}
OWN_NAMESPACES = {"cgroup", "ipc", "mnt", "pid", "pid_for_children", "uts"}
SHARED_NAMESPACES = {"net", "time", "time_for_children", "user"}
DECLARED = (
    ("PATH", SYSTEM_PATH),
    ("GREETING", "hällo = welt"),
    ("LC_ALL", "C.UTF-8"),  # else Python adds LC_CTYPE to its own environment, see PEP 538
)

# Mode 0666 on every Linux: a write needs CAP_CHECKPOINT_RESTORE, or sets up a notification for oneself (PSI).
OPEN_TO_ALL = ("/proc/sys/kernel/ns_last_pid", *(f"/proc/pressure/{kind}" for kind in ("cpu", "io", "memory", "irq")))
LISTEN = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")

Seen = dict[str, Any]


def ignore_signal_of_libc(number: int) -> None:
    """As posix_spawn(3) of some programs leaves it, make(1) among them; libc itself and Python refuse to touch it."""
    ignore = ctypes.create_string_buffer(struct.pack("QQQQ", 1, 0, 0, 0))  # SIG_IGN, no flags
    call = kernel.default_signal(number)
    kernel.perform(call._replace(arguments=(*call.arguments[:2], ctypes.addressof(ignore), *call.arguments[3:])))


@pytest.fixture(scope="module")
def dirty_stage(group: cgroup.Group, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A supervisor with as much to inherit as possible: groups, umask, ignored signals, variables, a descriptor."""
    with contextlib.ExitStack() as stack:
        stack.callback(os.setgroups, os.getgroups())
        os.setgroups([4, 27])
        stack.callback(os.umask, os.umask(0o077))
        for number in (signal.SIGHUP, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, signal.SIG_IGN))
        ignore_signal_of_libc(33)
        stack.callback(Path("/proc/self/oom_score_adj").write_text, Path("/proc/self/oom_score_adj").read_text())
        Path("/proc/self/oom_score_adj").write_text("300")
        for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC"):
            os.environ[name] = "1"
            stack.callback(os.environ.pop, name)
        stray = os.open("/", os.O_RDONLY)
        os.set_inheritable(stray, True)
        stack.callback(os.close, stray)
        launcher = Launcher(str(tmp_path_factory.mktemp("root")))
        stack.callback(launcher.close)
        yield Stage(launcher, group)


@pytest.fixture(scope="module", params=itertools.product((65534, 0), (True, False)), ids=str)
def spec(request: pytest.FixtureRequest, python: str) -> LaunchSpec:
    uid, init = request.param
    return LaunchSpec(
        "shop/web_server.3",
        python,
        ("-ISc", INSIDE),
        environ=DECLARED,
        uid=uid,
        gid=65533,
        workdir="/usr",
        fileno_limit=200,
        init=init,
        sockets=((3, "web"),),
    )


@pytest.fixture(scope="module")
def seen(spec: LaunchSpec, dirty_stage: Stage, listener: socket.socket) -> Seen:
    ended = dirty_stage.run(spec, {3: listener.fileno()})
    assert (ended.failure, ended.code, ended.stderr) == (None, 0, "")
    result: Seen = json.loads(ended.stdout)
    return result


def test_exactly_the_declared_descriptors(seen: Seen, listener: socket.socket) -> None:
    assert set(seen["descriptors"]) == {"0", "1", "2", "3"}
    assert seen["descriptors"]["3"] == os.fstat(listener.fileno()).st_ino
    assert seen["listener"] == {"listening": 1, "address": list(listener.getsockname())}


def test_user_and_groups(seen: Seen, spec: LaunchSpec) -> None:
    assert seen["status"]["Uid"].split() == [str(spec.uid)] * 4  # real, effective, saved, file system
    assert seen["status"]["Gid"].split() == [str(spec.gid)] * 4
    assert seen["status"]["Groups"].split() == []


def test_no_privileges(seen: Seen) -> None:
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert {name: int(seen["status"][name], 16) for name in sets} == dict.fromkeys(sets, 0)
    assert seen["status"]["NoNewPrivs"] == "1"
    assert seen["status"]["Seccomp"] == "2"  # SECCOMP_MODE_FILTER


def test_own_namespaces(seen: Seen) -> None:
    ours = {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in os.listdir("/proc/self/ns")}
    assert {name for name in ours if seen["namespaces"][name] != ours[name]} == OWN_NAMESPACES
    assert {name for name in ours if seen["namespaces"][name] == ours[name]} == SHARED_NAMESPACES


def test_every_mount_is_read_only_but_four(seen: Seen) -> None:
    writable = {point: kind for point, (kind, options) in seen["mounts"].items() if "ro" not in options}
    writable = {point: kind for point, kind in writable.items() if not point.startswith("/proc/")}
    assert writable == WRITABLE
    unsafe = {point for point, (_, options) in seen["mounts"].items() if "nosuid" not in options}
    assert unsafe - {point for point in unsafe if point.startswith("/proc/")} == set()


def test_writing_fails_everywhere_else(seen: Seen, spec: LaunchSpec) -> None:
    refusals = {"EROFS"} if spec.uid == 0 else {"EROFS", "EACCES"}
    attempts = {p: error for p, error in seen["writes"].items() if p not in WRITABLE and not p.startswith("/proc/")}
    assert "/" in attempts
    assert "/sys/fs/cgroup" in attempts
    assert set(attempts.values()) <= refusals, attempts
    assert set(seen["writes in the root"].values()) <= refusals, seen["writes in the root"]
    assert seen["writes"]["/tmp"] is None
    assert seen["writes"]["/dev/shm"] is None


def test_kernel_settings_are_out_of_reach(seen: Seen) -> None:
    writable = [path for path in seen["proc writable"] if path not in OPEN_TO_ALL]
    assert writable == []
    assert seen["sys writable"] == []


def test_kernel_secrets_are_out_of_reach(seen: Seen, spec: LaunchSpec) -> None:
    assert {name for name, length in seen["secrets"].items() if isinstance(length, int) and length > 0} <= (
        {"keys"} if spec.uid else set()  # the keys that a user owns, and it has none that it could use
    )


def test_proc_shows_own_processes_only(seen: Seen, spec: LaunchSpec) -> None:
    assert seen["processes"] == ([1, 2] if spec.init else [1])
    assert seen["session"] == 1
    assert seen["parent"] == (1 if spec.init else 0)


def test_the_cgroup_is_the_root_of_its_hierarchy(seen: Seen) -> None:
    assert seen["cgroup"] == {"path": "0::/", "processes": seen["processes"], "groups": []}


def test_devices(seen: Seen) -> None:
    nodes: dict[str, object] = {name: list(number) for name, number in DEVICES.items()}
    assert seen["dev"] == {**nodes, **DEVICE_LINKS, "pts": "directory", "shm": "directory"}
    assert seen["dev/pts"] == ["ptmx"]
    assert seen["terminal"] == "ENXIO"  # /dev/tty without a controlling terminal


def test_nothing_of_the_hosts_run_and_tmp(seen: Seen) -> None:
    assert seen["tmp"] == []
    assert set(seen["run"]) <= {"systemd", "resolvconf", "NetworkManager"}  # what /etc/resolv.conf may link to


def test_hostname(seen: Seen) -> None:
    assert seen["hostname"] == "web-server-3"


def test_umask_directory_and_limit(seen: Seen, spec: LaunchSpec) -> None:
    assert seen["umask"] == 0o022
    assert seen["directory"] == spec.workdir
    assert seen["limit"] == [spec.fileno_limit, spec.fileno_limit]


def test_the_environment_is_what_was_declared(seen: Seen, spec: LaunchSpec) -> None:
    declared = dict(item.decode().split("=", 1) for item in environment(spec))
    assert seen["environ"] == declared
    assert declared.items() >= dict(DECLARED).items()
    assert set(declared) == {key for key, _ in DECLARED} | {"TERM", "LITHOS_NAME", "LITHOS_CONFIG", *LISTEN}


def test_listen_pid_is_the_applications_own(seen: Seen) -> None:
    assert seen["environ"]["LISTEN_PID"] == str(seen["pid"])
    assert (seen["environ"]["LISTEN_FDS"], seen["environ"]["LISTEN_FDNAMES"]) == ("1", "web")


def test_the_program_of_pid_1_cannot_be_changed(seen: Seen) -> None:
    assert seen["init writable"] is not None
    assert seen["init changeable"] is not None


def test_the_supervisors_place_before_the_oom_killer_is_not_inherited(dirty_stage: Stage) -> None:
    assert Path("/proc/self/oom_score_adj").read_text() == "300\n"
    assert dirty_stage.shell("cat /proc/self/oom_score_adj").stdout == "0\n"


@pytest.mark.parametrize("init", [True, False])
def test_a_program_finds_all_signals_at_their_defaults(dirty_stage: Stage, init: bool) -> None:
    ended = dirty_stage.shell("cat /proc/self/status", init=init)
    lines = [line.split(":\t") for line in ended.stdout.splitlines() if line.startswith("Sig")]
    masks = {name: int(mask, 16) for name, mask in lines if name != "SigQ"}
    assert masks == dict.fromkeys(("SigPnd", "SigBlk", "SigIgn", "SigCgt"), 0)
