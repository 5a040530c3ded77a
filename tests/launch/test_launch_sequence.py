"""The order of the steps, as lists: no process is started here."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

import pytest

from lithos_runner.launch import kernel, preparation, sequence
from lithos_runner.launch.operations import (
    ChangeDirectory,
    CheckExecutable,
    DropRoot,
    EnterTemplate,
    Execute,
    LimitFiles,
    Mount,
    NewSession,
    Operation,
    PlaceDescriptors,
    ResetSignals,
    RestrictProc,
    RestrictSystemCalls,
    SetHostname,
    Verify,
)
from lithos_runner.launch.preparation import (
    BindHost,
    DropMounts,
    HideRun,
    MountDev,
    OpenRoot,
    Pivot,
    PrivatePropagation,
)
from lithos_runner.launch.spec import LaunchSpec

TEMPLATE = 99
HOST = sequence.Host("/mnt", (13, 25), 40, ("sys",), ("kcore",), None, kernel.sock_fprog(), 77, fileno_limit=4096)
SPEC = LaunchSpec("shop/web.0", "/bin/app", sockets=((3, "web"),))


@pytest.fixture
def sources() -> Iterator[dict[int, int]]:
    null = os.open("/dev/null", os.O_RDWR)
    yield dict.fromkeys(range(4), null)
    os.close(null)


# before, behind, why
ORDER = [
    (ResetSignals, Execute, "ignored signals survive execve(2)"),
    (EnterTemplate, Mount, "the instance's mounts must not be made in the template"),
    (Mount, DropRoot, "mounting needs CAP_SYS_ADMIN"),
    (SetHostname, DropRoot, "so does the host name"),
    (Mount, ChangeDirectory, "the working directory may be in /tmp"),
    (PlaceDescriptors, LimitFiles, "descriptors are parked at numbers that the limit may not allow"),
    (CheckExecutable, LimitFiles, "it opens files, at numbers that the limit may not allow"),
    (ChangeDirectory, DropRoot, "the working directory need not be readable for the user"),
    (DropRoot, CheckExecutable, "it is the user who must be able to execute"),
    (CheckExecutable, RestrictSystemCalls, "nothing of ours is worth an exception in the filter"),
    (DropRoot, RestrictSystemCalls, "the filter could deny what dropping root needs"),
    (PlaceDescriptors, Verify, "the descriptors are verified, too"),
    (NewSession, Verify, "and the session"),
    (RestrictSystemCalls, Verify, "and the filter"),
]


def kinds(steps: list[Operation]) -> list[type]:
    return [type(step) for step in steps]


@pytest.mark.parametrize(("before", "behind", "why"), ORDER)
@pytest.mark.parametrize("uid", [0, 65534])
def test_the_order(before: type, behind: type, why: str, uid: int, sources: dict[int, int]) -> None:
    found = kinds(sequence.sequence(SPEC._replace(uid=uid), HOST, TEMPLATE, sources))
    last = len(found) - 1 - found[::-1].index(before)
    assert last < found.index(behind), why


@pytest.mark.parametrize("init", [True, False])
def test_nothing_happens_between_verify_and_execute(init: bool, sources: dict[int, int]) -> None:
    assert kinds(sequence.sequence(SPEC._replace(init=init), HOST, TEMPLATE, sources))[-2:] == [Verify, Execute]


def test_a_limit_beyond_the_supervisors_is_set_before_root_is_dropped(sources: dict[int, int]) -> None:
    """It needs CAP_SYS_RESOURCE; and no descriptor of the supervisor is beyond it."""
    found = kinds(sequence.sequence(SPEC._replace(fileno_limit=HOST.fileno_limit + 1), HOST, TEMPLATE, sources))
    assert found.index(PlaceDescriptors) < found.index(LimitFiles) < found.index(DropRoot)
    assert found.count(LimitFiles) == 1


def test_root_is_dropped_in_the_right_order() -> None:
    calls = [call.function for call in DropRoot(5, 6, 40).calls()]
    wanted = [kernel._prctl, kernel._setgroups, kernel._setresgid, kernel._setresuid, kernel._prctl, kernel._capset]
    assert [function for function, last in zip(calls, [None, *calls], strict=False) if function is not last] == wanted
    dropped = [call.arguments[1] for call in DropRoot(5, 6, 40).calls()[:41]]
    assert dropped == list(range(41)), "the bounding set goes while CAP_SETPCAP is there"


def test_no_new_privs_comes_before_the_filter() -> None:
    program = kernel.sock_fprog()
    options = [call.arguments[0] for call in RestrictSystemCalls(program).calls()]
    assert options == [kernel.PR_SET_NO_NEW_PRIVS, kernel.PR_SET_SECCOMP]
    assert RestrictSystemCalls(program).calls()[1].arguments[2] == ctypes.addressof(program)


def test_only_user_0_needs_a_restricted_proc(sources: dict[int, int]) -> None:
    assert RestrictProc not in kinds(sequence.sequence(SPEC, HOST, TEMPLATE, sources))
    as_root = sequence.sequence(SPEC._replace(uid=0), HOST, TEMPLATE, sources)
    assert as_root[kinds(as_root).index(RestrictProc) - 1] == Mount("proc", "/proc")
    assert RestrictProc(("sys",), ("kcore",)) in as_root


def test_with_the_init_signals_stay_blocked_and_the_program_is_checked(sources: dict[int, int]) -> None:
    steps = sequence.sequence(SPEC, HOST, TEMPLATE, sources)
    assert ResetSignals((13, 25), unblock=False) in steps
    assert CheckExecutable("/bin/app", 65534, image=False) in steps


def test_without_the_init_signals_are_unblocked_and_execve_tells(sources: dict[int, int]) -> None:
    steps = sequence.sequence(SPEC._replace(init=False), HOST, TEMPLATE, sources)
    assert ResetSignals((13, 25), unblock=True) in steps
    assert CheckExecutable not in kinds(steps)


@pytest.mark.parametrize("init", [True, False])
def test_programs_of_an_image_are_always_checked(init: bool, sources: dict[int, int]) -> None:
    steps = sequence.sequence(SPEC._replace(init=init, root="/srv/image"), HOST, TEMPLATE, sources)
    assert CheckExecutable("/bin/app", 65534, image=True) in steps


# What instances mount themselves: the kernel refuses a second cgroup2, and covered mounts would be copied each time.
DROPPED = [DropMounts(path) for path in ("dev", "proc", "sys/fs/cgroup", "tmp")]


def test_the_hosts_root_is_prepared() -> None:
    steps = sequence.template_sequence("/", HOST._replace(resolv_conf="run/systemd/resolve/stub-resolv.conf"))
    assert steps == [
        PrivatePropagation(),
        OpenRoot("/", "/mnt"),
        *DROPPED,
        MountDev(),
        HideRun("run/systemd/resolve/stub-resolv.conf"),
        Pivot(),
    ]


def test_an_image_gets_sys_and_nothing_of_run() -> None:
    steps = sequence.template_sequence("/srv/image", HOST._replace(resolv_conf="run/x"))
    assert steps == [
        PrivatePropagation(),
        OpenRoot("/srv/image", "/mnt"),
        BindHost("/sys", "sys"),
        *DROPPED,
        MountDev(),
        HideRun(None),
        Pivot(),
    ]


def test_every_step_has_a_phrase_for_messages(sources: dict[int, int]) -> None:
    steps = [*sequence.sequence(SPEC._replace(uid=0), HOST, TEMPLATE, sources)]
    phrases = [step.describe() for step in [*steps, *sequence.template_sequence("/srv/image", HOST)]]
    assert len(set(phrases)) == len(phrases)
    assert all(phrase and phrase[0].islower() and not phrase.endswith(".") for phrase in phrases)
    assert isinstance(preparation.Hold().describe(), str)
